"""Operators that pick or overwrite places."""

import numpy as np
import pytest

from tests.graph.rules.cases import Case, image

# fmt: off
CASES = [
    image("split", "c, d = Split<axis=1>(a, k) e = Sigmoid(d) f = Conv(c, w1) g = Conv(e, w2) b = Concat<axis=1>(f, g)", 8 + 2 + 2, (5, 4, 1, 1), weights={"w1": (2, 3, 1, 1), "w2": (2, 5, 1, 1)}, constants={"k": np.array([3, 5])}),
    image("split in halves, gated", "c, d = Split<axis=1, num_outputs=2>(a) e = Sigmoid(d) b = Mul(c, e)", 4, (5, 4, 1, 1)),
    image("split of opset 11", "c, d = Split<axis=1, split=[3,5]>(a) e = Conv(c, w1) f = Conv(d, w2) b = Add(e, f)", 8 + 2, (5, 2, 1, 1), weights={"w1": (2, 3, 1, 1), "w2": (2, 5, 1, 1)}, opset=11),
    image("slices", "c = Slice(a, z, k, o) d = Slice(a, k, e, o) f = Conv(c, w1) g = Conv(d, w2) b = Add(f, g)", 8 + 2, (5, 2, 1, 1), weights={"w1": (2, 3, 1, 1), "w2": (2, 5, 1, 1)}, constants={"z": np.array([0]), "k": np.array([3]), "e": np.array([2**62]), "o": np.array([1])}),
    image("slice of positions", "b = Slice(a, s, e, ax, st)", 8, constants={"s": np.array([1, -1]), "e": np.array([7, -(2**62)]), "ax": np.array([2, 3]), "st": np.array([2, -1])}),
    image("slice with a step pins", "b = Slice(a, s, e, ax, st)", 0, (5, 4, 1, 1), constants={"s": np.array([0]), "e": np.array([8]), "ax": np.array([1]), "st": np.array([2])}),
    image("slice of opset 9", "c = Slice<axes=[1], starts=[2], ends=[6]>(a) b = Relu(c)", 8, (5, 4, 1, 1), opset=9),
    image("gather permutes", "b = Gather<axis=1>(a, i)", 8, constants={"i": np.array([3, 1, -1, 0, 2, 4, 6, 5])}),
    image("gather picks", "b = Gather<axis=1>(a, i)", 8, (5, 3, 1, 1), constants={"i": np.array([6, 1, 2])}),
    Case("scatter rows", "a = MatMul(x, w0) d = ScatterND(a, i, u) y = MatMul(d, w9)", 8, {"w0": (6, 8), "w9": (8, 5), "u": (1, 8)}, {"x": "4,6"}, {"i": np.array([[2]])}, outputs="float[a,b] y"),
    Case("scatter columns pins", "a = MatMul(x, w0) t = Transpose(a) d = ScatterND(t, i, u) e = Transpose(d) y = MatMul(e, w9)", 0, {"w0": (6, 8), "w9": (8, 5), "u": (1, 4)}, {"x": "4,6"}, {"i": np.array([[2]])}, outputs="float[a,b] y"),
    image("slice with narrow integers", "c = Slice(a, s, e, o) b = Relu(c)", 8, (5, 5, 1, 1), constants={"s": np.array([2], np.int32), "e": np.array([7], np.int32), "o": np.array([1], np.int32)}),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
