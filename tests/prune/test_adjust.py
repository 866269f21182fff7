"""Repairs after a cut against values worked out by hand."""

import numpy as np
import pytest

from onnxprune.prune import adjust

W = np.array([[3.0, 4.0, 0.0], [1.0, 2.0, 2.0], [5.0, 5.0, 5.0]])
ALL = np.ones((3, 3), bool)
#: Input 1 goes, and output 2.
CUT = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 0]], bool)


def test_lost_inputs_are_those_that_outputs_which_are_left_read_before():
    assert adjust.lost_inputs(ALL, CUT).tolist() == [False, True, False]
    assert adjust.lost_inputs(CUT, CUT).tolist() == [False] * 3
    only_output = np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0]], bool)
    assert adjust.lost_inputs(ALL, only_output).tolist() == [False] * 3
    kernels = np.repeat(CUT[:, :, None], 5, axis=2)
    assert adjust.lost_inputs(np.ones((3, 3, 5), bool), kernels).tolist() == [False, True, False]


def test_rescale_divides_by_the_share_that_is_left():
    found = adjust.rescale(W, ALL, CUT)
    assert np.allclose(found, [[4.5, 0, 0], [1.5, 0, 3], [0, 0, 0]])  # p = 1/3, of the cut alone:
    second = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]], bool)
    assert np.allclose(adjust.rescale(found, CUT, second), [[9, 0, 0], [3, 0, 0], [0, 0, 0]])


def test_the_norm_stays():
    """Of the two rows that are left: 9 + 16 + 1 + 4 + 4 = 34 before, 9 + 0 + 1 + 4 = 14 after."""
    found = adjust.preserve_norm(W, ALL, CUT)
    assert np.allclose(found, W * CUT * (34 / 14) ** 0.5)
    assert np.square(found).sum() == pytest.approx(34)
    assert not adjust.preserve_norm(W, ALL, np.zeros((3, 3), bool)).any()


def test_the_bias_takes_over_what_went_on_average():
    kernels = np.stack([W, 2 * W], axis=2)
    lost = np.array([False, True, True])
    found = adjust.bias_shift(kernels, lost, np.array([9.0, 0.5, 2.0]))
    assert found.tolist() == [12 * 0.5 + 0, 6 * 0.5 + 6 * 2, 15 * 0.5 + 15 * 2]


def test_least_squares_finds_what_the_inputs_that_are_left_can_say():
    """Input 2 is the sum of the others: without it they take over its weight."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2))
    whole = np.c_[x, x.sum(axis=1)]
    wanted = whole @ np.array([[1.0, 2.0, 3.0]]).T
    assert np.allclose(adjust.least_squares(x, wanted, ridge=0), [[4, 5]], atol=1e-6)
    assert np.isfinite(adjust.least_squares(np.zeros((4, 2)), np.ones((4, 1)))).all()
