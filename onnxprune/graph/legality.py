"""What may be deleted: links hold, grids stay rectangular, and no axis is emptied. Asked of many sets at once."""

from collections.abc import Iterable, Sequence

import numpy as np

from onnxprune.graph.grids import Grid, crossings
from onnxprune.graph.weighing import Sets

#: How many sets are looked at together, for the sake of memory.
_AT_ONCE = 1024


class Legality:
    """The links, grids and axes of a model.

    A link says that a name goes exactly when all its members go. `axes` are the channels of each labelled axis.
    """

    def __init__(
        self,
        grids: Sequence[Grid],
        links: Iterable[tuple[np.ndarray, np.ndarray]],
        axes: Sequence[np.ndarray],
        count: int,
    ):
        self.count = count
        pairs = [(name, row) for names, members in links for name, row in zip(names.tolist(), members, strict=True)]
        distinct = {(name, row.tobytes()): (name, np.unique(row)) for name, row in pairs}
        #: The name of each link; `self._rows` are its members.
        self.names = np.array([name for name, _ in distinct.values()], np.int64)
        rows = [row for _, row in distinct.values()]
        self._rows = Sets.side_by_side(rows)
        self._links_of = _holders([np.append(row, name) for name, row in distinct.values()], count)
        self._axis_sizes = np.array([len(axis) for axis in axes], np.int64)
        self._axes_of = _holders(axes, count)
        self._flat = [grid for grid in grids if grid.channels.ndim == 2]
        self._deep = [*(grid for grid in grids if grid.channels.ndim > 2), *crossings(grids)]
        of_grid = np.array([grid.channels.shape for grid in self._flat], np.int64).reshape(-1, 2)
        self._height, self._width = of_grid[:, 0], of_grid[:, 1]
        self._grid_of_row = np.repeat(np.arange(len(self._flat)), self._height)
        self._rows_of = _holders([row for grid in self._flat for row in grid.channels], count)
        self._deep_of = _holders([grid.channels.ravel() for grid in self._deep], count)

    def legal(self, sets: Sets, pinned: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """(indices of sets, the smallest legal set around each), each legal set once.

        A set is left out where links would have it hold a `pinned[channel]`.
        """
        found: dict[bytes, tuple[int, np.ndarray]] = {}
        for start in range(0, len(sets), _AT_ONCE):
            numbers = np.arange(start, min(start + _AT_ONCE, len(sets)))
            pairs = self._closed(sets.chosen(numbers), pinned)
            pairs = pairs[~np.isin(pairs // self.count, self._illegal(pairs))]
            number, channel = np.divmod(pairs, self.count)
            places = np.flatnonzero(np.r_[True, number[1:] != number[:-1]]) if len(pairs) else []
            for n, members in zip(number[places].tolist(), np.split(channel, places)[1:], strict=True):
                found.setdefault(members.tobytes(), (start + n, members))
        return np.array([number for number, _ in found.values()], np.int64), [m for _, m in found.values()]

    def _closed(self, sets: Sets, pinned: np.ndarray) -> np.ndarray:
        """The smallest sets under which every link holds, as sorted numbers `set * count + channel`."""
        count, links = self.count, len(self.names)
        pairs = new = np.unique(np.repeat(np.arange(len(sets)), sets.lengths) * count + sets.flat)
        may_go = np.ones(len(sets), bool)
        while len(new):
            number, channel = np.divmod(new, count)
            may_go[number[pinned[channel]]] = False
            pairs = pairs[may_go[pairs // count]]
            number, channel = number[may_go[number]], channel[may_go[number]]
            met = self._links_of.chosen(channel)
            number, link = np.divmod(np.unique(np.repeat(number, met.lengths) * links + met.flat), max(links, 1))
            name = number * count + self.names[link]
            rows = self._rows.chosen(link)
            members = np.repeat(number, rows.lengths) * count + rows.flat
            is_there, has_name = _contains(pairs, members), _contains(pairs, name)
            by_name = members[np.repeat(has_name, rows.lengths) & ~is_there]
            new = np.unique(np.concatenate([by_name, name[_all(is_there, rows) & ~has_name]]))
            pairs = np.sort(np.concatenate([pairs, new]))
        return pairs

    def _illegal(self, pairs: np.ndarray) -> np.ndarray:
        """The numbers of the sets that would empty an axis or leave a grid ragged."""
        number, channel = np.divmod(pairs, self.count)
        met = self._axes_of.chosen(channel)
        of_set, axis, hits = _hits(number, met, len(self._axis_sizes))
        empties = of_set[hits == self._axis_sizes[axis]]

        of_set, row, hits = _hits(number, self._rows_of.chosen(channel), len(self._grid_of_row))
        grid = self._grid_of_row[row]
        starts = np.flatnonzero(np.r_[True, (of_set[1:] != of_set[:-1]) | (grid[1:] != grid[:-1])]) if len(row) else row
        whole = hits == self._width[grid]
        rows = np.diff(np.r_[starts, len(row)])
        partly = rows - np.add.reduceat(whole, starts) if len(row) else rows
        least = np.minimum.reduceat(np.where(whole, self._width[grid], hits), starts) if len(row) else rows
        most = np.maximum.reduceat(np.where(whole, 0, hits), starts) if len(row) else rows
        even = (rows == self._height[grid[starts]]) & (least == most)
        ragged = of_set[starts[(partly > 0) & ~even]]

        of_set, deep, _ = _hits(number, self._deep_of.chosen(channel), len(self._deep))
        bad = []
        deleted = np.zeros(self.count, bool)
        for n, g in zip(of_set.tolist(), deep.tolist(), strict=True):
            members = channel[slice(*np.searchsorted(number, [n, n + 1]))]
            deleted[members] = True
            if not self._deep[g].stays_regular(deleted):
                bad.append(n)
            deleted[members] = False
        return np.unique(np.concatenate([empties, ragged, np.array(bad, np.int64)]))


def _holders(sets: Sequence[np.ndarray], count: int) -> Sets:
    """For each channel the numbers of the sets that hold it, as often as they do."""
    members = np.concatenate([*sets, np.empty(0, np.int64)])
    owners = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    return Sets(owners[np.argsort(members, kind="stable")], np.bincount(members, minlength=count))


def _hits(number: np.ndarray, met: Sets, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(set, what its channels meet, how often), sorted; `met` is what each channel of set `number` meets."""
    keys, hits = np.unique(np.repeat(number, met.lengths) * count + met.flat, return_counts=True)
    return (*np.divmod(keys, max(count, 1)), hits)


def _all(flags: np.ndarray, sets: Sets) -> np.ndarray:
    """Which of the sets, none of them empty, have every flag: `flags` lie side by side as the sets do."""
    return np.logical_and.reduceat(flags, sets.starts) if len(sets) else np.zeros(0, bool)


def _contains(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of `wanted` are in a sorted array."""
    if not len(ordered):
        return np.zeros(len(wanted), bool)
    return ordered[np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)] == wanted
