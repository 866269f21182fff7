"""Labels, facets and ties: what must be removed together. Pure NumPy and SciPy; knows nothing of ONNX.

A label is an integer naming one removable slice. Label 0 is PINNED: never removed. A facet is an integer array of
labels that broadcasts to its tensor's shape, of size 1 on every axis it doesn't speak about. An element goes when the
label that any facet gives it goes. A tie says that two labels go together; labels joined by ties form a channel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

PINNED = 0


class Facet(np.ndarray):
    """An array of labels, and the `ghost`: what a deleted slice holds at this point of the network with it zeroed.

    The ghost is a number, or None where it isn't known. It goes along when NumPy moves the labels.
    """

    ghost: float | None

    def __array_finalize__(self, source: object) -> None:
        self.ghost = getattr(source, "ghost", None)


def facet(labels: np.ndarray, ghost: float | None) -> Facet:
    """A facet with these labels and this ghost."""
    found = np.asarray(labels).view(Facet)
    found.ghost = ghost
    return found


def ghost_of(labels: np.ndarray) -> float | None:
    """The ghost of a facet; unknown for a plain array."""
    return getattr(labels, "ghost", None)


def spans(facet: Facet) -> tuple[int, ...]:
    """The axes that a facet speaks about."""
    return tuple(axis for axis, size in enumerate(facet.shape) if size > 1)


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
            if (facet == first).all():
                facet = first
    return facet


def spread(facet: Facet, shape: tuple[int, ...], axes: tuple[int, ...]) -> Facet:
    """Repeat the labels along `axes` up to the tensor's size there."""
    target = tuple(shape[a] if a in axes else size for a, size in enumerate(facet.shape))
    return np.broadcast_to(facet, target, subok=True)


def distinct(labels: np.ndarray, count: int) -> np.ndarray:
    """The distinct ones of labels below `count`, in rising order."""
    if labels.size < count:
        return np.unique(np.asarray(labels))
    flags = np.zeros(count, bool)
    flags[labels] = True
    return np.flatnonzero(flags)


def distinct_rows(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places of the distinct rows of [row, place], in order; which of them each row equals)."""
    weights = np.random.default_rng(0).integers(1, 2**62, labels.shape[1], dtype=np.int64)
    _, first, inverse = np.unique(labels @ weights, return_index=True, return_inverse=True)
    if not np.array_equal(labels[first][inverse], labels):  # two rows of one hash
        _, first, inverse = np.unique(labels, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.ravel()]


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
    """What `np.reshape` of a tensor from shape `old` to shape `new` does to its facet."""
    speaks = set(spans(facet))
    sizes: list[int] = []
    for before, after in reshape_blocks(old, new):
        if speaks & set(before):
            facet = spread(facet, old, before)
            sizes += [new[a] for a in after]
        else:
            sizes += [1] * len(after)
    return compress(facet.reshape(sizes))


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
        first, _ = distinct_rows(np.column_stack([names, members]))
        self.rows.append((names[first], members[first]))

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
        _, component = connected_components(graph, directed=False)
        _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[inverse]
