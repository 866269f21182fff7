"""The validation as a whole: rows, gates, exit codes, and the way to a file and back."""

import dataclasses
import math

import numpy as np
import onnx
import pytest

from onnxprune.errors import DataError, InputError, ModelError, NotEquivalentError
from onnxprune.runtime import validation as module
from onnxprune.runtime.accuracy import WorstClass, record_outputs
from onnxprune.runtime.data import Dataset
from onnxprune.runtime.energy import estimate
from onnxprune.runtime.equivalence import Equivalence, require
from onnxprune.runtime.gates import decide_gates
from onnxprune.runtime.latency import Arm, LatencyComparison, Ratio
from onnxprune.runtime.results import AccuracyRow, Figures, Gate, Validation
from onnxprune.runtime.validation import losses_in_words, validate

FIGURES = Figures(params=1000, macs=50_000, size_bytes=4096, nodes=12, sha256="00", file="dense.onnx")
SAME = Equivalence(1e-7, 2.0, 5e-8, None, 1.0, 1.0, 1e-5, 12, True)
DIFFERENT = Equivalence(math.inf, 2.0, math.inf, -math.inf, -1.0, 0.5, 1e-5, 12, False, "output 'y', feed 0")


def accuracy(verdict="passed", provider="cpu", reason=""):
    row = AccuracyRow(provider, "top1", 1000, 0.98, 0.975, -0.005, -0.012, 0.002, 0.02, 8, 3, verdict, reason)
    if verdict == "refused":
        nothing = dict.fromkeys(("reference", "candidate", "difference", "low", "high"), None)
        row = dataclasses.replace(row, only_reference_right=None, only_candidate_right=None, **nothing)
    return row


def latency(low=0.48, high=0.52, provider="cpu", refused=None):
    if refused:
        return LatencyComparison(provider, 1, 1, (), (), refused)
    arms = tuple(
        Arm(name, time, time * 1.1, None, 3.0, 20.0, 80.0, 200) for name, time in (("reference", 2.0), ("new", 1.0))
    )
    return LatencyComparison(provider, 1, 1, arms, (Ratio("new", 0.5, low, high, "faster"),), rounds=12)


def result(gates=(), **changes):
    values = {"equivalence": SAME, "accuracy": (accuracy(),), "latency": (latency(),), **changes}
    return Validation(
        "2025-01-01T00:00:00+00:00", FIGURES, FIGURES, environment={"python": "3.11"}, gates=gates, **values
    )


@pytest.mark.parametrize(
    "equivalence, rows, comparisons, min_speedup, verdicts, exit_code",
    [
        (SAME, [accuracy()], [latency()], 1.5, ["passed"] * 3, 0),
        (None, [accuracy("measured")], [latency()], None, [], 0),
        (DIFFERENT, [], [], None, ["failed"], 1),
        (SAME, [accuracy("failed")], [], None, ["passed", "failed"], 1),
        (None, [accuracy("inconclusive")], [latency()], 1.5, ["inconclusive", "passed"], 4),
        (None, [], [latency()], 2.0, ["inconclusive"], 4),
        (None, [], [latency()], 3.0, ["failed"], 1),
        (None, [], [latency(refused="crashed")], 1.5, ["refused"], 3),
        (None, [accuracy("inconclusive")], [latency(refused="crashed")], None, ["inconclusive", "refused"], 3),
        (None, [accuracy("failed")], [latency(refused="crashed")], None, ["failed", "refused"], 1),
        # A provider that nobody asked for changes nothing, whatever happens on it.
        (None, [accuracy("refused", "cuda", "no GPU")], [latency(0.9, 1.1, "cuda")], 3.0, [], 0),
    ],
)
def test_gates_and_exit_codes(equivalence, rows, comparisons, min_speedup, verdicts, exit_code):
    gates = decide_gates(equivalence, rows, comparisons, asked={"cpu"}, min_speedup=min_speedup)
    assert [gate.verdict for gate in gates] == verdicts
    found = result(gates)
    assert (found.exit_code, found.passed) == (exit_code, exit_code == 0)


def test_a_provider_asked_for_and_refused():
    rows, comparisons = [accuracy("refused", "cuda", "no GPU")], [latency(provider="cuda", refused="no GPU")]
    (gate,) = decide_gates(None, rows, comparisons, asked={"cpu", "cuda"}, min_speedup=2)
    assert gate == Gate("provider cuda", "a measurement", "none", "refused", "no GPU")


def test_there_and_back(tmp_path):
    original = result(
        (Gate("equivalence", "a", "b", "failed", "c"),),
        equivalence=DIFFERENT,
        accuracy=(accuracy(), accuracy("refused", "cuda", "no GPU")),
        latency=(latency(), latency(provider="cuda", refused="no GPU")),
    )
    path = tmp_path / "validation.json"
    original.save(path)
    assert Validation.load(path) == original
    assert Validation.from_dict(original.as_dict()) == original
    assert '"error_over_range": "Infinity"' in path.read_text()


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "isn't a readable"),
        ("[]", "holds a list"),
        ("{}", "version None"),
        ('{"version": 1}', "is missing or unknown"),
    ],
)
def test_what_is_no_validation(tmp_path, content, words):
    path = tmp_path / "validation.json"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        Validation.load(path)
    with pytest.raises(DataError, match="isn't a readable"):
        Validation.load(tmp_path / "none.json")


def test_table():
    found = result(
        accuracy=(accuracy(), accuracy("refused", "cuda", "no GPU")), gates=(Gate("x", "y", "z", "failed", "w"),)
    )
    rows = {row[0]: row[1:] for row in found.rows()}
    assert rows["parameters"] == ("1,000", "1,000", "100.0%", "")
    assert rows["top1, cpu (1,000 samples)"] == ("98.00%", "97.50%", "-0.50 points [-1.20, +0.20]", "passed")
    assert rows["top1, cuda (1,000 samples)"] == ("", "", "", "refused: no GPU")
    assert rows["latency cpu, batch 1, 1 thread"] == ("2.000 ms", "1.000 ms", "0.500 [0.480, 0.520]", "faster")
    text = str(found)
    assert all(words in text for words in ("98.00%", "failed: x: asked y, measured z (w)", "verdict: failed"))


def test_energy_is_an_estimate_only_where_nothing_was_measured():
    estimates = (estimate(2_000_000, 4_000), estimate(1_000_000, 4_000))
    rows = {row[0]: row[1:] for row in result(energy=estimates).rows()}
    assert rows["energy (estimate)"] == ("0.0102 mJ", "0.0056 mJ", "54.9%", "")
    arms = tuple(
        dataclasses.replace(arm, energy_mj=mj, energy_source="RAPL, all packages")
        for arm, mj in zip(latency().arms, (8.0, 2.0), strict=True)
    )
    counted = dataclasses.replace(latency(), arms=arms)
    rows = {row[0]: row[1:] for row in result(energy=estimates, latency=(counted,)).rows()}
    assert rows["energy cpu, batch 1, 1 thread (RAPL, all packages)"] == ("8 mJ", "2 mJ", "25.0%", "")
    assert "energy (estimate)" not in rows


@pytest.fixture
def labelled(net_path):
    images = np.random.default_rng(3).standard_normal((120, 3, 12, 12)).astype(np.float32)
    outputs = record_outputs(net_path, {"image": images})
    return Dataset({"image": images}, outputs["logits"].argmax(axis=1), "labelled")


def test_the_whole_of_it(net_path, wide_path, labelled, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, targets=labelled.targets, **labelled.inputs)
    found = validate(
        wide_path,
        net_path,
        dataset=path,
        max_drop=0.05,
        min_speedup=1.5,
        tolerance=1e-5,
        providers=("cpu", "cuda"),
        asked={"cpu"},
        seconds=1.0,
    )
    assert (found.candidate.params, found.reference.params) == (8 * 27 + 40, 256 * 27 + 5 * 256)
    row = found.accuracy[0]
    assert row.candidate == 1.0 and row.verdict == "passed" and row.samples == 120
    verdicts = {gate.name: gate.verdict for gate in found.gates}
    assert verdicts == {"equivalence": "failed", "top1, cpu": "passed", "speed-up, cpu, batch 1, 1 thread": "passed"}
    assert found.exit_code == 1
    with pytest.raises(NotEquivalentError):
        require(found.equivalence)
    assert [row.provider for row in found.accuracy] == [c.provider for c in found.latency] == ["cpu", "cuda"]
    assert {"load_average", "load_average_after", "notes"} <= set(found.environment)


def test_cuda_asked_for_without_a_device(net_path, labelled, monkeypatch):
    monkeypatch.setattr(module, "why_refused", lambda provider: "libcublas.so.13 is missing")
    monkeypatch.setattr("onnxprune.runtime.latency.why_refused", lambda provider: "libcublas.so.13 is missing")
    found = validate(net_path, net_path, dataset=labelled, max_drop=0.05, providers=("cuda",))
    assert (found.exit_code, found.verdict) == (3, "refused")
    assert "libcublas.so.13" in str(found)
    assert found.accuracy[0].reference is None and found.latency[0].ratios == ()


def test_a_candidate_that_runs_out_of_memory(networks, net_path, labelled, tmp_path):
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    net (float[N, 3, 12, 12] image) => (float[N, 5] logits) {
        shape = Constant <value_ints = [1000000, 1000000]> ()
        one = ReduceMax <keepdims = 0> (image)
        many = Expand (one, shape)
        most = ReduceMax <keepdims = 0> (many)
        five = Constant <value_floats = [1.0, 1.0, 1.0, 1.0, 1.0]> ()
        logits = Mul (most, five)
    }
    """
    path = tmp_path / "huge.onnx"
    onnx.save(networks[1](text), path)
    found = validate(net_path, path, dataset=labelled, seconds=0.5, memory_mb=1000)
    assert found.accuracy[0].reason.startswith("The candidate ran out of memory")
    assert "'candidate' ran out of memory" in found.latency[0].refused
    assert found.exit_code == 3


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"max_drop": 0.01}, InputError, "without data"),
        ({"min_speedup": 0}, InputError, "speed-up > 0"),
        ({"batches": ()}, InputError, "at least one"),
        ({"dataset": "nowhere.npz"}, DataError, "doesn't exist"),
        ({"candidate": "nowhere.onnx"}, ModelError, "nowhere.onnx"),
    ],
)
def test_bad_input(net_path, options, error, words):
    with pytest.raises(error, match=words):
        validate(net_path, **{"candidate": net_path, **options})


def test_more_than_the_plain_figures(net_path, wide_path, labelled):
    """Conditions, the generalisation gap, the samples that the margin needs, the data's hash, no latency."""
    said = []
    half = Dataset({"image": labelled.inputs["image"][:40]}, labelled.targets[:40], "train")
    found = validate(
        net_path,
        wide_path,
        dataset=labelled,
        max_drop=0.01,
        conditions=("noise", "contrast"),
        train_data=half,
        latency=False,
        note=said.append,
    )
    assert said[0].startswith("A margin of 1 point needs about 1,785 samples") and said[0].endswith("there are 120.")
    assert [row.condition for row in found.accuracy] == [
        "",
        "Gaussian noise, a tenth of the inputs' range",
        "half the contrast",
        "training data",
    ]
    right = found.accuracy[0]
    assert right.only_reference_right > 0
    words = (
        f"top1, cpu: {right.only_reference_right} of 120 samples only the reference gets right, 0 only the candidate"
    )
    assert words in " ".join(found.findings)
    assert found.accuracy[0].margin == 0.01 and found.accuracy[1].verdict == "measured"
    assert found.accuracy[0].nodes_per_provider["candidate"] == {"CPUExecutionProvider": 5}
    assert any(
        words.startswith("Generalisation gap (training against test data): 0.00 points") for words in found.findings
    )
    assert (found.data.name, found.data.samples, found.data.sha256) == ("labelled", 120, labelled.sha256)
    assert found.latency == () and len(found.gates) == 1
    assert Validation.from_dict(found.as_dict()) == found
    assert found.energy[0].total_mj > 0 and "energy (estimate)" in str(found)
    with pytest.raises(InputError, match="without measuring latency"):
        validate(net_path, net_path, min_speedup=1.0, latency=False)


def test_what_was_lost_is_said_of_the_data_as_they_are():
    row = dataclasses.replace(accuracy(), worst_class=WorstClass(7, 40, 0.95, 0.9))
    assert losses_in_words([row, dataclasses.replace(row, condition="noise"), accuracy("refused")]) == [
        "top1, cpu: 8 of 1,000 samples only the reference gets right, 3 only the candidate; class 7 lost most, from "
        "95.00% to 90.00% of its 40 samples."
    ]


def test_why_it_is_slow_is_in_the_validation(networks, net_path, tmp_path):
    """A copy of the net whose weights are denormal is called out, and where its time goes is there."""
    path = tmp_path / "denormal.onnx"
    model = networks[0]()
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0]) * np.float32(1e-40)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w1"))
    onnx.save(model, path)
    found = validate(net_path, path, seconds=0.3)
    assert any("denormals" in words for words in found.findings)
    assert "denormals" in found.as_markdown() and "denormals" in str(found)
    assert {row.operator for row in found.operators} & {"Gemm", "Conv", "FusedConv"}
    assert Validation.from_dict(found.as_dict()) == found


def test_two_providers_are_held_against_each_other(net_path, labelled, monkeypatch):
    """CUDA played by the CPU: same outputs, same decisions."""
    real = module.run_in_child

    def on_the_cpu(function, *arguments, **options):
        swapped = [dataclasses.replace(a, provider="cpu") if hasattr(a, "tf32") else a for a in arguments]
        return real(function, *swapped, **options)

    monkeypatch.setattr(module, "why_refused", lambda provider: None)
    monkeypatch.setattr(module, "run_in_child", on_the_cpu)
    found = validate(net_path, net_path, dataset=labelled, providers=("cpu", "cuda"), latency=False)
    assert [(row.model, row.providers) for row in found.agreement] == [
        ("reference", ("cpu", "cuda")),
        ("candidate", ("cpu", "cuda")),
    ]
    assert all(row.equivalence.agreement == 1.0 for row in found.agreement)
    assert "reference, cpu against cuda" in str(found)
