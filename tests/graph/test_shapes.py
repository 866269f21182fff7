"""The sizes that symbols are tried at, and what shape inference can't do by itself."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxprune.graph import shapes
from onnxprune.graph.model import load


def test_no_size_leaves_nothing_of_an_image(oracle):
    body = "a = Conv(x, w0) y = Slice(a, start, end, ax)"
    constants = {"start": np.array([64, 64]), "end": np.array([2**31 - 1] * 2), "ax": np.array([2, 3])}
    model = load(oracle.parse(body, {"x": "N,3,H,W"}, {"w0": (4, 3, 1, 1)}, constants))
    for number in (0, 1):
        found = shapes.probe(model.ir, number)
        assert all(size > 0 for shape in found.shape_of.values() for size in shape), found.sizes


@pytest.mark.parametrize("positions", [400, 77, 64, 50])
def test_a_table_of_positions_bounds_the_lengths(oracle, positions):
    """Both probes derive every shape, and differ in every size that is symbolic."""
    body = (
        "a = Gather(w0, ids) s = Shape(ids) i = Constant<value_ints = [1]>() n = Gather(s, i) "
        "zero = Constant<value_ints = [0]>() p = Slice(w1, zero, n) y = Add(a, p)"
    )
    proto = oracle.parse(body, {"ids": "N,T"}, {"w0": (50, 8), "w1": (positions, 8)}, outputs="float[ya,yb,yc] y")
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    model = load(proto)
    prober = shapes.Prober(model.ir)
    first, second = prober.probe(0), prober.probe(1)
    for found in (first, second):
        assert found.sizes["T"] <= positions
        assert found.shape_of[model.ir.graph.outputs[0]] == (found.sizes["N"], found.sizes["T"], 8)
    assert len({*first.sizes.values(), *second.sizes.values()}) == 4, "no size comes out as another's"
    for parts in range(2, 17):
        assert first.sizes["T"] // parts != second.sizes["T"] // parts
        assert -(first.sizes["T"] // -parts) != -(second.sizes["T"] // -parts)


def test_more_symbolic_sizes_than_primes():
    inputs = [
        ir.Value(name=f"x{i}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([f"N{i}"])) for i in range(400)
    ]
    total = ir.node("Concat", inputs, {"axis": 0})
    model = ir.Model(ir.Graph(inputs, total.outputs, nodes=[total], opset_imports={"": 20}), ir_version=8)
    prober = shapes.Prober(model)
    sizes = [size for number in (0, 1) for size in prober.probe(number).sizes.values()]
    assert len(set(sizes)) == len(sizes) == 800
