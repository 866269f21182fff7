"""A known value: the pair (value, is_known) that `forward` gives each tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Known:
    """`value` where `is_known`, of one shape, which broadcasts to the tensor's: size 1 is "the same along this axis".

    Where not known, `value` is 1 and means nothing: no arithmetic on it is ever taken for knowledge.
    """

    value: np.ndarray
    is_known: np.ndarray

    @cached_property
    def is_zero(self) -> np.ndarray:
        return self.is_known & (self.value == 0)

    @cached_property
    def is_all_known(self) -> bool:
        return bool(self.is_known.all())

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def holds(self, number: float) -> bool:
        """Whether every element is known to be `number`."""
        return bool((self.is_known & (self.value == number)).all())

    def aligned(self, rank: int) -> "Known":
        """With leading axes of size 1 up to `rank`, as broadcasting does."""
        lead = (1,) * (rank - self.value.ndim)
        return Known(self.value.reshape(lead + self.shape), self.is_known.reshape(lead + self.shape))

    def moved(self, move: Callable[[np.ndarray], np.ndarray]) -> "Known":
        """What `move`, which only moves or repeats elements, makes of the pair. A place of number 0 isn't known."""
        numbers = move(np.arange(1, self.value.size + 1).reshape(self.shape))
        value = np.concatenate([np.ones(1, self.value.dtype), self.value.ravel()])
        return Known(value[numbers], np.concatenate([np.zeros(1, bool), self.is_known.ravel()])[numbers])

    def both(self, move: Callable[[np.ndarray], np.ndarray]) -> "Known":
        """`move` done to value and knowledge alike; it may not put in anything new."""
        return Known(move(self.value), move(self.is_known))

    def where(self, flags: np.ndarray) -> "Known":
        """Known only where `flags`, which broadcast to the shape, say so too."""
        return pair(self.value, self.is_known & flags)

    def same_along(self, axes: tuple[int, ...]) -> "Known":
        """Of size 1 along `axes`: known where all elements along them are known to be the same."""
        found = self
        for axis in axes:
            if found.shape[axis] > 1:
                first = found.value.take([0], axis)
                same = (found.is_known & (found.value == first)).all(axis=axis, keepdims=True)
                found = pair(first, same)
        return found

    def compressed(self) -> "Known":
        """Of size 1 on every axis along which nothing changes."""
        found = self
        for axis, size in enumerate(found.shape):
            if size > 1:
                first = found.both(lambda a, axis=axis: a.take([0], axis))
                if (found.is_known == first.is_known).all() and (found.value == first.value).all():
                    found = first
        return found


def pair(value: np.ndarray, is_known: np.ndarray | bool = True) -> Known:
    """A pair of broadcast arrays, with 1 where nothing is known. Infinities and NaN are nothing to know."""
    value, is_known = np.broadcast_arrays(value, is_known)
    if value.dtype.kind not in "iub":
        is_known = is_known & np.isfinite(value)
    if is_known.all():
        return Known(value, is_known)
    return Known(np.where(is_known, value, np.ones((), value.dtype)), is_known)


def unknown(rank: int, dtype: np.dtype | type = np.float32) -> Known:
    """Nothing is known of a tensor of this rank."""
    return Known(np.ones((1,) * rank, dtype), np.zeros((1,) * rank, bool))


def constant(rank: int, number: float, dtype: np.dtype | type) -> Known:
    """The same number everywhere."""
    return Known(np.full((1,) * rank, number, dtype), np.ones((1,) * rank, bool))
