"""What may be deleted: links hold, grids stay rectangular, and no axis is emptied. Asked of many sets at once."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from onnxprune.graph.grids import Grid, crossings
from onnxprune.graph.weighing import Sets

#: How many sets are looked at together: so many that they take no more than this many bytes for each table.
_TABLE_BYTES = 2**24


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
        pairs = [
            (name, row, ordered)
            for names, members in links
            for name, row, ordered in zip(names.tolist(), members, _sets(members), strict=True)
        ]
        distinct = {(name, row.tobytes()): (name, ordered) for name, row, ordered in pairs}
        #: The name of each link; `self._rows` are its members.
        self.names = np.array([name for name, _ in distinct.values()], np.int64)
        rows = [row for _, row in distinct.values()]
        #: One of the names that have a row in common, of each such group: what goes with one goes with all.
        self.representatives = _unrelated(self.names.tolist(), rows)
        self._rows = Sets.side_by_side(rows)
        self._rows_with, self._rows_named = self._rows.holders(count), Sets.of([self.names[:, None]]).holders(count)
        self._axis_sizes = np.array([len(axis) for axis in axes], np.int64)
        self._axes_of = Sets.side_by_side(axes).holders(count)
        self._flat = [grid for grid in grids if grid.channels.ndim == 2]
        self._deep = [*(grid for grid in grids if grid.channels.ndim > 2), *crossings(grids)]
        of_grid = np.array([grid.channels.shape for grid in self._flat], np.int64).reshape(-1, 2)
        self._height, self._width = of_grid[:, 0], of_grid[:, 1]
        self._grid_of_row = np.repeat(np.arange(len(self._flat)), self._height)
        self._rows_of = Sets.side_by_side([row for grid in self._flat for row in grid.channels]).holders(count)
        self._deep_of = Sets.side_by_side([grid.channels.ravel() for grid in self._deep]).holders(count)

    def legal(self, sets: Sets, pinned: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """(indices of sets, the smallest legal set around each), each legal set once.

        A set is left out where links would have it hold a `pinned[channel]`.
        """
        found: dict[bytes, tuple[int, np.ndarray]] = {}
        at_once = max(1, _TABLE_BYTES // max(self.count, 4 * len(self.names)))
        for start in range(0, len(sets), at_once):
            numbers = np.arange(start, min(start + at_once, len(sets)))
            for number, members in self._closed(sets.chosen(numbers), pinned):
                found.setdefault(members.tobytes(), (start + number, members))
        distinct = list(found.values())
        closed = Sets.side_by_side([members for _, members in distinct])
        fine = np.ones(len(closed), bool)
        fine[self._illegal(closed)] = False
        return np.array([number for number, _ in distinct], np.int64)[fine], [closed[n] for n in np.flatnonzero(fine)]

    def _closed(self, sets: Sets, pinned: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(index, the smallest set under which every link holds) of those sets that hold nothing that is pinned."""
        links = len(self.names)
        holds = np.zeros(len(sets) * self.count, bool)
        seen_at = np.empty(len(holds), np.int32)  # scratch: where a number was met last
        hits = np.zeros(len(sets) * links, np.int32)  # members of each link's row that each set holds
        may_go = np.ones(len(sets), bool)
        held: list[tuple[np.ndarray, np.ndarray]] = []  # set, channel
        number, channel = np.repeat(np.arange(len(sets)), sets.lengths), sets.flat
        while len(number):
            places = number * self.count + channel
            seen_at[places] = here = np.arange(len(places), dtype=np.int32)
            is_new = ~holds[places] & (seen_at[places] == here)  # each once
            holds[places] = True
            number, channel = number[is_new], channel[is_new]
            may_go[number[pinned[channel]]] = False
            number, channel = number[may_go[number]], channel[may_go[number]]
            held.append((number, channel))
            met = self._rows_with.chosen(channel)
            of_set, link = np.repeat(number, met.lengths), met.flat
            np.add.at(hits, of_set * links + link, np.int32(1))
            whole = hits[of_set * links + link] == self._rows.lengths[link]
            named = self._rows_named.chosen(channel)
            rows = self._rows.chosen(named.flat)
            number = np.concatenate([of_set[whole], np.repeat(np.repeat(number, named.lengths), rows.lengths)])
            channel = np.concatenate([self.names[link[whole]], rows.flat])
        if not held:
            return
        number, channel = (np.concatenate([pair[i] for pair in held]) for i in range(2))
        order = np.lexsort((channel, number))
        members = list(Sets(channel[order], np.bincount(number, minlength=len(sets))))
        for n in np.flatnonzero(may_go).tolist():
            yield n, members[n]

    def _illegal(self, sets: Sets) -> np.ndarray:
        """The numbers of the sets that would empty an axis or leave a grid ragged."""
        number, channel = np.repeat(np.arange(len(sets)), sets.lengths), sets.flat
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
            members = sets[n]
            deleted[members] = True
            if not self._deep[g].stays_regular(deleted):
                bad.append(n)
            deleted[members] = False
        return np.unique(np.concatenate([empties, ragged, np.array(bad, np.int64)]))


def _unrelated(names: Sequence[int], rows: Sequence[np.ndarray]) -> list[int]:
    """Names, in their order, without those that have a row in common with an earlier one."""
    rows_of: dict[int, list[bytes]] = defaultdict(list)
    for name, row in zip(names, rows, strict=True):
        rows_of[name].append(row.tobytes())
    found: list[int] = []
    seen: set[bytes] = set()
    for name, held in rows_of.items():
        if seen.isdisjoint(held):
            found.append(name)
        seen.update(held)
    return found


def _sets(rows: np.ndarray) -> list[np.ndarray]:
    """What each row [row, place] holds, in rising order, each once."""
    ordered = np.sort(rows, axis=1)
    repeats = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    return [np.unique(row) if again else row for row, again in zip(ordered, repeats.tolist(), strict=True)]


def _hits(number: np.ndarray, met: Sets, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(set, what its channels meet, how often), sorted; `met` is what each channel of set `number` meets."""
    keys, hits = np.unique(np.repeat(number, met.lengths) * count + met.flat, return_counts=True)
    return (*np.divmod(keys, max(count, 1)), hits)
