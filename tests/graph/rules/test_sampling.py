"""Operators that interpolate."""

import numpy as np
import pytest

from tests.graph.rules.cases import image

# fmt: off
CASES = [
    image("resize by scales", "b = Resize(a, , k)", 8, constants={"k": np.array([1, 1, 2, 2], np.float32)}),
    image("resize by sizes", 'b = Resize<mode="linear">(a, , , k)', 8, constants={"k": np.array([3, 8, 5, 7])}, inputs={"x": "3,3,8,8"}),
    image("upsample of opset 9", "b = Upsample(a, k)", 8, constants={"k": np.array([1, 1, 2, 2], np.float32)}, opset=9),
    image("resize by computed sizes pins", "n = Shape<start=0, end=1>(x) s = Concat<axis=0>(n, k) b = Resize(a, , , s)", 0, constants={"k": np.array([8, 16, 16])}),
    image("resize of chosen axes pins", "b = Resize<axes=[1,2,3]>(a, , , k)", 0, constants={"k": np.array([8, 16, 16])}),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
