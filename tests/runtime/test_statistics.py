"""Intervals against known values, and their coverage by enumeration or simulation with a fixed seed."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import multinomial

from onnxprune.runtime.statistics import (
    log_ratio_interval,
    non_inferiority,
    paired_difference_interval,
    paired_mean_interval,
    samples_needed,
)


def test_no_discordant_sample():
    """Then the score equation has the closed form +- z^2 / (n + z^2)."""
    low, high = paired_difference_interval(1000, 0, 0)
    z2 = 1.959963985**2
    assert (low, high) == pytest.approx((-z2 / (1000 + z2), z2 / (1000 + z2)), abs=1e-7)


@pytest.mark.parametrize("n, b, c", [(200, 3, 1), (1000, 12, 5), (50, 0, 1), (30, 10, 20), (10, 0, 10)])
def test_bounds_are_where_the_score_test_rejects(n, b, c):
    """The oracle maximises the multinomial likelihood numerically under each bound."""
    for bound in paired_difference_interval(n, b, c):
        if abs(bound) > 1 - 1e-6:
            continue

        def loss(p, bound=bound):
            q = p + bound
            r = 1 - p - q
            return -(sum(k * math.log(v) for k, v in ((b, p), (c, q), (n - b - c, r)) if k))

        edge = max(0.0, -bound)
        best = minimize_scalar(
            loss, bounds=(edge + 1e-9, (1 - bound) / 2 - 1e-9), method="bounded", options={"xatol": 1e-12}
        )
        p = best.x
        score = (c - b - n * bound) / math.sqrt(n * (2 * p + bound - bound**2))
        assert abs(score) == pytest.approx(1.959964, abs=2e-3)


@pytest.mark.parametrize("n, b, c", [(200, 3, 1), (1000, 12, 5)])
def test_exchanging_the_models_turns_the_interval_around(n, b, c):
    low, high = paired_difference_interval(n, b, c)
    assert paired_difference_interval(n, c, b) == pytest.approx((-high, -low), abs=1e-9)
    assert low < (c - b) / n < high


@pytest.mark.parametrize("counts", [(0, 0, 0), (10, -1, 0), (10, 6, 5)])
def test_impossible_counts(counts):
    with pytest.raises(ValueError, match="isn't possible"):
        paired_difference_interval(*counts)


@pytest.mark.parametrize(
    "n, discordance, share",
    [(200, 0.05, 0.5), (200, 0.02, 0.75), (1000, 0.01, 0.5), (1000, 0.02, 0.75), (5000, 0.005, 0.75)],
)
def test_coverage(n, discordance, share):
    """Between 93 and 97.5%, by enumerating all likely counts."""
    p, q = discordance * share, discordance * (1 - share)
    limit = int(n * discordance + 6 * math.sqrt(n * discordance)) + 3
    covered = total = 0.0
    for b in range(limit):
        for c in range(limit):
            weight = multinomial.pmf([b, c, n - b - c], n, [p, q, 1 - p - q])
            if weight > 1e-6:
                low, high = paired_difference_interval(n, b, c)
                total += weight
                covered += weight * (low <= q - p <= high)
    assert total > 0.999
    assert 0.93 <= covered <= 0.975


@pytest.mark.parametrize(
    "low, high, margin, verdict",
    [
        (-0.015, 0.01, 0.02, "passed"),
        (-0.03, 0.01, 0.02, "inconclusive"),
        (-0.05, -0.03, 0.02, "failed"),
        (0.01, 0.02, 0.0, "passed"),
        (-0.02, 0.0, 0.02, "passed"),
    ],
)
def test_non_inferiority(low, high, margin, verdict):
    assert non_inferiority(low, high, margin) == verdict


def test_negative_margin():
    with pytest.raises(ValueError, match="at least 0"):
        non_inferiority(-0.1, 0.1, -0.02)


def test_paired_mean_covers():
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        reference = generator.gamma(2.0, size=60)
        candidate = reference + generator.normal(-0.1, 0.3, 60)
        low, high = paired_mean_interval(reference, candidate, seed=seed, resamples=500)
        hits += low <= -0.1 <= high
    assert 180 <= hits <= 199
    assert paired_mean_interval(np.ones(5), np.ones(5)) == (0.0, 0.0)


def simulated_rounds(generator, ratio, rounds=20, runs=60):
    """Two arms with sessions that differ by 1%, rounds that drift by 20%, and runs with a heavy tail."""
    found = []
    for _ in range(rounds):
        moment = generator.lognormal(0, 0.2)
        arms = [
            moment * scale * generator.lognormal(0, 0.01) * (1 + 0.02 * generator.exponential(size=runs))
            for scale in (1.0, ratio)
        ]
        found.append(tuple(arms))
    return found


@pytest.mark.parametrize("true_ratio", [1.0, 0.5, 1.05])
def test_log_ratio_interval_covers(true_ratio):
    generator = np.random.default_rng(1)
    hits = 0
    for seed in range(100):
        ratio, low, high = log_ratio_interval(simulated_rounds(generator, true_ratio), seed=seed, resamples=400)
        assert low <= ratio <= high
        hits += low <= true_ratio <= high
    assert 90 <= hits <= 100


def test_log_ratio_forgives_a_disturbed_round():
    rounds = simulated_rounds(np.random.default_rng(2), 1.0)
    rounds[3] = (rounds[3][0], rounds[3][1] * 5)
    ratio, _, high = log_ratio_interval(rounds)
    assert abs(ratio - 1) < 0.01
    assert high < 1.02


def test_log_ratio_survives_a_machine_that_spoils_a_third_of_the_rounds():
    """What runs beside takes nearly all runs of one arm in every third round."""
    rounds = simulated_rounds(np.random.default_rng(5), 1.0, rounds=36, runs=12)
    for k in range(0, 36, 3):
        rounds[k][k // 3 % 2][:10] *= 8
    ratio, low, high = log_ratio_interval(rounds)
    assert 0.98 < low < ratio < high < 1.02


def test_runs_that_were_preempted_do_not_count():
    """In each round another arm loses a third of its runs to other processes, which triples their time."""
    generator = np.random.default_rng(3)
    rounds = simulated_rounds(generator, 1.0)
    for k, arms in enumerate(rounds):
        arms[k % 2][generator.random(len(arms[0])) < 1 / 3] *= 3
    ratio, low, high = log_ratio_interval(rounds)
    assert 0.98 < low < ratio < high < 1.02


def test_one_round_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        log_ratio_interval([(np.ones(3), np.ones(3))])


@pytest.mark.parametrize("margin, discordance, power", [(0.01, 0.02, 0.8), (0.005, 0.02, 0.8), (0.02, 0.03, 0.9)])
def test_samples_needed(margin, discordance, power):
    """Drawn validations of two equally good models pass about as often as asked with that many samples."""
    n = samples_needed(margin, discordance, power)
    generator = np.random.default_rng(0)
    passed = []
    for b, c, _ in generator.multinomial(n, [discordance / 2, discordance / 2, 1 - discordance], 300):
        passed.append(non_inferiority(*paired_difference_interval(n, b, c), margin) == "passed")
    assert np.mean(passed) == pytest.approx(power, abs=0.05)


@pytest.mark.parametrize("margin, discordance", [(0.0, 0.02), (0.01, 0.0), (0.01, 1.5)])
def test_no_number_of_samples_is_enough(margin, discordance):
    with pytest.raises(ValueError, match="no number of samples"):
        samples_needed(margin, discordance)
