"""Grids: labels on two axes at once must stay rectangular. Which sets of channels keep them so?

A grid is an array of channels (rows, places in the row): the groups of a convolution, the heads of attention. Legal
are: whole rows, or the same number from every surviving row, each row its own choice. A channel that a grid meets
unevenly is loose there; loose channels are bundled, one member from every row.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.compact import is_box
from onnxprune.graph.labels import Facet, compress, spans


@dataclass(frozen=True, eq=False)
class Grid:
    """`channels[..., place]`: all axes but the last lead to a row.

    `linked` rows go only together with something else: a conv group with its other side.
    """

    channels: np.ndarray
    linked: bool = False

    @property
    def rows(self) -> np.ndarray:
        """[row, place]."""
        return self.channels.reshape(-1, self.channels.shape[-1])

    def stays_regular(self, deleted: np.ndarray) -> bool:
        """Whether what `deleted[channel]` leaves is a box: whole rows gone, the others as long as each other."""
        return is_box(~deleted[self.channels])


def collect(facets: Iterable[Facet], rows: Iterable[np.ndarray], channel: np.ndarray) -> list[Grid]:
    """The distinct grids among facets and rows of labels."""
    seen: dict[bytes, Grid] = {}
    for facet in facets:
        if sum(size > 1 for size in facet.shape) > 1:
            named = compress(channel[facet])
            axes = spans(named)
            if len(axes) > 1:
                _add(seen, named.reshape([named.shape[a] for a in axes]), linked=False)
    for members in rows:
        _add(seen, channel[members], linked=True)
    return list(seen.values())


def _add(seen: dict[bytes, Grid], channels: np.ndarray, linked: bool) -> None:
    if channels.ndim == 2 and len(channels) > 1 and channels.shape[1] > 1:
        channels = np.unique(channels, axis=0)
    key = channels.tobytes() + repr(channels.shape).encode()
    linked = linked or (key in seen and seen[key].linked)
    seen[key] = Grid(np.ascontiguousarray(channels), linked)


#: How a channel lies on the grids that meet it unevenly: (grid, row, places in the row), in order.
Cell = tuple[tuple[int, int, int], ...]


def bundle(grids: Sequence[Grid], order: np.ndarray) -> tuple[list[np.ndarray], dict[int, str]]:
    """Group loose channels into bundles; return (bundles, {channel that no legal set contains: why}).

    `order[channel]` says which member of a row is taken first: the k-th of every row make the k-th bundle.
    """
    cells = _cells(grids)
    bundles: list[np.ndarray] = []
    refused: dict[int, str] = {}
    for keys in _classes(grids, cells):
        members = [name for key in keys for name in cells[key]]
        problem = _problem(grids, cells, keys)
        columns: list[np.ndarray] = []
        if not problem:
            ranked = [sorted(cells[key], key=lambda c: (order[c], c)) for key in keys]
            columns = [np.array(column, np.int64) for column in zip(*ranked, strict=True)]
            if len(columns) == 1 and len({g for key in keys for g, _, _ in key}) > 1:
                columns = _lines(grids, cells, keys)
        if not columns:
            refused.update(dict.fromkeys(members, problem or "grids cross here"))
        bundles += columns
    return bundles, refused


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
    cells, hits = np.unique(flat, return_counts=True)
    names, row_of = cells // rows, cells % rows
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        if end - start < rows or (hits[start:end] != hits[start]).any():
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


def _lines(grids: Sequence[Grid], cells: Mapping[Cell, list[int]], keys: Sequence[Cell]) -> list[np.ndarray]:
    """Where two grids cross, one channel at each crossing (a transposed grid): the whole rows of either are legal.

    Linked rows are left to the units that delete the other side too.
    """
    found: list[np.ndarray] = []
    if any(len(key) != 2 or key[0][0] == key[1][0] for key in keys):
        return found
    for position in range(2):
        rows: dict[int, list[int]] = defaultdict(list)
        for key in keys:
            rows[key[position][1]] += cells[key]
        if not grids[keys[0][position][0]].linked:
            found += [np.array(row, np.int64) for row in rows.values()]
    return found
