"""`validate`: is the candidate as good as the reference, and faster? Models run in child processes only."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import InputError, ModelError, OnnxPruneError
from onnxprune.graph.model import load
from onnxprune.prune.cost import count
from onnxprune.runtime.accuracy import Metric, Scores, compare_scores, find_metric, score_outputs, worst_class
from onnxprune.runtime.children import RuntimeFailure, memory_for, patience_s, run_in_child
from onnxprune.runtime.data import Dataset, load_dataset
from onnxprune.runtime.diagnosis import Diagnosis, OperatorTime, diagnose, operator_times
from onnxprune.runtime.elsewhere import compare_elsewhere
from onnxprune.runtime.energy import estimate
from onnxprune.runtime.environment import environment, load_average
from onnxprune.runtime.equivalence import Equivalence, compare_outputs, prove, runnable_feeds
from onnxprune.runtime.feeds import fit_samples, read_inputs
from onnxprune.runtime.gates import decide_gates
from onnxprune.runtime.latency import LatencyComparison, Progress, compare_latency
from onnxprune.runtime.lazy import CONDITIONS, disturb
from onnxprune.runtime.recording import Recording, record
from onnxprune.runtime.results import (
    AccuracyRow,
    DataUsed,
    Figures,
    Gate,
    ProviderAgreement,
    Validation,
    in_points,
    is_share,
)
from onnxprune.runtime.session import Provider, SessionSettings, why_refused
from onnxprune.runtime.statistics import EXPECTED_DISCORDANCE, samples_needed

__all__ = ["AccuracyRow", "Figures", "Gate", "Validation", "measure_figures", "validate"]

ARMS = ("reference", "candidate")
TRAINING = "training data"
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
    until: float | None = None,
    cuda_graph: bool = False,
    measured: Sequence[str | Path] = (),
    conditions: Sequence[str] = (),
    train_data: Dataset | str | Path | None = None,
    latency: bool = True,
    seed: int = 0,
    memory_mb: int | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Validation:
    """Compare the ONNX file `candidate` with `reference`: figures, accuracy, latency on every provider, and gates.

    dataset, metric: what accuracy is measured on and by; max_drop: how much worse the candidate may be (a fraction for
    top-1: 0.01 is one point); min_speedup: how many times as fast it must be. equivalence: a proof made elsewhere that
    becomes a gate; tolerance: compare the outputs of the two here, as a gate (for models meant to be the same
    function). asked: the providers whose refusal or failure counts (default: all of `providers`). batches, threads (0:
    all cores; CPU only): one latency comparison of `seconds` each, or shorter if every interval's half-width is at most
    `until` before. cuda_graph: on CUDA, capture the work once and replay it. measured: timings that a package's runner
    wrote on another device, in place of measuring here. conditions: noise, blur, contrast: accuracy under each as well.
    train_data: accuracy on what the models were trained on, for the generalisation gap. latency: whether to measure it
    at all. memory_mb: limit of every child process that runs a model on the CPU.
    progress(done, total, what): seconds of measuring. note(sentence): what is worth knowing before it starts.

    What can't be measured becomes a row with verdict `refused` and its sentence; nothing is raised for a gate (see
    `Validation.exit_code`). Raises: ModelError, DataError, InputError for what can't be used at all.
    """
    if max_drop is not None and dataset is None:
        raise InputError("A largest drop is asked for without data to measure it on. Give a data set.")
    if (conditions or train_data is not None) and dataset is None:
        raise InputError("Conditions and training data go with data to compare them with. Give a data set.")
    if (max_drop is not None and max_drop < 0) or (min_speedup is not None and min_speedup <= 0):
        raise InputError(f"max_drop is {max_drop}, min_speedup {min_speedup}. Give a drop >= 0 and a speed-up > 0.")
    if min_speedup is not None and not latency:
        raise InputError("A speed-up is asked for without measuring latency. Leave one of the two out.")
    if not providers or not batches or not threads:
        raise InputError("There is no provider, batch or thread count to measure with. Give at least one of each.")
    data = None if dataset is None else load_dataset(dataset)
    chosen = find_metric(metric)
    paths = (os.fspath(reference), os.fspath(candidate))
    memory_mb = memory_for(*paths) if memory_mb is None else memory_mb
    figures = [measure_figures(path) for path in paths]
    elsewhere = compare_elsewhere(measured, [found.sha256 for found in figures]) if measured else []
    if note and max_drop and data is not None:
        note(sample_size_note(max_drop, len(data), chosen))
    machine = environment()
    plan = [
        (provider, batch, cores)
        for provider in (providers if latency and not measured else ())
        for batch in batches
        for cores in (threads if provider == "cpu" else (1,))
    ]
    total = int(seconds * sum(why_refused(provider) is None for provider, _, _ in plan))

    if equivalence is None and tolerance is not None:
        equivalence = _prove_in_child(paths, tolerance, data, seed, memory_mb)
    rows: list[AccuracyRow] = []
    agreement: list[ProviderAgreement] = []
    if data is not None:
        if progress:
            progress(0, total, "accuracy")
        judge = _Judge(paths, chosen, memory_mb)
        rows = [judge.row(data, provider, max_drop) for provider in providers]
        agreement = judge.agreement(providers)
        for condition in conditions:
            under = dataclasses.replace(data, inputs=disturb(data.inputs, condition))
            rows.append(judge.row(under, providers[0], None, CONDITIONS[condition][1]))
        if train_data is not None:
            rows.append(judge.row(load_dataset(train_data), providers[0], None, TRAINING))
    comparisons: list[LatencyComparison] = list(elsewhere)
    samples = None if data is None else _some(data, paths[0])
    for index, (provider, batch, cores) in enumerate(plan):
        comparisons.append(
            compare_latency(
                {"reference": paths[0], "candidate": paths[1]},
                provider=provider,
                batch=batch,
                threads=cores,
                seconds=seconds,
                until=until,
                cuda_graph=cuda_graph,
                seed=seed,
                inputs=samples,
                memory_mb=memory_mb,
                progress=_shifted(progress, int(index * seconds), total),
            )
        )
    machine["load_average_after"] = load_average()
    diagnoses = _in_child(diagnose_all, [list(paths)], memory_mb) or ()
    counting = frozenset((c.provider for c in elsewhere) if measured else providers if asked is None else asked)
    return Validation(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        reference=figures[0],
        candidate=figures[1],
        equivalence=equivalence,
        accuracy=tuple(rows),
        latency=tuple(comparisons),
        environment=machine,
        gates=decide_gates(equivalence, rows, comparisons, asked=counting, min_speedup=min_speedup),
        data=None if data is None else DataUsed(data.name, len(data), data.sha256),
        agreement=tuple(agreement),
        findings=(*findings(diagnoses), *losses_in_words(rows), *gap_in_words(rows)),
        diagnoses=tuple(diagnoses),
        operators=tuple(_in_child(_operators, [paths, samples, seed], memory_mb) or ()) if plan else (),
        energy=tuple(estimate(found.macs, found.size_bytes) for found in figures),
    )


def diagnose_all(paths: Sequence[str]) -> list[Diagnosis]:
    """The diagnosis of each model."""
    return [diagnose(path) for path in paths]


def findings(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """What is worth saying of the candidate, the last of two; of the only model where there is one."""
    if not diagnoses:
        return []
    return diagnoses[-1].sentences(diagnoses[0] if len(diagnoses) > 1 else None)


def explain_speed(paths: Mapping[str, str]) -> list[str]:
    """Why models {name: path} are, or aren't, faster than the first: sentences, each with the model's name."""
    first, *others = paths
    seen = {name: _in_child(diagnose, [path], memory_for(path)) for name, path in paths.items()}
    if seen[first] is None:
        return []
    found = [f"{first}: {words}" for words in seen[first].sentences()]
    for name in others:
        found += [f"{name}: {words}" for words in seen[name].sentences(seen[first])] if seen[name] else []
    return found


def sample_size_note(max_drop: float, samples: int, metric: Metric) -> str:
    """How many samples the margin needs, said before anything is run."""
    if metric.aggregate is not None or not metric.share:
        return f"How many samples a margin of {max_drop:g} needs depends on how {metric.name} varies."
    return (
        f"A margin of {in_points(max_drop)} needs about {samples_needed(max_drop):,} samples if the models "
        f"disagree on {EXPECTED_DISCORDANCE:.0%} of them (for 80% of the runs to pass where nothing was lost); "
        f"there are {samples:,}."
    )


def losses_in_words(rows: Sequence[AccuracyRow]) -> list[str]:
    """Samples that only one of the models gets right, and the class that lost most, of the data as they are."""
    found = []
    for row in rows:
        if row.condition or row.difference is None:
            continue
        parts = []
        if row.only_reference_right or row.only_candidate_right:
            parts.append(
                f"{row.only_reference_right:,} of {row.samples:,} samples only the reference gets right, "
                f"{row.only_candidate_right:,} only the candidate"
            )
        if row.worst_class is not None:
            worst = row.worst_class
            style = ".2%" if is_share(row) else ".4g"
            parts.append(
                f"class {worst.label} lost most, from {worst.reference:{style}} to {worst.candidate:{style}} of its "
                f"{worst.samples:,} samples"
            )
        if parts:
            found.append(f"{row.metric}, {row.provider}: {'; '.join(parts)}.")
    return found


def gap_in_words(rows: Sequence[AccuracyRow]) -> list[str]:
    """The generalisation gap before and after, where accuracy on the training data was measured."""
    training = next((row for row in rows if row.condition == TRAINING and row.difference is not None), None)
    if training is None:
        return []
    test = next(r for r in rows if r.provider == training.provider and not r.condition)
    if test.difference is None:
        return []
    sign, scale = (1 if test.higher_is_better else -1), (100 if test.share else 1)
    before, after = (sign * scale * (getattr(training, arm) - getattr(test, arm)) for arm in ("reference", "candidate"))
    unit = " points" if test.share else ""
    return [f"Generalisation gap (training against test data): {before:.2f}{unit} before, {after:.2f}{unit} after."]


def _in_child(function: Callable, arguments: Sequence[Any], memory_mb: int | None) -> Any:
    """What `function` says, None where the model doesn't survive it: its row in the table says why already."""
    try:
        return run_in_child(function, *arguments, memory_mb=memory_mb, timeout_s=patience_s(CHILD_TIMEOUT_S))
    except OnnxPruneError:
        return None


def _operators(paths: Sequence[str], inputs: Mapping[str, np.ndarray] | None, seed: int) -> tuple[OperatorTime, ...]:
    feed = runnable_feeds(paths[0], batches=(1,), inputs=inputs, seed=seed)[-1 if inputs else 0]
    return operator_times(paths, feed)


def _some(data: Dataset, path: str) -> dict[str, np.ndarray]:
    """A few real samples by input name, as the model takes them."""
    return {name: array[:LATENCY_SAMPLES] for name, array in fit_samples(read_inputs(path), data.inputs).items()}


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
    inputs = None if data is None else _some(data, paths[0])
    limits = {"memory_mb": memory_mb, "timeout_s": patience_s(CHILD_TIMEOUT_S)}
    try:
        return run_in_child(prove, *paths, tolerance=tolerance, inputs=inputs, seed=seed, **limits)
    except RuntimeFailure as error:
        raise RuntimeFailure(f"Comparing the outputs of '{paths[0]}' and '{paths[1]}' {error}.") from error


class _Judge:
    """Runs both models on data, and remembers what they gave, so that providers can be compared too."""

    def __init__(self, paths: tuple[str, str], metric: Metric, memory_mb: int | None) -> None:
        self.paths, self.metric, self.memory_mb = dict(zip(ARMS, paths, strict=True)), metric, memory_mb
        self.recorded: dict[tuple[str, str], Recording] = {}

    def row(self, data: Dataset, provider: Provider, max_drop: float | None, condition: str = "") -> AccuracyRow:
        """One row; outputs are recorded in child processes, and scored here, so that any callable can be the metric."""
        row = AccuracyRow(
            provider,
            self.metric.name,
            len(data),
            *[None] * 5,
            max_drop,
            None,
            None,
            "refused",
            higher_is_better=self.metric.higher_is_better,
            share=self.metric.share,
            condition=condition,
        )
        reason = why_refused(provider)
        if reason:
            return dataclasses.replace(row, reason=reason)
        scores: list[Scores] = []
        placed: dict[str, Mapping[str, int]] = {}
        for name in ARMS:
            try:
                recorded = self._record(name, data, provider)
                scores.append(score_outputs(recorded.outputs, data, self.metric))
            except RuntimeFailure as error:
                return dataclasses.replace(row, reason=f"The {name} {error}.")
            except OnnxPruneError as error:
                if error.exit_code == 2:
                    raise  # data or model that can't be used at all
                return dataclasses.replace(row, reason=f"The {name} can't be measured: {error}")
            placed[name] = recorded.nodes_per_provider
            if not condition:
                self.recorded[name, provider] = recorded
        return dataclasses.replace(
            filled_row(row, scores, data.targets, self.metric, max_drop), nodes_per_provider=placed
        )

    def agreement(self, providers: Sequence[Provider]) -> list[ProviderAgreement]:
        """Each model's outputs on the first provider against those on the others."""
        found = []
        for name in ARMS:
            for other in providers[1:]:
                pair = [self.recorded.get((name, provider)) for provider in (providers[0], other)]
                if None in pair:
                    continue
                runs = [lambda feed, recorded=recorded: dict(recorded.outputs) for recorded in pair]
                found.append(ProviderAgreement(name, (providers[0], other), compare_outputs(*runs, [{}])))
        return found

    def _record(self, name: str, data: Dataset, provider: Provider) -> Recording:
        return run_in_child(
            record,
            self.paths[name],
            data,
            SessionSettings(provider=provider, threads=0),
            memory_mb=self.memory_mb if provider == "cpu" else None,
            timeout_s=patience_s(CHILD_TIMEOUT_S),
        )


def filled_row(
    row: AccuracyRow, scores: Sequence[Scores], targets: np.ndarray, metric: Metric, max_drop: float | None
) -> AccuracyRow:
    """The row with the scores of (reference, candidate) compared in pairs."""
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
        exact_p=compared.exact_p,
        worst_class=worst_class(*scores, targets, metric),
    )


def _shifted(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Progress of one comparison as part of the whole."""
    if progress is None:
        return None
    return lambda seconds, _, what: progress(min(done + seconds, total), total, what)
