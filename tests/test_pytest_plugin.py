"""The plugin as a project uses it: in a pytest of its own, on files of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

PROJECT = """
def test_no_worse(no_worse):
    assert no_worse("a.onnx", "a.onnx", data="data.npz", max_drop=0.05).passed

def test_worse(no_worse):
    no_worse("a.onnx", "b.onnx", data="data.npz", max_drop=0.05)

def test_no_slower(no_slower):
    assert no_slower("wide.onnx", "a.onnx", seconds=0.5).latency

def test_unsettled(no_worse):
    no_worse("a.onnx", "nearly.onnx", data="data.npz", max_drop=0.01)
"""


def linear(path: Path, weight: np.ndarray, back: np.ndarray | None = None) -> None:
    """Scores of 4 classes from 8 numbers, by way of as many hidden numbers as `weight` has columns."""
    text = (
        '<ir_version: 10, opset_import: ["" : 18]> net (float[N, 8] x) => (float[N, 4] y) '
        "{ h = MatMul (x, w) y = MatMul (h, v) }"
    )
    model = parser.parse_model(text)
    back = np.linalg.pinv(weight)[:, :4] if back is None else back
    for name, value in (("w", weight), ("v", back)):
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    onnx.save(model, path)


@pytest.fixture
def project(tmp_path):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((8, 8))
    linear(tmp_path / "a.onnx", weight)
    linear(tmp_path / "wide.onnx", generator.standard_normal((8, 40_000)))
    x = generator.standard_normal((150, 8)).astype(np.float32)
    targets = x[:, :4].argmax(axis=1)
    np.savez(tmp_path / "data.npz", x=x, targets=targets)
    linear(tmp_path / "b.onnx", weight, back=generator.standard_normal((8, 4)))
    linear(tmp_path / "nearly.onnx", weight)
    (tmp_path / "test_project.py").write_text(PROJECT)
    return tmp_path


def run(project: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-rA", *options]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=240).stdout


def test_a_project_asserts_no_worse_and_no_slower(project):
    out = run(project, "-p", "no:cacheprovider")
    for name, outcome in (
        ("no_worse", "PASSED"),
        ("worse", "FAILED"),
        ("no_slower", "PASSED"),
        ("unsettled", "FAILED"),
    ):
        assert f"{outcome} test_project.py::test_{name}" in out, out
    assert "verdict: failed" in out and "inconclusive" in out


def test_what_is_unsettled_may_be_skipped(project):
    out = run(project, "--onnxprune-inconclusive=skip", "-k", "unsettled")
    assert "1 skipped" in out, out
