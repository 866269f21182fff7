"""Weights rounded to 0 move no output further than the bound says, through every kind of operator."""

import numpy as np
import pytest

from onnxprune.graph.exact.bound import bound
from onnxprune.graph.exact.subnormals import flush
from onnxprune.graph.model import load

BELOW = 0.3
WEIGHTS = {"w0": (8, 3, 1, 1), "b0": (8,), "w9": (5, 8, 1, 1), "b9": (5,)}
NORM = {"s": (8,), "t": (8,), "m": (8,), "var": (8,)}


@pytest.mark.parametrize(
    ("between", "opset"),
    [
        *((f"b = {operator}(a)", 20) for operator in "Relu LeakyRelu Elu Selu HardSigmoid Sigmoid Gelu Tanh".split()),
        ("b = LeakyRelu<alpha=90.0>(a)", 20),
        ("b = Elu<alpha=90.0>(a)", 20),
        ("b = HardSigmoid<alpha=90.0>(a)", 20),
        ("c = Clip<min=500.0, max=900.0>(a) b = Mul(a, c)", 9),
        ("c = Pad<pads=[0,0,1,1,0,0,1,1], value=700.0>(a) b = Mul(c, c)", 9),
        ("c = HardSigmoid(a) b = Mul(a, c)", 20),
        ("b = BatchNormalization(a, s, t, m, var)", 20),
        ("c = MaxPool<kernel_shape=[2,2]>(a) b = Softmax<axis=1>(c)", 20),
    ],
)
def test_the_bound_holds(oracle, between, opset):
    weights = WEIGHTS | (NORM if "BatchNorm" in between else {})
    body = f"a = Conv(x, w0, b0) {between} y = Conv(b, w9, b9)"
    model = load(oracle.parse(body, {"x": "N,3,8,8"}, weights, opset=opset))
    rounded, count = flush(model, BELOW)
    allowed = bound(model, rounded)
    assert count and allowed.change is not None, allowed.obstacle
    feeds = {name: np.clip(4 * array, -4, 4) for name, array in oracle.feeds_for(model, 3).items()}
    moved = max(np.abs(a - b).max() for a, b in zip(oracle.run(model, feeds), oracle.run(rounded, feeds), strict=True))
    assert 0 < moved <= allowed.change * (1 + 1e-5)
