"""Conv, ConvTranspose, Gemm, MatMul, Einsum, and attention."""

import numpy as np
import pytest

from tests.graph.rules.cases import HEADS, JOIN, QKV, ROWS, Case, image, rows, tokens

# fmt: off
CASES = [
    image("conv", "b = Relu(a)", 8, opsets=(7, 11, 22)),
    image("conv with bias", "c = Conv<pads=[1,1,1,1]>(a, w1, b1) b = Relu(c)", 15, (5, 7, 3, 3), weights={"w1": (7, 8, 3, 3), "b1": (7,)}),
    image("conv stride dilation", "b = Conv<strides=[2,2], dilations=[2,2], pads=[1,0,0,1]>(a, w1)", 14, (5, 6, 1, 1), weights={"w1": (6, 8, 3, 3)}),
    image("conv auto_pad", 'b = Conv<auto_pad="SAME_UPPER">(a, w1)', 14, (5, 6, 1, 1), weights={"w1": (6, 8, 3, 3)}),
    image("depthwise", "b = Conv<group=8>(a, w1, b1)", 8, weights={"w1": (8, 1, 3, 3), "b1": (8,)}),
    # two outputs a channel: 8 whole groups, and one output of each group, twice
    image("depthwise multiplier", "b = Conv<group=8>(a, w1)", 8 + 2, (5, 16, 1, 1), weights={"w1": (16, 1, 3, 3)}),
    # 2 groups of 4 in, 3 out: 4 and 3 bundles, 2 whole groups
    image("grouped", "b = Conv<group=2>(a, w1, b1)", 9, (5, 6, 1, 1), weights={"w1": (6, 4, 3, 3), "b1": (6,)}),
    image("grouped residual", "c = Conv<group=2>(a, w1) b = Add(a, c)", 6, weights={"w1": (8, 4, 1, 1)}),
    # the image's channels can't go, nor can whole groups: 8 outputs in 3 groups of ... none; 2 bundles of 3
    Case("grouped on input", "a = Conv<group=3>(x, w0) y = Conv(a, w9)", 2, {"w0": (6, 1, 1, 1), "w9": (5, 6, 1, 1)}),
    # 4 groups of 2 nest in 2 groups of 4: 2 bundles with a member from each of the 4, and the 2 whole groups of 4
    image("nested groups", "c = Conv<group=2>(a, w1) d = Conv<group=4>(a, w2) e = Concat<axis=1>(c, d) b = Relu(e)", 2 + 2, (5, 6, 1, 1), weights={"w1": (2, 4, 1, 1), "w2": (4, 2, 1, 1)}),
    image("transposed", "b = ConvTranspose<strides=[2,2]>(a, w1, b1)", 14, (5, 6, 1, 1), weights={"w1": (8, 6, 2, 2), "b1": (6,)}, opsets=(7, 22)),
    image("transposed grouped", "b = ConvTranspose<group=2>(a, w1)", 4 + 3 + 2, (5, 6, 1, 1), weights={"w1": (8, 3, 2, 2)}),
    image("transposed depthwise", "b = ConvTranspose<group=8>(a, w1)", 8, weights={"w1": (8, 1, 2, 2)}),
    image("transposed, one output a group", "b = ConvTranspose<group=2>(a, w1)", 4 + 2, (5, 2, 1, 1), weights={"w1": (8, 1, 2, 2)}),
    Case("conv1d", "a = Conv(x, w0) y = Conv(a, w9)", 8, {"w0": (8, 3, 3), "w9": (5, 8, 1)}, {"x": "N,3,12"}, outputs="float[a,b,c] y"),
    Case("conv3d", "a = Conv(x, w0) y = Conv(a, w9)", 8, {"w0": (8, 3, 3, 3, 3), "w9": (5, 8, 1, 1, 1)}, {"x": "N,3,4,4,4"}, outputs="float[a,b,c,d,e] y"),
    Case("gemm", "a = Gemm<alpha=0.5, beta=2.0>(x, w0, b0) r = Relu(a) y = Gemm(r, w9, b9)", 8, {"w0": (6, 8), "b0": (8,), "w9": (8, 5), "b9": (1, 5)}, ROWS, outputs="float[a,b] y", opsets=(7, 9, 11)),
    Case("gemm transB", "a = Gemm<transB=1>(x, w0) y = Gemm<transB=1>(a, w9)", 8, {"w0": (8, 6), "w9": (5, 8)}, ROWS, outputs="float[a,b] y"),
    Case("gemm transA", "t = Transpose(x) a = Gemm<transA=1>(t, w0) y = MatMul(a, w9)", 8, {"w0": (6, 8), "w9": (8, 5)}, ROWS, outputs="float[a,b] y"),
    rows("matmul", "c = Add(a, b0) b = Relu(c)", 8, weights={"b0": (8,)}, opsets=(7,)),
    Case("matmul 3d", "a = MatMul(x, w0) r = Relu(a) y = MatMul(r, w9)", 8, {"w0": (6, 8), "w9": (8, 5)}, {"x": "N,T,6"}, outputs="float[a,b,c] y"),
    Case("weight behind transpose", "t = Transpose(w0) a = MatMul(x, t) y = MatMul(a, w9)", 8, {"w0": (8, 6), "w9": (8, 5)}, ROWS, outputs="float[a,b] y"),
    Case("weight behind reshape", "t = Reshape(w0, s) a = Conv(x, t) y = Conv(a, w9)", 8, {"w0": (8, 3), "w9": (5, 8, 1, 1)}, constants={"s": np.array([8, 3, 1, 1])}),
    # a weight used twice ties its uses
    rows("shared matrix", "c = MatMul(a, w1) d = Relu(c) b = MatMul(d, w1)", 8, weights={"w1": (8, 8)}),
    # einsum: any of the above
    Case("einsum, matrices", 'a = Einsum<equation="nk,kc->nc">(x, w0) y = Einsum<equation="nk,kc">(a, w9)', 8, {"w0": (6, 8), "w9": (8, 5)}, ROWS, outputs="float[a,b] y"),
    Case("einsum, ellipsis", 'a = Einsum<equation="...k,kc->...c">(x, w0) y = Einsum<equation="...k,kc->...c">(a, w9)', 8, {"w0": (6, 8), "w9": (8, 5)}, {"x": "N,T,6"}, outputs="float[a,b,c] y", opsets=(28,)),
    Case("einsum, sums of one operand", 'a = MatMul(x, w0) s = Einsum<equation="nk->n">(a) u = Unsqueeze(s, one) b = Add(a, u) y = MatMul(b, w9)', 8, {"w0": (6, 8), "w9": (8, 5)}, ROWS, {"one": np.array([1])}, outputs="float[a,b] y"),
    Case("einsum, down to a number", 'a = MatMul(x, w0) s = Einsum<equation="nk->">(a) b = Add(a, s) y = MatMul(b, w9)', 8, {"w0": (6, 8), "w9": (8, 5)}, ROWS, outputs="float[a,b] y"),
    Case("einsum, sum behind a sigmoid pins", 'a = MatMul(x, w0) g = Sigmoid(a) s = Einsum<equation="nk->n">(g) u = Unsqueeze(s, one) b = Add(a, u) y = MatMul(b, w9)', 0, {"w0": (6, 8), "w9": (8, 5)}, ROWS, {"one": np.array([1])}, outputs="float[a,b] y"),
    tokens("einsum, attention", "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) q = Reshape(q0, s4) k = Reshape(k0, s4) v = Reshape(v0, s4) s = Einsum<equation=\"bihd,bjhd->bhij\">(q, k) p = Softmax<axis=-1>(s) o1 = Einsum<equation=\"bhij,bjhd->bihd\">(p, v) o2 = Reshape(o1, s3) y = MatMul(o2, wo)", 2 + 4 + 4),
    # attention: 2 heads, 4 places of each head's queries and keys, 4 of its values
    tokens("attention", f"{QKV} {HEADS} s = MatMul(q, kt) m = Mul(s, half) p = Softmax<axis=-1>(m) o = MatMul(p, v) {JOIN}", 2 + 4 + 4),
    tokens("attention with biases and a mask", f"{QKV} {HEADS} s = MatMul(q, kt) m = Add(s, bias) p = Softmax<axis=-1>(m) o = MatMul(p, v) {JOIN}", 2 + 4 + 4, weights={"bias": (1, 2, 5, 5)}),
    # queries, keys and values share one tensor [.., 3, heads, places], so they lose as many places
    tokens("attention from one matrix", f"f = MatMul(x, wf) r = Reshape(f, s5) t = Transpose<perm=[2,0,3,1,4]>(r) q1, k1, v1 = Split<axis=0, num_outputs=3>(t) q = Squeeze(q1, z) k = Squeeze(k1, z) v = Squeeze(v1, z) kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) p = Softmax<axis=-1>(s) o = MatMul(p, v) {JOIN}", 2 + 4, weights={"wf": (6, 24)}, constants={"s5": np.array([0, 5, 3, 2, 4]), "z": np.array([0])}),
    tokens("attention with a scale for each head", f"{QKV} {HEADS} s = MatMul(q, kt) m = Mul(s, perhead) p = Softmax<axis=-1>(m) o = MatMul(p, v) {JOIN}", 2 + 4 + 4, weights={"perhead": (2, 1, 1)}),
    # a scale that the heads share: their places go together; whole heads are free
    tokens("attention with a scale shared by the heads", f"{QKV} {HEADS} q2 = Mul(q, shared) s = MatMul(q2, kt) p = Softmax<axis=-1>(s) o = MatMul(p, v) {JOIN}", 2 + 4 + 4, weights={"shared": (4,)}),
    # where both hold 0.5 when deleted, 0.25 is missing from the sum
    Case("matmul behind sigmoids pins", "a = MatMul(x, w0) b = Sigmoid(a) v = Sigmoid(w9) y = MatMul(b, v)", 0, {"w0": (6, 8), "w9": (8, 5)}, ROWS, outputs="float[a,b] y"),
    Case("grouped conv behind sigmoids pins", "a = Conv(x, w0) b = Sigmoid(a) v = Sigmoid(w9) y = Conv<group=2>(b, v)", 0, {"w0": (8, 3, 1, 1), "w9": (6, 4, 1, 1)}),
    Case("depthwise conv by a sigmoid's weights pins", "a = Conv(x, w0) b = Sigmoid(a) v = Sigmoid(w1) c = Conv<group=8>(b, v) y = Conv(c, w9)", 0, {"w0": (8, 3, 1, 1), "w1": (8, 1, 1, 1), "w9": (6, 8, 1, 1)}),
    Case("convolution of single places", "a = MatMul(x, w0) b = Conv<kernel_shape=[1]>(a, w1, w2) y = MatMul(b, w9)", 8, {"w0": (6, 8), "w1": (4, 3, 1), "w2": (4,), "w9": (8, 5)}, {"x": "N,3,6"}, outputs="float[ya,yb,yc] y"),
    Case("convolution of every other place", "a = MatMul(x, w0) b = Conv<kernel_shape=[1], strides=[2]>(a, w1) y = MatMul(b, w9)", 0, {"w0": (6, 8), "w1": (4, 3, 1), "w9": (4, 5)}, {"x": "N,3,6"}, outputs="float[ya,yb,yc] y"),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
