"""Gathers of a flattened tensor that only reshape it."""

import numpy as np
import pytest

from onnxprune.graph.model import load

#: positions[n, c, 0, 0] = n * `rows` + c * `columns`, as torch writes as_strided
BODY = (
    "a = Conv(x, w0) p = GlobalAveragePool(a) f = Reshape(p, flat) n = Shape<start=0, end=1>(x) m = Squeeze(n) "
    "i = Range(zero, m, one) j = Mul(i, rows) k = Reshape(j, down) q = Add(k, across) g = Gather(f, q) y = Conv(g, w9)"
)
WEIGHTS = {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}


def source(oracle, rows: int, across: np.ndarray):
    constants = {
        "flat": np.array([-1]),
        "zero": np.array(0),
        "one": np.array(1),
        "rows": np.array(rows),
        "down": np.array([-1, 1, 1, 1]),
        "across": across.reshape(1, 8, 1, 1),
    }
    model = oracle.parse(BODY, {"x": "N,3,8,8"}, WEIGHTS, constants)
    model.graph.value_info.extend(
        [*oracle.parse("y = Identity(x)", {"x": "N,8,1,1"}, outputs="float[N,8,1,1] y").graph.output]
    )
    model.graph.value_info[0].name = "g"
    return model


def test_positions_in_order_are_a_reshape(oracle):
    model = source(oracle, 8, np.arange(8))
    assert "Gather" not in [node.op_type for node in load(model).ir.graph]
    assert len(oracle.check(model).units) == 8


@pytest.mark.parametrize("rows, across", [(8, np.arange(8)[::-1]), (0, np.arange(8)), (8, np.zeros(8, np.int64))])
def test_other_positions_stay_looked_up(oracle, rows, across):
    model = source(oracle, rows, np.ascontiguousarray(across))
    assert "Gather" in [node.op_type for node in load(model).ir.graph]
    assert not oracle.check(model).units


def test_the_new_shape_takes_nobodys_name(oracle):
    model = source(oracle, 8, np.arange(8))
    look = next(node for node in model.graph.node if node.op_type == "Gather")
    look.name = "look"
    for part in (*model.graph.initializer, *model.graph.node):
        if part.name == "w9":
            part.name = "look.shape"
        if isinstance(part, type(look)) and "w9" in part.input:
            part.input[list(part.input).index("w9")] = "look.shape"
    assert len(oracle.check(model).units) == 8
