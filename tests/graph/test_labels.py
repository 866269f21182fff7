"""Facets, reshapes and ties, without any ONNX."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.graph.labels import PINNED, Ledger, compress, reshape, reshape_blocks, spans, thinned


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
    old = tuple(sizes)
    axis = data.draw(st.integers(0, len(old) - 1))
    factors = list(old)
    random.shuffle(factors)
    merged = []
    for size in factors:
        if merged and random.random() < 0.5:
            merged[-1] *= size
        else:
            merged.append(size)
    new = tuple(merged)
    facet = np.arange(1, old[axis] + 1).reshape([old[axis] if a == axis else 1 for a in range(len(old))])
    moved = reshape(facet, old, new)
    assert np.array_equal(np.broadcast_to(moved, new), np.broadcast_to(facet, old).reshape(new))
    assert moved.size <= np.prod(new)


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
