"""How good a model is on data, sample by sample, so that two models can be compared in pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from onnxprune.errors import DataError
from onnxprune.runtime.data import Dataset, resolve
from onnxprune.runtime.feeds import fit_samples, read_inputs, static_batch, take_samples
from onnxprune.runtime.session import SessionSettings, open_session, run_session
from onnxprune.runtime.statistics import non_inferiority, paired_difference_interval, paired_mean_interval

Outputs = np.ndarray | dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One score per sample: score(outputs, targets) -> [n].

    outputs is the model's output array [n, ...], or {output name: array} where it has several.
    """

    name: str
    score: Callable[[Outputs, np.ndarray], np.ndarray]
    higher_is_better: bool = True


@dataclasses.dataclass(frozen=True)
class Scores:
    """The score of every sample [n], and their mean."""

    per_sample: np.ndarray
    mean: float


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Candidate against reference on the same samples, by a metric.

    difference, low, high: mean score of the candidate minus the reference's, with its 95% interval; the two counts are
    the discordant samples, None where a score is more than right or wrong; verdict: `measured` where no margin was
    asked for.
    """

    difference: float
    low: float
    high: float
    only_reference_right: int | None
    only_candidate_right: int | None
    verdict: Literal["passed", "failed", "inconclusive", "measured"]


def find_metric(metric: str | Metric | Callable) -> Metric:
    """A Metric from its name, a function, or "module:function".

    A function of the user's may carry an attribute `higher_is_better`. Raises: DataError naming the known ones.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    if isinstance(metric, str):
        if ":" not in metric:
            raise DataError(
                f"Metric '{metric}' is unknown. Choose {', '.join(METRICS)}, or name a function as module:function."
            )
        function = resolve(metric)
        if isinstance(function, Metric):
            return function
    else:
        function = metric
    if not callable(function):
        raise DataError(f"The metric '{metric}' can't be called. Give a function of (outputs, targets).")
    name = metric if isinstance(metric, str) else getattr(function, "__name__", type(function).__name__)
    return Metric(name, function, bool(getattr(function, "higher_is_better", True)))


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
    """{output name: array [n, ...]} for all samples, run in batches (of the model's own size where that is static)."""
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
    """Score recorded outputs. Raises: DataError where the metric doesn't give one finite number per sample."""
    chosen = find_metric(metric)
    given: Outputs = next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)
    try:
        scores = np.asarray(chosen.score(given, dataset.targets), dtype=np.float64)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        shapes = ", ".join(f"{name}{list(array.shape)}" for name, array in outputs.items())
        raise DataError(
            f"Metric {chosen.name} fails on outputs {shapes} and targets {list(dataset.targets.shape)}: {error}. "
            "Choose a metric that fits them."
        ) from error
    if scores.shape != (len(dataset),):
        raise DataError(
            f"Metric {chosen.name} gave {list(scores.shape)} for {len(dataset)} samples. Give one score for each."
        )
    if not np.isfinite(scores).all():
        wrong = int((~np.isfinite(scores)).sum())
        raise DataError(f"Metric {chosen.name} gave {wrong} scores that aren't finite. Check the model's outputs.")
    return Scores(scores, float(scores.mean()))


def compare_scores(
    reference: Scores, candidate: Scores, metric: str | Metric | Callable = "top1", max_drop: float | None = None
) -> PairedDifference:
    """Compare in pairs; with `max_drop`, is the candidate no worse by more than that (95%)?

    Scores that are right or wrong get the score interval, others a bootstrap.
    """
    higher_is_better = find_metric(metric).higher_is_better
    ours, theirs = candidate.per_sample, reference.per_sample
    only_reference = only_candidate = None
    if np.isin(ours, (0, 1)).all() and np.isin(theirs, (0, 1)).all():
        more, less = int((ours > theirs).sum()), int((ours < theirs).sum())
        low, high = paired_difference_interval(len(ours), less, more)
        only_reference, only_candidate = (less, more) if higher_is_better else (more, less)
    else:
        low, high = paired_mean_interval(theirs, ours)
    verdict = "measured"
    if max_drop is not None:
        verdict = non_inferiority(*((low, high) if higher_is_better else (-high, -low)), max_drop)
    return PairedDifference(candidate.mean - reference.mean, low, high, only_reference, only_candidate, verdict)


def _top(k: int) -> Callable[[Outputs, np.ndarray], np.ndarray]:
    def score(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
        logits, labels = _classification(outputs, targets)
        sound = np.isfinite(logits).all(axis=1)
        if k == 1:
            return (sound & (logits.argmax(axis=1) == labels)).astype(float)
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        # Ties count against the label: as many others as high mean that it may be behind them.
        return (sound & ((logits >= own).sum(axis=1) <= k)).astype(float)

    return score


def _error_rate(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    return 1.0 - _top(1)(outputs, targets)


def _classification(outputs: Outputs, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits [n, classes] of the first output and integer labels [n]."""
    logits = next(iter(outputs.values())) if isinstance(outputs, Mapping) else outputs
    if logits.ndim != 2 or targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise ValueError("classification needs scores [n, classes] and integer labels [n]")
    if targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise ValueError(f"labels from {targets.min()} to {targets.max()} for {logits.shape[1]} classes")
    return logits, targets


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("top1", _top(1)),
        Metric("top5", _top(5)),
        Metric("error_rate", _error_rate, higher_is_better=False),
    )
}
