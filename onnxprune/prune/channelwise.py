"""From what is known of a layer's outputs or inputs to scores of channels."""

from dataclasses import dataclass

import numpy as np

from onnxprune.graph.labels import spans
from onnxprune.graph.units import Channels


@dataclass(frozen=True)
class Layout:
    """Which axis of a layer's weight has its outputs, which its inputs (None where neither has), in how many groups."""

    outputs: int | None = 0
    inputs: int | None = None
    groups: int = 1


class ChannelScores:
    """Sums of scores over channels, and which channels anything was said about."""

    def __init__(self, channels: Channels):
        self.channels = channels
        self.facets = dict(channels.parameters())
        self.total = np.zeros(channels.count)
        self.seen = np.zeros(channels.count, bool)

    def add_weights(self, scores: dict[str, np.ndarray]) -> None:
        """Add {initializer: a score for each of its weights}."""
        self.total += self.channels.weigh(scores)
        for name in scores:
            for facet in self.facets.get(name, ()):
                self.seen[self.channels.named(facet)] = True

    def add_outputs(self, name: str, vector: np.ndarray, layout: Layout) -> None:
        """Add a score for each of a layer's outputs, [O]."""
        self._add(self.outputs(name, layout), vector)

    def add_inputs(self, name: str, vector: np.ndarray, layout: Layout) -> None:
        """Add a score for each of a layer's inputs, [I]."""
        self._add(self.inputs(name, layout), vector)

    def of_units(self) -> np.ndarray:
        """[units]: the sum over each one's channels, NaN where nothing was said about any."""
        sets = self.channels.units.sets
        return np.where(sets.any(self.seen), sets.sums(self.total), np.nan)

    def _add(self, named: np.ndarray | None, vector: np.ndarray) -> None:
        if named is not None and len(named) == len(vector):
            self.total += np.bincount(named, weights=vector, minlength=len(self.total))
            self.seen[named] = True

    def _along(self, name: str, axis: int | None) -> np.ndarray | None:
        """The channels along one axis of a weight."""
        for facet in self.facets.get(name, ()):
            if spans(facet) == (axis,):
                return self.channels.named(facet).ravel()
        return None

    def outputs(self, name: str, layout: Layout) -> np.ndarray | None:
        """The channels that a layer gives, in order."""
        return self._along(name, layout.outputs)

    def inputs(self, name: str, layout: Layout) -> np.ndarray | None:
        """The channels that a layer reads, in the order in which it reads them."""
        if layout.groups == 1 or layout.inputs is None:
            return self._along(name, layout.inputs)
        shape = self.channels.shape(name)
        if shape[1] == 1:  # depthwise: each output is an input
            return self._along(name, 0) if shape[0] == layout.groups else None
        for facet in self.facets.get(name, ()):
            if spans(facet) == (0, 1):  # each group's rows name the group's inputs
                return self.channels.named(facet)[:: shape[0] // layout.groups].ravel()
        return None


def squares_of_outputs(weight: np.ndarray, layout: Layout) -> np.ndarray | None:
    """[O]: the sum of the squared weights that lead into each output."""
    if layout.outputs is None:
        return None
    return np.square(np.moveaxis(weight, layout.outputs, 0).reshape(weight.shape[layout.outputs], -1)).sum(axis=1)


def squares_of_inputs(weight: np.ndarray, layout: Layout) -> np.ndarray | None:
    """[I]: the sum of the squared weights that read each input."""
    if layout.inputs is None:
        return None
    if layout.inputs == 0:
        return np.square(weight.reshape(len(weight), -1)).sum(axis=1)
    grouped = np.square(weight).reshape(layout.groups, -1, weight.shape[1], int(np.prod(weight.shape[2:], dtype=int)))
    return grouped.sum(axis=(1, 3)).ravel()
