"""What a network does with some of its units off: forward passes only, in the batches that are given."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxprune.graph.units import Channels
from onnxprune.training import distributed, layers
from onnxprune.training.export import evaluation_mode

#: The shares of a layer's units whose absence `loss_curves` measures.
SHARES = tuple(k / 10 for k in range(10))

Batch = tuple[Any, torch.Tensor]


def wrong_without(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    channels: Channels,
    members: Iterable[int],
    batches: Sequence[Batch],
) -> np.ndarray:
    """[1 + units]: the share of wrong answers of the whole network, then with each unit of `members` off; else NaN.

    `batches` are (inputs, classes); the network's answer is its largest logit. Under torch.distributed the share is
    that of all ranks' batches.
    """
    wrong = np.full(1 + len(channels.units), np.nan)
    with evaluation_mode(module), torch.no_grad():
        wrong[0], count = wrong_answers(module, batches)
        for unit in members:
            if _is_off(parameters, channels, int(unit)):
                wrong[1 + int(unit)] = wrong[0]
                continue
            with without(parameters, channels, [int(unit)]):
                wrong[1 + int(unit)], _ = wrong_answers(module, batches)
    of_all = distributed.total({"wrong": wrong, "count": np.float64(count)})
    return of_all["wrong"] / np.maximum(of_all["count"], 1)


def loss_curves(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    channels: Channels,
    groups: Sequence[np.ndarray],
    order: np.ndarray,
    batches: Sequence[Batch],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each layer (its units, the mean loss [10] with 0, 10, 20 ... 90% of them off, the least of `order` first).

    Under torch.distributed the mean is over all ranks' batches.
    """
    found = []
    with evaluation_mode(module), torch.no_grad():
        for units in groups:
            ranked = units[np.argsort(order[units], kind="stable")]
            losses: list[tuple[float, float]] = []
            for share in SHARES:
                off = ranked[: int(share * len(units) + 1e-9)]
                with without(parameters, channels, off.tolist()):
                    losses.append(total_loss(module, batches, loss))
            found.append(np.array(losses))
    of_all = distributed.total({str(number): losses for number, losses in enumerate(found)})
    sums = [of_all[str(number)] for number in range(len(groups))]
    return [(units, of[:, 0] / np.maximum(of[:, 1], 1)) for units, of in zip(groups, sums, strict=True)]


def _is_off(parameters: Mapping[str, nn.Parameter], channels: Channels, unit: int) -> bool:
    masks = channels.keep_masks([unit])
    return not any(parameters[n].detach()[torch.from_numpy(~masks[n])].any() for n in masks if n in parameters)


@contextmanager
def without(parameters: Mapping[str, nn.Parameter], channels: Channels, units: Sequence[int]) -> Iterator[None]:
    """Within, the weights of `units` are zero."""
    masks = channels.keep_masks(units) if units else {}
    before = {name: parameters[name].detach().clone() for name in masks if name in parameters}
    try:
        with torch.no_grad():
            for name in before:
                parameters[name].mul_(torch.from_numpy(masks[name]).to(parameters[name].device))
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)


def wrong_answers(module: nn.Module, batches: Sequence[Batch]) -> tuple[int, int]:
    """(wrong answers, answers); the network's answer is its largest logit."""
    wrong = count = 0
    for x, y in batches:
        answers = layers.call(module, x).argmax(1).cpu()
        wrong += int((answers != y.cpu()).sum())
        count += answers.numel()
    return wrong, count


def total_loss(module: nn.Module, batches: Sequence[Batch], loss: Callable) -> tuple[float, float]:
    """(the sum of the loss over the samples, samples)"""
    total = count = 0.0
    for x, y in batches:
        outputs = layers.call(module, x)
        total += len(outputs) * float(loss(outputs, y.to(outputs.device)))
        count += len(outputs)
    return total, count
