"""Intervals that hold what they promise: paired proportions, paired scores, ratios of latencies.

Sources: Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design
(1998); Davison & Hinkley, Bootstrap Methods (1997), section 3.8 on hierarchical data; Hesterberg, What Teachers Should
Know About the Bootstrap (2015), section 5.3 on small samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from scipy.special import stdtrit

Verdict = Literal["passed", "failed", "inconclusive"]

EXPECTED_DISCORDANCE = 0.02  # of two models of one task, before anything is known of them


def paired_difference_interval(
    n: int, only_reference_right: int, only_candidate_right: int, level: float = 0.95
) -> tuple[float, float]:
    """Score interval (Tango) for accuracy(candidate) - accuracy(reference) over the same `n` samples.

    The two counts are the discordant samples. At level 0.95 it covers 93.3 to 96.7% wherever at least four discordant
    samples are expected (n of 200 to 5,000, discordance of 0.5 to 5%, whatever their direction), and more than that
    where fewer are: see docs/benchmarks/paired_coverage.md, which holds it against six others.
    """
    b, c = only_reference_right, only_candidate_right
    if n < 1 or min(b, c) < 0 or b + c > n:
        raise ValueError(f"{b} + {c} discordant samples of {n} isn't possible")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    observed = (c - b) / n
    return _crossing(n, b, c, z, -1.0, observed), _crossing(n, b, c, -z, observed, 1.0)


def _crossing(n: int, b: int, c: int, target: float, low: float, high: float) -> float:
    """The difference in [low, high] at which the score statistic, which falls, takes the value `target`."""
    for _ in range(60):
        middle = (low + high) / 2
        if _score(n, b, c, middle) > target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(n: int, b: int, c: int, difference: float) -> float:
    """Tango's statistic: the observed difference against `difference`, its variance estimated under that hypothesis."""
    linear = (2 * n - (c - b)) * difference - b - c
    constant = -b * difference * (1 - difference)
    only_reference = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * only_reference + difference * (1 - difference))
    distance = (c - b) - n * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def paired_mean_interval(
    reference: np.ndarray, candidate: np.ndarray, level: float = 0.95, seed: int = 0, resamples: int = 4000
) -> tuple[float, float]:
    """Bootstrap interval for mean(candidate) - mean(reference) of paired scores, each [n], of any values."""
    differences = np.asarray(candidate, float) - np.asarray(reference, float)
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    generator = np.random.default_rng(seed)
    n = len(differences)
    means = np.array([differences[generator.integers(0, n, n)].mean() for _ in range(resamples)])
    return _expanded_percentiles(means, n, level)


def paired_statistic_interval(
    reference: np.ndarray,
    candidate: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 500,
) -> tuple[float, float]:
    """Bootstrap interval for statistic(candidate) - statistic(reference), rows [n, k] of both drawn together."""
    if np.array_equal(reference, candidate):
        return 0.0, 0.0
    generator = np.random.default_rng(seed)
    n = len(reference)
    found = []
    for _ in range(resamples):
        drawn = generator.integers(0, n, n)
        found.append(statistic(candidate[drawn]) - statistic(reference[drawn]))
    return _expanded_percentiles(np.array(found), n, level)


def unpaired_log_ratio_interval(
    reference: Sequence[np.ndarray],
    new: Sequence[np.ndarray],
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 4000,
) -> tuple[float, float, float]:
    """(ratio, low, high) of new over reference time, of arms that were measured one after the other.

    Each a list of sessions' times. Sessions are drawn again for each arm by itself; what changed between the two
    measurements (a clock, another process) is not in the interval.
    """
    if len(reference) < 2 or len(new) < 2:
        raise ValueError("one session has no spread: measure at least two of each")
    generator = np.random.default_rng(seed)
    arms = [np.log([_quartile(np.asarray(times)) for times in arm]) for arm in (reference, new)]
    means = [_trimmed_mean(arm[generator.integers(0, len(arm), (resamples, len(arm)))]) for arm in arms]
    low, high = _expanded_percentiles(means[1] - means[0], min(len(arm) for arm in arms), level)
    observed = float(_trimmed_mean(arms[1][None])[0] - _trimmed_mean(arms[0][None])[0])
    return math.exp(observed), math.exp(low), math.exp(high)


def non_inferiority(low: float, high: float, margin: float) -> Verdict:
    """Is the candidate no worse than the reference by more than `margin`?

    [low, high] is the interval of candidate minus reference where more is better: `passed` when all of it lies above
    -margin, `failed` when all of it lies below, else `inconclusive`.
    """
    if margin < 0:
        raise ValueError(f"the margin is {margin}: give a number of at least 0")
    if low >= -margin:
        return "passed"
    return "failed" if high < -margin else "inconclusive"


def samples_needed(margin: float, discordance: float = EXPECTED_DISCORDANCE, power: float = 0.8) -> int:
    """Samples with which a candidate that lost nothing passes the margin at level 0.95 with probability `power`.

    discordance: the share of samples on which exactly one of the two is right. The normal approximation of the score
    test with the discordance that it estimates under the margin: Tango (1998), section 5; Liu et al., Tests for
    equivalence or non-inferiority for paired binary data (2002).
    """
    if margin <= 0 or not 0 < discordance <= 1:
        raise ValueError(f"no number of samples settles a margin of {margin} at a discordance of {discordance}")
    z = NormalDist()
    # What the score test takes for the variance of a sample's difference, were the candidate worse by the margin.
    linear, constant = -2 * margin - discordance, discordance / 2 * margin * (1 + margin)
    only_reference = (math.sqrt(max(linear**2 - 8 * constant, 0.0)) - linear) / 4
    under_margin = 2 * only_reference - margin * (1 + margin)
    spread = z.inv_cdf(0.975) * math.sqrt(under_margin) + z.inv_cdf(power) * math.sqrt(discordance)
    return math.ceil((spread / margin) ** 2)


def log_ratio_interval(
    rounds: Sequence[tuple[np.ndarray, np.ndarray]], level: float = 0.95, seed: int = 0, resamples: int = 4000
) -> tuple[float, float, float]:
    """(ratio, low, high) of new over reference time by a bootstrap of the log ratio over rounds.

    rounds: for each round, in which both arms had a session of their own, the times of the reference and of the new
    model. A round counts by the log ratio of its lower quartiles (what disturbs the machine disturbs both arms of a
    round, and only ever adds time). The estimate is the mean over the middle fifth of the rounds, so that a third of
    them may be spoilt. Rounds are drawn again whole, each with the times that it has: the spread between rounds holds
    that within them already, and drawing the times too would count it twice (Davison & Hinkley, section 3.8). At a load
    of 10 on 2 cores that made half-widths of 30 s ten times as large.
    """
    if len(rounds) < 2:
        raise ValueError("one round has no spread: measure at least two")
    generator = np.random.default_rng(seed)
    observed = np.array([math.log(_quartile(new) / _quartile(reference)) for reference, new in rounds])
    drawn = observed[generator.integers(0, len(rounds), (resamples, len(rounds)))]
    low, high = _expanded_percentiles(_trimmed_mean(drawn), len(rounds), level)
    return math.exp(float(_trimmed_mean(observed[None])[0])), math.exp(low), math.exp(high)


def _quartile(times: np.ndarray) -> float:
    """Lower quartile."""
    return float(np.quantile(times, 0.25))


def _trimmed_mean(values: np.ndarray, share: float = 0.4) -> np.ndarray:
    """Mean along the last axis without the lowest and the highest `share` of the values."""
    cut = int(values.shape[-1] * share)
    ordered = np.sort(values, axis=-1)
    return ordered[..., cut : values.shape[-1] - cut].mean(axis=-1)


def _expanded_percentiles(estimates: np.ndarray, n: int, level: float) -> tuple[float, float]:
    """Percentile interval of bootstrap estimates, widened as Student's t is against the normal for n observations.

    Source: Hesterberg (2015), section 5.3.
    """
    t = float(stdtrit(n - 1, 0.5 + level / 2)) if n > 1 else 0.0
    tail = 1 - NormalDist().cdf(t * math.sqrt(n / (n - 1))) if n > 1 else 0.0
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return float(low), float(high)
