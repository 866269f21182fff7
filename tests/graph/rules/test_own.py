"""A rule of the user's own, as docs/own-operators.md shows it."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import onnxprune
from onnxprune.graph.model import to_proto
from onnxprune.graph.rules import EXACTNESS, RULES

PAGE = Path(__file__).parents[3] / "docs" / "own-operators.md"
KEY = ("my.domain", "ScaledTanh")


class ScaledTanh(OpRun):
    """What the operator computes: each channel of x[N,C,H,W] by itself."""

    op_domain = KEY[0]

    def _run(self, x, scale):
        return (np.tanh(x) * scale.reshape(-1, 1, 1),)


@pytest.fixture
def registered():
    """The page's example, run as it stands."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    yield
    del RULES[KEY], EXACTNESS[KEY]


def network() -> onnx.ModelProto:
    text = """
        <ir_version: 10, opset_import: ["" : 20, "my.domain" : 1]>
        network (float[N,3,8,8] x, float[8,3,1,1] w0, float[8] s, float[5,8,1,1] w1) => (float[N,5,8,8] y) {
            a = Conv(x, w0)
            b = my.domain.ScaledTanh(a, s)
            y = Conv(b, w1)
        }"""
    proto = onnx.parser.parse_model(text)
    generator = np.random.default_rng(0)
    for value in list(proto.graph.input)[1:]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = generator.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        proto.graph.input.remove(value)
    for name in "ab":  # shape inference knows nothing of other domains
        proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, 1, ["N", 8, 8, 8]))
    return proto


def run(model: onnxprune.Model, x: np.ndarray) -> np.ndarray:
    return ReferenceEvaluator(to_proto(model), new_ops=[ScaledTanh]).run(None, {"x": x})[0]


def test_an_operator_that_nobody_knows_pins():
    model = onnxprune.load(network())
    channels = onnxprune.trace(model)
    assert not channels.units
    assert any("ScaledTanh" in reason for reason in channels.pinned)


def test_with_a_rule_its_channels_go(registered):
    model = onnxprune.load(network())
    channels = onnxprune.trace(model)
    assert len(channels.units) == 8
    chosen = [unit.index for unit in channels.units[::3]]
    smaller = onnxprune.remove(model, channels, chosen)
    assert smaller.ir.graph.initializers["s"].shape == (5,)
    x = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    expected = run(onnxprune.mask(model, channels, chosen), x)
    assert np.abs(run(smaller, x) - expected).max() < 1e-5 * np.ptp(expected)
