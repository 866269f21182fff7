"""Costs counted by hand."""

import numpy as np
import pytest

from onnxprune.graph.model import load, to_bytes
from onnxprune.prune.cost import count
from tests.graph.conftest import parse

# fmt: off
CASES = {
    # out 5x8x8, each 3x3x3 products
    "conv": ("y = Conv<pads=[1,1,1,1]>(x, w)", {"w": (5, 3, 3, 3)}, 5 * 64 * 27, 135),
    "depthwise, stride 2": ("y = Conv<group=3, strides=[2,2], pads=[1,1,1,1]>(x, w, b)", {"w": (3, 1, 3, 3), "b": (3,)}, 3 * 16 * 9, 30),
    # every input pixel meets 5 outputs x 2x2
    "transposed": ("y = ConvTranspose<strides=[2,2]>(x, w)", {"w": (3, 5, 2, 2)}, 3 * 64 * 20, 60),
    "gemm": ("f = Flatten(x) g = Gemm<transB=1>(f, w, b) y = Reshape(g, s)", {"w": (5, 192), "b": (5,)}, 192 * 5, 965),
    "matmul over positions": ("y = MatMul(x, w)", {"w": (8, 4)}, 3 * 8 * 8 * 4, 32),
}
# fmt: on


@pytest.mark.parametrize("name", CASES)
def test_macs_and_params_of_one_sample(name):
    body, weights, macs, params = CASES[name]
    model = load(parse(body, {"x": "N,3,8,8"}, weights, {"s": np.array([-1, 5, 1, 1])}))
    cost = count(model)
    assert (cost.macs, cost.params) == (macs, params)
    assert cost.size_bytes == len(to_bytes(model)) and cost.nodes == model.ir.graph.num_nodes()


def test_other_dynamic_axes_have_a_documented_size():
    model = load(parse("y = Conv(x, w)", {"x": "N,3,H,W"}, {"w": (5, 3, 1, 1)}))
    assert count(model).macs == 64 * 64 * 15
