"""Sums over the weights of channels and of sets of channels, each weight counted once."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from onnxprune.graph.labels import any_flagged, spans


def add(total: np.ndarray, array: np.ndarray | None, shape: tuple[int, ...], named: Sequence[np.ndarray]) -> None:
    """Add a tensor's saliency to `total[channel]`; `named` are its facets as channels, None stands for all ones.

    An element that two facets give to one channel counts once.
    """
    for number, facet in enumerate(named):
        _add_at(total, facet, _sum_to(array, shape, facet.shape))
        for other in named[:number]:
            if _share(facet, other, len(total)):
                a, b = np.broadcast_arrays(facet, other)
                same = a == b
                summed = _sum_to(array, shape, a.shape)[same]
                total -= np.bincount(a[same], weights=summed, minlength=len(total))


def _add_at(total: np.ndarray, places: np.ndarray, values: np.ndarray) -> None:
    """Add each value at its place; places may come up more than once."""
    places, values = places.ravel(), values.ravel()
    if places.size < len(total):
        np.add.at(total, places, values)
    else:
        total += np.bincount(places, weights=values, minlength=len(total))


def _share(one: np.ndarray, other: np.ndarray, count: int) -> bool:
    """Whether any of the channels, of which there are `count`, is on both."""
    flags = np.zeros(count, bool)
    flags[one] = True
    return bool(flags[other].any())


def _sum_to(array: np.ndarray | None, shape: tuple[int, ...], smaller: tuple[int, ...]) -> np.ndarray:
    """Sum along the axes that `smaller` doesn't speak about."""
    if array is None:
        return np.broadcast_to(np.float64(math.prod(shape) / math.prod(smaller)), smaller)
    axes = tuple(a for a, size in enumerate(smaller) if size == 1 and shape[a] != 1)
    return array.sum(axis=axes, keepdims=True, dtype=np.float64) if axes else np.asarray(array, np.float64)


class Sets:
    """Sets of channels side by side in one array, so that NumPy goes over thousands of them at once."""

    def __init__(self, flat: np.ndarray, lengths: np.ndarray):
        self.flat, self.lengths = flat, lengths
        self.starts = np.cumsum(lengths) - lengths

    @classmethod
    def of(cls, families: Iterable[np.ndarray]) -> "Sets":
        """The sets of several arrays [set, member]."""
        families = list(families)
        lengths = np.repeat([sets.shape[1] for sets in families], [len(sets) for sets in families])
        return cls(np.concatenate([sets.ravel() for sets in families]), lengths)

    @classmethod
    def side_by_side(cls, sets: Sequence[np.ndarray]) -> "Sets":
        return cls(np.concatenate([np.empty(0, np.int64), *sets]), np.array([len(s) for s in sets], np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> np.ndarray:
        return self.flat[self.starts[number] : self.starts[number] + self.lengths[number]]

    def __iter__(self) -> Iterator[np.ndarray]:
        starts = self.starts.tolist()
        return (self.flat[a:b] for a, b in zip(starts, [*starts[1:], len(self.flat)], strict=True))

    def __add__(self, others: "Sets") -> "Sets":
        return Sets(np.concatenate([self.flat, others.flat]), np.concatenate([self.lengths, others.lengths]))

    def chosen(self, numbers: np.ndarray) -> "Sets":
        """Some of the sets, in the order given."""
        lengths = self.lengths[numbers]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Sets(self.flat[np.repeat(self.starts[numbers], lengths) + within], lengths)

    def holders(self, count: int) -> "Sets":
        """For each of `count` channels the numbers of the sets that hold it, as often as they do."""
        number = np.repeat(np.arange(len(self)), self.lengths)
        return Sets(number[np.argsort(self.flat, kind="stable")], np.bincount(self.flat, minlength=count))

    def members(self) -> list[tuple[int, ...]]:
        flat = self.flat.tolist()
        return [tuple(flat[a : a + n]) for a, n in zip(self.starts.tolist(), self.lengths.tolist(), strict=True)]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """[set]: the sum of `values[channel]`."""
        return np.add.reduceat(values[self.flat], self.starts) if len(self) else np.zeros(0)

    def least(self, values: np.ndarray) -> np.ndarray:
        return np.minimum.reduceat(values[self.flat], self.starts) if len(self) else np.zeros(0, np.int64)

    def any(self, flags: np.ndarray) -> np.ndarray:
        return np.logical_or.reduceat(flags[self.flat], self.starts) if len(self) else np.zeros(0, bool)

    def all(self, flags: np.ndarray) -> np.ndarray:
        return np.logical_and.reduceat(flags[self.flat], self.starts) if len(self) else np.zeros(0, bool)


class Counter:
    """How many elements of tensors each of some sets deletes; `count` is the number of channels."""

    def __init__(self, sets: Sets, count: int):
        self._sets, self._count = sets, count
        self._holders = sets.holders(count)

    def deleted(self, shape: tuple[int, ...], named: Sequence[np.ndarray]) -> np.ndarray | float:
        """Of a tensor with these facets, as channels: float [set]; one 0 where the sets don't reach it."""
        reached = [facet for facet in named if self._holders.lengths[facet].any()]
        if not reached:
            return 0.0
        size = float(math.prod(shape))
        shares = [self._sets.sums(np.bincount(facet.ravel(), minlength=self._count)) / facet.size for facet in reached]
        axes = [axis for facet in reached for axis in spans(facet)]
        if len(set(axes)) == len(axes):  # independent
            return size * (1 - math.prod([1 - share for share in shares]))
        if len(reached) == 2 and math.prod(self._most_holders(facet) for facet in reached) < len(self._sets):
            return size * (shares[0] + shares[1] - self._share_of_both(*reached))
        found = np.zeros(len(self._sets))
        flags = np.zeros(self._count, bool)
        for number in np.flatnonzero(np.sum(shares, axis=0)).tolist():
            flags[self._sets[number]] = True
            found[number] = size * any_flagged(flags, reached).mean()
            flags[self._sets[number]] = False
        return found

    def _share_of_both(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Of the places where two facets meet, the fraction in which each set holds both channels."""
        one, other = np.broadcast_arrays(one, other)
        both = (self._holders.lengths[one] > 0) & (self._holders.lengths[other] > 0)
        ones, others = one[both], other[both]
        found = np.zeros(len(self._sets))
        for j in range(self._most_holders(others)):
            b = self._nth_holder(others, j)
            for i in range(self._most_holders(ones)):
                a = self._nth_holder(ones, i)
                found += np.bincount(a[(a == b) & (a >= 0)], minlength=len(self._sets))
        return found / one.size

    def _most_holders(self, channels: np.ndarray) -> int:
        return int(self._holders.lengths[channels].max(initial=0))

    def _nth_holder(self, channels: np.ndarray, nth: int) -> np.ndarray:
        """The number of the nth set that holds each channel, -1 where there are fewer."""
        found = np.full(channels.shape, -1)
        has = self._holders.lengths[channels] > nth
        found[has] = self._holders.flat[self._holders.starts[channels[has]] + nth]
        return found
