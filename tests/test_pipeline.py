"""The whole road on a tiny network: what a run leaves, what a resumed one keeps, what the gates say."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxprune
from onnxprune import pipeline, shrinking
from onnxprune import recipe as recipes
from onnxprune.errors import DataError, InputError, NotEquivalentError, OutputError, RecipeError
from onnxprune.runtime.results import Validation
from onnxprune.runtime.session import open_session, run_session

FILES = {
    *("recipe.yaml", "history.json", "dense.onnx", "pruned.onnx", "validation.json", "report.html"),
    *("package", "stages"),
}


@pytest.fixture(scope="module")
def finished(shared_tiny_project: Path) -> Path:
    """A project with a finished run in `run`; nobody may change it."""
    run = pipeline.compress(shared_tiny_project / "recipe.yaml", shared_tiny_project / "run")
    assert run.exit_code == 0, run.validation
    return shared_tiny_project


def times(run: Path) -> dict[str, int]:
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_a_run_leaves_what_it_promises(finished):
    run = finished / "run"
    assert {path.name for path in run.iterdir()} == FILES
    assert recipes.load(run / "recipe.yaml") == recipes.load(finished / "recipe.yaml")
    history = json.loads((run / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history["epochs"]] == list(range(9))
    assert {epoch["phase"] for epoch in history["epochs"]} == {"dense", "prune", "finetune"}
    assert {width["before"] for width in history["widths"]} == {16}
    assert any(width["after"] < 16 for width in history["widths"])
    for width, entry in zip(history["widths"], history["units"], strict=False):
        assert (entry["group"], entry["count"]) == (width["group"], width["before"])
        assert sum(map(len, entry["kept"].values())) == width["after"]
        assert [step["step"] for step in entry["steps"]] == [step["step"] for step in history["steps"]]
    assert "<html" in (run / "report.html").read_text()
    assert pipeline.verify(run / "package").passed
    assert (run / "package" / "model.onnx").read_bytes() == (run / "pruned.onnx").read_bytes()


def test_the_result_is_smaller_keeps_its_ends_and_is_proved(finished):
    run = finished / "run"
    validation = Validation.load(run / "validation.json")
    assert validation.candidate.macs <= 0.6 * validation.reference.macs
    assert validation.equivalence.passed and validation.equivalence.comparisons > 0
    assert {gate.name for gate in validation.gates} == {
        *("equivalence", "top1, cpu", "budget, macs", "top1 on the validation data"),
    }
    for name in ("dense.onnx", "pruned.onnx"):
        model = onnx.load(run / name)
        (given,), (result,) = model.graph.input, model.graph.output
        assert (given.name, result.name) == ("input", "output")
        assert given.type.tensor_type.shape.dim[0].dim_param
        output = run_session(open_session(run / name), {"input": np.zeros((5, 1, 8, 8), np.float32)})["output"]
        assert output.shape == (5, 4)


def test_the_test_data_are_those_that_are_judged(finished):
    (row,) = Validation.load(finished / "run" / "validation.json").accuracy
    assert row.samples == 128
    assert row.reference > 0.9  # four quarters by chance: 0.25


def test_a_finished_run_is_shown_again_and_nothing_is_repeated(finished):
    before = times(finished / "run")
    run = pipeline.compress(finished / "recipe.yaml", finished / "run", resume=True)
    assert run.validation == Validation.load(finished / "run" / "validation.json")
    assert times(finished / "run") == before


def test_a_run_of_another_recipe_is_refused(finished):
    with pytest.raises(RecipeError, match="holds a run of another recipe \\(seed: 0 there, 7 here\\)"):
        pipeline.compress(finished / "recipe.yaml", finished / "run", resume=True, seed=7)


STAGES = {
    "the report": ["report.html"],
    "the package": ["report.html", "package"],
    "measuring": ["report.html", "package", "validation.json"],
    "the export": ["report.html", "package", "validation.json", "stages/equivalence.json", "pruned.onnx"],
}


@pytest.mark.parametrize("lost", STAGES.values(), ids=STAGES)
def test_a_run_goes_on_where_it_was_interrupted(finished, tmp_path, lost):
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    for name in lost:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    before = times(run)
    pipeline.compress(finished / "recipe.yaml", run, resume=True)
    after = times(run)
    assert {path.name for path in run.iterdir()} == FILES
    kept = set(before) - {"history.json", "stages/dense.safetensors", "stages/prune.safetensors"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert (run / "pruned.onnx").read_bytes() == (finished / "run" / "pruned.onnx").read_bytes()


class Interrupted(BaseException):
    """What Ctrl-C is, for a test."""


@pytest.mark.parametrize("what", ["training the dense network", "pruning and fine-tuning"])
def test_an_interrupted_training_ends_where_it_would_have_ended(finished, tmp_path, what):
    def interrupt(done: int, total: int, now: str) -> None:
        if now == what and done > total // 2:
            raise Interrupted

    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        pipeline.compress(finished / "recipe.yaml", run, progress=interrupt)
    assert not (run / "pruned.onnx").exists()
    pipeline.compress(finished / "recipe.yaml", run, resume=True)
    assert (run / "dense.onnx").read_bytes() == (finished / "run" / "dense.onnx").read_bytes()
    assert (run / "pruned.onnx").read_bytes() == (finished / "run" / "pruned.onnx").read_bytes()


def test_a_guard_that_stops_pruning_misses_the_budget(tiny_project):
    """No step may cost anything: the dense network comes out, and the gate says so."""
    run = pipeline.compress(
        tiny_project / "recipe.yaml",
        tiny_project / "run",
        guard=0.0,
        finetune={"epochs": 2, "batch": 256, "learning_rate": 1e-9, "distillation": None},
    )
    (gate,) = [gate for gate in run.validation.gates if gate.name == "budget, macs"]
    assert (gate.verdict, run.exit_code) == ("failed", 1)
    assert "guard" in gate.reason


def test_a_trained_network_a_metric_of_ones_own_and_less_is_better(tiny_project, monkeypatch):
    """`dense: null` prunes what `module` gives; error_rate is told as it is, not as it is maximised."""
    run = pipeline.compress(
        tiny_project / "recipe.yaml",
        tiny_project / "run",
        dense=None,
        metric="error_rate",
        gates={},
        budget={"bytes": 0.9},
    )
    history = json.loads((run.path / "history.json").read_text())
    assert {epoch["phase"] for epoch in history["epochs"]} <= {"prune", "finetune"}
    assert all(0 <= epoch["validation_metric"] <= 1 for epoch in history["epochs"])


def test_steps_that_follow_the_metric_single_weights_and_readers_mended(tiny_project):
    """A recipe names them all, in one run."""
    run = pipeline.compress(
        tiny_project / "recipe.yaml",
        tiny_project / "run",
        criterion="0.5*taylor + 0.5*activation",
        ranking="layer",
        schedule="adaptive",
        adaptive={"first": 0.5, "tolerance": 0.9},
        adjust="batchnorm",
        calibration=64,
        budget={"params": 0.8, "units": {"channel": 0.8}},
        weights={"share": 0.5, "criterion": "taylor"},
        finetune={"epochs": 8, "batch": 256, "prune_every": 1, "prune_end": 0.9, "distillation": None},
        gates={},
    )
    assert ("budget, channel", "passed") in [(gate.name, gate.verdict) for gate in run.validation.gates]
    history = json.loads((run.path / "history.json").read_text())
    told = [(step["rate"], step["target"]) for step in history["steps"]]
    rates = ("cost", "channel", "connections")
    assert told == [(rate, target) for target in (0.5, 1.0) for rate in rates], "each rate has steps of its own"
    assert all("less 90.0%" in step["reason"] for step in history["steps"])
    assert run.validation.candidate.params <= 0.8 * run.validation.reference.params
    left = []
    for name in ("dense.onnx", "pruned.onnx"):
        initializers = onnxprune.load(run.path / name).ir.graph.initializers.values()
        left.append(sum(np.count_nonzero(v.const_value.numpy()) for v in initializers if len(v.shape) > 1))
    # A kernel that lost all of its weights may have gone whole.
    assert left[1] <= 0.5 * 0.81 * left[0]


def test_templates_and_rates_by_kind_in_one_run(tiny_project):
    run = pipeline.compress(
        tiny_project / "recipe.yaml",
        tiny_project / "run",
        budget=None,
        prune={"channels": 0.25, "parameters": {"below": 1e-3}},
        templates={
            "thin": {"match": "conv2", "replace": "low rank", "energy": 0.7},
            "narrow": {"match": "conv1", "width": 0.5},
        },
        finetune={"epochs": 3, "batch": 256, "distillation": None},
        criterion="magnitude",
        round_to=1,
        gates={},
    )
    verdicts = {gate.name: gate.verdict for gate in run.validation.gates}
    assert verdicts["budget, channel"] == verdicts["budget, conv1"] == "passed"
    history = json.loads((run.path / "history.json").read_text())
    (replaced,) = history["replaced"]
    assert replaced["name"] == "conv2" and replaced["after"] < replaced["before"]
    (first, *_) = history["widths"]
    assert (first["group"], first["before"]) == ("conv1.weight", 16) and first["after"] <= 8


def test_both_backends_remove_the_same(finished):
    model = onnxprune.load(finished / "run" / "dense.onnx")
    channels = onnxprune.trace(model)
    units = [unit for unit in channels.units if unit.index % 3 == 0]
    feed = {"input": np.random.default_rng(1).standard_normal((3, 1, 8, 8)).astype(np.float32)}
    outputs = []
    for backend in ("onnx-ir", "graphsurgeon"):
        smaller = onnxprune.remove(model, channels, units, backend=backend)
        outputs.append(run_session(open_session(onnxprune.graph.model.to_bytes(smaller)), feed)["output"])
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="choose onnx-ir or graphsurgeon"):
        onnxprune.remove(model, channels, units, backend="torch")


def test_nothing_is_written_without_a_proof(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(shrinking, "shrink_graph", spoil(shrinking.shrink_graph))
    with pytest.raises(NotEquivalentError, match=r"differs by .* with nothing removed at all"):
        pipeline.shrink(finished / "run" / "dense.onnx", tmp_path / "small.onnx")
    assert not list(tmp_path.iterdir())


def test_the_first_unit_at_fault_is_named(tmp_path, monkeypatch):
    """A shrink that goes wrong from its third step on."""
    source = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,4,4] x) => (float[N,5,4,4] y)'
        "{ a = Conv(x, w0) b = Relu(a) y = Conv(b, w9) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}.items():
        array = rng.normal(size=shape).astype(np.float32)
        if name == "w0":
            array[[1, 2, 4, 5, 7]] = 0
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(source, tmp_path / "net.onnx")
    monkeypatch.setattr(shrinking, "shrink_graph", spoil(shrinking.shrink_graph, after=2))
    with pytest.raises(NotEquivalentError, match=r"step at fault is number 3 of 5: channel 'w0\[4\]' \(removed\)"):
        pipeline.shrink(tmp_path / "net.onnx", tmp_path / "small.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_subnormal_weights_that_matter_are_named(tmp_path):
    """1e-39 times 1e38 is 0.1: the file is refused until its subnormals may stay."""
    source = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,3] y) <float k = {1e38}>'
        "{ a = MatMul(x, w) y = Mul(a, k) }"
    )
    array = (np.random.default_rng(0).normal(size=(4, 3)) * 1e-39).astype(np.float32)
    source.graph.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    onnx.save(source, tmp_path / "net.onnx")
    with pytest.raises(NotEquivalentError, match=r"2\^-126 are 0 \(12 are\): --keep-denormals leaves"):
        pipeline.shrink(tmp_path / "net.onnx", tmp_path / "small.onnx")
    assert pipeline.shrink(tmp_path / "net.onnx", tmp_path / "small.onnx", keep_denormals=True).equivalence.passed


def test_weights_rounded_to_zero_move_outputs_within_their_bound(finished, tmp_path):
    done = pipeline.shrink(finished / "run" / "dense.onnx", tmp_path / "small.onnx", zero_below=1e-3)
    assert done.report.subnormals > 0 and done.equivalence.passed
    assert 0 < done.change <= done.bound.change
    assert done.as_dict()["zero_below"]["measured"] == done.change
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def spoil(shrink, after=-1):
    """A shrink with a bug: it hands back another network once it has taken more than `after` steps."""

    def spoiled(model, **options):
        smaller, report = shrink(model, **options)
        if len(report.steps) <= after:
            return smaller, report
        proto = onnxprune.graph.model.to_proto(smaller)
        for tensor in proto.graph.initializer:
            if len(tensor.dims) > 1:
                array = onnx.numpy_helper.to_array(tensor) * 1.5
                tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))
        return onnxprune.load(proto), report

    return spoiled


def test_a_report_of_a_run_and_of_a_validation(finished, tmp_path):
    run = finished / "run"
    assert pipeline.report(run, tmp_path / "run.html").read_text().count("<svg") > 0
    alone = pipeline.report(run / "validation.json", tmp_path / "alone.html").read_text()
    assert "pruned.onnx" in alone
    with pytest.raises(OutputError, match="is a folder"):
        pipeline.report(run, tmp_path)


def test_a_drop_without_data_is_no_gate(finished):
    dense = finished / "run" / "dense.onnx"
    with pytest.raises(DataError, match="without data"):
        pipeline.validate(dense, dense, max_drop=0.01)


def test_bench_names_files_of_one_name_apart(finished, tmp_path):
    (tmp_path / "dense.onnx").write_bytes((finished / "run" / "dense.onnx").read_bytes())
    found = pipeline.bench([finished / "run" / "dense.onnx", tmp_path / "dense.onnx"], seconds=0.1)
    (comparison,) = found.comparisons
    assert len({arm.name for arm in comparison.arms}) == 2
    assert found.as_dict()["comparisons"][0]["provider"] == "cpu"


@pytest.mark.parametrize("verb", [pipeline.bench, pipeline.validate], ids=["bench", "validate"])
def test_a_comparison_is_asked_for_as_the_user_said(finished, monkeypatch, verb):
    class Asked(Exception):
        pass

    def compare(models, **settings):
        raise Asked(settings)

    monkeypatch.setattr("onnxprune.runtime.latency.compare_latency", compare)
    monkeypatch.setattr("onnxprune.runtime.validation.compare_latency", compare)
    wanted = {"seconds": 7.0, "until": 0.02, "cuda_graph": True, "seed": 5}
    models = [finished / "run" / "dense.onnx"] * 2
    with pytest.raises(Asked) as asked:
        verb(*([models] if verb is pipeline.bench else models), providers=["cuda"], batches=[3], **wanted)
    assert wanted | {"provider": "cuda", "batch": 3} == {
        k: asked.value.args[0][k] for k in [*wanted, "provider", "batch"]
    }


BARE = """
import torch
from tiny_net import task
from torch import nn


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(64, 32)), nn.Parameter(torch.randn(32, 4))

    def forward(self, x):
        return torch.relu(x.flatten(1) @ self.first) @ self.last
"""


def test_that_nothing_can_be_quantised_is_known_before_training(tiny_project, tmp_path):
    (tiny_project / "bare.py").write_text(BARE)
    lines = (tiny_project / "recipe.yaml").read_text().replace("tiny_net:build", "bare:Bare") + "quantize: {}\n"
    (tiny_project / "recipe.yaml").write_text(lines)
    with pytest.raises(RecipeError, match="no convolution or linear layer to quantise"):
        pipeline.compress(tiny_project / "recipe.yaml", tmp_path / "run")
    assert not list((tmp_path / "run").glob("stages/*"))


def test_pruning_distillation_and_training_in_int8_in_one_run(tmp_path):
    """On scikit-learn's digits; the int8 file is what is measured, packaged and proved."""
    recipe = {
        "module": "onnxprune_models.quick_digits:build",
        "data": "onnxprune_models.quick_digits:task",
        "budget": {"macs": 0.4},
        "steps": 2,
        "guard": 0.5,
        "tolerance": 0.1,
        "noise": 0.01,
        "dense": {"epochs": 2},
        "finetune": {"epochs": 3, "distillation": {"features": ["down"], "weight": 0.5}},
        "quantize": {"epochs": 2, "distillation": {"temperature": 4.0}},
        "measure": {"seconds": 0.2},
        "gates": {"max_drop": 0.2},
        "providers": ["cpu"],
    }
    run = pipeline.compress(recipe, tmp_path / "run")
    assert run.exit_code == 0, run.validation
    history = json.loads((run.path / "history.json").read_text())
    assert [epoch["phase"] for epoch in history["epochs"]][-2:] == ["quantize"] * 2
    assert [epoch["epoch"] for epoch in history["epochs"]] == list(range(7))
    told, result = history["quantized"], history["result"]
    assert result["metric"] == told["after"] >= told["calibrated"] - recipe["noise"] - 1e-9, "the later of two alike"
    assert told["calibrated"] > 0.8
    (gate,) = (g for g in run.validation.gates if g.name == "top1 on the validation data")
    assert f"{told['before']:.4f} before quantisation" in gate.reason
    model = onnx.load(run.path / "pruned.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") >= 5
    assert {tensor.data_type for tensor in model.graph.initializer} >= {onnx.TensorProto.INT8, onnx.TensorProto.INT32}
    assert (run.path / "pruned.onnx").stat().st_size < 0.25 * (run.path / "dense.onnx").stat().st_size
    assert run.validation.candidate.macs <= 0.4 * run.validation.reference.macs
    # As accurate as was claimed, by a session of our own.
    from onnxprune_models import quick_digits

    images, labels = quick_digits.task().test
    outputs = run_session(open_session(run.path / "package" / "model.onnx"), {"image": images})["logits"]
    (row,) = run.validation.accuracy
    assert (outputs.argmax(1) == labels).mean() == pytest.approx(row.candidate, abs=1e-9)
    # Goes on where it was interrupted, in the last stage.
    again = tmp_path / "again"
    shutil.copytree(run.path, again)
    for name in (
        "report.html",
        "validation.json",
        "pruned.onnx",
        "stages/equivalence.json",
        "stages/quantize.safetensors",
    ):
        (again / name).unlink()
    shutil.rmtree(again / "package")
    pipeline.compress(recipe, again, resume=True)
    assert (again / "pruned.onnx").read_bytes() == (run.path / "pruned.onnx").read_bytes()
