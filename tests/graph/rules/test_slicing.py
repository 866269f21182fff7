"""Split and Slice."""

import numpy as np
import pytest

from tests.graph.rules.cases import Case, heads, image

# fmt: off
CASES = [
    image("split", "c, d = Split<axis=1>(a, k) e = Sigmoid(d) f = Conv(c, w1) g = Conv(e, w2) b = Concat<axis=1>(f, g)", 8 + 2 + 2, (5, 4, 1, 1), weights={"w1": (2, 3, 1, 1), "w2": (2, 5, 1, 1)}, constants={"k": np.array([3, 5])}),
    image("split in halves, gated", "c, d = Split<axis=1, num_outputs=2>(a) e = Sigmoid(d) b = Mul(c, e)", 4, (5, 4, 1, 1)),
    image("split of opset 11", "c, d = Split<axis=1, split=[3,5]>(a) e = Conv(c, w1) f = Conv(d, w2) b = Add(e, f)", 8 + 2, (5, 2, 1, 1), weights={"w1": (2, 3, 1, 1), "w2": (2, 5, 1, 1)}, opset=11),
    image("slices", "c = Slice(a, z, k, o) d = Slice(a, k, e, o) f = Conv(c, w1) g = Conv(d, w2) b = Add(f, g)", 8 + 2, (5, 2, 1, 1), weights={"w1": (2, 3, 1, 1), "w2": (2, 5, 1, 1)}, constants={"z": np.array([0]), "k": np.array([3]), "e": np.array([2**62]), "o": np.array([1])}),
    image("slice of positions", "b = Slice(a, s, e, ax, st)", 8, constants={"s": np.array([1, -1]), "e": np.array([7, -(2**62)]), "ax": np.array([2, 3]), "st": np.array([2, -1])}),
    image("slice of opset 9", "c = Slice<axes=[1], starts=[2], ends=[6]>(a) b = Relu(c)", 8, (5, 4, 1, 1), opset=9),
    image("slice with narrow integers", "c = Slice(a, s, e, o) b = Relu(c)", 8, (5, 5, 1, 1), constants={"s": np.array([2], np.int32), "e": np.array([7], np.int32), "o": np.array([1], np.int32)}),
    image("split in equal parts", "c, d = Split<axis=1>(a) b = Mul(c, d)", 4, (5, 4, 1, 1), opset=7, opsets=(11, 13)),
    image("split in parts that aren't equal", "c, d, e = Split<axis=1, num_outputs=3>(a) f = Conv(c, w1) g = Conv(d, w2) h = Conv(e, w3) b = Sum(f, g, h)", 8 + 2, (5, 2, 1, 1), weights={"w1": (2, 3, 1, 1), "w2": (2, 3, 1, 1), "w3": (2, 2, 1, 1)}),
    image("split of positions", "c, d = Split<axis=-1>(a) b = Add(c, d)", 8, opset=13),
    heads("split of the places in each head", "va, vb = Split<axis=3>(v, k) vc = Relu(vb) u = Concat<axis=3>(vc, va)", 2 + 4 + 4, constants={"k": np.array([2, 2])}),
    # a piece of a single place stays, and with it each head
    heads("split into single places", "va, vb, vc = Split<axis=3>(v, k) vd = Relu(vc) u = Concat<axis=3>(vd, va, vb)", 4 + 2, constants={"k": np.array([1, 1, 2])}),
    image("every second channel", "b = Slice(a, s, e, ax, st)", 8, (5, 4, 1, 1), constants={"s": np.array([0]), "e": np.array([8]), "ax": np.array([1]), "st": np.array([2])}, opsets=(10, 11)),
    image("channels in reverse", "b = Slice(a, s, e, ax, st)", 8, constants={"s": np.array([-1]), "e": np.array([-(2**62)]), "ax": np.array([-3]), "st": np.array([-1])}),
    image("every third channel from the end", "b = Slice(a, s, e, ax, st)", 8, (5, 3, 1, 1), constants={"s": np.array([6], np.int32), "e": np.array([-9], np.int32), "ax": np.array([1], np.int32), "st": np.array([-3], np.int32)}),
    image("even and odd channels", "c = Slice(a, z, e, one, two) d = Slice(a, one, e, one, two) b = Mul(c, d)", 4, (5, 4, 1, 1), constants={"z": np.array([0]), "one": np.array([1]), "two": np.array([2]), "e": np.array([8])}),
    image("channels and positions, each with a step", "b = Slice(a, s, e, ax, st)", 8, (5, 3, 1, 1), constants={"s": np.array([1, 0]), "e": np.array([8, 6]), "ax": np.array([1, 2]), "st": np.array([3, 2])}),
    image("weights in steps", "w = Slice(w1, z, e, z, two) b = Conv(a, w)", 8 + 6, (5, 3, 1, 1), weights={"w1": (6, 8, 1, 1)}, constants={"z": np.array([0]), "two": np.array([2]), "e": np.array([6])}),
    # the places before the slice, in it and behind it: as many in each head; what is read of a head is not all of it
    heads("slice within each head", "va = Slice(v, st, e, ax) vb = Relu(va) u = Concat<axis=3>(va, vb)", 4 + 4, constants={"st": np.array([1]), "e": np.array([3]), "ax": np.array([3])}),
    # every second place is told once for all heads, which then make the same choice
    heads("every second place in each head", "va = Slice(v, z, e, ax, two) vb = Slice(v, one, e, ax, two) vc = Neg(vb) u = Concat<axis=3>(vc, va)", 2 + 4 + 4, constants={"z": np.array([0]), "one": np.array([1]), "two": np.array([2]), "e": np.array([4]), "ax": np.array([3])}),
    Case("slice to a computed end", "a = MatMul(x, w0) t = Shape<start=1, end=2>(x) m = Sub(t, one) e = Concat<axis=0>(m, k) c = Slice(a, z, e, ax) y = MatMul(c, w9)", 8, {"w0": (6, 8), "w9": (8, 5)}, {"x": "N,T,6"}, {"one": np.array([1]), "k": np.array([8]), "z": np.array([0, 0]), "ax": np.array([1, 2])}, "float[ya,yb,yc] y"),
    Case("channels beside a computed start", "a = MatMul(x, w0) t = Shape<start=1, end=2>(x) m = Sub(t, one) s = Concat<axis=0>(m, z) c = Slice(a, s, e, ax) y = MatMul(c, w9)", 8, {"w0": (6, 8), "w9": (4, 5)}, {"x": "N,T,6"}, {"one": np.array([1]), "z": np.array([0]), "e": np.array([2**62, 4]), "ax": np.array([1, 2])}, "float[ya,yb,yc] y"),
    Case("channels at computed places pin", "a = MatMul(x, w0) t = Shape<start=1, end=2>(x) m = Mod(t, three) c = Slice(a, m, e, ax) d = ReduceSum(c, ax) y = MatMul(d, w9)", 0, {"w0": (6, 8), "w9": (1, 5)}, {"x": "N,T,6"}, {"three": np.array([3]), "e": np.array([8]), "ax": np.array([2])}, "float[ya,yb,yc] y"),
    image("pad", "c = Pad(a, p) b = Relu(c)", 8, constants={"p": np.array([0, 0, 1, 1, 0, 0, 2, 0])}, opsets=(11, 13, 18, 19, 21, 23, 24, 25)),
    image("pad channels", "c = Pad(a, p) b = Relu(c)", 8, (5, 11, 1, 1), constants={"p": np.array([0, 1, 0, 0, 0, 2, 0, 0])}),
    image("pad reflects", 'b = Pad<mode="reflect">(a, p)', 8, constants={"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    image("pad by attributes", "b = Pad<pads=[0,1,1,1,0,2,0,0]>(a)", 8, (5, 11, 1, 1), opset=7),
    image("pad repeats the border", 'b = Pad<mode="edge">(a, p)', 8, constants={"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    image("pad wraps around", 'b = Pad<mode="wrap">(a, p)', 8, constants={"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, opset=19),
    image("pad of channels with what they hold pins", 'b = Pad<mode="reflect">(a, p)', 0, (5, 10, 1, 1), constants={"p": np.array([0, 1, 0, 0, 0, 1, 0, 0])}),
    image("pad of channels around pins", 'b = Pad<mode="wrap">(a, p)', 0, (5, 10, 1, 1), constants={"p": np.array([0, 1, 0, 0, 0, 1, 0, 0])}, opset=19),
    # cut off in front, filled up behind
    image("pad cuts off", "b = Pad(a, p)", 8, (5, 6, 1, 1), constants={"p": np.array([0, -3, 1, 0, 0, 1, -1, 0])}),
    image("pad cuts off, by attributes", "b = Pad<pads=[0,-1,0,0,0,-2,0,0]>(a)", 8, (5, 5, 1, 1), opset=9),
    image("pad of chosen axes", "b = Pad(a, p, five, ax)", 8, (5, 5, 1, 1), constants={"p": np.array([2, -1, 1, -2]), "five": np.float32(5), "ax": np.array([-1, 1])}),
    image("places by the size of what shrinks", "s = Shape(a) h = Gather<axis=0>(s, two) r = Range(zero, h, one) b = Gather<axis=2>(a, r)", 8, inputs={"x": "N,3,H,8"}, constants={"zero": np.array(0), "one": np.array(1), "two": np.array(2)}),
    image("pad by computed amounts", "h = Shape<start=2, end=3>(x) m = Mod(h, three) p = Concat<axis=0>(z, m, t, m, o) b = Pad(a, p)", 8, inputs={"x": "N,3,H,8"}, constants={"three": np.array([3]), "z": np.array([0, 0]), "t": np.array([0, 0, 0]), "o": np.array([0])}),
    image("pad of channels by computed amounts pins", "h = Shape<start=2, end=3>(x) m = Mod(h, three) p = Concat<axis=0>(z, m, t) c = Pad(a, p) b = ReduceMax(c, one)", 0, (5, 1, 1, 1), inputs={"x": "N,3,H,8"}, constants={"three": np.array([3]), "z": np.array([0]), "t": np.array([0, 0, 0, 0, 0, 0]), "one": np.array([1])}),
    heads("pad cuts off within each head", "va = Pad(v, w) vb = Pad(v, t) u = Concat<axis=3>(vb, va)", 2 + 4 + 4, constants={"w": np.array([0, 0, 0, 0, 0, 0, 0, -2]), "t": np.array([0, 0, 0, -2, 0, 0, 0, 0])}),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
