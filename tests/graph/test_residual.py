"""Residual blocks as units: what counts as one, and what is left without it."""

import pytest

from onnxprune.errors import InputError
from onnxprune.graph.model import load
from onnxprune.graph.remove import remove
from onnxprune.graph.units import trace

IMAGE = {"x": "N,3,8,8"}
STREAM = {"w0": (4, 3, 1, 1), "w1": (4, 4, 1, 1), "w2": (4, 4, 1, 1), "w3": (4, 4, 1, 1), "w9": (5, 4, 1, 1)}

# fmt: off
#: name, body, the weights that each block takes with it
CASES = [
    ("plain", "a = Conv(x, w0) c = Conv(a, w1) d = Relu(c) e = Conv(d, w2) b = Add(e, a) y = Conv(b, w9)", ["w1 w2"]),
    ("operands the other way round", "a = Conv(x, w0) c = Conv(a, w1) b = Add(a, c) y = Conv(b, w9)", ["w1"]),
    ("two in a row", "a = Conv(x, w0) c = Conv(a, w1) b = Add(a, c) d = Conv(b, w2) e = Add(d, b) y = Conv(e, w9)", ["w1", "w2"]),
    ("a block in a block", "a = Conv(x, w0) c = Conv(a, w1) d = Conv(c, w2) e = Add(c, d) f = Conv(e, w3) b = Add(a, f) y = Conv(b, w9)", ["w2", "w1 w2 w3"]),
    ("activation before the branch", "a = Conv(x, w0) r = Relu(a) c = Conv(r, w1) b = Add(a, c) y = Conv(b, w9)", ["w1"]),
    ("parallel branches behind one activation", "a = Conv(x, w0) r = Relu(a) c = Conv(r, w1) d = Conv(r, w2) e = Add(a, c) b = Add(e, d) y = Conv(b, w9)", ["w1", "w2"]),
    ("the sum is an output", "a = Conv(x, w0) c = Conv(a, w1) d = Conv(a, w2) y = Add(d, a)", ["w2"]),
    # none of these is a residual block
    ("both operands are weighed", "a = Conv(x, w0) c = Conv(a, w1) d = Conv(a, w2) b = Add(c, d) y = Conv(b, w9)", []),
    ("the branch is read elsewhere", "a = Conv(x, w0) c = Conv(a, w1) b = Add(a, c) d = Mul(b, c) y = Conv(d, w9)", []),
    ("a branch without weights", "a = Conv(x, w0) c = Relu(a) b = Add(a, c) y = Conv(b, w9)", []),
    ("a weight used elsewhere too", "a = Conv(x, w0) c = Conv(a, w1) b = Add(a, c) d = Conv(b, w1) y = Conv(d, w9)", []),
    ("a broadcast", "a = Conv(x, w0) p = GlobalAveragePool(a) c = Conv(p, w1) b = Add(a, c) y = Conv(b, w9)", []),
]
# fmt: on


@pytest.mark.parametrize("body, taken", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_deleted_block_leaves_what_skips_it(oracle, body, taken):
    weights = {name: shape for name, shape in STREAM.items() if name in body}
    source = oracle.parse(body, IMAGE, weights)
    oracle.check(source)
    model = load(source)
    channels = trace(model)
    assert {u.kind for u in channels.blocks} <= {"block"}
    found = []
    for block in channels.blocks:
        smaller = remove(model, channels, [block])
        gone = model.ir.graph.initializers.keys() - smaller.ir.graph.initializers.keys()
        found.append(" ".join(sorted(gone)))
        assert block.size == sum(model.ir.graph.initializers[name].const_value.size for name in gone)
        assert block.where in gone
        assert smaller.ir.graph.num_nodes() < model.ir.graph.num_nodes() or "y = Add" in body
    assert found == taken


def test_all_blocks_at_once_and_blocks_by_number(oracle):
    source = oracle.parse(CASES[2][1], IMAGE, {k: v for k, v in STREAM.items() if k in CASES[2][1]})
    model = load(source)
    channels = trace(model)
    count = len(channels.units)
    assert [b.index for b in channels.blocks] == [count, count + 1]
    smaller = remove(model, channels, [0, count, count + 1])
    assert [node.op_type for node in smaller.ir.graph] == ["Conv", "Conv"]
    with pytest.raises(InputError, match=f"0 to {count + 1}"):
        remove(model, channels, [count + 2])
    with pytest.raises(InputError, match="other channels"):
        remove(
            model,
            channels,
            [trace(oracle.parse(CASES[0][1], IMAGE, {k: v for k, v in STREAM.items() if k in CASES[0][1]})).blocks[0]],
        )
