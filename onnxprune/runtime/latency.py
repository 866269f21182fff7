"""Which model is faster, and is that so? Latency of two or more models, measured side by side.

The protocol, each part of which was needed to make a model equal to itself: sessions are created again and again in
random order (two sessions of one model differ by about 1%), all arms of a round share its moment and take turns, no
session spins while another runs, several fresh processes take part, and the interval comes from rounds, not from runs.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from onnxprune.errors import InputError, OnnxPruneError
from onnxprune.runtime import cuda, nvml
from onnxprune.runtime.children import RuntimeFailure, patience_s, run_in_child
from onnxprune.runtime.environment import load_average
from onnxprune.runtime.equivalence import runnable_feeds
from onnxprune.runtime.feeds import Feed, read_inputs, static_batch
from onnxprune.runtime.session import Provider, SessionSettings, why_refused
from onnxprune.runtime.statistics import log_ratio_interval
from onnxprune.runtime.stopwatch import LEAST_TURNS, NOBODY, WARM_UP_S, Probe, Round, measure, probe

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
STUCK_S = 30.0  # a process that measures may be late by this much, and by twice its time, before it is stopped
UNTIL_SLICE_S = 5.0  # with a precision to reach, a process measures this long before the interval is looked at


@dataclasses.dataclass(frozen=True)
class Arm:
    """One model's times in ms, over all rounds. p99_ms needs 299 samples; first run, session creation and peak memory
    (of a process that does nothing but run this model) were taken apart from the others. end_to_end_ms: CUDA only,
    median with inputs and outputs in host memory, where the other times are the device's alone. energy_mj: millijoules
    of one inference, measured as `energy_source` says; None where nothing here measures energy."""

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
    end_to_end_ms: float | None = None
    energy_mj: float | None = None
    energy_source: str | None = None


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Time of the model `name` over the reference's, with its 95% interval.

    Taken round by round from lower quartiles (see `statistics.log_ratio_interval`), so it needn't be the ratio of the
    arms' medians to the last digit. more_seconds: where the verdict is `inconclusive`, about how much longer to measure
    for one.
    """

    name: str
    ratio: float
    low: float
    high: float
    verdict: LatencyVerdict
    more_seconds: float | None = None

    @property
    def half_width(self) -> float:
        """Half the interval's width, as a fraction of the reference's time."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.ratio:.3f} of the reference's time [{self.low:.3f}, {self.high:.3f}], {self.verdict}"
            f"{'' if self.more_seconds is None else f' (measure about {self.more_seconds:.0f} s longer)'}"
        )


@dataclasses.dataclass(frozen=True)
class LatencyComparison:
    """Arms and their ratios to the first, the reference.

    refused: the sentence that says why nothing was measured; failures: {name: sentence} of single models that crashed,
    hung or can't be run here, the others having been measured all the same. threads 0 means all cores. settings: what
    both arms ran with; device: the GPU and its driver; clocks: its clocks before and after and what held them down.
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
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    device: str | None = None
    clocks: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)

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
    until: float | None = None,
    seed: int = 0,
    inputs: Mapping[str, np.ndarray] | None = None,
    memory_mb: int | None = None,
    cuda_graph: bool = False,
    tf32: bool = False,
    progress: Progress | None = None,
) -> LatencyComparison:
    """Measure `models`, {name: path}, side by side for about `seconds` (more if six rounds take more).

    The first is the reference. until: stop earlier, as soon as every interval's half-width is at most this (0.01 is
    1%). inputs: real samples per input name to run on (default: random ones). memory_mb: what a model may take (CPU
    only: CUDA maps more address space than any limit allows for). A provider that isn't there and models that can't be
    measured come back as sentences, not as errors.
    Raises: InputError (fewer than two models, no time), ModelError (the reference isn't an ONNX file).
    """
    if len(models) < 2 or batch < 1 or seconds <= 0 or (until is not None and until <= 0):
        many = f"{len(models)} model{'' if len(models) == 1 else 's'}"
        raise InputError(f"{many}, batch {batch}, {seconds:g} s: give two models, a batch and a time.")
    cuda_graph = cuda_graph and provider == "cuda"
    settings = SessionSettings(provider=provider, threads=threads, cuda_graph=cuda_graph, tf32=tf32)
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
            _latency_feed,
            paths[reference],
            batch,
            inputs,
            seed,
            memory_mb=memory_mb,
            timeout_s=patience_s(PROBE_TIMEOUT_S),
        )
    except OnnxPruneError as error:
        return refuse(_sentence(reference, error))
    clocks = {"before": nvml.clocks()} if provider == "cuda" else {}
    bench = _Bench(paths, settings, feed, memory_mb, seed, report)
    bench.probe_all()
    if reference in bench.failures or len(bench.probes) < 2:
        return refuse("; ".join(bench.failures.values()), bench.failures)
    bench.measure_all(max(start + seconds, time.monotonic() + seconds / 2), until)
    if reference in bench.failures or len(bench.probes) < 2:
        return refuse("; ".join(bench.failures.values()), bench.failures)
    if len(bench.times_ms[reference]) < 2:
        names = ", ".join(bench.probes)
        return refuse(f"Each of {names} ran alone, but measuring them in turn {bench.trouble}.", bench.failures)
    report("done")
    if clocks:
        clocks["after"] = nvml.clocks()
    return LatencyComparison(
        provider=provider,
        batch=batch,
        threads=threads,
        arms=tuple(
            _arm(name, np.concatenate(bench.times_ms[name]), seen, batch) for name, seen in bench.probes.items()
        ),
        ratios=tuple(bench.ratios(time.monotonic() - start)),
        failures=bench.failures,
        rounds=len(bench.times_ms[reference]),
        seconds=time.monotonic() - start,
        load_before=load_before,
        load_after=load_average(),
        settings=settings.as_dict(),
        device=_device() if provider == "cuda" else None,
        clocks=clocks,
    )


def _device() -> str:
    """The GPU's name and its driver."""
    return f"{', '.join(cuda.device_names())}, driver {nvml.driver_version() or 'unknown'}"


def latency_verdict(low: float, high: float) -> LatencyVerdict:
    """What the interval of the ratio new/reference says; the dead band keeps noise from being news."""
    if high < 1 - DIFFERENT:
        return "faster"
    if low > 1 + DIFFERENT:
        return "slower"
    if low >= 1 - SAME and high <= 1 + SAME:
        return "same"
    return "inconclusive"


def more_seconds(low: float, ratio: float, high: float, measured_s: float) -> float | None:
    """About how much longer to measure for a verdict, None where there is one or where no time would bring one.

    Half-widths fall with the square root of time: until the interval is clear of the nearest border that it may keep.
    """
    if latency_verdict(low, high) != "inconclusive":
        return None
    rooms = (1 - DIFFERENT - ratio, ratio - (1 + DIFFERENT), min(ratio - (1 - SAME), 1 + SAME - ratio))
    room = max(rooms)
    if room <= 0:
        return None
    return measured_s * max(0.25, (max(high - ratio, ratio - low) / room) ** 2 - 1)


def _latency_feed(model: str, batch: int, inputs: Mapping[str, np.ndarray] | None, seed: int) -> Feed:
    """What to time on: real samples where there are some, else random ones (the first and last of each group)."""
    return runnable_feeds(model, batches=(batch,), inputs=inputs, seed=seed)[-1 if inputs else 0]


def _sentence(name: str, error: OnnxPruneError) -> str:
    """What went wrong with one model; a RuntimeFailure is the end of a sentence that starts with who failed."""
    return f"'{name}' {error}." if isinstance(error, RuntimeFailure) else f"'{name}' can't be measured: {error}"


class _Bench:
    """What all child processes of one comparison have in common, and what they brought back.

    probes: {name: what the model did alone} of those that are still in; failures: {name: sentence} of the others;
    times_ms: {name: times of each round}; trouble: how the last process ended that brought nothing, if one did.
    """

    def __init__(
        self,
        paths: Mapping[str, str],
        settings: SessionSettings,
        feed: Feed,
        memory_mb: int | None,
        seed: int,
        report: Callable[[str], None],
    ) -> None:
        self.paths, self.settings, self.feed, self.memory_mb, self.seed = paths, settings, feed, memory_mb, seed
        self.report = report
        self.probes: dict[str, Probe] = {}
        self.failures: dict[str, str] = {}
        self.times_ms: dict[str, list[np.ndarray]] = {name: [] for name in paths}
        self.trouble = ""

    def probe_all(self) -> None:
        """Each model alone in a process of its own."""
        for name, path in self.paths.items():
            self.report(f"opening {name}")
            try:
                self.probes[name] = run_in_child(
                    probe,
                    path,
                    self.settings,
                    self.feed,
                    memory_mb=self.memory_mb,
                    timeout_s=patience_s(PROBE_TIMEOUT_S),
                )
            except OnnxPruneError as error:
                self.failures[name] = _sentence(name, error)

    def measure_all(self, end: float, until: float | None) -> None:
        """Rounds from several fresh processes until `end` (of time.monotonic), or until they are precise enough."""
        reference = next(iter(self.paths))
        round_s = self._round_s()
        left_s = end - time.monotonic()
        slices = math.ceil(left_s / UNTIL_SLICE_S) if until is not None else 0
        processes = max(1, min(max(PROCESSES, slices), int(left_s / (2 * round_s))))
        least_rounds = math.ceil(LEAST_ROUNDS / processes)
        for process in range(processes):
            self.report(f"measuring, process {process + 1} of {processes}")
            # A process ends half a round late on the average, and starting it takes time too.
            seconds = max(0.0, (end - time.monotonic()) / (processes - process) - round_s / 2 - START_S)
            self._measure(seconds, least_rounds, process, STUCK_S + 3 * (seconds + least_rounds * round_s))
            if reference in self.failures or len(self.probes) < 2:
                return
            enough = process + 1 >= PROCESSES and len(self.times_ms[reference]) >= LEAST_ROUNDS
            if until is not None and enough and all(ratio.half_width <= until for ratio in self.ratios(0.0)):
                return

    def _round_s(self) -> float:
        """How long a round takes: opening and warming up all arms, then their turns."""
        preparing_s = sum(probe.session_ms / 1e3 + WARM_UP_S / 2 for probe in self.probes.values())
        return preparing_s + max(ROUND_S, LEAST_TURNS * sum(probe.run_ms / 1e3 for probe in self.probes.values()))

    def _measure(self, seconds: float, least_rounds: int, process: int, timeout_s: float) -> None:
        """One process's rounds. If it dies, the arm whose turn it was is out, and the others' rounds stay."""
        names = list(self.probes)
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
            turn = Path(folder) / "turn"
            turn.write_bytes(bytes([NOBODY]))
            try:
                rounds: list[Round] = run_in_child(
                    measure,
                    [self.paths[name] for name in names],
                    self.settings,
                    self.feed,
                    seconds=seconds,
                    round_s=ROUND_S,
                    least_rounds=least_rounds,
                    seed=self.seed * PROCESSES + process,
                    turn=str(turn),
                    memory_mb=self.memory_mb and self.memory_mb * len(names),  # each arm has a session of its own
                    timeout_s=timeout_s,
                )
            except OnnxPruneError as error:
                self.trouble = str(error)
                (whose,) = turn.read_bytes()
                if whose < len(names):
                    name = names[whose]
                    self.failures[name] = f"While it was measured, {_sentence(name, error)}"
                    del self.probes[name], self.times_ms[name]
                return
        for measured in rounds:
            for name, times in zip(names, measured.times_ms, strict=True):
                self.times_ms[name].append(times)

    def ratios(self, measured_s: float) -> list[Ratio]:
        """Each measured model against the reference; `measured_s` is what it took to get there."""
        reference, *others = self.probes
        found = []
        for name in others:
            rounds = list(zip(self.times_ms[reference], self.times_ms[name], strict=True))
            ratio, low, high = log_ratio_interval(rounds, seed=self.seed)
            longer = more_seconds(low, ratio, high, measured_s)
            found.append(Ratio(name, ratio, low, high, latency_verdict(low, high), longer))
        return found


def _arm(name: str, times_ms: np.ndarray, seen: Probe, batch: int) -> Arm:
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
        end_to_end_ms=seen.end_to_end_ms,
        energy_mj=None if seen.energy_mj is None else seen.energy_mj / batch,
        energy_source=seen.energy_source,
    )
