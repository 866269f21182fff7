"""Operators that pick or overwrite places by indices."""

import numpy as np
import pytest

from tests.graph.rules.cases import Case, heads, image

# fmt: off
CASES = [
    image("gather permutes", "b = Gather<axis=1>(a, i)", 8, constants={"i": np.array([3, 1, -1, 0, 2, 4, 6, 5])}),
    image("gather picks", "b = Gather<axis=1>(a, i)", 8, (5, 3, 1, 1), constants={"i": np.array([6, 1, 2])}),
    Case("scatter rows", "a = MatMul(x, w0) d = ScatterND(a, i, u) y = MatMul(d, w9)", 8, {"w0": (6, 8), "w9": (8, 5), "u": (1, 8)}, {"x": "4,6"}, {"i": np.array([[2]])}, outputs="float[a,b] y"),
    image("gather one channel", "c = Gather<axis=1>(a, i) b = Unsqueeze(c, one)", 7, (5, 1, 1, 1), constants={"i": np.array(3), "one": np.array([1])}),
    image("gather repeats", "b = Gather<axis=1>(a, i)", 8, (5, 6, 1, 1), constants={"i": np.array([0, 0, 1, 7, 7, 0])}, opset=9, opsets=(11, 13)),
    # a table of 2 x 2 places must stay one: a place of both rows goes; 4 channels are in none
    image("gather a table", "c = Gather<axis=1>(a, i) b = Reshape(c, s)", 4 + 2, (5, 4, 1, 1), constants={"i": np.array([[0, 1], [3, 5]]), "s": np.array([0, 4, 8, 8])}),
    # a cycle ties all values of a head
    heads("gather within each head", "va = Gather<axis=3>(v, i) u = Mul(va, v)", 2 + 4, constants={"i": np.array([1, 2, 3, 0])}),
    heads("gather heads", "u = Gather<axis=1>(v, i)", 2 + 4 + 4, constants={"i": np.array([1, 0])}),
    image("gather at computed places pins", "i = Cast<to=7>(z) b = Gather<axis=1>(a, i)", 0, (5, 2, 1, 1), inputs={"x": "N,3,8,8", "z": "2"}),
    image("gather positions at computed places", "i = Cast<to=7>(z) b = Gather<axis=2>(a, i)", 8, inputs={"x": "N,3,8,8", "z": "2"}),
    Case("embedding", "i = Cast<to=7>(x) a = Gather(w0, i) y = MatMul(a, w9)", 8, {"w0": (7, 8), "w9": (8, 5)}, {"x": "N,6"}, outputs="float[a,b,c] y"),
    # indices of several axes
    image("gather nd, channels by number", "c = Transpose<perm=[1,0,2,3]>(a) d = GatherND(c, i) b = Transpose<perm=[1,0,2,3]>(d)", 8, (5, 3, 1, 1), constants={"i": np.array([[7], [0], [-3]])}, opset=12, opsets=(11, 13)),
    image("gather nd behind the batch", "c = Transpose<perm=[0,2,3,1]>(a) i = Cast<to=7>(z) d = GatherND<batch_dims=1>(c, i) e = Transpose<perm=[0,2,1]>(d) b = Unsqueeze(e, one)", 8, inputs={"x": "2,3,8,8", "z": "2,3,2"}, constants={"one": np.array([3])}),
    image("gather nd of channels at computed places pins", "c = Transpose<perm=[1,0,2,3]>(a) i = Cast<to=7>(z) d = GatherND(c, i) b = Transpose<perm=[1,0,2,3]>(d)", 0, (5, 3, 1, 1), inputs={"x": "N,3,8,8", "z": "3,1"}),
    # as many indices as elements
    image("gather elements along positions", "b = GatherElements<axis=3>(a, i)", 8, constants={"i": np.arange(8 * 8 * 4).reshape(1, 8, 8, 4) % 8}, inputs={"x": "1,3,8,8"}, opset=13, opsets=(11,)),
    image("gather elements along channels", "b = GatherElements<axis=1>(a, i)", 8, (5, 4, 1, 1), constants={"i": np.broadcast_to(np.array([5, 0, -1, 1]).reshape(1, 4, 1, 1), (1, 4, 8, 8)).copy()}, inputs={"x": "1,3,8,8"}),
    image("gather elements at computed places", "v, i = TopK<axis=3>(a, k) c = GatherElements<axis=3>(a, i) b = Sub(c, v)", 8, constants={"k": np.array([3])}),
    image("gather elements at computed places of channels pins", "v, i = TopK<axis=1>(a, k) b = GatherElements<axis=1>(a, i)", 0, (5, 3, 1, 1), constants={"k": np.array([3])}),
    image("gather elements, fewer channels than there are, pins", "b = GatherElements<axis=3>(a, i)", 0, (5, 4, 1, 1), constants={"i": np.zeros((1, 4, 8, 8), np.int64)}, inputs={"x": "1,3,8,8"}),
    image("scatter elements along positions", "c = Conv(x, w1) b = ScatterElements<axis=3>(a, i, c)", 8, weights={"w1": (8, 3, 1, 1)}, constants={"i": np.arange(512).reshape(1, 8, 8, 8) % 8}, inputs={"x": "1,3,8,8"}, opset=13, opsets=(11,)),
    image("scatter of opset 9", "c = Conv(x, w1) b = Scatter<axis=3>(a, i, c)", 8, weights={"w1": (8, 3, 1, 1)}, constants={"i": np.arange(512).reshape(1, 8, 8, 8) % 8}, inputs={"x": "1,3,8,8"}, opset=9, opsets=(10,)),
    image("scatter elements adds", 'v, i = TopK<axis=3>(a, k) c = Relu(v) b = ScatterElements<axis=3, reduction="add">(a, i, c)', 8, constants={"k": np.array([3])}, opsets=(16,)),
    image("scatter elements multiplies", 'v, i = TopK<axis=3>(a, k) b = ScatterElements<axis=3, reduction="mul">(a, i, v)', 8, constants={"k": np.array([3])}),
    image("scatter elements over channels pins", "v, i = TopK<axis=1>(a, k) b = ScatterElements<axis=1>(a, i, v)", 0, constants={"k": np.array([3])}),
    # the third row and the one that is written there are one; the other updates go with theirs
    Case("scatter columns", "a = MatMul(x, w0) t = Transpose(a) d = ScatterND(t, i, u) e = Transpose(d) y = MatMul(e, w9)", 8, {"w0": (6, 8), "w9": (8, 5), "u": (3, 4)}, {"x": "4,6"}, {"i": np.array([[2], [0], [-1]])}, outputs="float[a,b] y", opset=13, opsets=(11, 16)),
    Case("scatter one column pins it", "a = MatMul(x, w0) t = Transpose(a) d = ScatterND(t, i, u) e = Transpose(d) y = MatMul(e, w9)", 7, {"w0": (6, 8), "w9": (8, 5), "u": (1, 4)}, {"x": "4,6"}, {"i": np.array([[2]])}, outputs="float[a,b] y"),
    Case("scatter columns twice pins", "a = MatMul(x, w0) t = Transpose(a) d = ScatterND<reduction=\"add\">(t, i, u) e = Transpose(d) y = MatMul(e, w9)", 0, {"w0": (6, 8), "w9": (8, 5), "u": (2, 4)}, {"x": "4,6"}, {"i": np.array([[2], [2]])}, outputs="float[a,b] y"),
    Case("scatter at computed columns pins", "i = Cast<to=7>(z) a = MatMul(x, w0) t = Transpose(a) d = ScatterND(t, i, u) e = Transpose(d) y = MatMul(e, w9)", 0, {"w0": (6, 8), "w9": (8, 5), "u": (2, 4)}, {"x": "4,6", "z": "2,1"}, outputs="float[a,b] y"),
    Case("scatter into rows at computed places", "i = Cast<to=7>(z) a = MatMul(x, w0) d = ScatterND(a, i, u) y = MatMul(d, w9)", 8, {"w0": (6, 8), "w9": (8, 5), "u": (2, 8)}, {"x": "4,6", "z": "2,1"}, outputs="float[a,b] y", opset=18),
    # conditions
    image("compress", "b = Compress<axis=1>(a, k)", 8, (5, 4, 1, 1), constants={"k": np.array([1, 0, 0, 1, 1, 0, 1], bool)}, infos="float[N,4,8,8] b", opset=9, opsets=(11, 28)),
    Case("compress all elements", "a = MatMul(x, w0) c = Compress(a, k) b = Unsqueeze(c, z) y = MatMul(b, w9)", 8, {"w0": (6, 8), "w9": (3, 5)}, {"x": "1,6"}, {"k": np.array([0, 1, 1, 0, 0, 0, 0, 1], bool), "z": np.array([0])}, outputs="float[a,b] y", infos="float[3] c"),
    image("compress without a shape pins", "c = Compress<axis=1>(a, k) b = Reshape(c, s)", 0, (5, 4, 1, 1), constants={"k": np.array([1, 0, 0, 1, 1, 0, 1], bool), "s": np.array([0, 4, 8, 8])}),
    image("reverse sequence", "c = Transpose<perm=[2,3,0,1]>(a) d = ReverseSequence<batch_axis=1, time_axis=0>(c, n) b = Transpose<perm=[2,3,0,1]>(d)", 8, constants={"n": np.arange(8)}, opset=10, opsets=(28,)),
    image("reverse sequence of channels pins", "c = Transpose<perm=[1,2,0,3]>(a) d = ReverseSequence<batch_axis=1, time_axis=0>(c, n) b = Transpose<perm=[2,0,1,3]>(d)", 0, constants={"n": np.arange(8)}),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
