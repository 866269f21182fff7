"""Facets, reshapes and ties, without any ONNX."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.graph.labels import (
    PINNED,
    Ledger,
    compress,
    labels_after,
    matched,
    reshape,
    reshape_blocks,
    spans,
    thinned,
    unrolled,
)


@pytest.mark.parametrize(
    ("old", "new", "blocks"),
    [
        ((7, 8, 9), (7, 72), [((0,), (0,)), ((1, 2), (1,))]),
        ((7, 72), (7, 8, 9), [((0,), (0,)), ((1,), (1, 2))]),
        ((4, 6), (6, 4), [((0, 1), (0, 1))]),
        ((5, 1, 3), (5, 3), [((0,), (0,)), ((1,), ()), ((2,), (1,))]),
        ((6,), (1, 2, 3), [((), (0,)), ((0,), (1, 2))]),
        ((), (1, 1), [((), (0,)), ((), (1,))]),
    ],
)
def test_reshape_blocks_are_the_smallest_runs(old, new, blocks):
    found = reshape_blocks(old, new)
    assert [a for block, _ in found for a in block] == list(range(len(old)))
    assert [a for _, block in found for a in block] == list(range(len(new)))
    for before, after in found:
        assert np.prod([old[a] for a in before]) == np.prod([new[a] for a in after])
    assert len(found) >= len(blocks) - 1


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False), st.data())
def test_reshaping_a_facet_is_reshaping_the_broadcast_labels(sizes, random, data):
    """Of some of the axes, twice in turn: the second time labels may stand for runs."""
    shape = tuple(sizes)
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    facet = np.arange(1, 1 + math.prod(shape[a] for a in axes))
    facet = facet.reshape([size if a in axes else 1 for a, size in enumerate(shape)])
    labels = np.broadcast_to(facet, shape)
    for _ in range(2):
        factors = sorted(sizes, key=lambda _: random.random())
        new = tuple(math.prod(factors[i : i + 2]) for i in range(0, len(factors), random.choice([1, 2])))
        if math.prod(new) != math.prod(shape):
            new = tuple(factors)
        moved = reshape(facet, shape, new)
        labels = labels.reshape(new)
        assert np.array_equal(np.broadcast_to(unrolled(moved, new), new), labels)
        assert moved.size <= labels_after(facet.shape, shape, new) <= labels.size
        facet, shape = moved, new


@pytest.mark.parametrize(
    ("counts", "old", "new", "expected"),
    [
        ((1, 64, 1, 1), (7, 64, 99, 101), (7, 32, 2 * 99 * 101), (1, 32, 2)),
        ((1, 32, 2), (7, 32, 2 * 99 * 101), (7, 64, 99, 101), (1, 64, 1, 1)),
        ((8, 1), (8, 100), (800,), (8,)),
        ((8,), (800,), (8, 10, 10), (8, 1, 1)),
        ((8,), (800,), (16, 50), (8, 1)),
        ((8,), (48,), (12, 4), (12, 2)),
        ((1, 5), (3, 5), (15,), (15,)),
        ((4, 1), (4, 0), (0, 2), (0, 1)),
    ],
)
def test_runs_of_a_label_stay_runs(counts, old, new, expected):
    facet = np.arange(1, 1 + math.prod(counts)).reshape(counts)
    assert reshape(facet, old, new).shape == expected


def test_arrays_that_share_an_axis_are_matched():
    coarse, fine, other = np.array([[1, 2]]), np.array([[3, 4, 5, 6, 7, 8]]), np.array([[9], [10]])
    found = matched([coarse, fine, other])
    assert [array.tolist() for array in found] == [[[1, 1, 1, 2, 2, 2]], fine.tolist(), other.tolist()]
    assert [array.tolist() for array in matched([np.array([1, 2]), np.array([3, 4, 5])])] == [
        [1, 1, 1, 2, 2, 2],
        [3, 3, 4, 4, 5, 5],
    ]


def test_compress_keeps_only_axes_along_which_labels_change():
    labels = np.broadcast_to(np.arange(3).reshape(1, 3, 1), (2, 3, 4))
    assert compress(labels).shape == (1, 3, 1)
    assert spans(compress(labels)) == (1,)
    assert compress(np.full((2, 3), 5)).shape == (1, 1)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 1, 2, 2], [3, 3, 4, 4]], [[1, 2], [3, 4]]),
        ([[1, 1, 1, 1], [2, 2, 2, 2]], [[1], [2]]),
        ([[1, 1, 2, 2], [3, 3, 3, 3]], [[1, 2], [3, 3]]),  # twice the channel, half the row each time
        ([[1, 1, 2, 2], [3, 4, 4, 4]], [[1, 1, 2, 2], [3, 4, 4, 4]]),
        ([[1, 1, 2]], [[1, 1, 2]]),
        ([[1, 2, 1, 2]], [[1, 2, 1, 2]]),
        ([[], []], [[], []]),
        ([], []),
    ],
)
def test_rows_are_thinned_only_where_all_runs_are_equally_long(rows, expected):
    assert thinned(np.array(rows)).tolist() == expected


@pytest.mark.parametrize(
    ("names", "members", "expected"),
    [
        ([1, 2], [[3, 4], [5, 6]], ([1, 2], [[3, 4], [5, 6]])),
        ([1, 1], [[3, 4], [3, 4]], ([1], [[3, 4]])),
        ([1, 1], [[3, 4], [5, 6]], ([1, 1], [[3, 4], [5, 6]])),
        ([2, 1, 2], [[3, 4], [5, 6], [3, 4]], ([2, 1], [[3, 4], [5, 6]])),
    ],
)
def test_a_row_is_written_down_once(names, members, expected):
    ledger = Ledger()
    ledger.row(np.array(names), np.array(members))
    assert [found.tolist() for found in ledger.rows[0]] == list(expected)


def test_ties_are_transitive_and_broadcast():
    ledger = Ledger()
    a, b, c = ledger.fresh(3), ledger.fresh(2, 3), ledger.fresh(3)
    ledger.tie(a, b)
    ledger.tie(b[1], c)
    channel = ledger.solve()
    assert np.array_equal(channel[a], channel[c])
    assert np.array_equal(channel[b[0]], channel[b[1]])
    assert len(set(channel[a])) == 3
    assert channel[PINNED] == 0 and not np.isin(0, channel[a])


def test_channels_are_numbered_by_their_smallest_label():
    ledger = Ledger()
    a, b = ledger.fresh(2), ledger.fresh(2)
    ledger.tie(a[::-1], b)
    assert ledger.solve().tolist() == [0, 1, 2, 2, 1]
