"""Schedules against their formulas; controls against scripted metrics."""

import itertools

import numpy as np
import pytest

from onnxprune.errors import RecipeError
from onnxprune.prune import schedule
from onnxprune.prune.schedule import Adaptive, FixedStep, Planned, Position, Rising


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("one-shot", 0.1, 0.2),
        ("linear", 0.25, 1 - 0.8 * 0.25),
        ("exponential", 0.5, 0.2**0.5),
        ("cubic", 0.5, 0.2 + 0.8 * 0.125),
        ("cubic", 0.25, 0.2 + 0.8 * 0.421875),
        ("fixed", 0.3, 0.9**3),
        ("fixed", 0.9, 0.9**9),
        ("adaptive", 0.25, 1 - 0.8 * 0.25),
        ("threshold", 0.25, 1 - 0.8 * 0.25),
    ],
)
def test_schedules(name, progress, expected):
    assert schedule.find(name, steps=10)(progress, 0.2) == pytest.approx(expected)


@pytest.mark.parametrize("name", [*schedule.SCHEDULES, *schedule.OTHERS])
@pytest.mark.parametrize("budget", [0.05, 0.5, 1.0])
def test_schedules_run_from_all_to_the_budget_and_never_back(name, budget):
    left = [schedule.find(name)(p, budget) for p in np.linspace(0, 1, 11)]
    assert left[0] == 1 and left[-1] == pytest.approx(budget)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(left))


def test_an_exponential_step_takes_the_same_share_of_what_is_left():
    left = [schedule.exponential(p, 0.25) for p in (0, 0.25, 0.5, 0.75, 1)]
    assert np.allclose(np.divide(left[1:], left[:-1]), 0.25**0.25)


def test_a_fixed_step_takes_a_tenth_until_the_budget_is_reached():
    fixed = FixedStep(steps=10)
    assert [fixed(n / 10, 0.7) for n in range(6)] == pytest.approx([1, 0.9, 0.81, 0.729, 0.7, 0.7])
    assert fixed.enough(0.7) == 4 and fixed.enough(0.9) == 1 and fixed.enough(0.81) == 2


def test_names_that_are_not_known():
    with pytest.raises(RecipeError, match=r"no schedule 'never'.*adaptive.*cubic.*threshold"):
        schedule.find("never")
    with pytest.raises(RecipeError, match="between 0 and 1"):
        FixedStep(10, share=1.0)


# ---- controls --------------------------------------------------------------------------------------------------------


def follow(control, metrics, baseline=0.9, steps=4):
    """[(progress aimed at, kept?)] while the metrics last and the control wants more."""
    position, told = control.start(steps), []
    for number, metric in enumerate(metrics):
        if not control.wants_more(position):
            break
        aim = schedule.target(position)
        verdict = control.judge(position, aim, metric, baseline, steps - number - 1)
        told.append((aim, verdict.kept))
        position = verdict.position
    return told, position


def test_planned_steps_are_even_and_one_that_costs_too_much_is_halved():
    told, position = follow(Planned(guard=0.1), [0.9, 0.79, 0.8, 0.85])
    assert told == [(0.25, True), (0.5, False), (0.375, True), (1.0, True)]
    assert position.progress == 1 and not Planned().wants_more(position)


def test_planned_steps_that_never_hold_end():
    told, position = follow(Planned(), [0.1] * 20)
    assert [kept for _, kept in told] == [False] * 6  # 1/4, 1/8 ... 1/128
    assert position.progress == 0


def test_adaptive_drop_recover_plateau():
    """5% of 0.8 is 0.04: at least 0.76 is kept. Two kept steps in a row make the next half as large again."""
    metrics = [0.80, 0.79, 0.75, 0.77, 0.76, 0.78, 0.78, 0.78, 0.78]
    told, position = follow(Adaptive(), metrics, baseline=0.8)
    aims = [0.1, 0.2, 0.35]  # two steps of 0.1, then one of 0.15, which drops too far
    aims += [0.275, 0.35]  # halved: 0.075, and again; both recover
    aims += [0.4625, 0.575]  # a plateau: 0.1125 twice
    aims += [0.74375, 0.9125]  # 0.16875 twice
    assert [aim for aim, _ in told] == pytest.approx(aims)
    assert [kept for _, kept in told] == [True, True, False, True, True, True, True, True, True]
    assert position.size == pytest.approx(0.253125) and schedule.target(position) == 1.0


def test_adaptive_ends_at_the_budget_the_smallest_step_and_the_last_step():
    told, position = follow(Adaptive(first=0.5), [0.9, 0.9, 0.9])
    assert [aim for aim, _ in told] == [0.5, 1.0] and position.progress == 1
    told, _ = follow(Adaptive(first=0.1), [0.0] * 9)
    assert len(told) == 4  # 0.1, 0.05, 0.025, 0.0125; 0.00625 isn't worth it
    told, _ = follow(Adaptive(most=3), [0.9] * 9)
    assert len(told) == 3


def test_the_tolerance_is_a_share_of_the_baseline_for_losses_too():
    assert Adaptive().floor(0.8) == pytest.approx(0.76)
    assert Adaptive().floor(-0.2) == pytest.approx(-0.21)


def test_a_threshold_rises_while_the_metric_holds_and_goes_back():
    rising, position, thetas = Rising(factor=2.25), Position(size=2.25), []
    for metric in (0.5, 0.9, 0.9, 0.5, 0.9, 0.5, 0.5):
        theta = rising.theta(position, at_first=8.0)
        thetas.append(theta)
        verdict = rising.judge(position, 0.5, metric, 0.9, 0)
        position = verdict.position
        if verdict.kept:
            position = schedule.replace(position, theta=theta)
    # The first is halved until it holds. 9 holds, 20.25 doesn't: 9 * 1.5 does, the next doesn't, nor its root.
    assert thetas == pytest.approx([8, 4, 9, 20.25, 13.5, 20.25, 13.5 * 1.5**0.5])
    assert position.theta == pytest.approx(13.5) and position.size == pytest.approx(1.5**0.25)


def test_a_threshold_ends_when_its_factor_is_close_to_one():
    rising = Rising()
    assert not rising.wants_more(Position(size=1.01, theta=1.0))
    assert not rising.wants_more(Position(progress=1.0, size=1.5))
    assert not rising.wants_more(Position(size=1.5, taken=100))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Adaptive(first=0),
        lambda: Adaptive(growth=0.9),
        lambda: Adaptive(tolerance=1),
        lambda: Adaptive(patience=0),
        lambda: Rising(factor=1),
        lambda: Rising(first=1),
    ],
)
def test_controls_that_cannot_be_followed(build):
    with pytest.raises(RecipeError, match="can't be followed"):
        build()
