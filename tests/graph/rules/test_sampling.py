"""Operators that interpolate."""

import numpy as np
import pytest

from tests.graph.rules.cases import image

# fmt: off
CASES = [
    image("resize by scales", "b = Resize(a, , k)", 8, constants={"k": np.array([1, 1, 2, 2], np.float32)}, opsets=(13, 18, 19)),
    image("resize by sizes", 'b = Resize<mode="linear">(a, , , k)', 8, constants={"k": np.array([3, 8, 5, 7])}, inputs={"x": "3,3,8,8"}),
    image("upsample of opset 9", "b = Upsample(a, k)", 8, constants={"k": np.array([1, 1, 2, 2], np.float32)}, opset=9),
    image("resize by computed sizes", "n = Shape<start=0, end=1>(x) s = Concat<axis=0>(n, k) b = Resize(a, , , s)", 8, constants={"k": np.array([8, 16, 16])}),
    image("resize of chosen axes", "b = Resize<axes=[1,2,3]>(a, , , k)", 8, constants={"k": np.array([8, 16, 16])}, opsets=(18,)),
    image("resize of opset 10", "b = Resize(a, k)", 8, constants={"k": np.array([1, 1, 2, 2], np.float32)}, opset=10),
    image("resize of opset 11", 'b = Resize<mode="cubic">(a, none, k)', 8, constants={"none": np.array([], np.float32), "k": np.array([1, 1, 1.5, 2], np.float32)}, opset=11),
    image("resize to another's size", "s = Shape<start=0, end=2>(a) t = Shape<start=2, end=4>(z) k = Concat<axis=0>(s, t) b = Resize(a, , , k)", 8, inputs={"x": "N,3,A,B", "z": "N,1,H,W"}),
    image("resize of positions alone", 'b = Resize<mode="linear", antialias=1, axes=[2,3]>(a, , , k)', 8, constants={"k": np.array([5, 6])}),
    image("crop and resize of positions alone", 'b = Resize<coordinate_transformation_mode="tf_crop_and_resize", axes=[2,3]>(a, r, , k)', 8, constants={"r": np.array([0.1, 0.2, 0.8, 0.9], np.float32), "k": np.array([5, 6])}),
    image("crop and resize of all axes pins", 'b = Resize<coordinate_transformation_mode="tf_crop_and_resize", mode="linear">(a, r, , k)', 0, inputs={"x": "3,3,8,8"}, constants={"r": np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32), "k": np.array([3, 8, 5, 6])}),
    image("resize by a scale that isn't quite 1 pins", 'b = Resize<mode="nearest">(a, , k)', 0, constants={"k": np.array([1, 1.1, 2, 2], np.float32)}),
    image("resize half a pixel off", 'b = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="floor">(a, none, k)', 8, constants={"none": np.array([], np.float32), "k": np.array([1, 1, 2, 2], np.float32)}, opset=11),
    image("resize half a pixel off, rounded up, pins", 'b = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="ceil">(a, none, k)', 0, constants={"none": np.array([], np.float32), "k": np.array([1, 1, 2, 2], np.float32)}, opset=11),
    image("resize of channels pins", "b = Resize(a, , k)", 0, (5, 16, 1, 1), constants={"k": np.array([1, 2, 1, 1], np.float32)}),
    image("resize by computed scales pins", "h = Shape<start=2, end=3>(x) f = Cast<to=1>(h) g = Div(f, four) k = Concat<axis=0>(one, one, g, g) b = Resize(a, , k)", 0, inputs={"x": "N,3,H,8"}, constants={"four": np.float32(4), "one": np.ones(1, np.float32)}),
    image("upsample of opset 7", "b = Upsample<scales=[1.0, 1.0, 2.0, 2.0]>(a)", 8, opset=7),
    image("grid sample", "b = GridSample(a, z)", 8, inputs={"x": "N,3,8,8", "z": "N,4,5,2"}, opset=16, opsets=(20, 22)),
    image("grid sample by computed coordinates", "c = Transpose<perm=[0,2,3,1]>(a) d = MatMul(c, w1) b = GridSample(a, d)", 8, weights={"w1": (8, 2)}),
    image("rois", "i = Cast<to=7>(o) r = Abs(z) b = RoiAlign<output_height=2, output_width=2>(a, r, i)", 8, inputs={"x": "N,3,8,8", "z": "5,4"}, constants={"o": np.zeros(5, np.float32)}, opset=10, opsets=(16, 22)),
    image("rois of the largest", "b = MaxRoiPool<pooled_shape=[2,2]>(a, r)", 8, constants={"r": np.array([[0, 0, 0, 5, 5], [1, 2, 1, 7, 6]], np.float32)}, opset=7, opsets=()),
    image("crop and pad around the middle", "b = CenterCropPad<axes=[2,3]>(a, k)", 8, constants={"k": np.array([6, 11])}, opset=18),
    image("crop around the middle of the channels pins", "b = CenterCropPad<axes=[1]>(a, k)", 0, (5, 6, 1, 1), constants={"k": np.array([6])}, opset=18),
    image("displaced convolution", "b = DeformConv(a, w1, z, b1, m)", 8 + 6, (5, 6, 1, 1), inputs={"x": "N,3,8,8", "z": "N,18,6,6", "m": "N,9,6,6"}, weights={"w1": (6, 8, 3, 3), "b1": (6,)}, opset=19, opsets=(22,)),
    image("displaced convolution in groups pins", "b = DeformConv<group=2>(a, w1, z, b1)", 0, (5, 6, 1, 1), inputs={"x": "N,3,8,8", "z": "N,18,6,6"}, weights={"w1": (6, 4, 3, 3), "b1": (6,)}, opset=19),
    image("displacements from channels pin them", "d = Conv(a, w2) b = DeformConv(x, w1, d)", 6 + 8, (5, 6, 1, 1), weights={"w1": (6, 3, 1, 1), "w2": (2, 8, 1, 1)}, opset=19),
]
# fmt: on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_computes_what_the_mask_computes(oracle, case):
    case.check(oracle)
