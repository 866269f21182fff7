"""Families: channels that lie on the same axes of the same weights. In a drawing each has one colour.

Whoever deletes a channel of a family cuts all its axes, so layers of one colour get narrower together.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph.labels import Facet, spans
from onnxprune.graph.units import Channels

#: In place of a family: channels that no unit can delete.
STAYS = -1


@dataclass(frozen=True)
class Stripe:
    """The families along a tensor's channels: (family, number of places) in order. `width` is their number, as text."""

    runs: tuple[tuple[int, int], ...]
    width: str

    @property
    def size(self) -> int:
        return sum(size for _, size in self.runs)

    @property
    def families(self) -> tuple[int, ...]:
        """Those that can go, largest first."""
        total: dict[int, int] = {}
        for family, size in self.runs:
            if family != STAYS:
                total[family] = total.get(family, 0) + size
        return tuple(sorted(total, key=lambda family: -total[family]))


class Families:
    """The family of every channel: `of[channel]`, counted from 0; STAYS where no unit has it."""

    def __init__(self, channels: Channels):
        self.channels = channels
        self.of = _families(channels)
        self.count = int(self.of.max(initial=STAYS)) + 1

    def sizes(self) -> np.ndarray:
        """Number of channels of each family: int [families]."""
        return np.bincount(self.of[self.of >= 0], minlength=self.count)

    def stripe(self, value: ir.Value) -> Stripe:
        """The families along the channels of a tensor; one run that stays where it has no labels."""
        shape = self.channels.trace.shape_of.get(value, ())
        facet = self._main(self.channels.facets(value))
        if facet is None:
            axis = 1 if len(shape) > 3 else len(shape) - 1
            size = shape[axis] if shape else 1
            return Stripe(((STAYS, size),), "?" if self.channels.trace.is_dynamic(value, axis) else f"{size:,}")
        line = self.of[self.channels.channel[np.asarray(facet)]].ravel()
        starts = np.flatnonzero(np.r_[True, line[1:] != line[:-1]])
        sizes = np.diff(np.r_[starts, len(line)])
        runs = tuple(zip(line[starts].tolist(), sizes.tolist(), strict=True))
        return Stripe(runs, "×".join(f"{facet.shape[a]:,}" for a in spans(facet)))

    def _main(self, facets: tuple[Facet, ...]) -> Facet | None:
        """Of a tensor's facets the one that most channels of which can go."""
        free = [int((self.of[np.unique(self.channels.channel[f])] >= 0).sum()) for f in facets]
        return max(zip(free, facets, strict=True), key=lambda pair: pair[0])[1] if facets else None


def _families(channels: Channels) -> np.ndarray:
    """Channels on the same axes of weights get one number, in order of appearance (but for a chance of 2^-64)."""
    on_weights = _kinship(channels, [facet for _, facets in channels.parameters() for facet in facets])
    anywhere = _kinship(channels, [facet for facets in channels.trace.facets.values() for facet in facets])
    kinship = np.where(on_weights == 0, anywhere, on_weights)
    kinship = np.where(channels.deletable, kinship, 0)
    _, first, inverse = np.unique(kinship, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[inverse]
    stays = kinship == 0
    if stays.any():  # the others move up
        number = number - (number > number[stays][0])
        number[stays] = STAYS
    return number


def _kinship(channels: Channels, facets: list[Facet]) -> np.ndarray:
    """For every channel a number that says on which of `facets` it lies; 0 on none."""
    random = np.random.default_rng(0).integers(1, 2**64, len(facets), np.uint64)
    total = np.zeros(channels.count, np.uint64)
    for facet, number in zip(facets, random, strict=True):
        total[np.unique(channels.channel[np.asarray(facet)])] += number
    return total
