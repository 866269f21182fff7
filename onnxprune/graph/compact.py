"""Cut an array down to the elements a mask keeps, as long as what remains is a box."""

from collections.abc import Mapping

import numpy as np


def kept_along(mask: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Which places along `axis` keep anything: bool [size]."""
    if mask.shape[axis] == 1:
        return np.full(size, bool(mask.any()))
    return mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))


def kept_in_a_row(mask: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Which places along `axis` the first surviving row keeps: bool [size]. A row is a choice of the axes before it."""
    rows = mask.any(axis=tuple(range(axis + 1, mask.ndim))).reshape(-1, mask.shape[axis])
    return kept_along(rows[rows.any(axis=1)][:1], 1, size)


def shape_after(mask: np.ndarray, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that remains. `mask` broadcasts to `shape`, or has one place for each run of places that stay or go
    together; raises ValueError where no box remains."""
    axes = [a for a, size in enumerate(mask.shape) if size > 1]
    left = (int(np.count_nonzero(mask)),) if len(axes) == 1 else box_sizes(mask.squeeze())
    sizes = list(shape)
    for axis, size in zip(axes, left, strict=True):
        sizes[axis] = size * (shape[axis] // mask.shape[axis])
    return tuple(sizes)


def take(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The elements that stay, in their order; every surviving row of a grid keeps as many, each its own choice."""
    axes = [a for a, size in enumerate(mask.shape) if size > 1]
    if not axes:
        return array
    if len(axes) == 1:
        return array.take(np.flatnonzero(mask), axes[0])
    lines = [kept_along(mask, a, array.shape[a]) for a in axes]
    squeezed = mask.squeeze()
    if squeezed.sum() == np.prod([line.sum() for line in lines]):
        return take_lines(array, dict(zip(axes, lines, strict=True)))
    rest = [a for a in range(array.ndim) if a not in axes]
    front = array.transpose(axes + rest)
    sizes = box_sizes(squeezed)
    chosen = front[squeezed].reshape(sizes + tuple(array.shape[a] for a in rest))
    return np.ascontiguousarray(chosen.transpose(np.argsort(axes + rest)))


def take_lines(array: np.ndarray, lines: Mapping[int, np.ndarray]) -> np.ndarray:
    """The places along each axis that its line, bool [size], keeps: one axis after another, far faster than np.ix_."""
    for axis, line in lines.items():
        if not line.all():
            array = array.take(np.flatnonzero(line), axis)
    return array


def is_box(mask: np.ndarray) -> bool:
    """Whether rows that keep nothing can go, and the others keep the same box."""
    try:
        box_sizes(mask)
    except ValueError:
        return False
    return True


def box_sizes(mask: np.ndarray) -> tuple[int, ...]:
    """Sizes of what `mask` keeps: rows that keep nothing go, the others keep the same box."""
    if mask.ndim == 0:
        return ()
    if mask.ndim == 1:
        return (int(mask.sum()),)
    rows = mask.reshape(len(mask), -1)
    counts = rows.sum(axis=1)
    alive = np.flatnonzero(counts)
    if not len(alive):
        return (0,) * mask.ndim
    inner = box_sizes(mask[alive[0]])
    others = alive[1:] if mask.ndim > 2 else alive[counts[alive] != counts[alive[0]]]
    for row in others:
        if counts[row] != counts[alive[0]] or (mask.ndim > 2 and box_sizes(mask[row]) != inner):
            raise ValueError(f"row {row} keeps {counts[row]} places where row {alive[0]} keeps {counts[alive[0]]}")
    return (len(alive), *inner)
