"""A small network on disk, a package of it, and a validation made by hand."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxprune.deploy.package import build_package
from onnxprune.runtime.equivalence import Equivalence
from onnxprune.runtime.latency import Arm, LatencyComparison, Ratio
from onnxprune.runtime.results import AccuracyRow, Figures, Gate, Validation

NETWORK = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[N, 3, 8, 8] image) => (float[N, 5] logits) {
    hidden = Conv <pads = [1, 1, 1, 1]> (image, w1)
    active = Relu (hidden)
    pooled = GlobalAveragePool (active)
    flat = Flatten (pooled)
    logits = Gemm <transB = 1> (flat, w2)
}
"""
REFUSAL = "the CUDA provider can't load libcublasLt.so.13: install CUDA 13"


def build(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="session")
def network() -> onnx.ModelProto:
    """3x8x8 images to 5 logits, dynamic batch."""
    generator = np.random.default_rng(0)
    return build(
        NETWORK,
        w1=generator.standard_normal((6, 3, 3, 3)).astype(np.float32),
        w2=generator.standard_normal((5, 6)).astype(np.float32),
    )


@pytest.fixture(scope="session")
def network_from_text():
    """The function that makes a model from ONNX text and weights."""
    return build


@pytest.fixture(scope="session")
def network_path(network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    onnx.save(network, path)
    return path


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(1).random((9, 3, 8, 8), np.float32)


@pytest.fixture(scope="session")
def validation(network_path) -> Validation:
    """Of the small network against one that never was: everything measured on the CPU, CUDA refused."""

    def arm(name: str, median_ms: float) -> Arm:
        return Arm(name, median_ms, median_ms * 1.1, None, median_ms * 9, 12.5, 61.2, 250)

    digest = hashlib.sha256(network_path.read_bytes()).hexdigest()
    accuracy = AccuracyRow("cpu", "top1", 1000, 0.983, 0.981, -0.002, -0.0078, 0.0036, 0.02, 5, 3, "passed")
    refused = AccuracyRow(
        "cuda", "top1", 1000, None, None, None, None, None, 0.02, None, None, "refused", reason=REFUSAL
    )
    ratio = Ratio("candidate", 0.363, 0.3601, 0.3666, "faster")
    return Validation(
        created="2026-03-04T05:06:07+00:00",
        reference=Figures(701234, 41234567, 2812345, 51, "ab12" * 16, "dense.onnx"),
        candidate=Figures(121234, 7934567, 497000, 49, digest, "small.onnx"),
        equivalence=Equivalence(3.1e-6, 21.3, 1.5e-7, 131.2, 0.9999999, 1.0, 1e-5, 18, True, "output 'logits'"),
        accuracy=(accuracy, refused),
        latency=(
            LatencyComparison("cpu", 1, 1, (arm("reference", 1.412), arm("candidate", 0.513)), (ratio,)),
            LatencyComparison("cuda", 1, 1, (), (), refused=REFUSAL),
        ),
        environment={"onnxruntime": "1.31.1", "cores_available": 2, "cuda_devices": [], "packages": {"numpy": "2.1"}},
        gates=(Gate("top1, cpu", "no worse by more than 2 points", "-0.20 points", "passed"),),
    )


@pytest.fixture(scope="session")
def replaced():
    """`dataclasses.replace`, for tests that vary the validation."""
    return dataclasses.replace


@pytest.fixture(scope="session")
def built(network_path, validation, images, tmp_path_factory) -> Path:
    """A package, to be read only."""
    out = tmp_path_factory.mktemp("built") / "package"
    build_package(network_path, out, validation=validation, recipe="name: small\n", example=images, licence="MIT")
    return out
