"""Sums over the weights of channels and of sets of channels, each weight counted once."""

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.labels import any_flagged


def add(total: np.ndarray, array: np.ndarray | None, shape: tuple[int, ...], named: Sequence[np.ndarray]) -> None:
    """Add a tensor's saliency to `total[channel]`; `named` are its facets as channels, None stands for all ones.

    An element that two facets give to one channel counts once.
    """
    for number, facet in enumerate(named):
        total += np.bincount(facet.ravel(), weights=_sum_to(array, shape, facet.shape).ravel(), minlength=len(total))
        for other in named[:number]:
            if np.isin(facet, other).any():
                a, b = np.broadcast_arrays(facet, other)
                same = a == b
                summed = _sum_to(array, shape, a.shape)[same]
                total -= np.bincount(a[same], weights=summed, minlength=len(total))


def _sum_to(array: np.ndarray | None, shape: tuple[int, ...], smaller: tuple[int, ...]) -> np.ndarray:
    """Sum along the axes that `smaller` doesn't speak about."""
    if array is None:
        return np.broadcast_to(np.float64(np.prod(shape) / np.prod(smaller)), smaller)
    axes = tuple(a for a, size in enumerate(smaller) if size == 1 and shape[a] != 1)
    return array.sum(axis=axes, keepdims=True, dtype=np.float64) if axes else np.asarray(array, np.float64)


class Sets:
    """Sets of channels side by side, for sums over all of them at once."""

    def __init__(self, sets: Sequence[np.ndarray]):
        lengths = np.array([len(s) for s in sets], np.int64)
        self.flat = np.concatenate([*sets, np.empty(0, np.int64)])
        self.starts = np.cumsum(lengths) - lengths
        self.members = [tuple(s.tolist()) for s in sets]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """[set]: the sum of `values[channel]`."""
        return np.add.reduceat(values[self.flat], self.starts) if len(self.starts) else np.zeros(0)

    def least(self, values: np.ndarray) -> np.ndarray:
        return np.minimum.reduceat(values[self.flat], self.starts) if len(self.starts) else np.zeros(0, np.int64)

    def any(self, flags: np.ndarray) -> np.ndarray:
        return np.logical_or.reduceat(flags[self.flat], self.starts) if len(self.starts) else np.zeros(0, bool)


def count_once(sizes: np.ndarray, sets: Sets, shape: tuple[int, ...], named: Sequence[np.ndarray]) -> None:
    """Take from the sizes of sets what several of a tensor's facets count for them."""
    if len(named) < 2 or not len(sets.starts):
        return
    channels = max(int(array.max()) for array in [sets.flat, *named]) + 1
    touched = []
    for facet in named:
        on_axis = np.zeros(channels, bool)
        on_axis[facet] = True
        touched.append(sets.any(on_axis))
    for number in np.flatnonzero(np.sum(touched, axis=0) > 1).tolist():
        if len(sets.members[number]) > 1:  # single channels were counted once to begin with
            flags = np.zeros(channels, bool)
            flags[list(sets.members[number])] = True
            joint = any_flagged(flags, named)
            exact = joint.sum() * (np.prod(shape) / np.prod(joint.shape))
            sizes[number] += exact - sum(_alone(flags, shape, facet) for facet in named)


def _alone(flags: np.ndarray, shape: tuple[int, ...], facet: np.ndarray) -> float:
    return flags[facet].sum() * (np.prod(shape) / np.prod(facet.shape))
