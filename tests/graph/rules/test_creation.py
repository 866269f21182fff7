"""Sizes as data, and what pins."""

import numpy as np
import pytest

from tests.graph.rules.cases import Case, forms, image

# fmt: off
CASES = [
    # a size used as a number keeps what was measured
    image("another tensor expanded to its shape", "s = Shape(a) g = Expand(p, s) b = Mul(a, g)", 8, weights={"p": (1, 1, 1, 1)}),
    # batch and heads joined by computed sizes, two of them symbolic; one size is a constant that must be corrected
    # behind the stride both symbolic lengths of a careless probe come out as 1
    Case("a symbolic length behind a stride", "c = Conv<strides=[20]>(x, w0) a = Transpose<perm=[0,2,1]>(c) s = Shape<start=0, end=2>(a) j = Concat<axis=0>(s, hd) r = Reshape(a, j) t = Transpose<perm=[0,1,3,2]>(r) i = Concat<axis=0>(s, m) u = Reshape(t, i) y = MatMul(u, w9)", 2 + 4, {"w0": (8, 3, 1), "w9": (8, 5)}, {"x": "N,3,T"}, {"hd": np.array([2, 4]), "m": np.array([-1])}, "float[a,b,c] y"),
    Case("batch and heads joined", "q0 = MatMul(x, wq) q1 = Reshape(q0, s4) q = Transpose<perm=[0,2,1,3]>(q1) f = Shape(q) n, h, t, d = Split<num_outputs=4>(f) nh = Mul(n, h) j = Concat<axis=0>(nh, t, d) q2 = Reshape(q, j) i = Concat<axis=0>(n, two, t, d) q3 = Reshape(q2, i) o1 = Transpose<perm=[0,2,1,3]>(q3) o2 = Reshape(o1, s3) y = MatMul(o2, wo)", 4, {"wq": (6, 8), "wo": (8, 5)}, {"x": "N,T,6"}, {"s4": np.array([0, 0, 2, 4]), "s3": np.array([0, 0, 8]), "two": np.array([2])}, "float[a,b,c] y"),
    image("another tensor reshaped by its size", "s = Shape<start=1, end=2>(a) t = Concat<axis=0>(one, s, m) g = Reshape(x, t) h = ReduceMean(g, hw) q = Reshape(h, k) b = Mul(a, q)", 8, inputs={"x": "1,3,8,8"}, constants={"one": np.array([1]), "m": np.array([-1, 1]), "hw": np.array([1, 2, 3]), "k": np.array([1, 1, 1, 1])}),
    # the 8 channels stay, p loses any of its 9 places
    image("another tensor sliced by its size", "s = Shape<start=1, end=2>(a) g = Slice(p, z, s, one) h = ReduceMean(g, one) b = Mul(a, h)", 9, weights={"p": (1, 9, 1, 1)}, constants={"z": np.array([0]), "one": np.array([1])}),
    image("another tensor tiled by its size", "s = Shape<start=1, end=2>(a) t = Concat<axis=0>(one, s, ones) g = Tile(p, t) h = ReduceSum(g, one) b = Mul(a, h)", 8, weights={"p": (1, 1, 1, 1)}, constants={"one": np.array([1]), "ones": np.array([1, 1])}),
    Case("size as an output pins", "a = Conv(x, w0) s = Shape(a) y = Conv(a, w9)", 0, {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}, outputs="float[ya,yb,yc,yd] y, int64[4] s", opsets=(13, *forms("Shape", since=15))),
    image("size as a number pins", "s = Shape<start=1, end=2>(a) f = Cast<to=1>(s) r = Sqrt(f) b = Div(a, r)", 0),
    # one reader that can't shrink is enough
    image("output pins", "b = Relu(a)", 0, outputs="float[ya,yb,yc,yd] y, float[za,zb,zc,zd] a"),
    image("zeros like another tensor", "s = Shape(a) z = ConstantOfShape(s) b = Add(a, z)", 8, opset=9, opsets=forms("ConstantOfShape")[1:]),
    image("ones of a given shape", "n = Shape(x) m = Gather(n, zero) u = Unsqueeze<axes=[0]>(m) s = Concat<axis=0>(u, k) z = ConstantOfShape<value=float[1] {1.0}>(s) c = Mul(a, z) b = Add(c, z)", 8, constants={"k": np.array([8, 8, 8]), "zero": np.array(0)}, opset=11),
    # the sum of 8 ones changes when one of them goes
    image("sum of ones pins", "n = Shape<start=0, end=1>(x) s = Concat<axis=0>(n, k) z = ConstantOfShape<value=float[1] {1.0}>(s) c = Mul(a, z) d = ReduceSum(z, one) b = Add(c, d)", 0, constants={"k": np.array([8, 8, 8]), "one": np.array([1])}),
    image("number of elements pins", "n = Size(a) f = Cast<to=1>(n) b = Div(a, f)", 0, opset=7, opsets=forms("Size")[1:]),
    image("number of elements of the input", "n = Size(x) f = Cast<to=1>(n) b = Div(a, f)", 8),
    image("positions", "n = Shape<start=2, end=3>(x) m = Squeeze(n, z) r = Range(zero, m, one) f = Cast<to=1>(r) b = Add(a, f)", 8, inputs={"x": "N,3,H,H"}, constants={"z": np.array([0]), "zero": np.array(0), "one": np.array(1)}, opsets=(15, 27)),
    image("numbers of channels pin", "n = Shape<start=1, end=2>(a) m = Squeeze(n, z) r = Range(zero, m, one) f = Cast<to=1>(r) g = Reshape(f, s) b = Add(a, g)", 0, constants={"z": np.array([0]), "zero": np.array(0), "one": np.array(1), "s": np.array([-1, 1, 1])}),
    image("one hot", "i = ArgMax<axis=1, keepdims=0>(x) c = OneHot<axis=1>(i, d, v) b = Add(a, c)", 0, constants={"d": np.array(8), "v": np.array([0, 1], np.float32)}, opset=9, opsets=(11, 28)),
    image("one hot of positions", "i = ArgMax<axis=1, keepdims=1>(x) j = Squeeze(i, one) c = OneHot<axis=1>(j, d, v) e = ReduceMean(c, one) b = Add(a, e)", 8, constants={"d": np.array(8), "v": np.array([0, 1], np.float32), "one": np.array([1])}),
    image("identity matrix", "m = ReduceMax<axes=[0,1], keepdims=0>(x) e = EyeLike<dtype=1>(m) b = Add(a, e)", 8, opset=9),
    Case("identity matrix of channels pins", "a = MatMul(x, w0) e = EyeLike(a) b = Add(a, e) y = MatMul(b, w9)", 0, {"w0": (6, 8), "w9": (8, 5)}, {"x": "8,6"}, outputs="float[a,b] y", opset=22),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
