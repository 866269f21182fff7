"""Grids: labels on two axes at once must stay rectangular. Which sets of channels keep them so?

A grid is an array of channels (rows, places in the row): the groups of a convolution, the heads of attention. Legal
are: whole rows, or the same number from every surviving row, each row its own choice. A channel that a grid meets
unevenly is loose there; loose channels are bundled, one member from every row. Where grids cross, the rows of one of
them move as a whole, and what is left to choose are bundles of such rows: a dimension of all heads under a rotary
table, the places that a shuffle takes from every group.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.compact import is_box
from onnxprune.graph.labels import Facet, compress, distinct_rows, spans

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
        return is_box(~deleted[self.channels])


def collect(facets: Iterable[Facet], rows: Iterable[np.ndarray], channel: np.ndarray) -> list[Grid]:
    """The distinct grids among facets and rows of labels."""
    seen: dict[tuple, Grid] = {}
    looked_at: set[tuple] = set()
    for facet in facets:
        if sum(size > 1 for size in facet.shape) > 1:
            labels = facet.reshape([size for size in facet.shape if size > 1])
            key = (labels.shape, labels.tobytes())
            if key not in looked_at:
                looked_at.add(key)
                named = compress(channel[labels])
                if len(spans(named)) > 1:
                    _add(seen, named.reshape([named.shape[a] for a in spans(named)]))
    for members in rows:
        _add(seen, channel[members])
    return list(seen.values())


def _add(seen: dict[tuple, Grid], channels: np.ndarray) -> None:
    if channels.ndim == 2 and len(channels) > 1 and channels.shape[1] > 1:
        first, _ = distinct_rows(channels)
        channels = channels[first]
        channels = channels[np.argsort(channels[:, 0], kind="stable")]  # grids of the same rows are one
    channels = np.ascontiguousarray(channels)
    seen.setdefault((channels.shape, channels.tobytes()), Grid(channels))


class Legality:
    """What may be deleted: grids stay rectangular, links hold, and no axis is emptied.

    A link says that a name goes exactly when all its members go. `axes` are the channels of each labelled axis.
    """

    def __init__(
        self,
        grids: Sequence[Grid],
        links: Iterable[tuple[np.ndarray, np.ndarray]],
        axes: Sequence[np.ndarray],
        count: int,
    ):
        self.grids = grids
        self.axes = axes
        pairs = [(name, row) for names, members in links for name, row in zip(names.tolist(), members, strict=True)]
        distinct = {(name, row.tobytes()): (name, np.unique(row)) for name, row in pairs}
        self.links = list(distinct.values())
        self._grids_of = _Index([grid.channels.ravel() for grid in grids], count)
        self._links_of = _Index([np.append(row, name) for name, row in self.links], count)
        self._axes_of = _Index(axes, count)
        self._deleted = np.zeros(count, bool)

    def close(self, members: np.ndarray, pinned: np.ndarray) -> np.ndarray | None:
        """The smallest set with `members` under which every link holds; None where it holds a `pinned[channel]`."""
        deleted = self._deleted
        found = new = np.unique(members)
        deleted[found] = True
        while new.size and not pinned[new].any():
            more = []
            for number in self._links_of[new]:
                name, row = self.links[number]
                if deleted[name]:
                    more.append(row[~deleted[row]])
                elif deleted[row].all():
                    more.append(np.array([name]))
            new = np.unique(np.concatenate(more)) if more else new[:0]
            deleted[new] = True
            found = np.concatenate([found, new])
        deleted[found] = False
        return None if new.size else np.sort(found)

    def allows(self, members: np.ndarray) -> bool:
        """Whether deleting these alone leaves every grid a box and every axis something."""
        deleted = self._deleted
        deleted[members] = True
        fine = not any(deleted[self.axes[number]].all() for number in self._axes_of[members]) and all(
            self.grids[number].stays_regular(deleted) for number in self._grids_of[members]
        )
        deleted[members] = False
        return fine


class _Index:
    """From channels to the sets that hold any of them."""

    def __init__(self, sets: Sequence[np.ndarray], count: int):
        members = np.concatenate([*sets, np.empty(0, np.int64)])
        owners = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
        order = np.argsort(members, kind="stable")
        self._owners = owners[order]
        self._starts = np.searchsorted(members[order], np.arange(count + 1))

    def __getitem__(self, channels: np.ndarray) -> list[int]:
        spans = [self._owners[self._starts[c] : self._starts[c + 1]] for c in channels.tolist()]
        return np.unique(np.concatenate(spans)).tolist() if spans else []


#: How a channel lies on the grids that meet it unevenly: (grid, row, places in the row), in order.
Cell = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class Bundles:
    """Sets of loose channels, alike. `even`: each takes as much from every row; else rows may go as a whole."""

    sets: list[np.ndarray]
    even: bool


def bundle(grids: Sequence[Grid], order: np.ndarray) -> tuple[list[Bundles], dict[int, str]]:
    """Group loose channels into sets that may be legal; return (them, {loose channel: why it may be in none}).

    `order[channel]` says which member of a row is taken first: the k-th of every row make the k-th bundle.
    """
    return _bundle(grids, order, _DEPTH)


def _bundle(grids: Sequence[Grid], order: np.ndarray, depth: int) -> tuple[list[Bundles], dict[int, str]]:
    cells = _cells(grids)
    bundles: list[Bundles] = []
    loose: dict[int, str] = {}
    for keys in _classes(grids, cells):
        problem = _problem(grids, cells, keys)
        loose.update(dict.fromkeys((name for key in keys for name in cells[key]), problem or "grids cross here"))
        columns: list[np.ndarray] = []
        if not problem:
            ranked = [sorted(cells[key], key=lambda c: (order[c], c)) for key in keys]
            columns = [np.array(column, np.int64) for column in zip(*ranked, strict=True)]
        if len(columns) > 1:
            bundles.append(Bundles(columns, even=True))
        else:
            rows = _bundles_of_rows(grids, cells, keys, order, depth) if depth else []
            bundles.append(Bundles([*columns, *rows], even=False))
    return bundles, loose


def _bundles_of_rows(
    grids: Sequence[Grid], cells: Mapping[Cell, list[int]], keys: Sequence[Cell], order: np.ndarray, depth: int
) -> list[np.ndarray]:
    """What is left to choose when the rows of one of the grids, each in turn, move as a whole."""
    members = np.array([name for key in keys for name in cells[key]], np.int64)
    met = sorted({number for key in keys for number, _, _ in key})
    found: list[np.ndarray] = []
    seen: set[bytes] = set()
    for number in met:
        rows_of = [[row for n, row, _ in key if n == number] for key in keys for _ in cells[key]]
        if any(len(rows) != 1 for rows in rows_of):
            continue
        _, row_of = np.unique([rows[0] for rows in rows_of], return_inverse=True)
        if row_of.tobytes() in seen:
            continue
        seen.add(row_of.tobytes())
        row_of_channel = np.full(len(order) + 1, _NOBODY)
        row_of_channel[members] = row_of
        others = [Grid(row_of_channel[grids[n].channels]) for n in met if n != number]
        rank = np.bincount(row_of, weights=order[members])
        bundles, loose = _bundle(others, rank, depth - 1)
        alone = [np.array([row]) for row in range(row_of.max() + 1) if row not in loose]
        found += [members[np.isin(row_of, rows)] for rows in [*alone, *(b for alike in bundles for b in alike.sets)]]
    return found


def _cells(grids: Sequence[Grid]) -> dict[Cell, list[int]]:
    """Loose channels, by how they lie."""
    lies: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for number, grid in enumerate(grids):
        for name, rows, hits in _loose(grid):
            lies[name] += [(number, row, hit) for row, hit in zip(rows.tolist(), hits.tolist(), strict=True)]
    cells: dict[Cell, list[int]] = defaultdict(list)
    for name, found in sorted(lies.items()):
        cells[tuple(found)].append(name)
    return cells


def _loose(grid: Grid) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(channel, its rows, its places in each) of the channels that the rows of a grid don't share evenly."""
    rows, width = grid.rows.shape
    flat = grid.channels.ravel() * rows + np.repeat(np.arange(rows), width)
    cells, hits = np.unique(flat[grid.channels.ravel() != _NOBODY], return_counts=True)
    if not len(cells):
        return
    names, row_of = cells // rows, cells % rows
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    covered = np.diff(np.r_[starts, len(names)])
    uneven = (covered < rows) | (np.minimum.reduceat(hits, starts) != np.maximum.reduceat(hits, starts))
    for start, end in zip(starts[uneven].tolist(), (starts + covered)[uneven].tolist(), strict=True):
        yield int(names[start]), row_of[start:end], hits[start:end]


def _coverage(grids: Sequence[Grid], keys: Iterable[Cell]) -> dict[int, np.ndarray]:
    """{grid: places that one channel of each cell takes from each row}."""
    taken: dict[int, np.ndarray] = {}
    for key in keys:
        for number, row, hits in key:
            taken.setdefault(number, np.zeros(len(grids[number].rows), np.int64))[row] += hits
    return taken


def _classes(grids: Sequence[Grid], cells: Mapping[Cell, list[int]]) -> list[list[Cell]]:
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


def _problem(grids: Sequence[Grid], cells: Mapping[Cell, list[int]], keys: Sequence[Cell]) -> str:
    """Why one channel from each cell is not a legal deletion; empty if it is."""
    if len({len(cells[key]) for key in keys}) > 1:
        return "the rows it lies in have members of different kinds"
    if any((taken != taken[0]).any() for taken in _coverage(grids, keys).values()):
        return "a grid meets it unevenly"
    return ""
