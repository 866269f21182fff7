"""The child's side of latency: sessions made again and again, arms timed in turn. Imports as little as it can."""

from __future__ import annotations

import dataclasses
import gc
import math
import mmap
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from onnxprune.runtime import cuda, energy
from onnxprune.runtime.session import Placement, SessionSettings, open_session, profiled_placement

BURST_S = 0.01  # an arm runs this long (or once) before it is another's turn
LEAST_TURNS = 3  # of each arm in a round
WARM_UP_S = 0.1
WARM_UP_RUNS = 5  # in one of the windows that must agree
NOBODY = 255  # whose turn it is while nobody's model is opened or run
END_TO_END_S = 0.5
ENERGY_S = 2.0  # energy counters move in steps of milliseconds: an inference is measured by many


@dataclasses.dataclass(frozen=True)
class Probe:
    """What one arm does when it runs alone in a fresh process."""

    session_ms: float
    first_run_ms: float
    run_ms: float
    peak_memory_mb: float | None
    placement: Placement
    libraries: tuple[str, ...]
    end_to_end_ms: float | None = None
    energy_mj: float | None = None
    energy_source: str | None = None


@dataclasses.dataclass(frozen=True)
class Round:
    """Times in ms of every arm in one round, in which each had a new session; arms in the order of the models."""

    times_ms: tuple[np.ndarray, ...]


def probe(model: str, settings: SessionSettings, feed: Mapping[str, np.ndarray]) -> Probe:
    """Open and run one model: creation, first run, a warm run, peak memory, energy, proof of placement.

    energy_mj: of one run, whatever its batch.
    """
    start = time.perf_counter()
    session = open_session(model, settings)
    session_ms = (time.perf_counter() - start) * 1e3
    run = runner(session, settings, feed)
    first_run_ms = run() * 1e3
    run_ms = warm_up(run) * 1e3
    peak_memory_mb = _peak_memory_mb()
    energy_mj, source = _energy_mj(run, settings)
    where = profiled_placement(model, dataclasses.replace(settings, cuda_graph=False), feed)
    return Probe(
        session_ms,
        first_run_ms,
        run_ms,
        peak_memory_mb,
        where,
        tuple(cuda.mapped_libraries()),
        _end_to_end_ms(model, settings, feed) if settings.provider == "cuda" else None,
        energy_mj,
        source,
    )


def _end_to_end_ms(model: str, settings: SessionSettings, feed: Mapping[str, np.ndarray]) -> float:
    """Median of a run whose inputs come from and whose outputs go to host memory."""
    session = open_session(model, dataclasses.replace(settings, cuda_graph=False))
    names, clock = [output.name for output in session.get_outputs()], time.perf_counter
    for _ in range(WARM_UP_RUNS):
        session.run(names, dict(feed))
    times, end = [], clock() + END_TO_END_S
    while len(times) < WARM_UP_RUNS or clock() < end:
        start = clock()
        session.run(names, dict(feed))
        times.append(clock() - start)
    return float(np.median(times)) * 1e3


def _energy_mj(run: Callable[[], float], settings: SessionSettings) -> tuple[float | None, str | None]:
    """Millijoules of one run by a counter of the machine, and which one; nothing where there is none."""
    counter = energy.counter(settings.provider)
    if counter is None:
        return None, None
    runs, end, before = 0, time.perf_counter() + ENERGY_S, counter.read_mj()
    while time.perf_counter() < end:
        run()
        runs += 1
    after = counter.read_mj()
    return (after - before) / runs if after > before else None, counter.name


def measure(
    models: Sequence[str],
    settings: SessionSettings,
    feed: Mapping[str, np.ndarray],
    *,
    seconds: float,
    round_s: float,
    least_rounds: int,
    seed: int,
    turn: str | None = None,
) -> list[Round]:
    """Rounds until `seconds` are over, at least `least_rounds`: sessions made, warmed up and timed in random order.

    turn: a file of one byte that says at any moment which arm is opened or run, should this process not survive it.
    """
    order = random.Random(seed)
    announce = _announcer(turn)
    rounds: list[Round] = []
    end = time.perf_counter() + seconds
    gc.disable()  # a collection inside a run would be timed with it
    while len(rounds) < least_rounds or time.perf_counter() < end:
        rounds.append(_round(models, settings, feed, round_s, order, announce))
        gc.collect()
    return rounds


def runner(
    session: onnxruntime.InferenceSession, settings: SessionSettings, feed: Mapping[str, np.ndarray]
) -> Callable[[], float]:
    """A function that runs the session once and says how long that took, in seconds.

    On the CPU that is what a caller's `session.run` takes; on CUDA inputs and outputs stay on the device (IOBinding),
    with a CUDA graph at addresses that never change.
    """
    clock = time.perf_counter
    if settings.provider == "cpu":
        names, arrays = [output.name for output in session.get_outputs()], dict(feed)

        def run() -> float:
            start = clock()
            session.run(names, arrays)
            return clock() - start

        return run

    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, settings.provider, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, settings.provider)
    if settings.cuda_graph:
        session.run_with_iobinding(binding)  # says what the outputs look like; they are bound anew, where they stay
        found = dict(zip((output.name for output in session.get_outputs()), binding.get_outputs(), strict=True))
        for name, value in found.items():
            binding.bind_ortvalue_output(name, value)

    def run_bound() -> float:
        start = clock()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return clock() - start

    return run_bound


def warm_up(run: Callable[[], float]) -> float:
    """Run until two windows agree within 5%, or WARM_UP_S is over; the fastest window's median in seconds."""
    end = time.perf_counter() + WARM_UP_S
    previous = fastest = math.inf
    while True:
        window = [run()]
        while len(window) < WARM_UP_RUNS and time.perf_counter() < end:
            window.append(run())
        median = float(np.median(window))
        fastest = min(fastest, median)
        if abs(median - previous) <= 0.05 * median or time.perf_counter() >= end:
            return fastest
        previous = median


def _round(
    models: Sequence[str],
    settings: SessionSettings,
    feed: Mapping[str, np.ndarray],
    round_s: float,
    order: random.Random,
    announce: Callable[[int], None],
) -> Round:
    arms = list(range(len(models)))
    runs: dict[int, Callable[[], float]] = {}
    bursts: dict[int, int] = {}
    for arm in order.sample(arms, len(arms)):
        announce(arm)
        runs[arm] = runner(open_session(models[arm], settings), settings, feed)
    for arm in order.sample(arms, len(arms)):
        announce(arm)
        bursts[arm] = min(500, math.ceil(BURST_S / warm_up(runs[arm])))
    times: list[list[float]] = [[] for _ in arms]
    end = time.perf_counter() + round_s
    turns = 0
    while turns < LEAST_TURNS or time.perf_counter() < end:
        for arm in order.sample(arms, len(arms)):
            announce(arm)
            run = runs[arm]
            if bursts[arm] > 1:
                run()  # finds the other arm's data in the caches: not counted
            times[arm].extend(run() for _ in range(bursts[arm]))
        turns += 1
    announce(NOBODY)
    return Round(tuple(np.array(samples) * 1e3 for samples in times))


def _announcer(turn: str | None) -> Callable[[int], None]:
    """A function that writes whose turn it is to a mapped file, which outlives this process."""
    if turn is None:
        return lambda arm: None
    with open(turn, "r+b") as file:
        place = mmap.mmap(file.fileno(), 1)

    def announce(arm: int) -> None:
        place[0] = arm

    return announce


def _peak_memory_mb() -> float | None:
    """Largest resident size of this process so far in MB, None where the system doesn't say."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would start with what the parent had: Linux keeps it over exec
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) / (1 << 10) if "VmHWM" in lines else None
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10)
