"""Feeds fit the model's inputs, whatever their types and dynamic sizes."""

import numpy as np
import onnx
import pytest

from onnxprune.errors import DataError, ModelError
from onnxprune.runtime.feeds import fit_samples, random_feeds, read_inputs

MIXED = """
<ir_version: 10, opset_import: ["" : 18]>
net (float16[N, 3, H, W] image, int64[N, length] tokens, bool[4] flags, double scale)
    => (float16[N, 3, H, W] a, int64[N, length] b, bool[4] c, double d)
{ a = Identity (image)  b = Identity (tokens)  c = Identity (flags)  d = Identity (scale) }
"""


@pytest.fixture
def mixed(networks) -> bytes:
    return networks[1](MIXED).SerializeToString()


def test_specs_leave_initializers_out(net_path):
    (image,) = read_inputs(net_path)
    assert (image.name, image.dtype, image.shape, image.batch) == ("image", np.float32, ("N", 3, 12, 12), None)


def test_shapes_and_types(mixed):
    feeds = random_feeds(mixed, batches=(1, 7), sizes={"H": (8, 9), "W": (10, 11), "length": (4,)})
    shapes = {(feed["image"].shape, feed["tokens"].shape) for feed in feeds}
    assert shapes == {((n, 3, h, h + 2), (n, 4)) for n in (1, 7) for h in (8, 9)}
    for feed in feeds:
        assert {name: array.dtype.name for name, array in feed.items()} == {
            "image": "float16",
            "tokens": "int64",
            "flags": "bool",
            "scale": "float64",
        }
        assert (feed["flags"].shape, feed["scale"].shape) == ((4,), ())
    assert len(feeds) == 2 * 2 * 3


def test_kinds(net_path):
    _, border, large = random_feeds(net_path, batches=(2,))
    assert not border["image"][:, :, 1:-1, 1:-1].any()
    assert border["image"][:, :, 0].all()
    assert np.abs(large["image"]).max() > 100


def test_the_seed_decides(net_path):
    first, again, other = (random_feeds(net_path, seed=seed)[0]["image"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_real_samples_join_and_fix_sizes(networks):
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    net (float[N, 3, H, W] image, float[N, H] mask) => (float[N, 3, H, W] a, float[N, H] b)
    { a = Identity (image)  b = Identity (mask) }
    """
    samples = {"image": np.full((5, 3, 6, 8), 0.5, np.float32), "mask": np.ones((5, 6), np.float32)}
    feeds = random_feeds(networks[1](text).SerializeToString(), given=samples)
    assert {feed["image"].shape[1:] for feed in feeds} == {(3, 6, 8)}
    assert [len(feed["mask"]) for feed in feeds] == [1] * 4 + [7] * 4
    assert (feeds[3]["image"] == 0.5).all() and (feeds[7]["mask"] == 1).all()
    samples["mask"] = samples["mask"][:4]
    with pytest.raises(DataError, match="different numbers of samples"):
        random_feeds(networks[1](text).SerializeToString(), given=samples)


def test_integers_come_from_the_samples(networks):
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    net (int64[N, L] tokens) => (int64[N, L] out) { out = Identity (tokens) }
    """
    model = networks[1](text).SerializeToString()
    feeds = random_feeds(model, batches=(3,), given={"anything": np.array([[40, 41], [42, 43]])})
    assert all(feed["tokens"].shape == (3, 2) and feed["tokens"].min() >= 40 for feed in feeds)
    assert len(feeds) == 4
    assert all(set(feed["tokens"].ravel()) <= {0, 1} for feed in random_feeds(model))


def test_a_static_batch_overrides(networks):
    model = networks[0]()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    feeds = random_feeds(model.SerializeToString(), batches=(1, 7))
    assert {len(feed["image"]) for feed in feeds} == {4}


@pytest.mark.parametrize(
    "samples, words",
    [
        ({"a": np.zeros((2, 3, 12, 12)), "b": np.zeros(2)}, "'image' has no array"),
        ({"image": np.zeros((2, 3, 12), np.float32)}, r"takes \['N', 3, 12, 12\], the data is \[2, 3, 12\]"),
        ({"image": np.zeros((2, 1, 12, 12), np.float32)}, r"the data is \[2, 1, 12, 12\]"),
        ({"image": np.zeros((0, 3, 12, 12), np.float32)}, r"the data is \[0"),
        ({"image": np.zeros((2, 3, 12, 12), np.complex64)}, "takes float32, the data is complex64"),
    ],
)
def test_samples_that_do_not_fit(net_path, samples, words):
    with pytest.raises(DataError, match=words):
        fit_samples(read_inputs(net_path), samples)


def test_samples_are_converted_where_nothing_is_lost_but_precision(net_path):
    fitted = fit_samples(read_inputs(net_path), {"x": np.ones((2, 3, 12, 12))})
    assert fitted["image"].dtype == np.float32


def test_what_cannot_be_fed(networks, tmp_path):
    sequence = onnx.helper.make_tensor_sequence_value_info("s", onnx.TensorProto.FLOAT, None)
    model = networks[0]()
    model.graph.input.append(sequence)
    with pytest.raises(ModelError, match="'s' isn't a tensor"):
        read_inputs(model.SerializeToString())
    with pytest.raises(ModelError, match="doesn't exist"):
        read_inputs(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="can't be read as an ONNX model"):
        read_inputs(b"\xff\xff")
