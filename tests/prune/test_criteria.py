"""Criteria against values worked out by hand; schedules against their formulas."""

import itertools

import numpy as np
import pytest

from onnxprune.errors import RecipeError
from onnxprune.prune import criteria, schedule

W = np.array([[0.5, -2.0], [0.0, 1.0]], np.float32)
G = np.array([[-4.0, 0.5], [3.0, -1.0]], np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("magnitude", [[0.5, 2.0], [0.0, 1.0]]),
        ("magnitude_l2", [[0.25, 4.0], [0.0, 1.0]]),
        ("taylor", [[2.0, 1.0], [0.0, 1.0]]),
    ],
)
def test_criteria(name, expected):
    assert criteria.find(name)(W, G).tolist() == expected


def test_every_criterion_has_a_value_and_says_whether_it_reads_gradients():
    for name, function in criteria.CRITERIA.items():
        reads = not np.array_equal(function(W, G), function(W, 2 * G))
        assert reads == (name in criteria.NEEDS_GRADIENT)


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("one-shot", 0.1, 0.2),
        ("fixed", 0.5, 0.2**0.5),
        ("cubic", 0.5, 0.2 + 0.8 * 0.125),
        ("cubic", 0.25, 0.2 + 0.8 * 0.421875),
    ],
)
def test_schedules(name, progress, expected):
    assert schedule.find(name)(progress, 0.2) == pytest.approx(expected)


@pytest.mark.parametrize("name", schedule.SCHEDULES)
@pytest.mark.parametrize("budget", [0.05, 0.5, 1.0])
def test_schedules_run_from_all_to_the_budget_and_never_back(name, budget):
    left = [schedule.find(name)(p, budget) for p in np.linspace(0, 1, 11)]
    assert left[0] == 1 and left[-1] == pytest.approx(budget)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(left))


def test_a_fixed_step_takes_the_same_share_of_what_is_left():
    left = [schedule.fixed_step(p, 0.25) for p in (0, 0.25, 0.5, 0.75, 1)]
    assert np.allclose(np.divide(left[1:], left[:-1]), 0.25**0.25)


def test_names_that_are_not_known():
    with pytest.raises(RecipeError, match=r"no criterion 'luck'.*magnitude"):
        criteria.find("luck")
    with pytest.raises(RecipeError, match=r"no schedule 'never'.*cubic"):
        schedule.find("never")
