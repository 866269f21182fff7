"""The sizes that symbols are tried at, and what shape inference can't do by itself."""

import numpy as np

from onnxprune.graph import shapes
from onnxprune.graph.model import load


def test_no_size_leaves_nothing_of_an_image(oracle):
    body = "a = Conv(x, w0) y = Slice(a, start, end, ax)"
    constants = {"start": np.array([64, 64]), "end": np.array([2**31 - 1] * 2), "ax": np.array([2, 3])}
    model = load(oracle.parse(body, {"x": "N,3,H,W"}, {"w0": (4, 3, 1, 1)}, constants))
    for number in (0, 1):
        found = shapes.probe(model.ir, number)
        assert all(size > 0 for shape in found.shape_of.values() for size in shape), found.sizes
