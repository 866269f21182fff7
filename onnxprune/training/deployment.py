"""From a masked module to the graph that is deployed, and the proof that both compute the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from onnxprune.errors import ExportError
from onnxprune.graph.model import Model, to_bytes
from onnxprune.graph.remove import remove
from onnxprune.graph.shrink import ShrinkReport, shrink
from onnxprune.graph.units import Channels
from onnxprune.runtime.equivalence import Equivalence, compare_outputs, random_feeds
from onnxprune.training.export import evaluation_mode, optimized
from onnxprune.training.masks import Masks


@dataclass(frozen=True)
class ExportResult:
    """A pruned network as it is deployed, what shrinking found besides, and the proof against the module."""

    model: Model
    units: int
    shrink: ShrinkReport
    equivalence: Equivalence


def without_masked(
    module: nn.Module, channels: Channels, masks: Masks, blocks: Sequence[int] = ()
) -> tuple[Model, int, ShrinkReport]:
    """(the graph of `channels`, just traced, without what is masked or else dead; units removed; what shrinking found).

    `blocks` are the whole residual blocks that are off, as units of `channels`.

    Raises ExportError where the graph's units don't fit the masks.
    """
    units: Sequence[int] = ()
    if channels.count == len(masks.deleted):
        channels, units = channels.covering(masks.deleted)
    wanted = {name: mask.cpu().numpy() for name, mask in masks.units.items()}
    found = {name: m for name, m in channels.keep_masks(units).items() if name in masks.parameters}
    off = {value.name for block in channels.dropped(blocks) for value in block.weights()} if blocks else set()
    fits = wanted.keys() == found.keys() and off >= masks.off
    if not fits or any((wanted[n] != found[n]).any() for n in wanted):
        raise ExportError(
            f"{type(module).__name__} exports to another graph than when it was traced, so its masks don't "
            "fit. Don't change layers or control flow while pruning."
        )
    smaller, report = shrink(remove(channels.model, channels, [*units, *blocks]))
    return optimized(smaller), len(units) + len(blocks), report


def compare(module: nn.Module, model: Model, input_names: Sequence[str]) -> Equivalence:
    """Compare `model` with the module itself, on random, border and large inputs at batch 1 and 7."""
    data = to_bytes(model)
    device = next(module.parameters()).device

    def run(feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        with evaluation_mode(module), torch.no_grad():
            outputs = module(*(torch.from_numpy(feed[name]).to(device) for name in input_names))
        outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
        return [y.cpu().numpy() for y in outputs]

    return compare_outputs(run, data, random_feeds(data, (1, 7)))
