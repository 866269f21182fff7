"""Operators that move data."""

import numpy as np
import pytest

from tests.graph.rules.cases import ROWS, Case, forms, image

# fmt: off
CASES = [
    image("rows of sizes that may vary", "v = Reshape(a, k1) t = Transpose<perm=[0,2,1,3,4]>(v) u = Reshape(t, k2) b = Relu(u)", 0, inputs={"x": "N,3,H,W"}, constants={"k1": np.array([-1, 2, 4, 8, 8]), "k2": np.array([-1, 8, 8, 8])}),
    image("rows of sizes that are known", "v = Reshape(a, k1) t = Transpose<perm=[0,2,1,3,4]>(v) u = Reshape(t, k2) b = Relu(u)", 6, constants={"k1": np.array([-1, 2, 4, 8, 8]), "k2": np.array([-1, 8, 8, 8])}),
    image("groups, and the rest", "v = Reshape(a, k1) w = Relu(v) s = Shape(a) b = Reshape(w, s)", 2, inputs={"x": "N,3,H,W"}, constants={"k1": np.array([0, 4, -1])}),
    # only images whose rows come down to one: what is symbolic shows at low ones
    image("a single row", "p = MaxPool<kernel_shape=[1,1], strides=[64,1]>(a) l = Shape<start=3>(a) f = Reshape(p, k1) t = Transpose<perm=[0,2,1]>(f) m = MatMul(t, w1) s = Concat<axis=0>(k2, l, k3) r = Reshape(m, s) u = Transpose<perm=[0,3,1,2]>(r) b = Concat<axis=1>(p, u)", 8 + 6,
        after=(5, 14, 1, 1), inputs={"x": "N,3,H,W"}, weights={"w1": (8, 6)}, constants={"k1": np.array([0, 0, -1]), "k2": np.array([0, 1]), "k3": np.array([6])}),
    image("transpose", "c = Transpose<perm=[0,2,3,1]>(a) d = Add(c, p) b = Transpose<perm=[0,3,1,2]>(d)", 8, weights={"p": (8,)}, opsets=forms("Transpose")),
    Case("flatten", "a = Conv(x, w0) f = Flatten(a) y = MatMul(f, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (512, 5)}, outputs="float[a,b] y", opsets=forms("Flatten")),
    Case("reshape to rows", "a = Conv(x, w0) f = Reshape(a, s) y = MatMul(f, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (512, 5)}, constants={"s": np.array([0, 512])}, outputs="float[a,b] y", opsets=forms("Reshape")),
    Case("reshape, -1 adapts", "a = Conv(x, w0) f = Reshape(a, s) y = Gemm(f, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (512, 5)}, constants={"s": np.array([0, -1])}, outputs="float[a,b] y"),
    Case("reshape by shape arithmetic", "a = Conv(x, w0) s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, k) f = Reshape(a, t) y = Gemm(f, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (512, 5)}, constants={"k": np.array([512])}, outputs="float[a,b] y"),
    Case("reshape by its own shape", "a = Conv(x, w0) s = Shape<start=0, end=2>(a) t = Concat<axis=0>(s, k) f = Reshape(a, t) g = Transpose<perm=[0,2,1]>(f) y = MatMul(g, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (8, 5)}, constants={"k": np.array([-1])}, outputs="float[a,b,c] y"),
    # rows to an image: 2 channels of 2 x 2, each tied over its positions
    Case("rows to image", "a = MatMul(x, w0) r = Reshape(a, s) y = Conv(r, w9)", 2, {"w0": (6, 8), "w9": (5, 2, 1, 1)}, ROWS, {"s": np.array([-1, 2, 2, 2])}),
    image("squeeze unsqueeze", "p = GlobalAveragePool(a) q = Squeeze(p, ax) r = Relu(q) b = Unsqueeze(r, ax)", 8, constants={"ax": np.array([2, 3])}, opset=13, opsets=forms("Squeeze", "Unsqueeze", since=13)[1:]),
    image("concat", "c = Conv(x, w1) d = Relu(c) b = Concat<axis=1>(a, d, x)", 8 + 4, (5, 15, 1, 1), weights={"w1": (4, 3, 1, 1)}, opsets=(7, 11)),
    image("dense connections", "c = Conv(a, w1) d = Concat<axis=1>(a, c) e = Conv(d, w2) b = Concat<axis=1>(d, e)", 8 + 4 + 4, (5, 16, 1, 1), weights={"w1": (4, 8, 1, 1), "w2": (4, 12, 1, 1)}),
    image("concat over positions ties", "c = Conv(x, w1) b = Concat<axis=2>(a, c)", 8, weights={"w1": (8, 3, 1, 1)}),
    image("tile positions", "b = Tile(a, k)", 8, constants={"k": np.array([1, 1, 2, 1])}),
    image("tile channels", "b = Tile(a, k)", 8, (5, 16, 1, 1), constants={"k": np.array([1, 2, 1, 1])}),
    image("expand", "p = GlobalAveragePool(a) c = Expand(p, s) b = Add(a, c)", 8, constants={"s": np.array([1, 8, 8, 8])}),
    image("trilu", "b = Trilu(a)", 8),
    Case("col2im", "a = MatMul(w0, x) b = Col2Im(a, s, k) y = Conv(b, w9)", 2, {"w0": (8, 6), "w9": (5, 2, 1, 1)}, {"x": "N,6,9"}, {"s": np.array([4, 4]), "k": np.array([2, 2])}),
    image("depth to space", "b = DepthToSpace<blocksize=2>(a)", 2, (5, 2, 1, 1), opsets=(7, 11, 28)),
    image("depth to space CRD", 'b = DepthToSpace<blocksize=2, mode="CRD">(a)', 2, (5, 2, 1, 1)),
    image("space to depth", "b = SpaceToDepth<blocksize=2>(a)", 8, (5, 32, 1, 1), opsets=(7, 28)),
    # channel shuffle: the rows of either grid, 2 halves and 4 pairs
    image("shuffle", "c = Reshape(a, s) d = Transpose<perm=[0,2,1,3,4]>(c) b = Reshape(d, t)", 2 + 4, constants={"s": np.array([0, 2, 4, 8, 8]), "t": np.array([0, 8, 8, 8])}),
    Case("squeeze of whatever is 1", "a = Conv(x, w0) p = GlobalAveragePool(a) q = Squeeze(p) u = Unsqueeze(q, z) y = MatMul(u, w9)", 2, {"w0": (2, 3, 1, 1), "w9": (2, 5)}, {"x": "1,3,8,8"}, {"z": np.array([0])}, outputs="float[a,b] y"),
    Case("squeeze of whatever is 1, opset 11", "a = Conv(x, w0) p = GlobalAveragePool(a) q = Squeeze(p) u = Unsqueeze<axes=[0]>(q) y = MatMul(u, w9)", 2, {"w0": (2, 3, 1, 1), "w9": (2, 5)}, {"x": "1,3,8,8"}, outputs="float[a,b] y", opset=11),
    Case("a size that is a prime", "a = MatMul(x, w0) b = Reshape(a, s) t = Transpose(b) y = Relu(b)", 0, {"w0": (6, 7)}, ROWS, {"s": np.array([7, -1])}, outputs="float[ya,yb] y, float[ta,tb] t"),
    image("squeeze unsqueeze, axes as attributes", "p = GlobalAveragePool(a) q = Squeeze<axes=[2,3]>(p) r = Relu(q) b = Unsqueeze<axes=[2,3]>(r)", 8, opset=7, opsets=(11,)),
    # an axis made of a single place has labels of its own, which are tied where it meets others
    image("a number for each channel", "c = Expand(p, s) b = Mul(a, c)", 8, weights={"p": (1, 1, 1, 1)}, constants={"s": np.array([8, 1, 1])}, opsets=(8,)),
    image("a number for each channel, repeated", "c = Tile(p, s) b = Mul(a, c)", 8, weights={"p": (1, 1, 1, 1)}, constants={"s": np.array([1, 8, 1, 1])}, opsets=(7,)),
    image("a map for each channel", "c = Expand(z, s) b = Mul(a, c)", 8, inputs={"x": "N,3,8,8", "z": "1,1,8,8"}, constants={"s": np.array([1, 8, 1, 1])}),
    # 8 places that hold one number: their sum is another when some go
    image("sum of numbers for each channel pins", "c = Tile(z, s) d = Mul(a, c) e = ReduceSum(c, one) b = Mul(d, e)", 0, inputs={"x": "N,3,8,8", "z": "1,1,1,1"}, constants={"s": np.array([1, 8, 1, 1]), "one": np.array([1])}),
    Case("a token for each row", "a = MatMul(x, w0) n = Shape<start=0, end=1>(x) s = Concat<axis=0>(n, one, one) c = Tile(p, s) d = Concat<axis=1>(c, a) y = MatMul(d, w9)", 8, {"w0": (6, 8), "p": (1, 1, 8), "w9": (8, 5)}, {"x": "N,T,6"}, {"one": np.array([1])}, "float[ya,yb,yc] y"),
    Case("a token for each row, expanded", "a = MatMul(x, w0) n = Shape<start=0, end=1>(x) s = Concat<axis=0>(n, one, k) c = Expand(p, s) d = Concat<axis=1>(c, a) y = MatMul(d, w9)", 8, {"w0": (6, 8), "p": (1, 1, 8), "w9": (8, 5)}, {"x": "N,T,6"}, {"one": np.array([1]), "k": np.array([8])}, "float[ya,yb,yc] y"),
    image("channels repeated by computed counts pin", "n = Shape<start=0, end=1>(x) s = Concat<axis=0>(one, n, one, one) c = Tile(a, s) b = ReduceMax(c, one)", 0, (5, 1, 1, 1), constants={"one": np.array([1])}),
    Case("joined places sum to nothing", "a = MatMul(x, w0) b = MatMul(z, w0) c = Concat<axis=1>(a, b) y = MatMul(c, w9)", 8, {"w0": (6, 8), "w9": (8, 5)}, {"x": "N,3,6", "z": "N,2,6"}, outputs="float[ya,yb,yc] y"),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
