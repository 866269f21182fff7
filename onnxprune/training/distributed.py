"""Several processes that train one network together: what each of them saw becomes what all of them know.

Without torch.distributed everything here leaves its arguments as they are. With it all ranks have to call the same
functions in the same order, and every rank gets the same result, to the bit.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


def ranks() -> int:
    """How many processes train together; 1 where torch.distributed isn't initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def total(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{name: the sum over the ranks}, float64; what a rank lacks counts as nothing there."""
    if ranks() == 1:
        return dict(values)
    shapes: dict[str, tuple[int, ...]] = {}
    for of_rank in _gathered({name: np.shape(value) for name, value in values.items()}):
        shapes |= of_rank
    found = {}
    for name in sorted(shapes):
        own = np.array(values.get(name, np.zeros(shapes[name])), np.float64)
        summed = torch.from_numpy(own).to(_device())
        dist.all_reduce(summed)
        found[name] = summed.cpu().numpy()
    return found


def mean(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{name: the mean over those ranks that have it}, of the type that it had."""
    if ranks() == 1:
        return dict(values)
    counted = total({name: np.ones(()) for name in values})
    types: dict[str, np.dtype] = {}
    for of_rank in _gathered({name: np.asarray(value).dtype for name, value in values.items()}):
        types |= of_rank
    return {name: (value / counted[name]).astype(types[name]) for name, value in total(values).items()}


def mean_of(value: float) -> float:
    """The mean of a number over the ranks."""
    if ranks() == 1:
        return value
    held = torch.tensor([value], dtype=torch.float64, device=_device())
    dist.all_reduce(held)
    return held.item() / ranks()


def from_first(array: np.ndarray) -> np.ndarray:
    """The array as the first rank has it."""
    if ranks() == 1:
        return array
    held: list = [array]
    dist.broadcast_object_list(held, src=0, device=_device())
    return held[0]


def stacked(rows: np.ndarray) -> np.ndarray:
    """[sum of n, ...]: the rows `[n, ...]` of all ranks, the first rank's first."""
    return rows if ranks() == 1 else np.concatenate(_gathered(rows))


def by_first(action: Callable[[], T]) -> T | None:
    """What `action` returns on the first rank, None on the others; where it fails there, every rank raises that."""
    if ranks() == 1:
        return action()
    result, failed = None, None
    if rank() == 0:
        try:
            result = action()
        except Exception as error:  # noqa: BLE001 - the others would wait for this rank for ever
            failed = error
    held = [failed]
    dist.broadcast_object_list(held, src=0, device=_device())
    if failed is not None:
        raise failed
    if held[0] is not None:
        raise held[0]
    return result


@torch.no_grad()
def average_(tensors: Iterable[torch.Tensor]) -> None:
    """Put the mean over the ranks into floating-point tensors, in one exchange for each type; others stay."""
    if ranks() == 1:
        return
    of_type: dict[tuple, list[torch.Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            of_type.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in of_type.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        dist.all_reduce(flat)
        flat /= ranks()
        for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def take_from_first_(tensors: Iterable[torch.Tensor]) -> None:
    """Put what the first rank has into tensors that every rank has."""
    if ranks() > 1:
        for tensor in tensors:
            held = tensor.to(_device())
            dist.broadcast(held, src=0)
            tensor.copy_(held)


def average_gradients(module: nn.Module) -> None:
    """Make every gradient the mean over the ranks; one that a rank doesn't have counts as zero there."""
    if ranks() == 1:
        return
    trained = [p for p in module.parameters() if p.requires_grad]
    used = torch.tensor([float(p.grad is not None) for p in trained], device=_device())
    dist.all_reduce(used)
    for parameter, count in zip(trained, used.tolist(), strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    average_([p.grad for p in trained if p.grad is not None])


def _gathered(value: T) -> list[T]:
    found: list = [None] * ranks()
    dist.all_gather_object(found, value)
    return found


def _device() -> torch.device:
    """Where the group exchanges tensors: on the CPU where it can."""
    backends = dist.get_backend_config()
    return torch.device("cpu") if "cpu" in backends else torch.device(torch.accelerator.current_accelerator())
