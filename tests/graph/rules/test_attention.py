"""Attention as networks write it: rotary tables, grouped queries, normalised queries and keys, shuffled groups."""

from collections import Counter

import numpy as np
import pytest

from onnxprune.graph.model import load
from onnxprune.graph.units import trace
from tests.graph.rules.cases import HEADS, JOIN, QKV, Case, tokens

ATTEND = f"s = MatMul(qr, kr) m = Mul(s, half) p = Softmax<axis=-1>(m) o = MatMul(p, v) {JOIN}"
#: Rotation of q[N,h,T,d] and of k[N,h,d,T], by halves.
ROTARY = (
    "qa, qb = Split<axis=3, num_outputs=2>(q) qn = Neg(qb) qh = Concat<axis=3>(qn, qa) "
    "qc = Mul(q, cos) qs = Mul(qh, sin) qr = Add(qc, qs) "
    "ct = Transpose<perm=[0,1,3,2]>(cos) st = Transpose<perm=[0,1,3,2]>(sin) "
    "ka, kb = Split<axis=2, num_outputs=2>(kt) kn = Neg(kb) kh = Concat<axis=2>(kn, ka) "
    "kc = Mul(kt, ct) ks = Mul(kh, st) kr = Add(kc, ks)"
)
ANGLES = "angle = Concat<axis=3>(a, a) cos = Cos(angle) sin = Sin(angle)"
#: Four heads of queries, two of keys and values, two places each.
GROUPED = (
    "q1 = Reshape(q0, s4) qr = Transpose<perm=[0,2,1,3]>(q1) k1 = Reshape(k0, s2) k2 = Transpose<perm=[0,2,1,3]>(k1) "
    "k3 = Unsqueeze(k2, two) k4 = Expand(k3, s5) k5 = Reshape(k4, join) kr = Transpose<perm=[0,1,3,2]>(k5) "
    "v1 = Reshape(v0, s2) v2 = Transpose<perm=[0,2,1,3]>(v1) v3 = Unsqueeze(v2, two) v4 = Expand(v3, s5) v = Reshape(v4, join)"
)
GROUPS = {
    "s4": np.array([0, 5, 4, 2]),
    "s2": np.array([0, 5, 2, 2]),
    "s5": np.array([1, 1, 2, 1, 1]),
    "join": np.array([0, 4, 5, 2]),
    "two": np.array([2]),
}
NORMALISED = (
    "qq = Mul(q, q) qm = ReduceMean<keepdims=1>(qq, last) qe = Add(qm, eps) qd = Sqrt(qe) qx = Div(q, qd) qr = Mul(qx, qscale) "
    "k = Transpose<perm=[0,1,3,2]>(kt) kk = Mul(k, k) km = ReduceMean<keepdims=1>(kk, last) ke = Add(km, eps) kd = Sqrt(ke) "
    "kx = Div(k, kd) kz = Mul(kx, kscale) kr = Transpose<perm=[0,1,3,2]>(kz)"
)
#: Embedded positions, of which a table has 64; sizes are computed from those of the input.
POSITIONS = (
    "n = Shape<start=0, end=1>(x) t = Shape<start=1, end=2>(x) e = Slice(w, zero, t, one) h = Add(x, e) "
    "q0 = MatMul(h, wq) k0 = MatMul(h, wk) v0 = MatMul(h, wv) "
    "s4 = Concat<axis=0>(n, t, rest, four) s3 = Concat<axis=0>(n, t, rest)"
)
#: Keys k[N,T,h,d] become [N,h,d,T] as PyTorch's exporter writes it: by way of [N*h,T,d] and [N*h,d,T].
TURNED = (
    "q1 = Reshape(q0, s4) qr = Transpose<perm=[0,2,1,3]>(q1) v1 = Reshape(v0, s4) v = Transpose<perm=[0,2,1,3]>(v1) "
    "k1 = Reshape(k0, s4) k2 = Transpose<perm=[0,2,1,3]>(k1) sk = Shape(k2) "
    "sb = Slice(sk, zero, before) st = Slice(sk, before, rest) sd = Slice(sk, rest, end) "
    "f3 = Concat<axis=0>(rest, st, sd) k3 = Reshape(k2, f3) k4 = Transpose<perm=[0,2,1]>(k3) "
    "f4 = Concat<axis=0>(sb, sd, st) kr = Reshape(k4, f4)"
)
TURNS = {
    "zero": np.array([0]),
    "one": np.array([1]),
    "rest": np.array([-1]),
    "before": np.array([-2]),
    "end": np.array([2**31]),
    "four": np.array([4]),
    "half": np.float32(0.5),
}
SHUFFLE = "r = Reshape(c, s5) t = Transpose<perm=[0,2,1,3,4]>(r) d = Reshape(t, s4)"


def shuffled(groups: int, width: int) -> Case:
    """Grouped convolution -> shuffle -> grouped convolution, `width` channels in `groups` groups."""
    body = f"a = Conv(x, w0) c = Conv<group={groups}>(a, w1) {SHUFFLE} e = Conv<group={groups}>(d, w2) y = Conv(e, w9)"
    weights = {"w0": (width, 3, 1, 1), "w1": (width, width // groups, 1, 1), "w2": (width, width // groups, 1, 1)}
    constants = {"s5": np.array([0, groups, width // groups, 8, 8]), "s4": np.array([0, width, 8, 8])}
    between = width // groups**2  # one channel for every pair of a group before and a group behind the shuffle
    each = width // groups  # before the first convolution and behind the second, one channel from every group
    units = each + between + each + 2 * groups  # and the whole groups of both
    weights["w9"] = (5, width, 1, 1)
    return Case(f"shuffle of {groups} groups, {width} wide", body, units, weights, constants=constants)


# fmt: off
CASES = [
    # 2 heads; places of queries and keys go in pairs, in all heads; 4 places of each head's values
    tokens("rotary table", f"{QKV} {HEADS} {ROTARY} {ATTEND}", 2 + 2 + 4, weights={"cos": (1, 1, 5, 4), "sin": (1, 1, 5, 4)}),
    tokens("rotary angles", f"{QKV} {HEADS} {ANGLES} {ROTARY} {ATTEND}", 2 + 2 + 4, weights={"a": (1, 1, 5, 2)}),
    # 2 groups; 2 places of the queries and keys, and of the values, each group its own choice
    tokens("grouped queries", f"{QKV} {GROUPED} {ATTEND}", 2 + 2 + 2, weights={"wk": (6, 4), "wv": (6, 4)}, constants=GROUPS),
    # a scale that the heads share: their places go together; whole heads are free
    tokens("normalised queries and keys", f"{QKV} {HEADS} {NORMALISED} {ATTEND}", 2 + 4 + 4, weights={"qscale": (4,), "kscale": (4,)}, constants={"last": np.array([-1]), "eps": np.float32(1e-5)}),
    # no sequence is longer than the table: what is symbolic shows at shorter ones
    Case("a table of positions", f"{POSITIONS} {TURNED} {ATTEND}", 2 + 4 + 4, {"w": (1, 64, 6), "wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 5)}, {"x": "N,T,6"}, TURNS, "float[a,b,c] y"),
    shuffled(2, 8),
    shuffled(2, 12),
    shuffled(3, 18),
]
KINDS = {
    "rotary table": {"head": 2, "head dimension": 6},
    "grouped queries": {"key-value group": 2, "head dimension": 4},
    "normalised queries and keys": {"head": 2, "head dimension": 8},
}
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in KINDS], ids=str)
def test_units_are_called_what_the_field_calls_them(oracle, case):
    model = oracle.parse(case.body, case.inputs, case.weights, case.constants, case.outputs, case.opset)
    assert Counter(unit.kind for unit in trace(load(model)).units) == KINDS[case.name]
