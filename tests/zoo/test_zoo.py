"""A sample of the zoo, checked by the benchmark itself: every deletion valid, and equal to every independent answer."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "scripts" / "benchmarks" / "zoo.py"
SAMPLE = [
    "own/detector",
    "own/two_inputs",
    "own/unet",
    "onnx/light_squeezenet",
    "timm/mobilenetv3",
    "timm/resnet",
    "timm/vision_transformer",
    "transformers/gpt2",
    "transformers/t5",
    "transformers/swin",
]


def load_module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


table = load_module(ZOO.with_name("zoo_table.py"))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict], subprocess.CompletedProcess]:
    """{network: its result} of a run over the sample, and the run."""
    folder = tmp_path_factory.mktemp("zoo")
    command = [sys.executable, str(ZOO), "--sample", "-o", str(folder / "out"), "--cache", str(folder / "exports")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, cwd=folder)
    results = [json.loads(path.read_text()) for path in (folder / "out").glob("*.json")]
    return {result["name"]: result for result in results}, done


@pytest.mark.timeout(900)
def test_the_sample_is_what_is_listed_here(zoo):
    results, done = zoo
    assert set(results) == set(SAMPLE), done.stderr
    assert f"of {len(SAMPLE)} networks" in done.stdout


@pytest.mark.parametrize("name", SAMPLE)
def test_every_deletion_equals_every_answer(zoo, name):
    result = zoo[0][name]
    assert table.problems(result) == [], table.line(result)
    assert result["prunable"] >= table.ENOUGH, result["pins"]
    kinds = {deletion["kind"] for deletion in result["deletions"]}
    assert kinds > {table.ALL} or len(kinds) == 1
    for deletion in result["deletions"]:
        assert 0 < deletion["deleted"] <= deletion["units"]
        assert deletion["weights_left"] < 1
        assert deletion["backend_error"] is not None
    from_torch = not name.startswith("onnx/")
    assert bool(result["torch_deletions"]) == from_torch


FINE = {
    "name": "it",
    "deletions": [
        {"kind": "channel", "failure": "", "error": 1e-7, "effect": 0.3, "backend_error": 1e-7, "backend_failure": ""}
    ],
    "torch_deletions": [
        {"kind": "channel", "failure": "", "error": 1e-7, "effect": 0.0, "backend_error": None, "backend_failure": ""}
    ],
}


def with_deletion(where: str, **changes) -> dict:
    return FINE | {where: [FINE[where][0] | changes]}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"name": "it", "crash": "ValueError: no"}, "ValueError: no"),
        (with_deletion("deletions", error=2e-5), "channel: error 2.0e-05"),
        (with_deletion("deletions", error=float("nan")), "channel: error nan"),
        (with_deletion("deletions", failure="Fail: bad shape"), "channel: Fail: bad shape"),
        (with_deletion("deletions", effect=1e-6), "moves the output by 1e-06 only"),
        (with_deletion("deletions", backend_error=1.0), "backend: error 1.0e+00"),
        (with_deletion("deletions", backend_failure="ModelError: no"), "backend: ModelError: no"),
        (with_deletion("torch_deletions", error=2e-5), "module: channel: error 2.0e-05"),
        (with_deletion("torch_deletions", error=2e-5, rounding=9e-6), "module: channel: error 2.0e-05"),
        (with_deletion("torch_deletions", error=2e-4, rounding=float("inf")), "module: channel: error 2.0e-04"),
        (with_deletion("torch_deletions", failure="Fail: it"), "module: channel: Fail: it"),
    ],
)
def test_whatever_is_wrong_is_a_problem(result, said):
    assert table.problems(FINE) == []
    assert table.problems(with_deletion("torch_deletions", error=2e-5, rounding=1.1e-5)) == []
    (problem,) = table.problems(result)
    assert said in problem
