"""A table of cases for every operator, and the one oracle.

Each case stands between a convolution or a Gemm that produces channels and one that reads them. `units` is what a
person counts: how many smallest legal deletions there are. A case whose operator pins has the units of the rest only.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest

from onnxprune.graph.rules import RULES
from onnxprune.graph.rules.elementwise import UNARY

IMAGE = {"x": "N,3,8,8"}
ROWS = {"x": "N,6"}


@dataclass
class Case:
    name: str
    body: str
    units: int
    weights: dict[str, tuple[int, ...]]
    inputs: dict[str, str] = field(default_factory=lambda: dict(IMAGE))
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: str = "float[ya,yb,yc,yd] y"
    opset: int = 20
    operators: tuple[str, ...] = ()
    restated: int = 0


def image(name: str, middle: str, units: int, after: tuple[int, ...] = (5, 8, 1, 1), **more) -> Case:
    """Conv (8 channels) -> `middle`, from a to b -> Conv (5 outputs)."""
    weights = {"w0": (8, 3, 1, 1), "w9": after} | more.pop("weights", {})
    return Case(name, f"a = Conv(x, w0) {middle} y = Conv(b, w9)", units, weights, **more)


def rows(name: str, middle: str, units: int, after: tuple[int, ...] = (8, 5), **more) -> Case:
    """MatMul (8 neurons) -> `middle`, from a to b -> MatMul (5 outputs)."""
    weights = {"w0": (6, 8), "w9": after} | more.pop("weights", {})
    outputs = more.pop("outputs", "float[ya,yb] y")
    return Case(
        name, f"a = MatMul(x, w0) {middle} y = MatMul(b, w9)", units, weights, dict(ROWS), outputs=outputs, **more
    )


QKV = "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv)"
HEADS = (
    "q1 = Reshape(q0, s4) q = Transpose<perm=[0,2,1,3]>(q1) k1 = Reshape(k0, s4) kt = Transpose<perm=[0,2,3,1]>(k1) "
    "v1 = Reshape(v0, s4) v = Transpose<perm=[0,2,1,3]>(v1)"
)
JOIN = "o1 = Transpose<perm=[0,2,1,3]>(o) o2 = Reshape(o1, s3) y = MatMul(o2, wo)"


def tokens(name: str, body: str, units: int, **more) -> Case:
    """Attention over x[N,5,6] with 2 heads of 4."""
    weights = {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 5)}
    if "wf" in more.get("weights", {}):
        weights = {"wo": (8, 5)}
    constants = {"s4": np.array([0, 5, 2, 4]), "s3": np.array([0, 5, 8]), "half": np.float32(0.5)}
    return Case(
        name,
        body,
        units,
        weights | more.get("weights", {}),
        {"x": "N,5,6"},
        constants | more.get("constants", {}),
        "float[a,b,c] y",
    )


BN = {"s": (8,), "t": (8,), "m": (8,), "var": (8,)}
#: Operators of one operand whose domain isn't the whole line get something they can take.
SAFE = {
    "Acos": "p = Tanh(a) b = Acos(p)",
    "Acosh": "p = Sigmoid(a) o = Exp(p) b = Acosh(o)",
    "Asin": "p = Tanh(a) b = Asin(p)",
    "Atanh": "p = Sigmoid(a) b = Atanh(p)",
    "Log": "p = Exp(a) b = Log(p)",
    "Sqrt": "p = Exp(a) b = Sqrt(p)",
    "Reciprocal": "p = Exp(a) b = Reciprocal(p)",
    "Cast": "p = Cast<to=11>(a) b = Cast<to=1>(p)",
    "Not": "p = Cast<to=9>(a) q = Not(p) b = Cast<to=1>(q)",
    "BitwiseNot": "p = Cast<to=6>(a) q = BitwiseNot(p) b = Cast<to=1>(q)",
    "IsInf": "q = IsInf(a) b = Cast<to=1>(q)",
    "IsNaN": "q = IsNaN(a) b = Cast<to=1>(q)",
    "Swish": "",  # newer than the opset here; shares the rule of all the others
}

# fmt: off
CASES = [
    *[image(name, SAFE.get(name, f"b = {name}(a)"), 8, operators=(name,)) for name in UNARY if SAFE.get(name) != ""],
    # contraction
    image("conv", "b = Relu(a)", 8, operators=("Conv",)),
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
    image("transposed", "b = ConvTranspose<strides=[2,2]>(a, w1, b1)", 14, (5, 6, 1, 1), weights={"w1": (8, 6, 2, 2), "b1": (6,)}, operators=("ConvTranspose",)),
    image("transposed grouped", "b = ConvTranspose<group=2>(a, w1)", 4 + 3 + 2, (5, 6, 1, 1), weights={"w1": (8, 3, 2, 2)}),
    image("transposed depthwise", "b = ConvTranspose<group=8>(a, w1)", 8, weights={"w1": (8, 1, 2, 2)}),
    image("transposed, one output a group", "b = ConvTranspose<group=2>(a, w1)", 4 + 2, (5, 2, 1, 1), weights={"w1": (8, 1, 2, 2)}),
    Case("conv1d", "a = Conv(x, w0) y = Conv(a, w9)", 8, {"w0": (8, 3, 3), "w9": (5, 8, 1)}, {"x": "N,3,12"}, outputs="float[a,b,c] y"),
    Case("conv3d", "a = Conv(x, w0) y = Conv(a, w9)", 8, {"w0": (8, 3, 3, 3, 3), "w9": (5, 8, 1, 1, 1)}, {"x": "N,3,4,4,4"}, outputs="float[a,b,c,d,e] y"),
    Case("gemm", "a = Gemm<alpha=0.5, beta=2.0>(x, w0, b0) r = Relu(a) y = Gemm(r, w9, b9)", 8, {"w0": (6, 8), "b0": (8,), "w9": (8, 5), "b9": (1, 5)}, ROWS, outputs="float[a,b] y", operators=("Gemm",)),
    Case("gemm transB", "a = Gemm<transB=1>(x, w0) y = Gemm<transB=1>(a, w9)", 8, {"w0": (8, 6), "w9": (5, 8)}, ROWS, outputs="float[a,b] y"),
    Case("gemm transA", "t = Transpose(x) a = Gemm<transA=1>(t, w0) y = MatMul(a, w9)", 8, {"w0": (6, 8), "w9": (8, 5)}, ROWS, outputs="float[a,b] y"),
    rows("matmul", "c = Add(a, b0) b = Relu(c)", 8, weights={"b0": (8,)}, operators=("MatMul",)),
    Case("matmul 3d", "a = MatMul(x, w0) r = Relu(a) y = MatMul(r, w9)", 8, {"w0": (6, 8), "w9": (8, 5)}, {"x": "N,T,6"}, outputs="float[a,b,c] y"),
    Case("weight behind transpose", "t = Transpose(w0) a = MatMul(x, t) y = MatMul(a, w9)", 8, {"w0": (8, 6), "w9": (8, 5)}, ROWS, outputs="float[a,b] y"),
    Case("weight behind reshape", "t = Reshape(w0, s) a = Conv(x, t) y = Conv(a, w9)", 8, {"w0": (8, 3), "w9": (5, 8, 1, 1)}, constants={"s": np.array([8, 3, 1, 1])}),
    # a weight used twice ties its uses
    rows("shared matrix", "c = MatMul(a, w1) d = Relu(c) b = MatMul(d, w1)", 8, weights={"w1": (8, 8)}),
    # einsum: any of the above
    Case("einsum, matrices", 'a = Einsum<equation="nk,kc->nc">(x, w0) y = Einsum<equation="nk,kc">(a, w9)', 8, {"w0": (6, 8), "w9": (8, 5)}, ROWS, outputs="float[a,b] y", operators=("Einsum",)),
    Case("einsum, ellipsis", 'a = Einsum<equation="...k,kc->...c">(x, w0) y = Einsum<equation="...k,kc->...c">(a, w9)', 8, {"w0": (6, 8), "w9": (8, 5)}, {"x": "N,T,6"}, outputs="float[a,b,c] y"),
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
    # a scale that the heads share ties their places: whole heads can't go then, nor can a choice in each be made
    tokens("attention with a scale shared by the heads", f"{QKV} {HEADS} q2 = Mul(q, shared) s = MatMul(q2, kt) p = Softmax<axis=-1>(s) o = MatMul(p, v) {JOIN}", 4 + 4, weights={"shared": (4,)}),
    # elementwise
    image("residual", "c = Conv(a, w1) d = Relu(c) e = Conv(d, w2) b = Add(e, a)", 8 + 4, weights={"w1": (4, 8, 1, 1), "w2": (8, 4, 1, 1)}, operators=("Add",)),
    image("sub mul div", "c = Sub(a, p) d = Mul(c, q) b = Div(d, var)", 8, weights={"p": (1, 8, 1, 1), "q": (8, 1, 1), "var": (1, 8, 1, 1)}, operators=("Sub", "Mul", "Div")),
    image("scalar", "c = Mul(a, p) d = Add(c, q) e = Pow(d, two) b = Max(e, q)", 8, constants={"p": np.float32(0.5), "q": np.full((1,), 0.25, np.float32), "two": np.float32(2)}, operators=("Pow", "Max")),
    image("prelu", "b = PRelu(a, p)", 8, weights={"p": (8, 1, 1)}, operators=("PRelu",)),
    image("clip", "b = Clip(a, lo, hi)", 8, constants={"lo": np.float32(-0.5), "hi": np.float32(0.5)}, operators=("Clip",)),
    image("min mean sum", "c = Conv(x, w1) d = Min(a, c) e = Mean(a, c, d) b = Sum(a, e)", 8, weights={"w1": (8, 3, 1, 1)}, operators=("Min", "Mean", "Sum")),
    image("where", "c = Greater(a, z) b = Where(c, a, z)", 8, constants={"z": np.float32(0)}, operators=("Where", "Greater")),
    image("compare", "c = GreaterOrEqual(a, p) d = Less(a, p) e = LessOrEqual(a, p) f = Equal(a, p) g = And(c, e) h = Or(d, f) i = Xor(g, h) b = Cast<to=1>(i)", 8, weights={"p": (8, 1, 1)}, operators=("GreaterOrEqual", "Less", "LessOrEqual", "Equal", "And", "Or", "Xor")),
    image("mod", "b = Mod<fmod=1>(a, two)", 8, constants={"two": np.float32(2)}, operators=("Mod",)),
    image("integers", "c = Cast<to=12>(a) d = BitShift<direction=\"LEFT\">(c, c) e = BitwiseAnd(c, d) f = BitwiseOr(c, e) g = BitwiseXor(f, d) b = Cast<to=1>(g)", 8, operators=("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    # a map over the positions has no label to tie with, but is of size 1 on the channels' axis
    image("position map", "b = Add(a, p)", 8, weights={"p": (1, 1, 8, 8)}),
    # a full map is a parameter that the channels cut
    image("full map", "b = Add(a, p)", 8, weights={"p": (1, 8, 8, 8)}),
    # two inputs of the graph: what has no label and size 8 pins
    Case("meets an input", "a = Conv(x, w0) b = Add(a, z) y = Conv(b, w9)", 0, {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}, {"x": "N,3,8,8", "z": "N,8,8,8"}),
    Case("gate of size 1", "a = Conv(x, w0) b = Mul(a, z) y = Conv(b, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}, {"x": "N,3,8,8", "z": "N,1,8,8"}),
    image("squeeze and excitation", "p = GlobalAveragePool(a) q = Conv(p, w1, b1) r = Relu(q) s = Conv(r, w2, b2) t = Sigmoid(s) b = Mul(a, t)", 8 + 2, weights={"w1": (2, 8, 1, 1), "b1": (2,), "w2": (8, 2, 1, 1), "b2": (8,)}, operators=("GlobalAveragePool",)),
    image("castlike dropout", "c = CastLike(a, x) b = Dropout(c)", 8, operators=("CastLike", "Dropout")),
    # normalisation
    image("batch norm", "b = BatchNormalization(a, s, t, m, var)", 8, weights=BN, operators=("BatchNormalization",)),
    image("instance norm", "b = InstanceNormalization(a, s, t)", 8, weights={"s": (8,), "t": (8,)}, operators=("InstanceNormalization",)),
    image("layer norm over the image", "b = LayerNormalization<axis=1>(a, s, t)", 8, weights={"s": (8, 8, 8), "t": (8, 8, 8)}, operators=("LayerNormalization",), restated=8),
    image("layer norm over channels last", "c = Transpose<perm=[0,2,3,1]>(a) d = LayerNormalization<axis=-1, epsilon=0.1>(c, s, t) b = Transpose<perm=[0,3,1,2]>(d)", 8, weights={"s": (8,), "t": (8,)}, restated=8),
    rows("layer norm without shift", "b = LayerNormalization(a, s)", 8, weights={"s": (8,)}, restated=8),
    rows("layer norm that gives its mean pins", "c, m, v = LayerNormalization(a, s) b = Add(c, m)", 0, weights={"s": (8,)}),
    image("layer norm over positions", "b = LayerNormalization<axis=2>(a, s)", 8, weights={"s": (8, 8)}),
    # 2 groups of 4: 4 bundles of one from each; 2 whole groups
    image("group norm", "b = GroupNormalization<num_groups=2>(a, s, t)", 4 + 2, weights={"s": (8,), "t": (8,)}, opset=21, operators=("GroupNormalization",), restated=6),
    image("group norm, one group", "b = GroupNormalization<num_groups=1>(a, s, t)", 8, weights={"s": (8,), "t": (8,)}, opset=21, restated=8),
    image("group norm of opset 18 pins", "b = GroupNormalization<num_groups=2>(a, s, t)", 0, weights={"s": (2,), "t": (2,)}, opset=18),
    image("group norm as exporters write it", "c = Reshape(a, g) d = InstanceNormalization(c, one, zero) e = Reshape(d, h) f = Mul(e, s) b = Add(f, t)", 4 + 2, weights={"s": (8, 1, 1), "t": (8, 1, 1)}, constants={"g": np.array([0, 2, -1]), "h": np.array([0, 8, 8, 8]), "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)}, restated=6),
    image("group norm of one group as exporters write it", "c = Reshape(a, g) d = InstanceNormalization(c, one, zero) e = Reshape(d, h) b = Mul(e, s)", 8, weights={"s": (8, 1, 1)}, constants={"g": np.array([0, 1, -1]), "h": np.array([0, 8, 8, 8]), "one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}, restated=8),
    Case("rms norm", "a = MatMul(x, w0) b = RMSNormalization<epsilon=0.1>(a, s) y = MatMul(b, w9)", 8, {"w0": (6, 8), "s": (8,), "w9": (8, 5)}, ROWS, outputs="float[a,b] y", opset=23, operators=("RMSNormalization",)),
    rows("rms norm written out", "p = Pow(a, two) q = ReduceMean(p, ax) r = Add(q, eps) u = Sqrt(r) v = Div(a, u) b = Mul(v, s)", 8, weights={"s": (8,)}, constants={"two": np.float32(2), "eps": np.float32(0.1), "ax": np.array([-1])}),
    rows("rms norm behind a bias pins", "c = Add(a, one) p = Pow(c, two) q = ReduceMean(p, ax) r = Sqrt(q) b = Div(c, r)", 0, constants={"one": np.float32(1), "two": np.float32(2), "ax": np.array([-1])}),
    rows("sum over the neurons", "c = ReduceSum(a, ax) b = Add(a, c)", 8, constants={"ax": np.array([1])}),
    rows("l2 norm over the neurons", "c = ReduceL2(a, ax) b = Div(a, c)", 8, constants={"ax": np.array([1])}),
    rows("mean over the neurons", "c = ReduceMean<keepdims=0>(a, ax) d = Unsqueeze(c, ax) b = Sub(a, d)", 8, constants={"ax": np.array([1])}),
    rows("max over the neurons pins", "c = ReduceMax(a, ax) b = Sub(a, c)", 0, constants={"ax": np.array([1])}),
    rows("sum behind a sigmoid pins", "c = Sigmoid(a) d = ReduceSum(c, ax) b = Sub(a, d)", 0, constants={"ax": np.array([1])}),
    image("sum behind constant padding pins", "c = Pad(a, p, five) d = ReduceSum(c, ax) e = ReduceMean(d, hw) b = Add(a, e)", 0, constants={"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "five": np.float32(5), "ax": np.array([1]), "hw": np.array([2, 3])}),
    image("attention over channels", "c = ReduceMean(a, ax) d = Sigmoid(c) b = Mul(a, d)", 8, constants={"ax": np.array([1])}),
    # pooling and reductions
    image("pools", "c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) d = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0]>(c) b = LpPool<kernel_shape=[2,2]>(d)", 8, operators=("MaxPool", "AveragePool", "LpPool")),
    image("pool positions pin", "c, i = MaxPool<kernel_shape=[2,2]>(a) f = Cast<to=1>(i) b = Add(c, f)", 0),
    image("global pools", "c = GlobalMaxPool(a) d = GlobalLpPool(a) b = Add(c, d)", 8, operators=("GlobalMaxPool", "GlobalLpPool")),
    image("reductions over positions", "c = ReduceMean(a, ax) d = ReduceSum(a, ax) e = ReduceMax(a, ax) f = ReduceMin(a, ax) g = ReduceL1(a, ax) h = ReduceL2(a, ax) i = ReduceSumSquare(a, ax) j = ReduceLogSumExp(a, ax) b = Sum(c, d, e, f, g, h, i, j)", 8, constants={"ax": np.array([2, -1])}, operators=("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")),
    image("reductions of positives", "p = Sigmoid(a) c = ReduceProd(p, ax) d = ReduceLogSum(p, ax) b = Add(c, d)", 8, constants={"ax": np.array([2, 3])}, operators=("ReduceProd", "ReduceLogSum")),
    Case("reduce to rows", "a = Conv(x, w0) b = ReduceMean<keepdims=0>(a, ax) y = MatMul(b, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (8, 5)}, constants={"ax": np.array([2, 3])}, outputs="float[a,b] y"),
    Case("reduce, axes as attribute", "a = Conv(x, w0) b = ReduceMean<keepdims=0, axes=[2,3]>(a) y = MatMul(b, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (8, 5)}, outputs="float[a,b] y", opset=11),
    image("softmax over positions", "b = Softmax<axis=-1>(a)", 8, operators=("Softmax",)),
    image("softmax over channels pins", "b = Softmax<axis=1>(a)", 0),
    image("softmax of opset 11 flattens", "b = Softmax<axis=1>(a)", 0, opset=11),
    image("log softmax hardmax", "c = LogSoftmax<axis=3>(a) d = Hardmax<axis=2>(a) b = Add(c, d)", 8, operators=("LogSoftmax", "Hardmax")),
    image("lp norm cumsum", "c = LpNormalization<axis=2>(a) b = CumSum(c, ax)", 8, constants={"ax": np.array(3)}, operators=("LpNormalization", "CumSum")),
    image("cumsum over channels pins", "b = CumSum(a, ax)", 0, constants={"ax": np.array(1)}),
    image("topk over positions", "b, i = TopK<axis=3>(a, k)", 8, constants={"k": np.array([4])}, operators=("TopK",)),
    image("argmax over positions", "c = ArgMax<axis=3>(a) d = ArgMin<axis=3>(a) e = Add(c, d) b = Cast<to=1>(e)", 8, operators=("ArgMax", "ArgMin")),
    image("argmax over channels pins", "c = ArgMax<axis=1>(a) d = Cast<to=1>(c) b = Add(a, d)", 0),
    # layout
    image("transpose", "c = Transpose<perm=[0,2,3,1]>(a) d = Add(c, p) b = Transpose<perm=[0,3,1,2]>(d)", 8, weights={"p": (8,)}, operators=("Transpose",)),
    Case("flatten", "a = Conv(x, w0) f = Flatten(a) y = Gemm(f, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (512, 5)}, outputs="float[a,b] y", operators=("Flatten",)),
    Case("reshape to rows", "a = Conv(x, w0) f = Reshape(a, s) y = Gemm(f, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (512, 5)}, constants={"s": np.array([0, 512])}, outputs="float[a,b] y", operators=("Reshape",)),
    Case("reshape, -1 adapts", "a = Conv(x, w0) f = Reshape(a, s) y = Gemm(f, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (512, 5)}, constants={"s": np.array([0, -1])}, outputs="float[a,b] y"),
    Case("reshape by shape arithmetic", "a = Conv(x, w0) s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, k) f = Reshape(a, t) y = Gemm(f, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (512, 5)}, constants={"k": np.array([512])}, outputs="float[a,b] y"),
    Case("reshape by its own shape", "a = Conv(x, w0) s = Shape<start=0, end=2>(a) t = Concat<axis=0>(s, k) f = Reshape(a, t) g = Transpose<perm=[0,2,1]>(f) y = MatMul(g, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (8, 5)}, constants={"k": np.array([-1])}, outputs="float[a,b,c] y"),
    # rows to an image: 2 channels of 2 x 2, each tied over its positions
    Case("rows to image", "a = MatMul(x, w0) r = Reshape(a, s) y = Conv(r, w9)", 2, {"w0": (6, 8), "w9": (5, 2, 1, 1)}, ROWS, {"s": np.array([-1, 2, 2, 2])}),
    image("squeeze unsqueeze", "p = GlobalAveragePool(a) q = Squeeze(p, ax) r = Relu(q) b = Unsqueeze(r, ax)", 8, constants={"ax": np.array([2, 3])}, operators=("Squeeze", "Unsqueeze")),
    image("concat", "c = Conv(x, w1) d = Relu(c) b = Concat<axis=1>(a, d, x)", 8 + 4, (5, 15, 1, 1), weights={"w1": (4, 3, 1, 1)}, operators=("Concat",)),
    image("dense connections", "c = Conv(a, w1) d = Concat<axis=1>(a, c) e = Conv(d, w2) b = Concat<axis=1>(d, e)", 8 + 4 + 4, (5, 16, 1, 1), weights={"w1": (4, 8, 1, 1), "w2": (4, 12, 1, 1)}),
    image("concat over positions ties", "c = Conv(x, w1) b = Concat<axis=2>(a, c)", 8, weights={"w1": (8, 3, 1, 1)}),
    image("split", "c, d = Split<axis=1>(a, k) e = Sigmoid(d) f = Conv(c, w1) g = Conv(e, w2) b = Concat<axis=1>(f, g)", 8 + 2 + 2, (5, 4, 1, 1), weights={"w1": (2, 3, 1, 1), "w2": (2, 5, 1, 1)}, constants={"k": np.array([3, 5])}, operators=("Split",)),
    image("split in halves, gated", "c, d = Split<axis=1, num_outputs=2>(a) e = Sigmoid(d) b = Mul(c, e)", 4, (5, 4, 1, 1)),
    image("split of opset 11", "c, d = Split<axis=1, split=[3,5]>(a) e = Conv(c, w1) f = Conv(d, w2) b = Add(e, f)", 8 + 2, (5, 2, 1, 1), weights={"w1": (2, 3, 1, 1), "w2": (2, 5, 1, 1)}, opset=11),
    image("slices", "c = Slice(a, z, k, o) d = Slice(a, k, e, o) f = Conv(c, w1) g = Conv(d, w2) b = Add(f, g)", 8 + 2, (5, 2, 1, 1), weights={"w1": (2, 3, 1, 1), "w2": (2, 5, 1, 1)}, constants={"z": np.array([0]), "k": np.array([3]), "e": np.array([2**62]), "o": np.array([1])}, operators=("Slice",)),
    image("slice of positions", "b = Slice(a, s, e, ax, st)", 8, constants={"s": np.array([1, -1]), "e": np.array([7, -(2**62)]), "ax": np.array([2, 3]), "st": np.array([2, -1])}),
    image("slice with a step pins", "b = Slice(a, s, e, ax, st)", 0, (5, 4, 1, 1), constants={"s": np.array([0]), "e": np.array([8]), "ax": np.array([1]), "st": np.array([2])}),
    image("slice of opset 9", "c = Slice<axes=[1], starts=[2], ends=[6]>(a) b = Relu(c)", 8, (5, 4, 1, 1), opset=9),
    image("gather permutes", "b = Gather<axis=1>(a, i)", 8, constants={"i": np.array([3, 1, -1, 0, 2, 4, 6, 5])}, operators=("Gather",)),
    image("gather picks", "b = Gather<axis=1>(a, i)", 8, (5, 3, 1, 1), constants={"i": np.array([6, 1, 2])}),
    image("pad", "c = Pad(a, p) b = Relu(c)", 8, constants={"p": np.array([0, 0, 1, 1, 0, 0, 2, 0])}, operators=("Pad",)),
    image("pad channels", "c = Pad(a, p) b = Relu(c)", 8, (5, 11, 1, 1), constants={"p": np.array([0, 1, 0, 0, 0, 2, 0, 0])}),
    image("pad reflects", 'b = Pad<mode="reflect">(a, p)', 8, constants={"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    image("tile positions", "b = Tile(a, k)", 8, constants={"k": np.array([1, 1, 2, 1])}, operators=("Tile",)),
    image("tile channels", "b = Tile(a, k)", 8, (5, 16, 1, 1), constants={"k": np.array([1, 2, 1, 1])}),
    image("expand", "p = GlobalAveragePool(a) c = Expand(p, s) b = Add(a, c)", 8, constants={"s": np.array([1, 8, 8, 8])}, operators=("Expand",)),
    Case("scatter rows", "a = MatMul(x, w0) d = ScatterND(a, i, u) y = MatMul(d, w9)", 8, {"w0": (6, 8), "w9": (8, 5), "u": (1, 8)}, {"x": "4,6"}, {"i": np.array([[2]])}, outputs="float[a,b] y", operators=("ScatterND",)),
    Case("scatter columns pins", "a = MatMul(x, w0) t = Transpose(a) d = ScatterND(t, i, u) e = Transpose(d) y = MatMul(e, w9)", 0, {"w0": (6, 8), "w9": (8, 5), "u": (1, 4)}, {"x": "4,6"}, {"i": np.array([[2]])}, outputs="float[a,b] y"),
    image("trilu", "b = Trilu(a)", 8, operators=("Trilu",)),
    Case("col2im", "a = MatMul(w0, x) b = Col2Im(a, s, k) y = Conv(b, w9)", 2, {"w0": (8, 6), "w9": (5, 2, 1, 1)}, {"x": "N,6,9"}, {"s": np.array([4, 4]), "k": np.array([2, 2])}, operators=("Col2Im",)),
    image("depth to space", "b = DepthToSpace<blocksize=2>(a)", 2, (5, 2, 1, 1), operators=("DepthToSpace",)),
    image("depth to space CRD", 'b = DepthToSpace<blocksize=2, mode="CRD">(a)', 2, (5, 2, 1, 1)),
    image("space to depth", "b = SpaceToDepth<blocksize=2>(a)", 8, (5, 32, 1, 1), operators=("SpaceToDepth",)),
    image("resize by scales", "b = Resize(a, , k)", 8, constants={"k": np.array([1, 1, 2, 2], np.float32)}, operators=("Resize",)),
    image("resize by sizes", 'b = Resize<mode="linear">(a, , , k)', 8, constants={"k": np.array([3, 8, 5, 7])}, inputs={"x": "3,3,8,8"}),
    image("upsample of opset 9", "b = Upsample(a, k)", 8, constants={"k": np.array([1, 1, 2, 2], np.float32)}, opset=9, operators=("Upsample",)),
    # channel shuffle: the rows of either grid, 2 halves and 4 pairs
    image("shuffle", "c = Reshape(a, s) d = Transpose<perm=[0,2,1,3,4]>(c) b = Reshape(d, t)", 2 + 4, constants={"s": np.array([0, 2, 4, 8, 8]), "t": np.array([0, 8, 8, 8])}),
    # a size used as a number keeps what was measured
    image("another tensor expanded to its shape pins", "s = Shape(a) g = Expand(p, s) b = Mul(a, g)", 0, weights={"p": (1, 1, 1, 1)}),
    # batch and heads joined by computed sizes, two of them symbolic; one size is a constant that must be corrected
    Case("batch and heads joined", "q0 = MatMul(x, wq) q1 = Reshape(q0, s4) q = Transpose<perm=[0,2,1,3]>(q1) f = Shape(q) n, h, t, d = Split<num_outputs=4>(f) nh = Mul(n, h) j = Concat<axis=0>(nh, t, d) q2 = Reshape(q, j) i = Concat<axis=0>(n, two, t, d) q3 = Reshape(q2, i) o1 = Transpose<perm=[0,2,1,3]>(q3) o2 = Reshape(o1, s3) y = MatMul(o2, wo)", 4, {"wq": (6, 8), "wo": (8, 5)}, {"x": "N,T,6"}, {"s4": np.array([0, 0, 2, 4]), "s3": np.array([0, 0, 8]), "two": np.array([2])}, "float[a,b,c] y"),
    image("another tensor reshaped by its size", "s = Shape<start=1, end=2>(a) t = Concat<axis=0>(one, s, m) g = Reshape(x, t) h = ReduceMean(g, hw) q = Reshape(h, k) b = Mul(a, q)", 8, inputs={"x": "1,3,8,8"}, constants={"one": np.array([1]), "m": np.array([-1, 1]), "hw": np.array([1, 2, 3]), "k": np.array([1, 1, 1, 1])}),
    # the 8 channels stay, p loses any of its 9 places
    image("another tensor sliced by its size", "s = Shape<start=1, end=2>(a) g = Slice(p, z, s, one) h = ReduceMean(g, one) b = Mul(a, h)", 9, weights={"p": (1, 9, 1, 1)}, constants={"z": np.array([0]), "one": np.array([1])}),
    image("another tensor tiled by its size pins", "s = Shape<start=1, end=2>(a) t = Concat<axis=0>(one, s, ones) g = Tile(p, t) h = ReduceSum(g, one) b = Mul(a, h)", 0, weights={"p": (1, 1, 1, 1)}, constants={"one": np.array([1]), "ones": np.array([1, 1])}),
    Case("size as an output pins", "a = Conv(x, w0) s = Shape(a) y = Conv(a, w9)", 0, {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}, outputs="float[ya,yb,yc,yd] y, int64[4] s"),
    image("resize by computed sizes pins", "n = Shape<start=0, end=1>(x) s = Concat<axis=0>(n, k) b = Resize(a, , , s)", 0, constants={"k": np.array([8, 16, 16])}),
    image("resize of chosen axes pins", "b = Resize<axes=[1,2,3]>(a, , , k)", 0, constants={"k": np.array([8, 16, 16])}),
    Case("squeeze of whatever is 1", "a = Conv(x, w0) p = GlobalAveragePool(a) q = Squeeze(p) u = Unsqueeze(q, z) y = MatMul(u, w9)", 2, {"w0": (2, 3, 1, 1), "w9": (2, 5)}, {"x": "1,3,8,8"}, {"z": np.array([0])}, outputs="float[a,b] y"),
    Case("squeeze of whatever is 1, opset 11", "a = Conv(x, w0) p = GlobalAveragePool(a) q = Squeeze(p) u = Unsqueeze<axes=[0]>(q) y = MatMul(u, w9)", 2, {"w0": (2, 3, 1, 1), "w9": (2, 5)}, {"x": "1,3,8,8"}, outputs="float[a,b] y", opset=11),
    image("slice with narrow integers", "c = Slice(a, s, e, o) b = Relu(c)", 8, (5, 5, 1, 1), constants={"s": np.array([2], np.int32), "e": np.array([7], np.int32), "o": np.array([1], np.int32)}),
    Case("a size that is a prime", "a = MatMul(x, w0) b = Reshape(a, s) t = Transpose(b) y = Relu(b)", 0, {"w0": (6, 7)}, ROWS, {"s": np.array([7, -1])}, outputs="float[ya,yb] y, float[ta,tb] t"),
    image("size as a number pins", "s = Shape<start=1, end=2>(a) f = Cast<to=1>(s) r = Sqrt(f) b = Div(a, r)", 0, operators=("Shape",)),
    image("lrn pins", "b = LRN<size=3>(a)", 0, operators=("LRN",)),
    image("no rule pins", "b = GatherElements<axis=3>(a, i)", 0, constants={"i": np.zeros((1, 8, 8, 8), np.int64)}, inputs={"x": "1,3,8,8"}),
    # one reader that can't shrink is enough
    image("output pins", "b = Relu(a)", 0, outputs="float[ya,yb,yc,yd] y, float[za,zb,zc,zd] a"),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_removal_computes_what_the_mask_computes(oracle, case):
    model = oracle.parse(case.body, case.inputs, case.weights, case.constants, case.outputs, case.opset)
    channels = oracle.check(model)
    assert len(channels.units) == case.units, channels.pinned
    assert sum(u.exactness == "restated" for u in channels.units) == case.restated


def test_every_rule_has_cases():
    covered = {operator for case in CASES for operator in case.operators}
    without = {
        "Swish",
        "Size",
        "ConstantOfShape",
        "Range",
        "OneHot",
        "RandomNormalLike",
        "RandomUniformLike",
        "EyeLike",
    }
    registered = {operator for domain, operator in RULES if not domain}
    assert registered - covered == without
