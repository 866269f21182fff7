"""`validate`: is the candidate as good as the reference, and faster? Models run in child processes only."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxprune.errors import InputError, ModelError, OnnxPruneError
from onnxprune.graph.model import load
from onnxprune.prune.cost import count
from onnxprune.runtime.accuracy import Metric, Scores, compare_scores, find_metric, record_outputs, score_outputs
from onnxprune.runtime.children import RuntimeFailure, run_in_child
from onnxprune.runtime.data import Dataset, load_dataset
from onnxprune.runtime.environment import environment, load_average
from onnxprune.runtime.equivalence import Equivalence, prove
from onnxprune.runtime.gates import decide_gates
from onnxprune.runtime.latency import LatencyComparison, Progress, compare_latency
from onnxprune.runtime.results import AccuracyRow, Figures, Gate, Validation
from onnxprune.runtime.session import Provider, SessionSettings, why_refused

__all__ = ["AccuracyRow", "Figures", "Gate", "Validation", "measure_figures", "validate"]

CHILD_TIMEOUT_S = 600.0
LATENCY_SAMPLES = 64  # real samples that the timed feed is drawn from


def validate(
    reference: str | os.PathLike,
    candidate: str | os.PathLike,
    *,
    dataset: Dataset | str | Path | None = None,
    metric: str | Metric | Callable = "top1",
    max_drop: float | None = None,
    min_speedup: float | None = None,
    equivalence: Equivalence | None = None,
    tolerance: float | None = None,
    providers: Sequence[Provider] = ("cpu",),
    asked: Collection[str] | None = None,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    seconds: float = 20.0,
    seed: int = 0,
    memory_mb: int | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Compare the ONNX file `candidate` with `reference`: figures, accuracy, latency on every provider, and gates.

    dataset, metric: what accuracy is measured on and by; max_drop: how much worse the candidate may be (a fraction for
    top-1: 0.01 is one point); min_speedup: how many times as fast it must be. equivalence: a proof made elsewhere that
    becomes a gate; tolerance: compare the outputs of the two here, as a gate (for models meant to be the same
    function). asked: the providers whose refusal or failure counts (default: all of `providers`). batches, threads (0:
    all cores; CPU only): one latency comparison of `seconds` each. memory_mb: limit of every child process that runs a
    model on the CPU. progress(done, total, what): seconds of measuring.

    What can't be measured becomes a row with verdict `refused` and its sentence; nothing is raised for a gate (see
    `Validation.exit_code`). Raises: ModelError, DataError, InputError for what can't be used at all.
    """
    if max_drop is not None and dataset is None:
        raise InputError("A largest drop is asked for without data to measure it on. Give a data set.")
    if (max_drop is not None and max_drop < 0) or (min_speedup is not None and min_speedup <= 0):
        raise InputError(f"max_drop is {max_drop}, min_speedup {min_speedup}. Give a drop >= 0 and a speed-up > 0.")
    if not providers or not batches or not threads:
        raise InputError("There is no provider, batch or thread count to measure with. Give at least one of each.")
    data = None if dataset is None else load_dataset(dataset)
    chosen = find_metric(metric)
    paths = (os.fspath(reference), os.fspath(candidate))
    figures = [measure_figures(path) for path in paths]
    machine = environment()
    plan = [
        (provider, batch, cores)
        for provider in providers
        for batch in batches
        for cores in (threads if provider == "cpu" else (1,))
    ]
    total = int(seconds * sum(why_refused(provider) is None for provider, _, _ in plan))

    if equivalence is None and tolerance is not None:
        equivalence = _prove_in_child(paths, tolerance, data, seed, memory_mb)
    rows = []
    for provider in providers if data is not None else ():
        if progress:
            progress(0, total, f"accuracy on {provider}")
        rows.append(_accuracy(paths, data, chosen, max_drop, provider, memory_mb))
    comparisons: list[LatencyComparison] = []
    samples = None if data is None else {name: array[:LATENCY_SAMPLES] for name, array in data.inputs.items()}
    for index, (provider, batch, cores) in enumerate(plan):
        comparisons.append(
            compare_latency(
                {"reference": paths[0], "candidate": paths[1]},
                provider=provider,
                batch=batch,
                threads=cores,
                seconds=seconds,
                seed=seed,
                inputs=samples,
                memory_mb=memory_mb,
                progress=_shifted(progress, int(index * seconds), total),
            )
        )
    machine["load_average_after"] = load_average()
    counting = frozenset(providers if asked is None else asked)
    return Validation(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        reference=figures[0],
        candidate=figures[1],
        equivalence=equivalence,
        accuracy=tuple(rows),
        latency=tuple(comparisons),
        environment=machine,
        gates=decide_gates(equivalence, rows, comparisons, asked=counting, min_speedup=min_speedup),
    )


def measure_figures(path: str | os.PathLike) -> Figures:
    """Parameters, MACs, bytes and nodes of the ONNX file at `path`, without running it. Raises: ModelError."""
    cost = count(load(path))
    try:
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"'{path}' can't be read: {error.strerror}. Give the path of an .onnx file.") from error
    return Figures(cost.params, cost.macs, cost.size_bytes, cost.nodes, digest, Path(path).name)


def _prove_in_child(
    paths: tuple[str, str], tolerance: float, data: Dataset | None, seed: int, memory_mb: int | None
) -> Equivalence:
    inputs = None if data is None else {name: array[:LATENCY_SAMPLES] for name, array in data.inputs.items()}
    try:
        return run_in_child(
            prove, *paths, tolerance=tolerance, inputs=inputs, seed=seed, memory_mb=memory_mb, timeout_s=CHILD_TIMEOUT_S
        )
    except RuntimeFailure as error:
        raise RuntimeFailure(f"Comparing the outputs of '{paths[0]}' and '{paths[1]}' {error}.") from error


def _accuracy(
    paths: tuple[str, str],
    data: Dataset,
    metric: Metric,
    max_drop: float | None,
    provider: Provider,
    memory_mb: int | None,
) -> AccuracyRow:
    """One row; outputs are recorded in child processes, and scored here, so that any callable can be the metric."""
    row = AccuracyRow(provider, metric.name, len(data), *[None] * 5, max_drop, None, None, "refused")
    row = dataclasses.replace(row, higher_is_better=metric.higher_is_better)
    reason = why_refused(provider)
    if reason:
        return dataclasses.replace(row, reason=reason)
    scores: list[Scores] = []
    for name, path in zip(("reference", "candidate"), paths, strict=True):
        try:
            scores.append(score_outputs(_outputs_in_child(path, data.inputs, provider, memory_mb), data, metric))
        except RuntimeFailure as error:
            return dataclasses.replace(row, reason=f"The {name} {error}.")
        except OnnxPruneError as error:
            if error.exit_code == 2:
                raise  # data or model that can't be used at all
            return dataclasses.replace(row, reason=f"The {name} can't be measured: {error}")
    compared = compare_scores(*scores, metric, max_drop)
    return dataclasses.replace(
        row,
        reference=scores[0].mean,
        candidate=scores[1].mean,
        difference=compared.difference,
        low=compared.low,
        high=compared.high,
        only_reference_right=compared.only_reference_right,
        only_candidate_right=compared.only_candidate_right,
        verdict=compared.verdict,
    )


def _outputs_in_child(
    path: str, inputs: Mapping[str, np.ndarray], provider: Provider, memory_mb: int | None
) -> dict[str, np.ndarray]:
    settings = SessionSettings(provider=provider, threads=0)
    limit = memory_mb if provider == "cpu" else None
    return run_in_child(record_outputs, path, inputs, settings, memory_mb=limit, timeout_s=CHILD_TIMEOUT_S)


def _shifted(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Progress of one comparison as part of the whole."""
    if progress is None:
        return None
    return lambda seconds, _, what: progress(min(done + seconds, total), total, what)
