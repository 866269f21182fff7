"""Normalisation, whole and written out."""

import numpy as np
import pytest

from onnxprune.graph.units import trace
from tests.graph.rules.cases import BN, ROWS, Case, forms, image, rows

# fmt: off
CASES = [
    image("batch norm", "b = BatchNormalization(a, s, t, m, var)", 8, weights=BN, opsets=forms("BatchNormalization")),
    image("instance norm", "b = InstanceNormalization(a, s, t)", 8, weights={"s": (8,), "t": (8,)}, opsets=forms("InstanceNormalization")),
    image("layer norm over the image", "b = LayerNormalization<axis=1>(a, s, t)", 8, weights={"s": (8, 8, 8), "t": (8, 8, 8)}, restated=8),
    image("layer norm over channels last", "c = Transpose<perm=[0,2,3,1]>(a) d = LayerNormalization<axis=-1, epsilon=0.1>(c, s, t) b = Transpose<perm=[0,3,1,2]>(d)", 8, weights={"s": (8,), "t": (8,)}, restated=8),
    rows("layer norm without shift", "b = LayerNormalization(a, s)", 8, weights={"s": (8,)}, restated=8),
    rows("layer norm that gives its mean pins", "c, m, v = LayerNormalization(a, s) b = Add(c, m)", 0, weights={"s": (8,)}),
    image("layer norm over positions", "b = LayerNormalization<axis=2>(a, s)", 8, weights={"s": (8, 8)}),
    # 2 groups of 4: 4 bundles of one from each; 2 whole groups
    image("group norm", "b = GroupNormalization<num_groups=2>(a, s, t)", 4 + 2, weights={"s": (8,), "t": (8,)}, opset=21, restated=6),
    image("group norm, one group", "b = GroupNormalization<num_groups=1>(a, s, t)", 8, weights={"s": (8,), "t": (8,)}, opset=21, restated=8),
    image("group norm of opset 18 pins", "b = GroupNormalization<num_groups=2>(a, s, t)", 0, weights={"s": (2,), "t": (2,)}, opset=18),
    image("group norm as exporters write it", "c = Reshape(a, g) d = InstanceNormalization(c, one, zero) e = Reshape(d, h) f = Mul(e, s) b = Add(f, t)", 4 + 2, weights={"s": (8, 1, 1), "t": (8, 1, 1)}, constants={"g": np.array([0, 2, -1]), "h": np.array([0, 8, 8, 8]), "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)}, restated=6),
    image("group norm over an image of symbolic size", "z = Shape(a) c = Reshape(a, g) d = InstanceNormalization(c, one, zero) e = Reshape(d, z) f = Mul(e, s) b = Add(f, t)", 4 + 2, weights={"s": (8, 1, 1), "t": (8, 1, 1)}, constants={"g": np.array([0, 2, -1]), "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)}, inputs={"x": "N,3,H,W"}, restated=6),
    image("group norm whose places are scaled", "c = Reshape(a, g) d = InstanceNormalization(c, one, zero) r = Relu(d) e = Mul(r, s) f = Reshape(e, h) b = Relu(f)", 0, weights={"s": (2, 256)}, constants={"g": np.array([0, 2, -1]), "h": np.array([0, 8, 8, 8]), "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)}, restated=0),
    image("group norm beside other runs", "c = Reshape(a, g) d = InstanceNormalization(c, one, zero) e = Conv<strides=[2,1]>(x, w1) f = Reshape(e, k) i = Reshape(f, g) j = Add(d, i) m = Reshape(j, h) b = Relu(m)", 6, weights={"w1": (16, 3, 1, 1)}, constants={"g": np.array([0, 2, -1]), "k": np.array([0, 16, 32]), "h": np.array([0, 8, 8, 8]), "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)}, restated=6),
    image("group norm of one group as exporters write it", "c = Reshape(a, g) d = InstanceNormalization(c, one, zero) e = Reshape(d, h) b = Mul(e, s)", 8, weights={"s": (8, 1, 1)}, constants={"g": np.array([0, 1, -1]), "h": np.array([0, 8, 8, 8]), "one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}, restated=8),
    Case("rms norm", "a = MatMul(x, w0) b = RMSNormalization<epsilon=0.1>(a, s) y = MatMul(b, w9)", 8, {"w0": (6, 8), "s": (8,), "w9": (8, 5)}, ROWS, outputs="float[a,b] y", opset=23),
    rows("rms norm written out", "p = Pow(a, two) q = ReduceMean(p, ax) r = Add(q, eps) u = Sqrt(r) v = Div(a, u) b = Mul(v, s)", 8, weights={"s": (8,)}, constants={"two": np.float32(2), "eps": np.float32(0.1), "ax": np.array([-1])}),
    rows("rms norm behind a bias pins", "c = Add(a, one) p = Pow(c, two) q = ReduceMean(p, ax) r = Sqrt(q) b = Div(c, r)", 0, constants={"one": np.float32(1), "two": np.float32(2), "ax": np.array([-1])}),
    rows("sum over the neurons", "c = ReduceSum(a, ax) b = Add(a, c)", 8, constants={"ax": np.array([1])}),
    rows("l2 norm over the neurons", "c = ReduceL2(a, ax) b = Div(a, c)", 8, constants={"ax": np.array([1])}),
    rows("mean over the neurons", "c = ReduceMean<keepdims=0>(a, ax) d = Unsqueeze(c, ax) b = Sub(a, d)", 8, constants={"ax": np.array([1])}),
    rows("max over the neurons pins", "c = ReduceMax(a, ax) b = Sub(a, c)", 0, constants={"ax": np.array([1])}),
    rows("sum behind a sigmoid pins", "c = Sigmoid(a) d = ReduceSum(c, ax) b = Sub(a, d)", 0, constants={"ax": np.array([1])}),
    image("sum behind constant padding pins", "c = Pad(a, p, five) d = ReduceSum(c, ax) e = ReduceMean(d, hw) b = Add(a, e)", 0, constants={"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "five": np.float32(5), "ax": np.array([1]), "hw": np.array([2, 3])}),
    image("attention over channels", "c = ReduceMean(a, ax) d = Sigmoid(c) b = Mul(a, d)", 8, constants={"ax": np.array([1])}),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)


def test_a_group_norm_over_a_large_image_takes_no_more_labels_than_channels(oracle):
    constants = {"g": np.array([0, 2, -1]), "h": np.array([0, 8, 4096, 4096])}
    constants |= {"one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)}
    body = "a = Conv(x, w0) c = Reshape(a, g) d = InstanceNormalization(c, one, zero) e = Reshape(d, h) y = Conv(e, w9)"
    weights = {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}
    channels = trace(oracle.parse(body, {"x": "N,3,4096,4096"}, weights, constants))
    assert len(channels.units) == 4 + 2
    assert max(facet.size for facets in channels.trace.facets.values() for facet in facets) == 8
