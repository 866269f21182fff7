"""Pooling, reductions, softmax."""

import numpy as np
import pytest

from tests.graph.rules.cases import Case, forms, image, rows

# fmt: off
CASES = [
    image("pools", "c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) d = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0]>(c) b = LpPool<kernel_shape=[2,2]>(d)", 8, opsets=forms("AveragePool", "LpPool", "MaxPool")),
    image("pool positions pin", "c, i = MaxPool<kernel_shape=[2,2]>(a) f = Cast<to=1>(i) b = Add(c, f)", 0),
    image("global pools", "c = GlobalMaxPool(a) d = GlobalLpPool(a) b = Add(c, d)", 8),
    image("global pools of opset 22", "c = GlobalMaxPool(a) d = GlobalAveragePool(a) b = Add(c, d)", 8, opset=22),
    image("reductions over positions", "c = ReduceMean(a, ax) d = ReduceSum(a, ax) e = ReduceMax(a, ax) f = ReduceMin(a, ax) g = ReduceL1(a, ax) h = ReduceL2(a, ax) i = ReduceSumSquare(a, ax) j = ReduceLogSumExp(a, ax) b = Sum(c, d, e, f, g, h, i, j)", 8, constants={"ax": np.array([2, -1])}),
    image("means over no axes", "c = ReduceMean<noop_with_empty_axes=1>(a, none) d = ReduceMean<noop_with_empty_axes=1>(a) b = Add(c, d)", 8, constants={"none": np.array([], np.int64)}),
    image("reductions of positives", "p = Sigmoid(a) c = ReduceProd(p, ax) d = ReduceLogSum(p, ax) b = Add(c, d)", 8, constants={"ax": np.array([2, 3])}),
    Case("reduce to rows", "a = Conv(x, w0) b = ReduceMean<keepdims=0>(a, ax) y = MatMul(b, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (8, 5)}, constants={"ax": np.array([2, 3])}, outputs="float[a,b] y"),
    Case("reduce, axes as attribute", "a = Conv(x, w0) b = ReduceMean<keepdims=0, axes=[2,3]>(a) y = MatMul(b, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (8, 5)}, outputs="float[a,b] y", opset=11),
    image("softmax over positions", "b = Softmax<axis=-1>(a)", 8),
    image("softmax over channels pins", "b = Softmax<axis=1>(a)", 0),
    image("softmax of opset 11 flattens", "b = Softmax<axis=1>(a)", 0, opset=11),
    image("log softmax hardmax", "c = LogSoftmax<axis=3>(a) d = Hardmax<axis=2>(a) b = Add(c, d)", 8),
    image("lp norm cumsum", "c = LpNormalization<axis=2>(a) b = CumSum(c, ax)", 8, constants={"ax": np.array(3)}),
    image("cumsum over channels pins", "b = CumSum(a, ax)", 0, constants={"ax": np.array(1)}),
    image("topk over positions", "b, i = TopK<axis=3>(a, k)", 8, constants={"k": np.array([4])}, opsets=(10, 24)),
    image("argmax over positions", "c = ArgMax<axis=3>(a) d = ArgMin<axis=3>(a) e = Add(c, d) b = Cast<to=1>(e)", 8, opsets=forms("ArgMax")),
    image("argmax over channels pins", "c = ArgMax<axis=1>(a) d = Cast<to=1>(c) b = Add(a, d)", 0),
    image("lrn pins", "b = LRN<size=3>(a)", 0, opsets=(7,)),
    image("reductions over positions, axes as attributes", "c = ReduceMean<axes=[2,-1]>(a) d = ReduceSum<axes=[2,-1]>(a) e = ReduceMax<axes=[2,-1]>(a) f = ReduceMin<axes=[2,-1]>(a) g = ReduceL1<axes=[2,-1]>(a) h = ReduceL2<axes=[2,-1]>(a) i = ReduceSumSquare<axes=[2,-1]>(a) j = ReduceLogSumExp<axes=[2,-1]>(a) b = Sum(c, d, e, f, g, h, i, j)", 8, opset=11, opsets=(8, 12)),
    image("reductions over positions, newer", "c = ReduceMean<axes=[2,3]>(a) e = ReduceMax<axes=[2,3]>(a) f = ReduceMin<axes=[2,3]>(a) g = ReduceL1<axes=[2,3]>(a) h = ReduceL2<axes=[2,3]>(a) i = ReduceSumSquare<axes=[2,3]>(a) j = ReduceLogSumExp<axes=[2,3]>(a) b = Sum(c, e, f, g, h, i, j)", 8, opset=13),
    image("reductions of positives, axes as attributes", "p = Sigmoid(a) c = ReduceProd<axes=[2,3]>(p) d = ReduceLogSum<axes=[2,3]>(p) b = Add(c, d)", 8, opset=7, opsets=(11, 13)),
    image("reductions of opset 18", "c = ReduceMax(a, ax) d = ReduceMin(a, ax) b = Add(c, d)", 8, constants={"ax": np.array([2])}, opset=18),
    image("reductions of opset 28", "p = Sigmoid(a) c = ReduceLogSum(p, ax) d = ReduceLogSumExp(a, ax) b = Add(c, d)", 8, constants={"ax": np.array([2])}, opset=28),
    image("a mean of nothing", "c = ReduceMean<noop_with_empty_axes=1>(a) b = Relu(c)", 8, opset=18),
    image("positions of a pool that nobody reads", "b, i = MaxPool<kernel_shape=[2,2]>(a)", 8, opset=8),
    image("softmax of opset 7", "c = Transpose<perm=[0,2,3,1]>(a) d = Softmax<axis=3>(c) e = LogSoftmax<axis=3>(d) f = Hardmax<axis=3>(e) b = Transpose<perm=[0,3,1,2]>(f)", 0, opset=7),
    image("softmax of opset 11 over positions", "c = Softmax<axis=3>(a) d = LogSoftmax<axis=3>(a) e = Hardmax<axis=3>(a) b = Sum(c, d, e)", 8, opset=11, opsets=(7,)),
    rows("lp norm over the neurons", "b = LpNormalization<axis=1>(a)", 8, opset=7, opsets=(22,)),
    rows("l1 norm over the neurons", "b = LpNormalization<axis=1, p=1>(a)", 8),
    rows("lp norm behind a sigmoid pins", "c = Sigmoid(a) b = LpNormalization<axis=1>(c)", 0),
    image("mean variance normalization", "b = MeanVarianceNormalization(a)", 8, opset=9, opsets=(13,)),
    image("mean variance normalization over channels pins", "b = MeanVarianceNormalization<axes=[0,1,2,3]>(a)", 0),
    image("cumsum of opset 11", "b = CumSum<reverse=1>(a, ax)", 8, constants={"ax": np.array([2], np.int32)}, opset=11),
    image("cumprod", "c = Sigmoid(a) b = CumProd<exclusive=1>(c, ax)", 8, constants={"ax": np.array(3)}, opset=26),
    image("cumprod over channels pins", "b = CumProd(a, ax)", 0, constants={"ax": np.array(1)}, opset=26),
    image("determinants", "c = Det(a) d = Unsqueeze(c, ax) b = Mul(a, d)", 8, constants={"ax": np.array([2, 3])}, opset=13, opsets=(22,)),
    image("determinants over channels pin", "c = Transpose<perm=[0,2,3,1]>(a) d = Det(c) e = Unsqueeze(d, ax) b = Mul(a, e)", 0, constants={"ax": np.array([1, 2])}),
    rows("layer norm written out", "m = ReduceMean(a, ax) d = Sub(a, m) p = Pow(d, two) v = ReduceMean(p, ax) q = Add(v, eps) s = Sqrt(q) n = Div(d, s) g = Mul(n, w1) b = Add(g, w2)", 8, weights={"w1": (8,), "w2": (8,)}, constants={"ax": np.array([-1]), "two": np.float32(2), "eps": np.float32(1e-5)}, restated=8),
    rows("layer norm of older exporters", "m = ReduceMean<axes=[-1]>(a) d = Sub(a, m) p = Mul(d, d) v = ReduceMean<axes=[-1]>(p) q = Add(v, eps) s = Sqrt(q) n = Div(d, s) g = Mul(n, w1) b = Add(g, w2)", 8, weights={"w1": (8,), "w2": (8,)}, constants={"eps": np.float32(1e-5)}, restated=8, opset=11, opsets=(7,)),
    image("group norm written out", "r = Reshape(a, in) m = ReduceMean(r, ax) d = Sub(r, m) p = Mul(d, d) v = ReduceMean(p, ax) q = Add(v, eps) s = Sqrt(q) n = Div(d, s) h = Reshape(n, back) g = Mul(h, w1) b = Add(g, w2)", 6, weights={"w1": (8, 1, 1), "w2": (8, 1, 1)}, constants={"in": np.array([0, 2, 4, -1]), "back": np.array([0, 8, 8, 8]), "ax": np.array([2, 3]), "eps": np.float32(1e-5)}, inputs={"x": "N,3,8,8"}, restated=6),
    rows("layer norm over everything", "m = ReduceMean(a) d = Sub(a, m) p = Mul(d, d) v = ReduceMean(p) q = Add(v, eps) s = Sqrt(q) b = Div(d, s)", 0, constants={"eps": np.float32(1e-5)}),
    rows("a mean that something else reads too", "m = ReduceMean(a, ax) d = Sub(a, m) p = Mul(d, d) v = ReduceMean(p, ax) q = Add(v, m) b = Mul(d, q)", 0, constants={"ax": np.array([-1])}),
    image("topk of opset 7", "b, i = TopK<axis=3, k=4>(a)", 8, opset=7),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
