"""Parameters of which every rank has a part (DTensor, as `torch.distributed.fsdp.fully_shard` makes them).

What happens at every step happens on the parts: masks, and sums over channels. What happens now and then (exports,
forward passes to look at data) is done by every rank with a whole network, see `whole`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from onnxprune.errors import InputError

#: Hooks of modules that live here gather and scatter what a sharded module runs on.
_FSDP = "torch.distributed.fsdp"


def is_sharded(tensor: object) -> bool:
    """Whether each rank has a part of it."""
    return isinstance(tensor, DTensor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this rank has, in the same memory; all of one that isn't sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, gathered from all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(whole: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that every rank has, divided as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return whole
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local()


def facet_part(facet: np.ndarray, parameter: torch.Tensor) -> np.ndarray:
    """This rank's part of an array that is broadcastable to the shape of `parameter`."""
    if not isinstance(parameter, DTensor):
        return facet
    for axis, size in enumerate(facet.shape):
        if size == 1:
            continue
        placements = [Shard(0) if p.is_shard(axis) else Replicate() for p in parameter.placements]
        indices = distribute_tensor(torch.arange(size), parameter.device_mesh, placements, src_data_rank=None)
        facet = facet.take(indices.to_local().cpu().numpy(), axis)
    return facet


@contextmanager
def whole(module: nn.Module, parameters: dict[str, nn.Parameter] | None = None) -> Iterator[None]:
    """Within, a sharded module is an ordinary one: every rank has all weights, and runs without the others.

    `parameters`, named ones of the module, are the whole ones too. What happens to them within goes back into the
    parts afterwards; all ranks have to do the same.
    """
    places = [(part, name) for part in module.modules() for name, p in part._parameters.items() if is_sharded(p)]
    if not places:
        yield
        return
    sharded = {id(p): p for p in module.parameters() if is_sharded(p)}
    gathered = {key: nn.Parameter(p.detach().full_tensor(), p.requires_grad) for key, p in sharded.items()}
    before = [(part, name, part._parameters[name]) for part, name in places]
    named = {name: p for name, p in (parameters or {}).items() if id(p) in gathered}
    hooks = [(part, part._forward_pre_hooks, part._forward_hooks) for part in module.modules()]
    try:
        for part, name, parameter in before:
            part._parameters[name] = gathered[id(parameter)]
        for part, first, last in hooks:
            part._forward_pre_hooks, part._forward_hooks = _of_others(first), _of_others(last)
        if parameters is not None:
            parameters.update({name: gathered[id(p)] for name, p in named.items()})
        yield
    finally:
        for part, name, parameter in before:
            part._parameters[name] = parameter
        for part, first, last in hooks:
            part._forward_pre_hooks, part._forward_hooks = first, last
        if parameters is not None:
            parameters.update(named)
        with torch.no_grad():
            for key, parameter in sharded.items():
                local(parameter).copy_(part_of(gathered[key].detach(), parameter))


def over_shards(sums: torch.Tensor, parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """What the parts of `parameters` sum to on all ranks together, where `sums` is what this rank's parts do.

    Gradients flow into this rank's parts alone, each rank has its own.
    """
    groups = {}
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            mesh = parameter.device_mesh
            groups |= {mesh.get_group(k).group_name: mesh.get_group(k) for k, p in _divided(parameter)}
    if not groups:
        return sums
    whole = sums.detach().clone()
    for group in groups.values():
        dist.all_reduce(whole, group=group)
    return sums + (whole - sums.detach())


def _divided(parameter: DTensor) -> Iterator[tuple[int, Shard]]:
    return ((k, p) for k, p in enumerate(parameter.placements) if p.is_shard())


def require_supported(module: nn.Module) -> None:
    """Raises InputError for a module whose parameters are divided otherwise than along single axes."""
    for name, parameter in module.named_parameters():
        if isinstance(parameter, DTensor) and any(type(p) not in (Shard, Replicate) for p in parameter.placements):
            raise InputError(
                f"The parameter '{name}' is placed as {parameter.placements}, and masks are made for Shard and "
                "Replicate only. Shard it with fully_shard alone."
            )


def _of_others(hooks: OrderedDict) -> OrderedDict:
    kept = {key: hook for key, hook in hooks.items() if not getattr(hook, "__module__", "").startswith(_FSDP)}
    return OrderedDict(kept)
