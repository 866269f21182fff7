"""Grids: labels on two axes at once must stay rectangular. Which sets of channels keep them so?

A grid is an array of channels (rows, places in the row): the groups of a convolution, the heads of attention. Legal
are: whole rows, or the same number from every surviving row, each row its own choice. A channel that a grid meets
unevenly is loose there; loose channels are bundled, one member from every row.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.labels import Facet, compress, spans


@dataclass(frozen=True, eq=False)
class Grid:
    """`channels[row, place]`. `linked` rows go only together with something else: a conv group with its other side."""

    channels: np.ndarray
    linked: bool = False

    def counts(self, deleted: np.ndarray) -> np.ndarray:
        """How many places of each row `deleted[channel]` takes."""
        return deleted[self.channels].sum(axis=1)

    def stays_regular(self, deleted: np.ndarray) -> bool:
        """Whether every row is gone or loses as many as the others."""
        counts = self.counts(deleted)
        left = counts[counts < self.channels.shape[1]]
        return bool(left.size == 0 or (left == left[0]).all())


def collect(facets: Iterable[Facet], rows: Iterable[np.ndarray], channel: np.ndarray) -> tuple[list[Grid], np.ndarray]:
    """The distinct grids among facets and rows of labels, and the channels on grids of three axes or more."""
    seen: dict[bytes, Grid] = {}
    complicated: list[np.ndarray] = []
    for facet in facets:
        named = compress(channel[facet])
        axes = spans(named)
        if len(axes) == 2:
            _add(seen, named.reshape(named.shape[axes[0]], named.shape[axes[1]]), linked=False)
        elif len(axes) > 2:
            complicated.append(named.ravel())
    for members in rows:
        _add(seen, channel[members], linked=True)
    return list(seen.values()), np.unique(np.concatenate(complicated)) if complicated else np.empty(0, np.int64)


def _add(seen: dict[bytes, Grid], channels: np.ndarray, linked: bool) -> None:
    channels = np.unique(channels, axis=0) if len(channels) > 1 and channels.shape[1] > 1 else channels
    key = channels.tobytes() + repr(channels.shape).encode()
    linked = linked or (key in seen and seen[key].linked)
    seen[key] = Grid(np.ascontiguousarray(channels), linked)


def bundle(grids: Sequence[Grid], order: np.ndarray) -> tuple[list[np.ndarray], dict[int, str]]:
    """Group loose channels into bundles; return (bundles, {channel that no legal set contains: why}).

    `order[channel]` says which member of a row is taken first: the k-th of every row make the k-th bundle.
    """
    place: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)  # channel -> {grid: (row, places in it)}
    refused: dict[int, str] = {}
    for number, grid in enumerate(grids):
        for name, row, hits in _loose(grid):
            if row is None:
                refused[name] = "a grid meets it unevenly"
            else:
                place[name][number] = (row, hits)
    classes: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)  # by grids, and places in their rows
    for name, rows in place.items():
        classes[tuple(sorted((number, hits) for number, (_, hits) in rows.items()))].append(name)
    bundles: list[np.ndarray] = []
    for key, members in sorted(classes.items()):
        signature = tuple(number for number, _ in key)
        cells: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for name in members:
            cells[tuple(place[name][g][0] for g in signature)].append(name)
        problem = _problem(signature, cells, grids, refused)
        if problem:
            refused.update(dict.fromkeys(members, problem))
            continue
        ranked = [sorted(cell, key=lambda c: (order[c], c)) for _, cell in sorted(cells.items())]
        columns = [np.array(column, np.int64) for column in zip(*ranked, strict=True)]
        if len(columns) == 1 and len(signature) > 1:
            columns = _lines(signature, cells, grids)
        if not columns:
            refused.update(dict.fromkeys(members, "grids cross here"))
        bundles += columns
    return bundles, refused


def _loose(grid: Grid) -> Iterator[tuple[int, int | None, int]]:
    """(channel, its only row or None if it has several, places there) of the channels that rows don't share evenly."""
    rows, width = grid.channels.shape
    flat = grid.channels.ravel() * rows + np.repeat(np.arange(rows), width)
    cells, hits = np.unique(flat, return_counts=True)
    names, row_of = cells // rows, cells % rows
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        if end - start == rows and (hits[start:end] == hits[start]).all():
            continue
        single = end - start == 1
        yield int(names[start]), int(row_of[start]) if single else None, int(hits[start])


def _lines(
    signature: tuple[int, ...], cells: Mapping[tuple[int, ...], list[int]], grids: Sequence[Grid]
) -> list[np.ndarray]:
    """Where two grids cross, one channel at each crossing (a transposed grid): the whole rows of either are legal.

    Linked rows are left to the units that delete the other side too.
    """
    found: list[np.ndarray] = []
    if len(signature) != 2:
        return found
    for position, number in enumerate(signature):
        rows = defaultdict(list)
        for key, cell in sorted(cells.items()):
            rows[key[position]] += cell
        if not grids[number].linked:
            found += [np.array(row, np.int64) for row in rows.values()]
    return found


def _problem(signature, cells, grids, refused) -> str:
    """Why one member from each cell is not a legal deletion; empty if it is."""
    if any(name in refused for cell in cells.values() for name in cell):
        return "a grid meets it unevenly"
    if len({len(cell) for cell in cells.values()}) > 1:
        return "the rows it lies in have members of different kinds"
    for position, number in enumerate(signature):
        per_row = defaultdict(int)
        for key in cells:
            per_row[key[position]] += 1
        if len(per_row) != len(grids[number].channels) or len(set(per_row.values())) > 1:
            return "two grids cross here"
    return ""
