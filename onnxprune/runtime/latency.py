"""Which model is faster, and is that so? Latency of two or more models, measured side by side.

The protocol, each part of which was needed to make a model equal to itself: sessions are created again and again in
random order (two sessions of one model differ by about 1%), all arms of a round share its moment and take turns, no
session spins while another runs, several fresh processes take part, and the interval comes from rounds, not from runs.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from onnxprune.errors import InputError, OnnxPruneError
from onnxprune.runtime.children import RuntimeFailure, run_in_child
from onnxprune.runtime.environment import load_average
from onnxprune.runtime.equivalence import runnable_feeds
from onnxprune.runtime.feeds import Feed, read_inputs, static_batch
from onnxprune.runtime.session import Provider, SessionSettings, why_refused
from onnxprune.runtime.statistics import log_ratio_interval
from onnxprune.runtime.stopwatch import LEAST_TURNS, WARM_UP_S, Probe, Round, measure, probe

LatencyVerdict = Literal["faster", "slower", "same", "inconclusive"]
Progress = Callable[[int, int, str], None]

DIFFERENT = 0.01  # faster or slower: the whole interval lies outside 1 +- this
SAME = 0.02  # same: the whole interval lies inside 1 +- this
P99_SAMPLES = 299  # fewer samples bound no 99th percentile with 95% confidence: 1 - 0.99**299 = 0.95
PROCESSES = 4
LEAST_ROUNDS = 6
ROUND_S = 0.25
START_S = 0.4  # a child process, until it measures
PROBE_TIMEOUT_S = 300.0


@dataclasses.dataclass(frozen=True)
class Arm:
    """One model's times in ms, over all rounds. p99_ms needs 299 samples; first run, session creation and peak memory
    (of a process that does nothing but run this model) were taken apart from the others."""

    name: str
    median_ms: float
    p90_ms: float
    p99_ms: float | None
    first_run_ms: float
    session_ms: float
    peak_memory_mb: float | None
    samples: int
    nodes_per_provider: Mapping[str, int] = dataclasses.field(default_factory=dict)
    copies: int | None = None
    libraries: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Time of the model `name` over the reference's, with its 95% interval.

    Taken round by round from lower quartiles (see `statistics.log_ratio_interval`), so it needn't be the ratio of the
    arms' medians to the last digit.
    """

    name: str
    ratio: float
    low: float
    high: float
    verdict: LatencyVerdict

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.ratio:.3f} of the reference's time [{self.low:.3f}, {self.high:.3f}], {self.verdict}"
        )


@dataclasses.dataclass(frozen=True)
class LatencyComparison:
    """Arms and their ratios to the first, the reference.

    refused: the sentence that says why nothing was measured; failures: {name: sentence} of single models that crashed,
    hung or can't be run here, the others having been measured all the same. threads 0 means all cores.
    """

    provider: Provider
    batch: int
    threads: int
    arms: tuple[Arm, ...]
    ratios: tuple[Ratio, ...]
    refused: str | None = None
    failures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0
    load_before: float | None = None
    load_after: float | None = None

    def __str__(self) -> str:
        head = f"{self.provider}, batch {self.batch}, {self.threads or 'all'} threads"
        lines = [f"{head}: refused, {self.refused}"] if self.refused else [f"{head}, {self.rounds} rounds:"]
        lines += [f"  {arm.name}: median {arm.median_ms:.3f} ms, p90 {arm.p90_ms:.3f} ms" for arm in self.arms]
        lines += [f"  {ratio}" for ratio in self.ratios]
        return "\n".join(lines + [f"  {name}: {sentence}" for name, sentence in self.failures.items()])


def compare_latency(
    models: Mapping[str, str | Path],
    *,
    provider: Provider = "cpu",
    batch: int = 1,
    threads: int = 1,
    seconds: float = 20.0,
    seed: int = 0,
    inputs: Mapping[str, np.ndarray] | None = None,
    memory_mb: int | None = None,
    progress: Progress | None = None,
) -> LatencyComparison:
    """Measure `models`, {name: path}, side by side for about `seconds` (more if six rounds take more).

    The first is the reference. inputs: real samples per input name to run on (default: random ones). memory_mb: what
    a child process may take (CPU only: CUDA maps more address space than any limit allows for). A provider that isn't
    there and models that can't be measured come back as sentences, not as errors.
    Raises: InputError (fewer than two models, no time), ModelError (the reference isn't an ONNX file).
    """
    if len(models) < 2 or batch < 1 or seconds <= 0:
        raise InputError(f"{len(models)} models, batch {batch}, {seconds:g} s: give two models, a batch and a time.")
    settings = SessionSettings(provider=provider, threads=threads)
    paths = {name: os.fspath(path) for name, path in models.items()}
    start, load_before = time.monotonic(), load_average()

    def report(what: str) -> None:
        if progress:
            progress(min(int(time.monotonic() - start), int(seconds)), int(seconds), what)

    def refuse(sentence: str, failures: Mapping[str, str] | None = None) -> LatencyComparison:
        return LatencyComparison(
            provider, batch, threads, (), (), sentence, failures or {}, 0, time.monotonic() - start, load_before, None
        )

    reason = why_refused(provider)
    if reason:
        return refuse(reason)
    reference = next(iter(paths))
    fixed = {name: static_batch(read_inputs(path)) for name, path in paths.items()}
    for name, size in fixed.items():
        if size not in (None, batch):
            return refuse(f"'{name}' has a fixed batch of {size}, not {batch}. Export it with a dynamic batch.")
    memory_mb = memory_mb if provider == "cpu" else None
    try:
        feed = run_in_child(
            _latency_feed, paths[reference], batch, inputs, seed, memory_mb=memory_mb, timeout_s=PROBE_TIMEOUT_S
        )
    except OnnxPruneError as error:
        return refuse(_sentence(reference, error))
    bench = _Bench(paths, settings, feed, memory_mb, seed, report)
    probes, failures = bench.probe_all()
    if reference in failures or len(probes) < 2:
        return refuse("; ".join(failures.values()), failures)
    rounds, trouble = bench.measure_all(probes, max(start + seconds, time.monotonic() + seconds / 2))
    if len(rounds) < 2:
        return refuse(f"Each of {', '.join(probes)} ran alone, but measuring them in turn {trouble}.", failures)
    report("done")
    times = {name: [measured.times_ms[k] for measured in rounds] for k, name in enumerate(probes)}
    ratios = [_ratio(name, times[reference], times[name], seed) for name in probes if name != reference]
    return LatencyComparison(
        provider=provider,
        batch=batch,
        threads=threads,
        arms=tuple(_arm(name, np.concatenate(times[name]), probes[name]) for name in probes),
        ratios=tuple(ratios),
        failures=failures,
        rounds=len(rounds),
        seconds=time.monotonic() - start,
        load_before=load_before,
        load_after=load_average(),
    )


def latency_verdict(low: float, high: float) -> LatencyVerdict:
    """What the interval of the ratio new/reference says; the dead band keeps noise from being news."""
    if high < 1 - DIFFERENT:
        return "faster"
    if low > 1 + DIFFERENT:
        return "slower"
    if low >= 1 - SAME and high <= 1 + SAME:
        return "same"
    return "inconclusive"


def _latency_feed(model: str, batch: int, inputs: Mapping[str, np.ndarray] | None, seed: int) -> Feed:
    """What to time on: real samples where there are some, else random ones (the first and last of each group)."""
    return runnable_feeds(model, batches=(batch,), inputs=inputs, seed=seed)[-1 if inputs else 0]


def _sentence(name: str, error: OnnxPruneError) -> str:
    """What went wrong with one model; a RuntimeFailure is the end of a sentence that starts with who failed."""
    return f"'{name}' {error}." if isinstance(error, RuntimeFailure) else f"'{name}' can't be measured: {error}"


@dataclasses.dataclass(frozen=True)
class _Bench:
    """What all child processes of one comparison have in common."""

    paths: Mapping[str, str]
    settings: SessionSettings
    feed: Feed
    memory_mb: int | None
    seed: int
    report: Callable[[str], None]

    def probe_all(self) -> tuple[dict[str, Probe], dict[str, str]]:
        """Each model alone in a process of its own: what it showed, and {name: sentence} for those that failed."""
        probes: dict[str, Probe] = {}
        failures: dict[str, str] = {}
        for name, path in self.paths.items():
            self.report(f"opening {name}")
            try:
                probes[name] = run_in_child(
                    probe, path, self.settings, self.feed, memory_mb=self.memory_mb, timeout_s=PROBE_TIMEOUT_S
                )
            except OnnxPruneError as error:
                failures[name] = _sentence(name, error)
        return probes, failures

    def measure_all(self, probes: Mapping[str, Probe], end: float) -> tuple[list[Round], str]:
        """Rounds from several fresh processes until `end` (of time.monotonic), and the last one's trouble if any."""
        preparing_s = sum(probe.session_ms / 1e3 + WARM_UP_S / 2 for probe in probes.values())
        turns_s = LEAST_TURNS * sum(probe.run_ms / 1e3 for probe in probes.values())
        round_s = preparing_s + max(ROUND_S, turns_s)
        processes = max(1, min(PROCESSES, int((end - time.monotonic()) / (2 * round_s))))
        least_rounds = math.ceil(LEAST_ROUNDS / processes)
        rounds: list[Round] = []
        trouble = ""
        for process in range(processes):
            self.report(f"measuring, process {process + 1} of {processes}")
            # A process ends half a round late on the average, and starting it takes time too.
            seconds = max(0.0, (end - time.monotonic()) / (processes - process) - round_s / 2 - START_S)
            try:
                rounds += run_in_child(
                    measure,
                    [self.paths[name] for name in probes],
                    self.settings,
                    self.feed,
                    seconds=seconds,
                    round_s=ROUND_S,
                    least_rounds=least_rounds,
                    seed=self.seed * PROCESSES + process,
                    memory_mb=self.memory_mb,
                    timeout_s=60 + 5 * (seconds + least_rounds * round_s),
                )
            except OnnxPruneError as error:
                trouble = str(error)
        return rounds, trouble


def _ratio(name: str, reference: list[np.ndarray], new: list[np.ndarray], seed: int) -> Ratio:
    ratio, low, high = log_ratio_interval(list(zip(reference, new, strict=True)), seed=seed)
    return Ratio(name, ratio, low, high, latency_verdict(low, high))


def _arm(name: str, times_ms: np.ndarray, seen: Probe) -> Arm:
    return Arm(
        name=name,
        median_ms=float(np.median(times_ms)),
        p90_ms=float(np.quantile(times_ms, 0.9)),
        p99_ms=float(np.quantile(times_ms, 0.99)) if len(times_ms) >= P99_SAMPLES else None,
        first_run_ms=seen.first_run_ms,
        session_ms=seen.session_ms,
        peak_memory_mb=seen.peak_memory_mb,
        samples=len(times_ms),
        nodes_per_provider=seen.placement.nodes_per_provider,
        copies=seen.placement.copies,
        libraries=seen.libraries,
    )
