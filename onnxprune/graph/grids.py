"""Grids: labels on two axes at once must stay rectangular. Which sets of channels keep them so?

A grid is an array of channels (rows, places in the row): the groups of a convolution, the heads of attention. Legal
are: whole rows, or the same number from every surviving row, each row its own choice. A channel that a grid meets
unevenly is loose there; loose channels are bundled, one member from every row. Where grids cross, the rows of one of
them move as a whole, and what is left to choose are bundles of such rows: a dimension of all heads under a rotary
table, the places that a shuffle takes from every group.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from onnxprune.graph.compact import box_sizes, is_box
from onnxprune.graph.labels import Facet, compress, distinct_rows, spans, thinned
from onnxprune.graph.weighing import Sets

#: A place of a grid that a coarser view leaves out of account.
_NOBODY = -1
#: How often rows are taken for units in turn where grids cross.
_DEPTH = 2


@dataclass(frozen=True, eq=False)
class Grid:
    """`channels[..., place]`: all axes but the last lead to a row."""

    channels: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """[row, place]."""
        return self.channels.reshape(-1, self.channels.shape[-1])

    def stays_regular(self, deleted: np.ndarray) -> bool:
        """Whether what `deleted[channel]` leaves is a box: whole rows gone, the others as long as each other."""
        gone = deleted[self.channels]
        return not gone.any() or is_box(~gone)


def collect(facets: Iterable[Facet], rows: Iterable[np.ndarray], channel: np.ndarray) -> list[Grid]:
    """The distinct grids among facets and rows of labels."""
    seen: dict[tuple, Grid] = {}
    looked_at: set[tuple] = set()
    for facet in facets:
        if sum(size > 1 for size in facet.shape) > 1:
            labels = np.asarray(facet).reshape([size for size in facet.shape if size > 1])
            if labels.ndim == 2:
                labels = thinned(labels)
            if labels.ndim == 2 and len(labels) > labels.shape[1]:
                labels = labels[distinct_rows(labels)[0]]  # windows repeat the same rows by the thousand
            key = (labels.shape, labels.tobytes())
            if key not in looked_at:
                looked_at.add(key)
                named = compress(channel[labels])
                if len(spans(named)) > 1:
                    _add(seen, named.reshape([named.shape[a] for a in spans(named)]))
    for members in rows:
        _add(seen, channel[members])
    return list(seen.values())


@dataclass(frozen=True, eq=False)
class Crossing:
    """Two grids of the same channels, of which one is the other transposed: what is left has to be so too.

    Rows that each keep the same number, at places of their own, are fine in one of them alone.
    """

    one: Grid
    other: Grid
    order: tuple[int, ...]

    @property
    def channels(self) -> np.ndarray:
        return self.one.channels

    def stays_regular(self, deleted: np.ndarray) -> bool:
        """Whether `deleted[channel]` leaves boxes, the one as large as the other."""
        if not (self.one.stays_regular(deleted) and self.other.stays_regular(deleted)):
            return False
        sizes = box_sizes(~deleted[self.one.channels])
        return tuple(sizes[axis] for axis in self.order) == box_sizes(~deleted[self.other.channels])


def crossings(grids: Sequence[Grid]) -> list[Crossing]:
    """The pairs of grids that a Transpose leads from one to the other."""
    alike: dict[bytes, list[Grid]] = defaultdict(list)
    for grid in grids:
        names = np.unique(grid.channels)
        if names.size == grid.channels.size:
            alike[names.tobytes()].append(grid)
    found = []
    for same in alike.values():
        for one, other in combinations(same, 2):
            order = _order_between(one.channels, other.channels)
            if order is not None:
                found.append(Crossing(one, other, order))
    return found


def _order_between(one: np.ndarray, other: np.ndarray) -> tuple[int, ...] | None:
    """How the axes of one array of distinct channels lie in the other; rows and places may be in any order."""
    if one.ndim != other.ndim:
        return None
    place = np.empty((one.ndim, one.max() + 1), np.int64)
    place[:, one.ravel()] = np.indices(one.shape).reshape(one.ndim, -1)
    for order in list(permutations(range(one.ndim)))[1:]:
        fits = tuple(one.shape[axis] for axis in order) == other.shape
        if fits and all(_is_constant_across(place[axis][other], at) for at, axis in enumerate(order)):
            return order
    return None


def _is_constant_across(array: np.ndarray, axis: int) -> bool:
    """Whether it changes along `axis` alone."""
    line = array[tuple(slice(None) if a == axis else slice(1) for a in range(array.ndim))]
    return bool((array == line).all())


def _add(seen: dict[tuple, Grid], channels: np.ndarray) -> None:
    if channels.ndim == 2 and len(channels) > 1 and channels.shape[1] > 1:
        first, _ = distinct_rows(channels)
        channels = channels[first]
        channels = channels[np.argsort(channels[:, 0], kind="stable")]  # grids of the same rows are one
    channels = np.ascontiguousarray(channels)
    seen.setdefault((channels.shape, channels.tobytes()), Grid(channels))


#: How a channel lies on the grids that meet it unevenly: (grid, row, places in the row), in order.
Cell = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class Bundles:
    """Sets of loose channels, alike. `even`: each takes as much from every row, and `sets` is one array [set, member];
    else rows may go as a whole."""

    sets: Sequence[np.ndarray] | np.ndarray
    even: bool


#: Loose channels, and why they may be in no bundle.
Loose = tuple[np.ndarray, str]


def bundle(grids: Sequence[Grid], order: np.ndarray) -> tuple[list[Bundles], list[Loose]]:
    """Group loose channels into sets that may be legal; return them, and all loose channels.

    `order[channel]` says which member of a row is taken first: the k-th of every row make the k-th bundle.
    """
    return _bundle(grids, order, _DEPTH)


def _bundle(grids: Sequence[Grid], order: np.ndarray, depth: int) -> tuple[list[Bundles], list[Loose]]:
    cells = _cells(grids)
    bundles: list[Bundles] = []
    loose: list[Loose] = []
    for keys in _classes(grids, cells):
        problem = _problem(grids, cells, keys)
        members = np.concatenate([cells[key] for key in keys])
        loose.append((members, problem or "grids cross here"))
        columns = np.zeros((0, len(keys)), np.int64)
        if not problem:
            columns = np.column_stack([cells[key][np.argsort(order[cells[key]], kind="stable")] for key in keys])
        if len(columns) > 1:
            bundles.append(Bundles(columns, even=True))
        else:
            rows = _bundles_of_rows(grids, cells, keys, order, depth) if depth else []
            bundles.append(Bundles([*columns, *rows], even=False))
    return bundles, loose


def _bundles_of_rows(
    grids: Sequence[Grid], cells: Mapping[Cell, np.ndarray], keys: Sequence[Cell], order: np.ndarray, depth: int
) -> list[np.ndarray]:
    """What is left to choose when the rows of one of the grids, each in turn, move as a whole."""
    members = np.concatenate([cells[key] for key in keys])
    met = sorted({number for key in keys for number, _, _ in key})
    found: list[np.ndarray] = []
    seen: set[bytes] = set()
    for number in met:
        rows_of = [[row for n, row, _ in key if n == number] for key in keys]
        if any(len(rows) != 1 for rows in rows_of):
            continue
        every = np.repeat([rows[0] for rows in rows_of], [len(cells[key]) for key in keys])
        _, row_of = np.unique(every, return_inverse=True)
        if row_of.tobytes() in seen:
            continue
        seen.add(row_of.tobytes())
        row_of_channel = np.full(len(order) + 1, _NOBODY)
        row_of_channel[members] = row_of
        others = [Grid(row_of_channel[grids[n].channels]) for n in met if n != number]
        rank = np.bincount(row_of, weights=order[members])
        bundles, loose = _bundle(others, rank, depth - 1)
        alone = np.setdiff1d(np.arange(row_of.max() + 1), np.concatenate([[], *(rows for rows, _ in loose)]))
        sets = [*alone[:, None], *(rows for alike in bundles for rows in alike.sets)]
        found += [members[np.isin(row_of, rows)] for rows in sets]
    return found


def _cells(grids: Sequence[Grid]) -> dict[Cell, np.ndarray]:
    """Loose channels, by how they lie; each in rising order."""
    found = [_loose(grid) for grid in grids]
    number = np.repeat(np.arange(len(grids)), [len(names) for names, _, _ in found])
    none = np.empty(0, np.int64)
    names, row, hits = (np.concatenate([part[i] for part in found] or [none]) for i in range(3))
    order = np.argsort(names, kind="stable")
    lies = np.column_stack([number, row, hits])[order]
    starts = np.flatnonzero(np.r_[True, names[order][1:] != names[order][:-1]]) if len(names) else none
    lengths = np.diff(np.r_[starts, len(names)])
    cells: dict[Cell, np.ndarray] = {}
    for length in np.unique(lengths):  # how many rows a channel lies in
        alike = starts[lengths == length]
        rows = lies[alike[:, None] + np.arange(length)].reshape(len(alike), -1)
        first, which = distinct_rows(rows)
        members = Sets(alike[np.argsort(which, kind="stable")], np.bincount(which))
        for key, places in zip(rows[first].reshape(len(first), length, 3).tolist(), members, strict=True):
            cells[tuple((n, r, h) for n, r, h in key)] = names[order[places]]
    return cells


def _loose(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(channel, row, its places there), by channel and row, of those that the rows of a grid don't share evenly."""
    rows, width = grid.rows.shape
    flat = grid.channels.ravel() * rows + np.repeat(np.arange(rows), width)
    cells, hits = np.unique(flat[grid.channels.ravel() != _NOBODY], return_counts=True)
    names, row_of = cells // rows, cells % rows
    if not len(cells):
        return names, row_of, hits
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    covered = np.diff(np.r_[starts, len(names)])
    uneven = (covered < rows) | (np.minimum.reduceat(hits, starts) != np.maximum.reduceat(hits, starts))
    chosen = np.repeat(uneven, covered)
    return names[chosen], row_of[chosen], hits[chosen]


def _coverage(grids: Sequence[Grid], keys: Iterable[Cell]) -> dict[int, np.ndarray]:
    """{grid: places that one channel of each cell takes from each row}."""
    taken: dict[int, np.ndarray] = {}
    for key in keys:
        for number, row, hits in key:
            taken.setdefault(number, np.zeros(len(grids[number].rows), np.int64))[row] += hits
    return taken


def _classes(grids: Sequence[Grid], cells: Mapping[Cell, np.ndarray]) -> list[list[Cell]]:
    """Cells that take their share of every row together.

    Cells on the same grids go together; classes that reach only some rows of a grid are joined to each other.
    """
    alike: dict[tuple, list[Cell]] = defaultdict(list)
    for key in sorted(cells):
        alike[tuple((number, hits) for number, _, hits in key)].append(key)
    classes = list(alike.values())
    partial: dict[int, list[int]] = defaultdict(list)
    for index, keys in enumerate(classes):
        for number, taken in _coverage(grids, keys).items():
            if (taken != taken[0]).any():
                partial[number].append(index)
    joined = list(range(len(classes)))
    for indices in partial.values():
        target = min(joined[i] for i in indices)
        olds = {joined[i] for i in indices}
        joined = [target if j in olds else j for j in joined]
    merged: dict[int, list[Cell]] = defaultdict(list)
    for index, keys in enumerate(classes):
        merged[joined[index]] += keys
    return list(merged.values())


def _problem(grids: Sequence[Grid], cells: Mapping[Cell, np.ndarray], keys: Sequence[Cell]) -> str:
    """Why one channel from each cell is not a legal deletion; empty if it is."""
    if len({len(cells[key]) for key in keys}) > 1:
        return "the rows it lies in have members of different kinds"
    if any((taken != taken[0]).any() for taken in _coverage(grids, keys).values()):
        return "a grid meets it unevenly"
    return ""
