"""Arrays in, batches and a validation metric out: what the ready loop needs, for data that fits into memory."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import InputError

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def shuffled_batches(
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    batch_size: int,
    seed: int = 0,
    augment: Augment | None = None,
    share: tuple[int, int] = (0, 1),
) -> Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Batches of `inputs[n,...]` and `targets[n,...]`, shuffled anew and varied anew in each epoch.

    An epoch's order and augmentation depend on `seed` and the epoch alone, so a resumed run sees the same batches. The
    last, smaller batch is left out (BatchNorm has little to go by there), unless it is the only one. Where n processes
    train together, `share` (k, n) gives the k-th of them its part of each batch, from 0. Raises InputError where they
    can't get equally many samples.
    """
    x, y = torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(np.ascontiguousarray(targets))
    size = min(batch_size, len(x))
    part, parts = share
    if size % parts:
        raise InputError(f"Batches of {size} samples can't be shared by {parts}. Give a batch size that divides.")

    def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - size + 1, size):
            chosen = order[start : start + size]
            shown = augment(x[chosen], generator) if augment else x[chosen]
            yield shown[part::parts], y[chosen][part::parts]

    return batches


def in_order(
    inputs: np.ndarray, targets: np.ndarray, *, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of `inputs[n,...]` and `targets[n,...]` as they come, the last one smaller where they don't divide."""
    x, y = (torch.from_numpy(np.ascontiguousarray(array)) for array in (inputs, targets))
    return zip(x.split(batch_size), y.split(batch_size), strict=True)


def top1(
    inputs: np.ndarray, targets: np.ndarray, *, batch_size: int = 250
) -> Callable[[nn.Module], tuple[float, float]]:
    """A function of a classifier: (share of `inputs[n,...]` classed as `targets[n]`, mean cross-entropy in nats)."""
    x, y = torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(np.ascontiguousarray(targets))

    def evaluate(module: nn.Module) -> tuple[float, float]:
        device = next(module.parameters()).device
        logits = torch.cat([module(part.to(device)).cpu() for part in x.split(batch_size)])
        return (logits.argmax(1) == y).double().mean().item(), functional.cross_entropy(logits, y).item()

    return evaluate
