"""Operators that compute each element on its own."""

import numpy as np
import pytest

from onnxprune.graph.rules.elementwise import UNARY
from tests.graph.rules.cases import BN, Case, forms, image

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
}

# fmt: off
CASES = [
    *[image(name, SAFE.get(name, f"b = {name}(a)"), 8, opset=forms(name)[0], opsets=forms(name)[1:]) for name in UNARY],
    image("residual", "c = Conv(a, w1) d = Relu(c) e = Conv(d, w2) b = Add(e, a)", 8 + 4, weights={"w1": (4, 8, 1, 1), "w2": (8, 4, 1, 1)}),
    image("sub mul div", "c = Sub(a, p) d = Mul(c, q) b = Div(d, var)", 8, weights={"p": (1, 8, 1, 1), "q": (8, 1, 1), "var": (1, 8, 1, 1)}, opsets=forms("Sub", "Mul", "Div")),
    image("scalar", "c = Mul(a, p) d = Add(c, q) e = Pow(d, two) b = Max(e, q)", 8, constants={"p": np.float32(0.5), "q": np.full((1,), 0.25, np.float32), "two": np.float32(2)}, opsets=forms("Add", "Max", "Pow", since=8)),
    image("prelu", "b = PRelu(a, p)", 8, weights={"p": (8, 1, 1)}, opsets=forms("PRelu")),
    image("clip", "b = Clip(a, lo, hi)", 8, constants={"lo": np.float32(-0.5), "hi": np.float32(0.5)}, opsets=(11, 12)),
    image("min mean sum", "c = Conv(x, w1) d = Min(a, c) e = Mean(a, c, d) b = Sum(a, e)", 8, weights={"w1": (8, 3, 1, 1)}, opsets=forms("Max", "Mean", "Min", "Sum")),
    image("where", "c = Greater(a, z) b = Where(c, a, z)", 8, constants={"z": np.float32(0)}, opsets=forms("Where")),
    image("compare", "c = GreaterOrEqual(a, p) d = Less(a, p) e = LessOrEqual(a, p) f = Equal(a, p) g = And(c, e) h = Or(d, f) i = Xor(g, h) b = Cast<to=1>(i)", 8, weights={"p": (8, 1, 1)}),
    image("mod", "b = Mod<fmod=1>(a, two)", 8, constants={"two": np.float32(2)}, opsets=(10, 28)),
    image("integers", "c = Cast<to=12>(a) d = BitShift<direction=\"LEFT\">(c, c) e = BitwiseAnd(c, d) f = BitwiseOr(c, e) g = BitwiseXor(f, d) b = Cast<to=1>(g)", 8, opsets=(28,)),
    # a map over the positions has no label to tie with, but is of size 1 on the channels' axis
    image("position map", "b = Add(a, p)", 8, weights={"p": (1, 1, 8, 8)}),
    # a full map is a parameter that the channels cut
    image("full map", "b = Add(a, p)", 8, weights={"p": (1, 8, 8, 8)}),
    # two inputs of the graph: what has no label and size 8 pins
    Case("meets an input", "a = Conv(x, w0) b = Add(a, z) y = Conv(b, w9)", 0, {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}, {"x": "N,3,8,8", "z": "N,8,8,8"}),
    Case("gate of size 1", "a = Conv(x, w0) b = Mul(a, z) y = Conv(b, w9)", 8, {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}, {"x": "N,3,8,8", "z": "N,1,8,8"}),
    image("squeeze and excitation", "p = GlobalAveragePool(a) q = Conv(p, w1, b1) r = Relu(q) s = Conv(r, w2, b2) t = Sigmoid(s) b = Mul(a, t)", 8 + 2, weights={"w1": (2, 8, 1, 1), "b1": (2,), "w2": (8, 2, 1, 1), "b2": (8,)}),
    image("shrink that moves zero", "c = Shrink<bias=0.5, lambd=-1.0>(a) b = ReduceSum(c, one)", 0, (5, 1, 1, 1), constants={"one": np.array([1])}),
    image("cast like what shrinks", "c = CastLike(half, a) b = Mul(a, c)", 8, opset=15, opsets=forms("CastLike")[1:], constants={"half": np.array(0.5)}),
    image("cast like", "b = CastLike(a, x)", 8, opset=15, opsets=forms("CastLike")[1:]),
    # a deleted slice of a divisor is 0, and counts as 1 where nothing is removed
    image("divided by a reshaped weight", "r = Reshape(var, s) b = Div(a, r)", 8, weights={"var": (8,)}, constants={"s": np.array([8, 1, 1])}),
    image("divided by the root of a weight's size", "p = Abs(var) q = Sqrt(p) b = Div(a, q)", 8, weights={"var": (8, 1, 1)}),
    image("times the reciprocal of a weight", "p = Transpose(var) q = Reciprocal(p) b = Mul(a, q)", 8, weights={"var": (1, 1, 8)}),
    image("times an inverse root", "p = Pow(var, half) b = Mul(a, p)", 8, weights={"var": (8, 1, 1)}, constants={"half": np.float32(-0.5)}),
    image("plus a weight's logarithm", "p = Log(var) b = Add(a, p)", 8, weights={"var": (8, 1, 1)}),
    image("remainder by a weight", "b = Mod<fmod=1>(a, var)", 8, weights={"var": (8, 1, 1)}),
    image("whole numbers divided", "n = Cast<to=6>(a) p = Mul(var, ten) m = Cast<to=6>(p) d = Div(n, m) b = Cast<to=1>(d)", 8, weights={"var": (8, 1, 1)}, constants={"ten": np.float32(10)}),
    image("divided by an activation", "c = Exp(a) d = Sub(c, one) e = Mul(d, d) f = Div(e, d) b = Add(f, a)", 8, constants={"one": np.float32(1)}),
    image("divided by a variance of 0", "b = BatchNormalization<epsilon=0.0>(a, s, t, m, var)", 8, weights=BN),
    # neither operand is 0 where it is deleted: 0.5 times 0.5 adds to the sum
    image("clip by attributes", "b = Clip<min=-0.5, max=0.5>(a)", 8, opset=7),
    # what was 0 is 0.5 behind it
    image("sum behind a clip above 0 pins", "c = Clip<min=0.5>(a) d = ReduceSum<axes=[1]>(c) b = Add(a, d)", 0, opset=7),
    image("largest of three", "c = Conv(x, w1) d = Max(a, c, a) e = Min(d, a) f = Mean(a, c, e) b = Sum(d, e, f)", 8, weights={"w1": (8, 3, 1, 1)}, opset=7),
    image("larger and smaller", "c = Greater(a, p) d = Less(a, p) e = Or(c, d) b = Cast<to=1>(e)", 8, weights={"p": (8, 1, 1)}, opset=7, opsets=(9,)),
    image("as large or small", "c = GreaterOrEqual(a, p) d = LessOrEqual(a, p) e = Xor(c, d) b = Cast<to=1>(e)", 8, weights={"p": (8, 1, 1)}, opset=12),
    image("equal", "c = Cast<to=6>(a) d = Abs(c) e = Equal(c, d) b = Cast<to=1>(e)", 8, opset=7, opsets=(11, 13)),
    image("dropout", "b = Dropout(a)", 8, opset=7, opsets=forms("Dropout")[1:]),
    image("dropout and its mask", "c, m = Dropout(a) d = Cast<to=1>(m) b = Mul(c, d)", 8, opset=13),
    # the mask of a deleted channel is true like any other
    image("sum of a dropout's mask pins", "c, m = Dropout(a) d = Cast<to=1>(m) e = ReduceSum(d, one) b = Mul(c, e)", 0, constants={"one": np.array([1])}),
    image("dropout in training pins", "b = Dropout(a, ratio, train)", 0, constants={"ratio": np.float32(0), "train": np.array(True)}),
    image("swiglu", "c = Conv(x, w1) b = SwiGLU(a, c)", 8, weights={"w1": (8, 3, 1, 1)}, opset=28),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
