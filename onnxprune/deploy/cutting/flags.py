"""What goes of one tensor, as an array of flags: how it is kept small, moved, and cut by. Knows no ONNX."""

from collections.abc import Sequence

import numpy as np

from onnxprune.errors import ModelError
from onnxprune.graph.labels import reshape_blocks

#: True: goes. Of its tensor's rank, and of size 1 along axes where the flags don't differ.
Flags = np.ndarray


def compact(flags: Flags) -> Flags:
    """The flags with size 1 along every axis where they don't differ."""
    for axis in range(flags.ndim):
        first = flags.take([0], axis)
        if flags.shape[axis] > 1 and (flags == first).all():
            flags = first
    return flags


def lines(flags: Flags) -> list[np.ndarray] | None:
    """Which places go of each axis, as long as whole slices go; None for a grid, whose rows choose by themselves."""
    found = [flags.all(axis=other_axes(flags, axis)) for axis in range(flags.ndim)]
    return found if (~flags).sum() == np.prod([(~line).sum() for line in found]) else None


def cut(array: np.ndarray, flags: Flags) -> np.ndarray:
    """The elements that stay. Every surviving row keeps as many places; which ones is each row's own choice."""
    sizes = sizes_left(flags, array.shape)
    box = lines(flags)
    if box is None:
        return array[np.broadcast_to(~flags, array.shape)].reshape(sizes)
    for axis, line in enumerate(box):
        if line.any():
            array = array.compress(np.broadcast_to(~line, array.shape[axis]), axis)
    return array


def sizes_left(flags: Flags, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that is left of `shape`. Raises ModelError where it isn't a box."""
    keep = ~flags
    sizes = []
    for axis, size in enumerate(shape):
        # What is left of the leading axes: every surviving row of them has to have as many places.
        places = keep.any(axis=tuple(range(axis + 1, keep.ndim)))
        counts = np.unique(places.sum(axis=-1))
        counts = counts[counts > 0]
        if len(counts) > 1:
            raise ModelError(f"These units leave rows of {counts.tolist()} places. Only equal rows make a tensor.")
        count = int(counts[0]) if len(counts) else 0
        sizes.append(count if keep.shape[axis] == size else count * size)
    return tuple(sizes)


def reshape(flags: Flags, shape: Sequence[int], out: Sequence[int]) -> Flags:
    """Flags of a tensor of `shape` that is read as `out`: only blocks of axes about which they speak are laid out."""
    laid: list[int] = []  # what the flags are broadcast to
    given: list[int] = []
    for left, right in reshape_blocks(tuple(shape), tuple(out)):
        speaks = any(flags.shape[axis] > 1 for axis in left)
        laid += [shape[axis] if speaks else 1 for axis in left]
        given += [out[axis] if speaks else 1 for axis in right]
    return np.broadcast_to(flags, laid).reshape(given)


def take(flags: Flags, places: np.ndarray, axis: int) -> Flags:
    """Flags behind a selection of places of one axis; an array of several axes takes the place of that axis."""
    if flags.shape[axis] > 1:
        return np.take(flags, places, axis)
    return flags.reshape(flags.shape[:axis] + (1,) * places.ndim + flags.shape[axis + 1 :])


def other_axes(flags: Flags, *axes: int) -> tuple[int, ...]:
    """The axes that aren't `axes`."""
    return tuple(axis for axis in range(flags.ndim) if axis not in axes)


def ahead(flags: Flags, rank: int) -> Flags:
    """The flags of a broadcast operand, aligned to `rank`."""
    return flags.reshape((1,) * (rank - flags.ndim) + flags.shape)
