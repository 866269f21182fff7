"""How good a model is on data, sample by sample, so that two models can be compared in pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from onnxprune.errors import DataError
from onnxprune.runtime.data import Dataset
from onnxprune.runtime.feeds import fit_samples, read_inputs, static_batch, take_samples
from onnxprune.runtime.metrics import METRICS, Metric, Outputs, find_metric
from onnxprune.runtime.session import SessionSettings, open_session, run_session
from onnxprune.runtime.statistics import (
    non_inferiority,
    paired_difference_interval,
    paired_mean_interval,
    paired_statistic_interval,
)

__all__ = [
    "METRICS",
    "Metric",
    "PairedDifference",
    "Scores",
    "WorstClass",
    "compare_scores",
    "evaluate",
    "find_metric",
    "record_outputs",
    "score_outputs",
]


@dataclasses.dataclass(frozen=True)
class Scores:
    """The metric's numbers for every sample, [n] or [n, k], and the score that they make together."""

    per_sample: np.ndarray
    mean: float


@dataclasses.dataclass(frozen=True)
class WorstClass:
    """The class that lost most: its label, its samples, and the score of both models on them."""

    label: int
    samples: int
    reference: float
    candidate: float


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Candidate against reference on the same samples, by a metric.

    difference, low, high: score of the candidate minus the reference's, with its 95% interval; the two counts are the
    discordant samples, None where a score is more than right or wrong; exact_p: McNemar's exact test of these counts;
    verdict: `measured` where no margin was asked for.
    """

    difference: float
    low: float
    high: float
    only_reference_right: int | None
    only_candidate_right: int | None
    verdict: Literal["passed", "failed", "inconclusive", "measured"]
    exact_p: float | None = None


def evaluate(
    model: str | Path | bytes,
    dataset: Dataset,
    metric: str | Metric | Callable = "top1",
    settings: SessionSettings | None = None,
    batch: int = 64,
) -> Scores:
    """Score every sample of `dataset`. Raises: ModelError, DataError (data or metric don't fit), ProviderRefused."""
    return score_outputs(record_outputs(model, dataset.inputs, settings, batch), dataset, metric)


def record_outputs(
    model: str | Path | bytes,
    inputs: Mapping[str, np.ndarray],
    settings: SessionSettings | None = None,
    batch: int = 64,
) -> dict[str, np.ndarray]:
    """{output name: array [n, ...]} for all samples, run in batches (of the model's own size where that is static).

    Samples that are read when they are asked for (an image folder) stream: no more than a batch of them is in memory.
    """
    specs = read_inputs(model)
    samples = fit_samples(specs, inputs)
    session = open_session(model, settings)
    count, size = len(next(iter(samples.values()))), static_batch(specs) or batch
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, count, size):
        indices = np.arange(start, min(start + size, count))
        # A static batch must be full: its last sample again, the surplus cut off.
        padded = np.resize(indices, size) if static_batch(specs) else indices
        outputs = run_session(session, take_samples(specs, samples, padded))
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != len(padded):
                raise DataError(
                    f"Output '{name}' has shape {list(array.shape)} for a batch of {len(padded)}. "
                    "To score sample by sample its first axis must be the batch."
                )
        parts.append({name: array[: len(indices)] for name, array in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def score_outputs(outputs: Mapping[str, np.ndarray], dataset: Dataset, metric: str | Metric | Callable) -> Scores:
    """Score recorded outputs. Raises: DataError where the metric doesn't give finite numbers for each sample."""
    chosen = find_metric(metric)
    given: Outputs = next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)
    try:
        rows = chosen.with_data(given, dataset) if chosen.with_data else chosen.score(given, dataset.targets)
        rows = np.asarray(rows, dtype=np.float64)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        shapes = ", ".join(f"{name}{list(array.shape)}" for name, array in outputs.items())
        raise DataError(
            f"Metric {chosen.name} fails on outputs {shapes} and targets {list(dataset.targets.shape)}: {error}. "
            "Choose a metric that fits them."
        ) from error
    if rows.shape[:1] != (len(dataset),) or rows.ndim != (1 if chosen.aggregate is None else 2):
        raise DataError(
            f"Metric {chosen.name} gave {list(rows.shape)} for {len(dataset)} samples. Give one score for each."
        )
    if not np.isfinite(rows).all():
        wrong = int((~np.isfinite(rows)).reshape(len(rows), -1).any(axis=1).sum())
        raise DataError(f"Metric {chosen.name} gave {wrong} scores that aren't finite. Check the model's outputs.")
    return Scores(rows, float(rows.mean() if chosen.aggregate is None else chosen.aggregate(rows)))


def compare_scores(
    reference: Scores, candidate: Scores, metric: str | Metric | Callable = "top1", max_drop: float | None = None
) -> PairedDifference:
    """Compare in pairs; with `max_drop`, is the candidate no worse by more than that (95%)?

    Scores that are right or wrong get the score interval, others a bootstrap over samples.
    """
    chosen = find_metric(metric)
    ours, theirs = candidate.per_sample, reference.per_sample
    only_reference = only_candidate = exact_p = None
    if chosen.aggregate is not None:
        low, high = paired_statistic_interval(theirs, ours, chosen.aggregate)
    elif np.isin(ours, (0, 1)).all() and np.isin(theirs, (0, 1)).all():
        more, less = int((ours > theirs).sum()), int((ours < theirs).sum())
        low, high = paired_difference_interval(len(ours), less, more)
        only_reference, only_candidate = (less, more) if chosen.higher_is_better else (more, less)
        exact_p = float(binomtest(less, less + more).pvalue) if less + more else 1.0
    else:
        low, high = paired_mean_interval(theirs, ours)
    verdict = "measured"
    if max_drop is not None:
        verdict = non_inferiority(*((low, high) if chosen.higher_is_better else (-high, -low)), max_drop)
    difference = candidate.mean - reference.mean
    return PairedDifference(difference, low, high, only_reference, only_candidate, verdict, exact_p)


def worst_class(
    reference: Scores, candidate: Scores, targets: np.ndarray, metric: str | Metric | Callable
) -> WorstClass | None:
    """The class on which the candidate lost most, None where targets aren't classes or no class lost anything."""
    chosen = find_metric(metric)
    if targets.ndim != 1 or targets.dtype.kind not in "iu" or chosen.aggregate is not None:
        return None
    sign = 1.0 if chosen.higher_is_better else -1.0
    lost = sign * (reference.per_sample - candidate.per_sample)
    labels, inverse = np.unique(targets, return_inverse=True)
    if len(labels) < 2 or len(labels) > len(targets) / 2:
        return None
    means = np.bincount(inverse, weights=lost) / np.bincount(inverse)
    worst = int(means.argmax())
    if means[worst] <= 0:
        return None
    members = inverse == worst
    return WorstClass(
        int(labels[worst]),
        int(members.sum()),
        float(reference.per_sample[members].mean()),
        float(candidate.per_sample[members].mean()),
    )
