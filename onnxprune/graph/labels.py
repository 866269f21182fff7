"""Labels, facets and ties: what must be removed together. Pure NumPy and SciPy; knows nothing of ONNX.

A label is an integer naming one removable slice. Label 0 is PINNED: never removed. A facet is an integer array of
labels that broadcasts to its tensor's shape, of size 1 on every axis it doesn't speak about. An element goes when the
label that any facet gives it goes. A tie says that two labels go together; labels joined by ties form a channel.

On an axis of n places m labels stand for a run of n/m places each: the pixels of a channel in a flattened image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

PINNED = 0
_FEW = 16


class Facet(np.ndarray):
    """An array of labels, and the `ghost`: what a deleted slice holds at this point of the network with it zeroed.

    The ghost is a number, or None where it isn't known. It goes along when NumPy moves the labels.
    """

    ghost: float | None

    def __array_finalize__(self, source: object) -> None:
        self.ghost = getattr(source, "ghost", None)


def facet(labels: np.ndarray, ghost: float | None) -> Facet:
    """A facet with these labels and this ghost: the very same where it is one already."""
    if isinstance(labels, Facet) and labels.ghost == ghost:
        return labels
    found = np.asarray(labels).view(Facet)
    found.ghost = ghost
    return found


def ghost_of(labels: np.ndarray) -> float | None:
    """The ghost of a facet; unknown for a plain array."""
    return getattr(labels, "ghost", None)


def spans(facet: Facet) -> tuple[int, ...]:
    """The axes that a facet speaks about."""
    return longer_axes(facet.shape)


@lru_cache(maxsize=2**14)
def longer_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes along which a shape is longer than 1."""
    return tuple([axis for axis, size in enumerate(shape) if size > 1])


def any_flagged(flags: np.ndarray, named: Sequence[np.ndarray]) -> np.ndarray:
    """Where any of the facets' channels is flagged, broadcast over the axes they speak about."""
    result = flags[named[0]]
    for other in named[1:]:
        result = result | flags[other]
    return result


def compress(facet: Facet) -> Facet:
    """Size 1 on every axis along which the labels don't change."""
    for axis, size in enumerate(facet.shape):
        if size > 1:
            first = facet.take([0], axis)
            if (np.asarray(facet) == np.asarray(first)).all():
                facet = first
    return facet


def unrolled(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """One label for every place of the tensor's axes, where one stood for a run of them."""
    for axis, (count, size) in enumerate(zip(labels.shape, shape, strict=True)):
        if count not in (1, size):
            labels = labels.repeat(size // count, axis)
    return labels


def matched(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays of one tensor, with as many labels as each other on every axis that they share."""
    shapes = [array.shape for array in arrays]
    widest = [max(counts) for counts in zip(*shapes, strict=True)]
    if all(shape[axis] in (1, count) for shape in shapes for axis, count in enumerate(widest)):
        return list(arrays)
    common = [math.lcm(*counts) for counts in zip(*shapes, strict=True)]
    return [unrolled(array, common) for array in arrays]


def distinct(labels: np.ndarray, count: int) -> np.ndarray:
    """The distinct ones of labels below `count`, in rising order."""
    if labels.size <= _FEW:  # NumPy takes several times as long
        return np.array(sorted(set(labels.ravel().tolist())), np.int64)
    if labels.size < count:
        return np.unique(np.asarray(labels))
    flags = np.zeros(count, bool)
    flags[labels] = True
    return np.flatnonzero(flags)


def distinct_rows(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places of the distinct rows of [row, place], in order; which of them each row equals)."""
    weights = _hash_weights(labels.shape[1])
    _, first, inverse = np.unique(labels @ weights, return_index=True, return_inverse=True)
    if not np.array_equal(labels[first][inverse], labels):  # two rows of one hash
        _, first, inverse = np.unique(labels, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.ravel()]


@lru_cache(maxsize=256)
def _hash_weights(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 2**62, count, dtype=np.int64)


def thinned(rows: np.ndarray) -> np.ndarray:
    """[row, place], with one place of each run where all runs of all rows are equally long: a channel's pixels.

    >>> thinned(np.array([[1, 1, 2, 2], [3, 3, 4, 4]]))
    array([[1, 2],
           [3, 4]])
    """
    if not rows.size:
        return rows
    others = np.flatnonzero(rows[0] != rows[0, 0])
    run = int(others[0]) if len(others) else rows.shape[1]
    if run == 1 or rows.shape[1] % run:
        return rows
    runs = rows.reshape(len(rows), -1, run)
    return np.ascontiguousarray(runs[:, :, 0]) if (runs == runs[:, :, :1]).all() else rows


def reshape_blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Split two shapes of equal product into the smallest runs of axes with equal products.

    >>> reshape_blocks((7, 8, 9), (7, 72))
    [((0,), (0,)), ((1, 2), (1,))]
    """
    blocks = []
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        left = old[i] if i < len(old) else 1
        right = new[j] if j < len(new) else 1
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while left != right:
            if left < right:
                left *= old[i]
                i += 1
            else:
                right *= new[j]
                j += 1
        blocks.append((tuple(range(start_i, i)), tuple(range(start_j, j))))
    return blocks


def reshape(facet: Facet, old: tuple[int, ...], new: tuple[int, ...]) -> Facet:
    """What `np.reshape` of a tensor from shape `old` to shape `new` does to its facet; runs of a label stay runs.

    >>> reshape(np.array([1, 2, 3, 4]).reshape(4, 1), (4, 100), (2, 200))
    array([[1, 2],
           [3, 4]])
    """
    if 0 in old:
        return facet.ravel()[:0].reshape([min(size, 1) for size in new])
    whole, run, sizes = _spread(facet.shape, old, new)
    for axis, times in run.items():
        facet = facet.repeat(times, axis)
    return compress(np.broadcast_to(unrolled(facet, whole), whole, subok=True).reshape(sizes))


def labels_after(counts: Sequence[int], old: tuple[int, ...], new: tuple[int, ...]) -> int:
    """How many labels `reshape` makes of a facet of this shape, before it compresses them."""
    return math.prod(_spread(counts, old, new)[0])


def _spread(
    counts: Sequence[int], old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[list[int], dict[int, int], list[int]]:
    """How to reshape a facet of shape `counts`: the shape to spread it to, how often the labels of some axes are
    repeated for that, and the shape that it gets. Runs are cut into the longest ones that fit the new axes."""
    whole, times, sizes = list(counts), {}, []
    for before, after in reshape_blocks(old, new):
        last = max((axis for axis in before if counts[axis] > 1), default=None)
        if last is None:
            sizes += [1] * len(after)
            continue
        run = math.prod(old[axis] for axis in before if axis >= last) // counts[last]
        found: list[int] = []
        for axis in after[::-1]:
            shared = math.gcd(run, new[axis]) if set(found) <= {1} else 1
            found.insert(0, new[axis] // shared)
            run //= shared
        if run > 1:
            times[last] = run
        whole[last] *= run
        for axis in before:
            if axis < last:
                whole[axis] = old[axis]
        sizes += found
    return whole, times, sizes


@dataclass
class Ledger:
    """What tracing writes down: ties, pins, rows and grids, each with the number of the node that caused it."""

    at: int = -1
    count: int = 1
    ties: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)
    pins: list[tuple[int, np.ndarray, str]] = field(default_factory=list)
    rows: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    restated: list[np.ndarray] = field(default_factory=list)
    summed: list[np.ndarray] = field(default_factory=list)
    kinds: list[tuple[np.ndarray, str]] = field(default_factory=list)
    _stays: np.ndarray = field(default_factory=lambda: np.array([True]))  # [label], as long as it was needed

    def fresh(self, *shape: int) -> np.ndarray:
        """New labels, one for each element of `shape`."""
        size = math.prod(shape)
        labels = np.arange(self.count, self.count + size, dtype=np.int64).reshape(shape)
        self.count += size
        return labels

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """Labels at the same place, after broadcasting, go together."""
        if a is b:
            return
        if a.shape != b.shape:
            a, b = np.broadcast_arrays(a, b)
        self.ties.append((self.at, a.ravel(), b.ravel()))

    def pin(self, labels: np.ndarray, reason: str) -> None:
        """These labels stay."""
        labels = distinct(labels, self.count)
        self.pins.append((self.at, labels, reason))
        if len(self._stays) < self.count:
            self._stays = np.append(self._stays, np.zeros(2 * self.count - len(self._stays), bool))
        self._stays[labels] = True

    def is_pinned(self, labels: np.ndarray) -> bool:
        """Whether all of these were pinned already, by what is written down so far."""
        return bool((labels < len(self._stays)).all() and self._stays[labels].all())

    def row(self, names: np.ndarray, members: np.ndarray) -> None:
        """`names[i]` goes exactly when every label of `members[i, :]` goes; what remains stays rectangular."""
        members = thinned(members)
        if not (names[1:] > names[:-1]).all():  # rising names are distinct
            first, _ = distinct_rows(np.column_stack([names, members]))
            names, members = names[first], members[first]
        self.rows.append((names, members))

    def restate(self, labels: np.ndarray) -> None:
        """Deleting one of these changes the statistics of a normalisation, which are then over what is kept."""
        self.restated.append(labels.ravel())

    def sum(self, labels: np.ndarray) -> None:
        """A reduction adds these up; a deleted one held 0, so nothing changes."""
        self.summed.append(labels.ravel())

    def kind(self, labels: np.ndarray, name: str) -> None:
        """Say what these labels are called in the field: channel, neuron, ..."""
        self.kinds.append((labels.ravel(), name))

    def marks(self) -> tuple[int, ...]:
        """Where the ledger ends now, for `mentioned`."""
        return len(self.ties), len(self.pins), len(self.rows), len(self.summed), len(self.restated)

    def mentioned(self, since: tuple[int, ...]) -> list[np.ndarray]:
        """The labels written down since `marks()`, in pieces."""
        ties, pins, rows = self.ties[since[0] :], self.pins[since[1] :], self.rows[since[2] :]
        return (
            [labels for _, a, b in ties for labels in (a, b)]
            + [labels for _, labels, _ in pins]
            + [labels.ravel() for pair in rows for labels in pair]
            + self.summed[since[3] :]
            + self.restated[since[4] :]
        )

    def solve(self) -> np.ndarray:
        """The channel of each label: `channel[label]`, int64 of length `count`, numbered by smallest label."""
        if self.ties:
            a = np.concatenate([tie[1] for tie in self.ties])
            b = np.concatenate([tie[2] for tie in self.ties])
        else:
            a = b = np.empty(0, np.int64)
        told = a != b
        graph = coo_array((np.ones(told.sum()), (a[told], b[told])), shape=(self.count, self.count)).tocsr()
        count, component = connected_components(graph, directed=False)
        first = np.empty(count, np.int64)
        first[component[::-1]] = np.arange(self.count)[::-1]  # the last to be written is the smallest label
        return np.argsort(np.argsort(first))[component]
