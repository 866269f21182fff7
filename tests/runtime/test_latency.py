"""The protocol is followed and every way to fail ends in a sentence; what the clock says isn't tested."""

import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

from onnxprune.errors import InputError, ModelError
from onnxprune.runtime import latency, stopwatch
from onnxprune.runtime.latency import compare_latency, latency_verdict, more_seconds
from onnxprune.runtime.session import SessionSettings
from onnxprune.runtime.stopwatch import LEAST_TURNS, WARM_UP_RUNS, measure

# Counts to 2**62 before it answers.
ENDLESS = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[N, 3, 12, 12] image) => (float[N, 3, 12, 12] out) {
    often = Constant <value_int = 4611686018427387904> ()
    yes = Constant <value = bool {1}> ()
    out = Loop (often, yes, image) <
        body = step (int64 k, bool go, float[N, 3, 12, 12] x) => (bool on, float[N, 3, 12, 12] y) {
            on = Identity (go)
            y = Neg (x)
        }
    >
}
"""
# Asks for 4 TB.
HUGE = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[N, 3, 12, 12] image) => (float out) {
    shape = Constant <value_ints = [1000000, 1000000]> ()
    one = ReduceMax <keepdims = 0> (image)
    many = Expand (one, shape)
    out = ReduceMax <keepdims = 0> (many)
}
"""


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (0.50, 0.60, "faster"),
        (0.98, 0.9899, "faster"),
        (0.97, 0.995, "inconclusive"),
        (0.985, 1.015, "same"),
        (0.99, 1.0, "same"),
        (0.97, 1.03, "inconclusive"),
        (1.0101, 1.05, "slower"),
        (1.005, 1.05, "inconclusive"),
    ],
)
def test_verdicts(low, high, verdict):
    assert latency_verdict(low, high) == verdict


def test_three_arms_side_by_side(net_path, wide_path):
    seen = []
    models = {"before": wide_path, "after": net_path, "again": wide_path}
    found = compare_latency(models, seconds=1.0, batch=2, progress=lambda *event: seen.append(event))
    assert found.refused is None and found.failures == {}
    assert [arm.name for arm in found.arms] == ["before", "after", "again"]
    assert [ratio.name for ratio in found.ratios] == ["after", "again"]
    assert found.rounds >= latency.LEAST_ROUNDS
    for arm in found.arms:
        assert 0 < arm.median_ms <= arm.p90_ms
        assert (arm.p99_ms is None) == (arm.samples < 299)
        assert arm.samples >= found.rounds * LEAST_TURNS
        assert arm.first_run_ms > 0 and arm.session_ms > 0 and arm.peak_memory_mb > 10
        assert arm.nodes_per_provider == {"CPUExecutionProvider": 5}
    # Not a matter of timing: 32 times the work. The interval is around the estimate and the verdict follows from it.
    after = found.ratios[0]
    assert after.low <= after.ratio <= after.high
    assert after.verdict == "faster"
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert all(total == 1 for _, total, _ in seen)


def test_rounds_make_new_sessions_in_random_order(net_path, wide_path, monkeypatch):
    opened = []
    real = latency.measure.__globals__["open_session"]

    def spy(model, settings):
        opened.append(model)
        return real(model, settings)

    monkeypatch.setitem(latency.measure.__globals__, "open_session", spy)
    paths = [str(net_path), str(wide_path)]
    feed = {"image": np.zeros((1, 3, 12, 12), np.float32)}
    rounds = measure(paths, SessionSettings(), feed, seconds=0, round_s=0.01, least_rounds=8, seed=1)
    assert len(rounds) == 8
    pairs = list(zip(opened[::2], opened[1::2], strict=True))
    assert all(set(pair) == set(paths) for pair in pairs)
    assert len(set(pairs)) == 2
    assert all(times.ndim == 1 and (times > 0).all() for measured in rounds for times in measured.times_ms)


def test_a_process_that_measures_imports_little():
    """A comparison starts seven of them: what they import is taken off the time to measure."""
    program = "import sys, onnxprune.runtime.child_main, onnxprune.runtime.stopwatch; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split())
    assert "onnxruntime" in loaded
    assert not {"onnx", "onnx_ir", "scipy", "sympy", "pydantic", "torch", "rich"} & loaded


def test_a_disturbed_warm_up_takes_no_turns_away(monkeypatch):
    """The fastest window counts: the last one may be another process's."""
    clock = iter(np.arange(1000) * 1e-3)
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(clock))
    times = iter([2e-3] * WARM_UP_RUNS + [20e-3] * 1000)
    assert stopwatch.warm_up(lambda: next(times)) == 2e-3


# Divides the smallest 32-bit integer by -1, for which the processor stops the process.
CRASH = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[N, 3, 12, 12] image) => (int32[1] out) {
    least = Constant <value = int32[1] {-2147483648}> ()
    difference = Sub (image, image)
    nothing = ReduceMax <keepdims = 0> (difference)
    zero = Cast <to = 6> (nothing)
    one = Constant <value = int32[1] {1}> ()
    minus = Sub (zero, one)
    out = Div (least, minus)
}
"""
# The same by a random odd number, which is -1 once in about 200 runs.
CRASH_LATER = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[N, 3, 12, 12] image) => (int32[1] out) {
    least = Constant <value = int32[1] {-2147483648}> ()
    drawn = RandomUniform <shape = [1], high = 200.0, low = 0.0> ()
    whole = Cast <to = 6> (drawn)
    twice = Add (whole, whole)
    one = Constant <value = int32[1] {1}> ()
    odd = Sub (twice, one)
    out = Div (least, odd)
}
"""


@pytest.mark.parametrize(
    "text, memory_mb, sentence",
    [
        (HUGE, 1000, "'candidate' ran out of memory"),
        (ENDLESS, None, "'candidate' was stopped after 10 s"),
        (CRASH, None, "'candidate' crashed (SIGFPE)"),
    ],
    ids=["memory", "hang", "crash"],
)
def test_an_arm_that_never_returns(networks, net_path, tmp_path, monkeypatch, text, memory_mb, sentence):
    monkeypatch.setattr(latency, "PROBE_TIMEOUT_S", 10.0)
    path = tmp_path / "bad.onnx"
    onnx.save(networks[1](text), path)
    found = compare_latency(
        {"reference": net_path, "candidate": path, "other": net_path}, seconds=0.5, memory_mb=memory_mb
    )
    assert sentence in found.failures["candidate"]
    assert found.refused is None and [ratio.name for ratio in found.ratios] == ["other"]
    assert sentence in str(found)


def test_an_arm_that_dies_while_it_is_measured(networks, net_path, tmp_path, monkeypatch):
    """Every other run of the middle arm crashes soon; the other two are compared all the same."""
    monkeypatch.setattr(latency, "_latency_feed", lambda *_: {"image": np.ones((1, 3, 12, 12), np.float32)})
    path = tmp_path / "later.onnx"
    onnx.save(networks[1](CRASH_LATER), path)
    bench = latency._Bench(
        {"reference": str(net_path), "candidate": str(path), "other": str(net_path)},
        SessionSettings(),
        {"image": np.ones((1, 3, 12, 12), np.float32)},
        None,
        0,
        lambda what: None,
    )
    alone = latency.probe(str(net_path), SessionSettings(), {"image": np.ones((1, 3, 12, 12), np.float32)})
    bench.probes = dict.fromkeys(("reference", "candidate", "other"), alone)
    bench.measure_all(time.monotonic() + 3, None)
    assert bench.failures == {"candidate": "While it was measured, 'candidate' crashed (SIGFPE)."}
    assert [ratio.name for ratio in bench.ratios(1.0)] == ["other"]
    assert len(bench.times_ms["reference"]) == len(bench.times_ms["other"]) >= 2


@pytest.mark.parametrize("samples, known", [(298, False), (299, True)])
def test_a_99th_percentile_needs_299_samples(net_path, samples, known):
    alone = latency.probe(str(net_path), SessionSettings(), {"image": np.ones((1, 3, 12, 12), np.float32)})
    arm = latency._arm("a", np.arange(1.0, samples + 1), alone, batch=1)
    assert arm.samples == samples and (arm.p99_ms is not None) == known
    assert arm.peak_memory_mb > 0


@pytest.mark.parametrize(
    "low, ratio, high, seconds",
    [
        (0.95, 0.96, 0.985, None),  # there is a verdict
        (0.94, 0.97, 1.00, 10 * ((0.03 / 0.02) ** 2 - 1)),  # 0.02 below 0.99
        (0.96, 1.0, 1.04, 10 * ((0.04 / 0.02) ** 2 - 1)),  # to be the same
        (0.98, 1.0, 1.0201, 2.5),  # nearly there: a quarter of the time at least
    ],
)
def test_how_much_longer(low, ratio, high, seconds):
    assert more_seconds(low, ratio, high, 10.0) == (None if seconds is None else pytest.approx(seconds))


def test_until_stops_early_and_says_what_it_ran_with(net_path, wide_path, monkeypatch):
    """Any interval is precise enough here: the first look ends it."""
    monkeypatch.setattr(latency, "UNTIL_SLICE_S", 0.2)
    found = compare_latency({"a": wide_path, "b": net_path}, seconds=600.0, until=1e6)
    assert found.seconds < 300 and found.rounds >= latency.LEAST_ROUNDS
    assert found.settings == {"optimization": "all", "spinning": "off", "threads": "1"}


def test_a_reference_that_never_returns(networks, net_path, tmp_path):
    path = tmp_path / "bad.onnx"
    onnx.save(networks[1](HUGE), path)
    found = compare_latency({"reference": path, "other": net_path}, seconds=0.5, memory_mb=1000)
    assert found.refused == "'reference' ran out of memory (its limit was 1000 MB: --limit memory_mb=... sets it)."
    assert found.arms == found.ratios == ()


def test_sentences(networks, net_path, tmp_path, monkeypatch):
    model = networks[0]()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    fixed = tmp_path / "fixed.onnx"
    onnx.save(model, fixed)
    models = {"a": net_path, "b": fixed}
    assert "'b' has a fixed batch of 1, not 8" in compare_latency(models, batch=8).refused
    monkeypatch.setattr(latency, "why_refused", lambda provider: "no such device here")
    refused = compare_latency(models, provider="cuda")
    assert refused.refused == "no such device here" and refused.arms == ()
    for bad in ({"models": {"a": net_path}}, {"models": models, "batch": 0}, {"models": models, "seconds": 0}):
        with pytest.raises(InputError, match="give two models"):
            compare_latency(**bad)
    with pytest.raises(ModelError, match=r"none\.onnx. doesn't exist"):
        monkeypatch.undo()
        compare_latency({"a": net_path, "b": tmp_path / "none.onnx"})
