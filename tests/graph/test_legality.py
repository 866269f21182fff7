"""Legality, asked of many sets at once, against the same asked of one set after another in plain Python."""

import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.graph.grids import Grid
from onnxprune.graph.legality import Legality
from onnxprune.graph.weighing import Sets

CHANNELS = 12


@st.composite
def models(draw):
    """Links, grids and axes over a few channels, and which of these stay."""
    channel = st.integers(0, CHANNELS - 1)
    shapes = [draw(st.sampled_from([(2, 2), (2, 3), (3, 2), (2, 2, 2)])) for _ in range(draw(st.integers(0, 3)))]
    grids = [np.array(draw(st.permutations(range(CHANNELS)))[: int(np.prod(shape))]).reshape(shape) for shape in shapes]
    links = draw(st.lists(st.tuples(channel, st.sets(channel, min_size=1, max_size=4)), max_size=6))
    axes = [np.array(sorted(axis)) for axis in draw(st.lists(st.sets(channel, min_size=2), min_size=1, max_size=4))]
    sets = draw(st.lists(st.sets(channel, min_size=1, max_size=4), min_size=1, max_size=8))
    pinned = np.zeros(CHANNELS, bool)
    pinned[list(draw(st.sets(channel, max_size=2)))] = True
    return grids, links, axes, sets, pinned


def closed(members: set[int], links) -> set[int]:
    """Until nothing changes: a name brings its members, all members bring their name."""
    while True:
        more = {m for name, row in links if name in members for m in row}
        more |= {name for name, row in links if row <= members}
        if more <= members:
            return members
        members = members | more


def is_legal(members: set[int], grids, axes, pinned) -> bool:
    if any(pinned[m] for m in members) or any(set(axis.tolist()) <= members for axis in axes):
        return False
    return all(is_box([[*row] for row in grid.reshape(len(grid), -1)], grid.shape[1:], members) for grid in grids)


def is_box(rows: list[list[int]], inner: tuple[int, ...], members: set[int]) -> bool:
    """Whether every row that keeps anything keeps a box of the same size."""
    return len({size for row in rows if (size := box(row, inner, members)) != 0}) <= 1 and None not in {
        box(row, inner, members) for row in rows
    }


def box(row: list[int], inner: tuple[int, ...], members: set[int]):
    """The size of what a row keeps, 0 for nothing, None where that is no box."""
    if len(inner) == 1:
        return sum(channel not in members for channel in row)
    width = inner[1]
    sizes = {sum(channel not in members for channel in row[a : a + width]) for a in range(0, len(row), width)} - {0}
    kept = sum(any(channel not in members for channel in row[a : a + width]) for a in range(0, len(row), width))
    return 0 if not sizes else None if len(sizes) > 1 else (kept, sizes.pop())


@settings(max_examples=int(os.environ.get("ONNXPRUNE_EXAMPLES", 300)))
@given(models())
def test_the_same_as_one_set_after_another(model):
    grids, links, axes, sets, pinned = model
    arrays = [(np.array([name]), np.array([sorted(row)])) for name, row in links]
    legality = Legality([Grid(grid) for grid in grids], arrays, axes, CHANNELS)
    numbers, found = legality.legal(Sets.side_by_side([np.array(sorted(s)) for s in sets]), pinned)
    expected: dict[tuple[int, ...], int] = {}
    for number, members in enumerate(sets):
        whole = closed(set(members), links)
        if is_legal(whole, grids, axes, pinned):
            expected.setdefault(tuple(sorted(whole)), number)
    assert dict(zip(map(tuple, (f.tolist() for f in found)), numbers.tolist(), strict=True)) == expected
    by_one = [closed({name}, links) for name in legality.representatives]
    assert all(closed({name}, links) in by_one for name, _ in links)
