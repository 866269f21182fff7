"""What deleting a unit takes from which tensor."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.graph.labels import spans

if TYPE_CHECKING:
    from onnxprune.graph.units import Channels


@dataclass(frozen=True)
class Cut:
    """Places of a weight that go: `places[i]` are indices along `axes[i]`, as `np.nonzero` gives them.

    Without axes the whole tensor goes.
    """

    tensor: str
    axes: tuple[int, ...] = ()
    places: tuple[tuple[int, ...], ...] = ()


def cuts(channels: "Channels") -> list[tuple[Cut, ...]]:
    """What each unit cuts, in the order of `channels.units` and then `channels.blocks`."""
    facets = {(name, spans(facet)): channels.channel[facet] for name, found in channels.parameters() for facet in found}
    pieces: dict[int, list[tuple[tuple[str, tuple[int, ...]], np.ndarray]]] = defaultdict(list)
    for key, named in facets.items():
        order = np.argsort(named, axis=None, kind="stable")
        line = named.ravel()[order]
        starts = np.flatnonzero(np.r_[True, line[1:] != line[:-1]])
        for start, places in zip(starts.tolist(), np.split(order, starts[1:]), strict=True):
            pieces[int(line[start])].append((key, places))
    found = []
    for unit in channels.units:
        taken: dict[tuple[str, tuple[int, ...]], list[np.ndarray]] = defaultdict(list)
        for channel in unit.channels:
            for key, places in pieces[channel]:
                taken[key].append(places)
        found.append(tuple(_cut(key, facets[key], np.concatenate(places)) for key, places in taken.items()))
    for block in channels.blocks:
        found += [tuple(Cut(value.name or "") for value in gone.weights()) for gone in channels.dropped([block])]
    return found


def _cut(key: tuple[str, tuple[int, ...]], named: np.ndarray, places: np.ndarray) -> Cut:
    name, axes = key
    at = np.unravel_index(np.sort(places), named.shape)
    return Cut(name, axes, tuple(tuple(at[axis].tolist()) for axis in axes))
