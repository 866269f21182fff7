"""Which single weights stay, against masks worked out by hand."""

import numpy as np
import pytest

from onnxprune.errors import RecipeError
from onnxprune.prune import weights
from onnxprune.prune.thresholds import Threshold
from onnxprune.prune.weights import SingleWeights

S = {"a": np.array([[1.0, 8.0], [2.0, 7.0]]), "b": np.array([[3.0, 4.0, 5.0, 6.0]])}
ALIVE = {name: np.ones(array.shape, bool) for name, array in S.items()}


def as_lists(masks):
    return {name: mask.astype(int).tolist() for name, mask in masks.items()}


def test_the_least_of_all_layers_go_and_each_keeps_its_best():
    assert as_lists(weights.least(S, ALIVE, 0.5)) == {"a": [[0, 1], [0, 1]], "b": [[0, 0, 1, 1]]}
    assert as_lists(weights.least(S, ALIVE, 0.9)) == {"a": [[0, 1], [0, 0]], "b": [[0, 0, 0, 1]]}
    # Of the six that are alive three go: 2, 3 and 4 of b and a.
    alive = {"a": np.array([[0, 0], [1, 1]], bool), "b": ALIVE["b"]}
    assert as_lists(weights.least(S, alive, 0.5)) == {"a": [[0, 0], [0, 1]], "b": [[0, 0, 1, 1]]}


def test_two_of_four_along_the_inputs_that_are_left():
    scores = np.array([[1.0, 9.0, 3.0, 2.0, 4.0, 8.0], [5.0, 5.0, 5.0, 5.0, 1.0, 1.0]])
    whole = np.ones((2, 6), bool)
    assert weights.n_of_m(scores, whole, 2, 4).astype(int).tolist() == [[0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1]]
    left = whole.copy()
    left[:, 1] = False  # then the four are 0, 2, 3 and 4
    assert weights.n_of_m(scores, left, 2, 4).astype(int).tolist() == [[0, 0, 1, 0, 1, 1], [1, 0, 1, 0, 0, 1]]
    kernels = np.moveaxis(np.stack([scores, scores[::-1]]), 0, -1)
    kept = weights.n_of_m(kernels, np.ones(kernels.shape, bool), 2, 4)
    assert np.array_equal(kept[..., 0], weights.n_of_m(scores, whole, 2, 4))
    assert np.array_equal(kept[..., 1], weights.n_of_m(scores[::-1], whole, 2, 4))


def test_blocks_stay_or_go_together():
    scores = np.array([[1.0, 5.0], [1.0, 0.0], [9.0, 2.0], [0.0, 2.0], [7.0, 7.0]])
    # Sums of two outputs by one input: 2, 5, 9 and 4; the fifth output fills no block.
    kept = weights.blocks(scores, np.ones((5, 2), bool), 2, 1, 0.5)
    assert kept.astype(int).tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [1, 1]]
    assert weights.blocks(scores[:1], np.ones((1, 2), bool), 2, 1, 0.5).all()


@pytest.mark.parametrize(
    ("rule", "share", "last", "expected"),
    [
        (SingleWeights(share=0.5), 0.25, False, {"a": [[0, 1], [0, 1]], "b": [[1, 1, 1, 1]]}),
        (SingleWeights(threshold=Threshold("fixed", 3.5)), 0, False, {"a": [[1, 1], [1, 1]], "b": [[1, 1, 1, 1]]}),
        (SingleWeights(threshold=Threshold("fixed", 3.5)), 0, True, {"a": [[0, 1], [0, 1]], "b": [[0, 1, 1, 1]]}),
        (SingleWeights(pattern="2:4"), 0, False, {"a": [[1, 1], [1, 1]], "b": [[1, 1, 1, 1]]}),
        (SingleWeights(pattern="2:4"), 0, True, {"a": [[1, 1], [1, 1]], "b": [[0, 0, 1, 1]]}),
        (SingleWeights(pattern="2x1", share=0.5), 0.5, True, {"a": [[0, 1], [0, 1]], "b": [[1, 1, 1, 1]]}),
    ],
)
def test_rules_step_by_step(rule, share, last, expected):
    assert as_lists(rule.keep(S, S, ALIVE, share, last, float(last))) == expected


def test_sigma_is_that_of_the_weights_and_the_maximum_that_of_the_scores():
    values, scores = {"a": np.array([[-2.0, 2.0, 0.0]])}, {"a": np.array([[1.0, 2.0, 4.0]])}
    whole = {"a": np.ones((1, 3), bool)}
    sigma, largest = (SingleWeights(threshold=Threshold(kind, 0.5)) for kind in ("sigma", "max"))
    # sigma is sqrt(8/3) = 1.63, half of it 0.82; half of the largest score is 2.
    assert as_lists(sigma.keep(values, scores, whole, 0, True)) == {"a": [[1, 1, 1]]}
    assert as_lists(largest.keep(values, scores, whole, 0, True)) == {"a": [[0, 0, 1]]}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "Nothing is said"),
        ({"share": 1.0}, "between 0 and 1"),
        ({"pattern": "4:2"}, "n below m"),
        ({"pattern": "4x1"}, "together with a share"),
        ({"pattern": "1x1", "share": 0.5}, "can't be used"),
        ({"pattern": "some"}, "can't be used"),
        ({"clip": (1.0, -1.0)}, "can't be clipped"),
    ],
)
def test_rules_that_do_not_fit(how, message):
    with pytest.raises(RecipeError, match=message):
        SingleWeights(**how)
