"""For every read of a known constant: does it fold into the bias, or does another channel take over its weights?"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxprune.graph.exact.backward import alive
from onnxprune.graph.exact.duplicates import Alike
from onnxprune.graph.exact.products import CONVOLUTIONS
from onnxprune.graph.exact.readings import Reading
from onnxprune.graph.exact.rewrite import bias_problem, weight_problem
from onnxprune.graph.units import Channels

#: What stands in for others is at least this share of the largest: runtimes approximate functions by a few 1e-8, which
#: dividing by a value that is all but 0 would blow up.
LEAST_SHARE = 1 / 8


def plan(
    channels: Channels,
    reads: Sequence[Reading],
    seeds: np.ndarray,
    duplicates: Mapping[ir.Value, Alike],
    refused: Collection[ir.Node] = frozenset(),
) -> None:
    """Fill `folds`, `into` and `ratio` of every reading; `refused` nodes keep their weights and bias.

    A constant that can't be folded is merged: of all such places that a node reads, one stays and stands in for the
    others, preferably one that has to stay anyway. So does one of several that hold the same.
    """
    merging = []
    equal = {r: numbers for r in reads if r.node not in refused and (numbers := _numbers(r, duplicates)) is not None}
    for reading in reads:
        if reading.data is None or reading.node in refused or not reading.const.any():
            continue
        if not bias_problem(reading):
            reading.folds = reading.const.copy()
        elif not weight_problem(reading):
            merging.append(reading)
    for reading in merging:
        reading.folds = reading.const.copy()
    hopeful, _ = alive(channels, reads, seeds)  # as if all of them could go
    chosen: set[int] = set()
    for reading in merging:
        reading.folds = np.zeros(reading.places, bool)
        _stand_in(reading, hopeful, chosen)
    for reading, numbers in equal.items():
        _stand_in_for_equals(reading, numbers)


def _numbers(reading: Reading, duplicates: Mapping[ir.Value, Alike]) -> np.ndarray | None:
    """What numbers the places that a reading sums over, equal where they hold the same; None where no two do."""
    if reading.data is None or weight_problem(reading):
        return None
    factor = reading.laid.factors[reading.data]
    found = duplicates.get(reading.node.inputs[factor.index])
    if found is None:
        return None
    rank = len(reading.laid.step.shape(factor.index))
    line = factor.lay(found.numbers.reshape([-1 if a == found.axis else 1 for a in range(rank)]))
    is_channel_axis = found.axis == 1 or reading.node.op_type not in CONVOLUTIONS
    return line if is_channel_axis and line.shape == reading.places else None


def _stand_in_for_equals(reading: Reading, numbers: np.ndarray) -> None:
    """In each group the first of equal places takes over the weights of the others; constants have their own way."""
    axis = reading.axis
    table = np.moveaxis(numbers, axis, -1).reshape(-1, reading.places[axis])
    into = np.moveaxis(reading.into, axis, -1).reshape(table.shape).copy()
    const = np.moveaxis(reading.const, axis, -1).reshape(table.shape)
    for group in range(len(table)):
        free = np.flatnonzero(~const[group])
        _, first, inverse = np.unique(table[group, free], return_index=True, return_inverse=True)
        into[group, free] = free[first[inverse]]
    reading.into = np.moveaxis(into.reshape(np.moveaxis(numbers, axis, -1).shape), -1, axis)


def _stand_in(reading: Reading, hopeful: np.ndarray, chosen: set[int]) -> None:
    """In each group one constant place takes over the weights of the others, none that is small beside them."""
    named = reading.channels_of()
    if not named:
        return
    axis = reading.axis
    const = np.moveaxis(reading.const, axis, -1).reshape(-1, reading.places[axis])
    channel = np.moveaxis(named[0], axis, -1).reshape(const.shape)
    value = np.moveaxis(reading.value, axis, -1).reshape(const.shape)
    into = np.moveaxis(reading.into, axis, -1).reshape(const.shape).copy()
    ratio = np.moveaxis(reading.ratio, axis, -1).reshape(const.shape).copy()
    for group in range(len(const)):
        places = np.flatnonzero(const[group])
        if len(places) < 2:
            continue
        names = channel[group, places].tolist()
        size = np.abs(value[group, places])
        is_small = (size < LEAST_SHARE * size.max()).tolist()
        order = [
            (small, not hopeful[c], c not in chosen, p)
            for small, c, p in zip(is_small, names, places.tolist(), strict=True)
        ]
        first = min(order)[-1]
        chosen.add(int(channel[group, first]))
        into[group, places] = first
        ratio[group, places] = value[group, places].astype(np.float64) / value[group, first]
    shape = np.moveaxis(reading.const, axis, -1).shape
    reading.into = np.moveaxis(into.reshape(shape), -1, axis)
    reading.ratio = np.moveaxis(ratio.reshape(shape), -1, axis)
