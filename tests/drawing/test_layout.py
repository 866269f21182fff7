"""Layouts of random graphs: every edge leads from its source to its target, and nothing covers anything."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.drawing import layout, routing
from onnxprune.drawing.layout import Node

KINDS = (Node(248, 36, False, 3, ""), Node(150, 26, False, 1, ""), Node(24, 24, True, 1, ""))


@st.composite
def graphs(draw) -> tuple[list[Node], list[tuple[int, int]]]:
    """Up to 30 nodes; each but the first reads one or more of those before it, mostly near ones."""
    count = draw(st.integers(2, 30))
    nodes = [draw(st.sampled_from(KINDS)) for _ in range(count)]
    edges = set()
    for target in range(1, count):
        for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
            edges.add((max(0, target - draw(st.sampled_from((1, 1, 1, 2, 3, 5, 17)))), target))
    return nodes, sorted(edges)


def overlap(a: float, b: float, c: float, d: float) -> float:
    return min(max(a, b), max(c, d)) - max(min(a, b), min(c, d))


@settings(max_examples=50)
@given(graphs())
def test_nothing_covers_anything(graph):
    nodes, edges = graph
    columns = layout.columns(nodes, edges)
    assert sorted(n for column in columns for n in column.rank if n >= 0) == list(range(len(nodes)))
    reached = []
    for column in columns:
        placed = routing.place(column, nodes, lambda source, edge: source)
        spots = placed.spots
        for n, spot in spots.items():
            assert spot.x - spot.width / 2 >= 0 and spot.x + spot.width / 2 <= placed.width
            for m, other in spots.items():
                half = other.width / 2
                assert n == m or not spot.touches(other.x - half, other.top, other.x + half, other.bottom)
        stretches = []
        for line in placed.lines:
            reached += [line.edge] if line.target >= 0 else []
            (x, y), (last_x, last_y) = line.points[0], line.points[-1]
            assert (x, y) == (spots[line.source].x, spots[line.source].bottom)
            end = spots[line.target]
            assert abs(last_x - end.x) <= end.width / 2 and end.top <= last_y <= end.y
            stretches += [(a, b, line) for a, b in pairwise(line.points) if a != b]
        for number, ((x1, y1), (x2, y2), line) in enumerate(stretches):
            assert x1 == x2 or y1 == y2
            for n, spot in spots.items():
                beside = max(x1, x2) <= spot.x - spot.width / 2 or min(x1, x2) >= spot.x + spot.width / 2
                assert beside or max(y1, y2) <= spot.top or min(y1, y2) >= spot.bottom, (line, n)
            for (x3, y3), (x4, y4), other in stretches[:number]:
                if line.source != other.source:
                    assert not (x1 == x2 == x3 == x4 and overlap(y1, y2, y3, y4) > 0), (line, other)
                    assert not (y1 == y2 == y3 == y4 and overlap(x1, x2, x3, x4) > 0), (line, other)
    assert sorted(reached) == list(range(len(edges)))


def test_a_long_chain_gets_columns_of_about_equal_height():
    nodes = [Node(248, 36, False, 3, f"block{n // 5}") for n in range(200)]
    columns = layout.columns(nodes, [(n, n + 1) for n in range(199)])
    sizes = [sum(n >= 0 for n in column.rank) for column in columns]
    assert len(columns) > 5 and max(sizes) - min(sizes) <= 5
    assert all(size % 5 == 0 for size in sizes)  # no block is torn
    assert all(lane == 0 for column in columns for lane in column.lane.values())


def test_a_skip_runs_beside_the_main_line():
    nodes = [KINDS[0], KINDS[0], KINDS[0], KINDS[2]]
    (column,) = layout.columns(nodes, [(0, 1), (1, 2), (2, 3), (0, 3)])
    assert set(column.lane.values()) == {0}
    placed = routing.place(column, nodes, lambda source, edge: source)
    (skip,) = [line for line in placed.lines if (line.source, line.target) == (0, 3)]
    assert skip.is_aside and skip.points[-1][1] == placed.spots[3].y  # it enters the circle from the side
