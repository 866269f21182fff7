"""Where edges run: straight down where they can, else along lanes, in the gaps between rows, or left of it all."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.drawing.layout import GAP, TITLE, Column, Node

Point = tuple[float, float]
SLOT, TRACK, MARGIN = 8, 11, 14
PORT = Node(16, 10, True, 0, "")


@dataclass(frozen=True)
class Spot:
    """Where a node is drawn: its centre and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def top(self) -> float:
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height / 2

    def touches(self, left: float, top: float, right: float, bottom: float) -> bool:
        """Whether it overlaps a rectangle."""
        half = self.width / 2
        return left < self.x + half and self.x - half < right and top < self.bottom and self.top < bottom

    def moved(self, x: float, y: float) -> "Spot":
        return Spot(self.x + x, self.y + y, self.width, self.height)


@dataclass(frozen=True)
class Line:
    """Where an edge runs: from node to node, with the number of the edge it is part of, along its corners.

    `is_aside` says that it runs in a track left of its target.
    """

    source: int
    target: int
    edge: int
    points: tuple[Point, ...]
    is_aside: bool

    def moved(self, x: float, y: float) -> "Line":
        points = tuple((px + x, py + y) for px, py in self.points)
        return Line(self.source, self.target, self.edge, points, self.is_aside)


@dataclass(frozen=True)
class Placed:
    """A column with everything at its place, from the origin on: {node: spot}, the lines, and its size."""

    spots: Mapping[int, Spot]
    lines: Sequence[Line]
    width: float
    height: float


@dataclass
class _Way:
    """How one edge runs, before places are known.

    It goes down `lane`, or `track` of those left of the target's lane; neither for an edge straight to the next row.
    `aside` says that it enters a circle from the side, `enters` where along the top it enters otherwise.
    """

    source: int
    target: int
    edge: int
    lane: int | None = None
    track: int | None = None
    aside: bool = False
    enters: float = 0.0


@dataclass
class _Slots:
    """Horizontal stretches in the gaps: lines of different wires that overlap get different heights."""

    stretches: dict[tuple[int, bool], list[tuple[float, float, Hashable]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, gap: int, entering: bool, a: float, b: float, wire: Hashable) -> None:
        if abs(a - b) > 0.5:
            self.stretches[gap, entering].append((min(a, b), max(a, b), wire))

    def settle(self) -> tuple[dict[tuple[int, bool, Hashable], int], dict[tuple[int, bool], int]]:
        """{(gap, entering, wire): slot} and {(gap, entering): number of slots}."""
        slot: dict[tuple[int, bool, Hashable], int] = {}
        count: dict[tuple[int, bool], int] = {}
        for (gap, entering), found in self.stretches.items():
            reach: dict[Hashable, tuple[float, float]] = {}
            for a, b, wire in found:
                low, high = reach.get(wire, (a, b))
                reach[wire] = min(a, low), max(b, high)
            rows: list[list[tuple[float, float]]] = []
            for wire, (a, b) in sorted(reach.items(), key=lambda item: item[1][1] - item[1][0]):
                free = next((k for k, row in enumerate(rows) if all(b + 3 < p or q + 3 < a for p, q in row)), len(rows))
                if free == len(rows):
                    rows.append([])
                rows[free].append((a, b))
                slot[gap, entering, wire] = free
            count[gap, entering] = len(rows)
        return slot, count


def place(column: Column, nodes: Sequence[Node], wire_of: Callable[[int, int], Hashable]) -> Placed:
    """Give everything in a column its place. `wire_of(source, edge)` is equal for edges that carry the same tensor."""
    return _Placing(column, nodes, wire_of).run()


class _Placing:
    def __init__(self, column: Column, nodes: Sequence[Node], wire_of: Callable[[int, int], Hashable]):
        self.column = column
        self.node = {n: nodes[n] if n >= 0 else PORT for n in column.rank}
        self.wire_of = wire_of
        self.rows = max(column.rank.values(), default=0) + 1
        self.used = {(column.lane[n], r): {n} for n, r in column.rank.items()}
        self.tracks: dict[int, int] = {}  # {lane: number of tracks left of it}

    def _lanes(self) -> None:
        """The middle of each lane, its tracks to the left of it."""
        width: dict[int, float] = defaultdict(lambda: TRACK)
        for n, lane in self.column.lane.items():
            width[lane] = max(width[lane], self.node[n].width)
        self.x: dict[int, float] = {}
        self.left: dict[int, float] = {}
        self.right = 0.0
        for lane in range(max(width, default=0) + 1):
            tracks = self.tracks.get(lane, 0)
            self.left[lane] = self.right + (MARGIN if lane else 0) + TRACK * tracks + (MARGIN if tracks else 0)
            self.x[lane] = self.left[lane] + width[lane] / 2
            self.right = self.left[lane] + width[lane] + MARGIN

    def _down(self, way: _Way) -> float | None:
        """Where an edge runs down; None where it is straight or turns right before its target."""
        if way.track is not None:
            return self.left[self.column.lane[way.target]] - MARGIN - TRACK * way.track
        return None if way.lane is None else self.x[way.lane]

    def run(self) -> Placed:
        ways = self._ways()
        self._lanes()
        self._sides(ways)
        slots = _Slots()
        for way in ways:
            self._stretch(way, slots)
        slot, count = slots.settle()
        self._heights(count)
        lines = [Line(w.source, w.target, w.edge, self._corners(w, slot), w.track is not None) for w in ways]
        spots = {n: self._spot(n) for n in self.column.rank}
        return Placed(spots, lines, self.right, self.bottom[self.rows - 1] if self.rows else 0.0)

    def _spot(self, n: int) -> Spot:
        node, row = self.node[n], self.column.rank[n]
        middle = (self.top[row] + self.bottom[row]) / 2
        return Spot(self.x[self.column.lane[n]], middle, node.width, node.height)

    # ---- which way ----------------------------------------------------------------------------------------------

    def _ways(self) -> list[_Way]:
        """Edges that leave the main line or come to it first; they have lanes of their own."""
        rank, lane = self.column.rank, self.column.lane
        edges = sorted(
            self.column.edges, key=lambda e: (lane[e[0]] == lane[e[1]] == 0, rank[e[1]] - rank[e[0]], rank[e[0]], e)
        )
        ways, waiting = [], []
        for source, target, edge in edges:
            way = _Way(source, target, edge)
            ways.append(way)
            if rank[target] - rank[source] > 1 and not self._down_a_lane(way):
                waiting.append(way)
            elif way.lane is None and lane[source] != lane[target]:
                way.lane = lane[source]
        for at in set(lane.values()):
            self.tracks[at] = self._tracks([way for way in waiting if lane[way.target] == at])
        return ways

    def _down_a_lane(self, way: _Way) -> bool:
        """Whether the lane of either end is free between the two rows; then it is taken."""
        rank, lane = self.column.rank, self.column.lane
        wire = self._mark(way)
        between = range(rank[way.source] + 1, rank[way.target])
        for at in dict.fromkeys((lane[way.target], lane[way.source])):
            # What stands beside the source in that lane needs the way out of its row itself.
            beside = [rank[way.source]] if at != lane[way.source] else []
            turning = {mark for mark in self.used.get((at, rank[way.target]), ()) if isinstance(mark, tuple)} - {wire}
            if all(self.used.get((at, r), {wire}) == {wire} for r in [*beside, *between]) and not turning:
                for r in between:
                    self.used[at, r] = {wire}
                way.lane = at
                return True
        return False

    def _tracks(self, ways: Sequence[_Way]) -> int:
        """Edges without a free lane run left of their target's, the shortest nearest to it, one track for each wire."""
        rank = self.column.rank
        reach: dict[Hashable, tuple[int, int]] = {}
        for way in ways:
            wire = self.wire_of(way.source, way.edge)
            low, high = reach.get(wire, (rank[way.source], rank[way.target]))
            reach[wire] = min(low, rank[way.source]), max(high, rank[way.target])
        tracks: list[list[tuple[int, int]]] = []
        track_of: dict[Hashable, int] = {}
        for wire, (low, high) in sorted(reach.items(), key=lambda item: (item[1][1] - item[1][0], item[1])):
            free = next((k for k, t in enumerate(tracks) if all(high <= a or b <= low for a, b in t)), len(tracks))
            if free == len(tracks):
                tracks.append([])
            tracks[free].append((low, high))
            track_of[wire] = free
        for way in ways:
            way.track = track_of[self.wire_of(way.source, way.edge)]
        return len(tracks)

    def _sides(self, ways: Sequence[_Way]) -> None:
        """Where each edge enters its target: a circle from the side if nothing is in the way, a box along its top."""
        rank, lane = self.column.rank, self.column.lane
        sides: set[tuple[int, bool]] = set()
        above: dict[int, list[_Way]] = defaultdict(list)
        for way in ways:
            down = self._down(way)
            if down is None or way.lane == lane[way.target]:
                continue
            left = down < self.x[lane[way.target]]
            if self._is_reached_aside(way) and (way.target, left) not in sides:
                sides.add((way.target, left))
                way.aside = True
                if way.lane is not None:
                    self.used.setdefault((way.lane, rank[way.target]), {self._mark(way)})
            else:
                above[way.target].append(way)
        for target, found in above.items():
            step = min(22.0, self.node[target].width / (2 * len(found) + 2))
            for left in (True, False):
                side = [w for w in found if (self._down(w) < self.x[lane[target]]) == left]
                side.sort(key=self._down, reverse=left)
                for number, way in enumerate(side, 1):
                    way.enters = -step * number if left else step * number

    def _is_reached_aside(self, way: _Way) -> bool:
        """Whether an edge can come to a circle on the circle's own height."""
        row, at = self.column.rank[way.target], self.column.lane[way.target]
        if way.target < 0 or not self.node[way.target].is_round:
            return False
        if way.lane is None:
            return True
        passed = range(way.lane, at) if way.lane < at else range(at + 1, way.lane + 1)
        mine = {self._mark(way)}
        return all(self.used.get((k, row), mine) == mine for k in passed)

    def _mark(self, way: _Way) -> Hashable:
        return "wire", self.wire_of(way.source, way.edge)

    # ---- heights ------------------------------------------------------------------------------------------------

    def _stretch(self, way: _Way, slots: _Slots) -> None:
        down = self._down(way)
        if down is None:
            return
        rank, lane = self.column.rank, self.column.lane
        wire = self.wire_of(way.source, way.edge)
        slots.add(rank[way.source], False, self.x[lane[way.source]], down, wire)
        if not way.aside:
            slots.add(rank[way.target] - 1, True, down, self.x[lane[way.target]] + way.enters, wire)

    def _heights(self, slots: Mapping[tuple[int, bool], int]) -> None:
        """The top and the bottom of each row."""
        begins = {}
        for n, r in self.column.rank.items():
            if n >= 0 and self.node[n].block:
                begins[self.node[n].block] = min(begins.get(self.node[n].block, r), r)
        titled = set(begins.values())
        self.top: dict[int, float] = {}
        self.bottom: dict[int, float] = {}
        y = 0.0
        for row in range(self.rows):
            y += TITLE if row in titled else 0
            height = max((self.node[n].height for n, r in self.column.rank.items() if r == row), default=0)
            self.top[row], self.bottom[row] = y, y + height
            stretches = slots.get((row, False), 0) + slots.get((row, True), 0)
            y += height + max(GAP, 16 + SLOT * stretches)

    def _corners(self, way: _Way, slot: Mapping[tuple[int, bool, Hashable], int]) -> tuple[Point, ...]:
        rank = self.column.rank
        source, target = self._spot(way.source), self._spot(way.target)
        down = self._down(way)
        if down is None:
            return ((source.x, source.bottom), (target.x, target.top))
        wire = self.wire_of(way.source, way.edge)
        points: list[Point] = [(source.x, source.bottom)]
        if down != source.x:
            y = self.bottom[rank[way.source]] + 9 + SLOT * slot[rank[way.source], False, wire]
            points += [(source.x, y), (down, y)]
        if way.aside:
            side = target.x + (target.width / 2 if down > target.x else -target.width / 2)
            return (*points, (down, target.y), (side, target.y))
        end = target.x + way.enters
        if down != end:
            y = self.top[rank[way.target]] - 7 - SLOT * slot[rank[way.target] - 1, True, wire]
            points += [(down, y), (end, y)]
        return (*points, (end, target.top))
