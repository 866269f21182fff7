"""Small networks as files, for everything that runs models."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

CONVNET = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[N, 3, 12, 12] image) => (float[N, 5] logits) {
    hidden = Conv <pads = [1, 1, 1, 1]> (image, w1)
    active = Relu (hidden)
    pooled = GlobalAveragePool (active)
    flat = Flatten (pooled)
    logits = Gemm <transB = 1> (flat, w2)
}
"""


def build(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX text, with initializers by name."""
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.checker.check_model(model)
    return model


def convnet(channels: int = 8, seed: int = 0, scale: float = 1.0) -> onnx.ModelProto:
    """3x12x12 images to 5 logits by way of `channels` channels; dynamic batch."""
    generator = np.random.default_rng(seed)
    return build(
        CONVNET,
        w1=generator.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        w2=(scale * generator.standard_normal((5, channels))).astype(np.float32),
    )


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    """Latency rounds of 50 ms: what the clock says isn't tested."""
    monkeypatch.setattr("onnxprune.runtime.latency.ROUND_S", 0.05)


@pytest.fixture
def networks():
    """The functions that make models, for tests that need several."""
    return convnet, build


@pytest.fixture(scope="session")
def net_path(tmp_path_factory) -> Path:
    """The file of a small convolutional network."""
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(convnet(), path)
    return path


@pytest.fixture(scope="session")
def wide_path(tmp_path_factory) -> Path:
    """The same task with so many channels that it takes many times as long."""
    path = tmp_path_factory.mktemp("net") / "wide.onnx"
    onnx.save(convnet(channels=256, seed=1), path)
    return path
