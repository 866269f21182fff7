"""Pooling, reductions, softmax."""

import numpy as np
import pytest

from tests.graph.rules.cases import Case, image

# fmt: off
CASES = [
    image("pools", "c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) d = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0]>(c) b = LpPool<kernel_shape=[2,2]>(d)", 8),
    image("pool positions pin", "c, i = MaxPool<kernel_shape=[2,2]>(a) f = Cast<to=1>(i) b = Add(c, f)", 0),
    image("global pools", "c = GlobalMaxPool(a) d = GlobalLpPool(a) b = Add(c, d)", 8),
    image("reductions over positions", "c = ReduceMean(a, ax) d = ReduceSum(a, ax) e = ReduceMax(a, ax) f = ReduceMin(a, ax) g = ReduceL1(a, ax) h = ReduceL2(a, ax) i = ReduceSumSquare(a, ax) j = ReduceLogSumExp(a, ax) b = Sum(c, d, e, f, g, h, i, j)", 8, constants={"ax": np.array([2, -1])}),
    image("reductions of positives", "p = Sigmoid(a) c = ReduceProd(p, ax) d = ReduceLogSum(p, ax) b = Add(c, d)", 8, constants={"ax": np.array([2, 3])}),
    Case("reduce to rows", "a = Conv(x, w0) b = ReduceMean<keepdims=0>(a, ax) y = MatMul(b, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (8, 5)}, constants={"ax": np.array([2, 3])}, outputs="float[a,b] y"),
    Case("reduce, axes as attribute", "a = Conv(x, w0) b = ReduceMean<keepdims=0, axes=[2,3]>(a) y = MatMul(b, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (8, 5)}, outputs="float[a,b] y", opset=11),
    image("softmax over positions", "b = Softmax<axis=-1>(a)", 8),
    image("softmax over channels pins", "b = Softmax<axis=1>(a)", 0),
    image("softmax of opset 11 flattens", "b = Softmax<axis=1>(a)", 0, opset=11),
    image("log softmax hardmax", "c = LogSoftmax<axis=3>(a) d = Hardmax<axis=2>(a) b = Add(c, d)", 8),
    image("lp norm cumsum", "c = LpNormalization<axis=2>(a) b = CumSum(c, ax)", 8, constants={"ax": np.array(3)}),
    image("cumsum over channels pins", "b = CumSum(a, ax)", 0, constants={"ax": np.array(1)}),
    image("topk over positions", "b, i = TopK<axis=3>(a, k)", 8, constants={"k": np.array([4])}),
    image("argmax over positions", "c = ArgMax<axis=3>(a) d = ArgMin<axis=3>(a) e = Add(c, d) b = Cast<to=1>(e)", 8),
    image("argmax over channels pins", "c = ArgMax<axis=1>(a) d = Cast<to=1>(c) b = Add(a, d)", 0),
    image("lrn pins", "b = LRN<size=3>(a)", 0),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
