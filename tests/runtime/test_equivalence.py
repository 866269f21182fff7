"""Equal models pass, different ones don't, and a comparison that compared nothing is an error."""

import numpy as np
import pytest

from onnxprune.errors import DataError, ModelError, NotEquivalentError
from onnxprune.runtime.equivalence import compare_outputs, prove, random_feeds, require, runnable_feeds

FEEDS = [{"x": np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 2.0]])}]


def shifted(by):
    return lambda feed: feed["x"] + by


def test_a_model_equals_itself(net_path):
    found = prove(net_path, net_path.read_bytes())
    assert found.passed
    assert (found.max_error, found.snr_db, found.agreement) == (0.0, None, 1.0)
    assert found.cosine == pytest.approx(1.0)
    assert found.comparisons == 2 * 2 * 3  # levels, batches, kinds
    assert require(found) is found


@pytest.mark.parametrize("scale, passed", [(1 + 1e-6, True), (1 + 1e-3, False)])
def test_scaled_weights(networks, scale, passed):
    reference, candidate = (networks[0](scale=s).SerializeToString() for s in (1.0, scale))
    found = prove(reference, candidate)
    assert found.passed is passed
    # The error is (scale - 1) of the value; the value is at most a few times the range.
    assert (scale - 1) * 0.3 < found.error_over_range < (scale - 1) * 30
    if not passed:
        assert "feed" in found.worst
        with pytest.raises(NotEquivalentError, match="'logits'"):
            require(found)


def test_figures():
    found = compare_outputs(shifted(0), shifted(np.array([0, 0, 0.5])), FEEDS, tolerance=0.01)
    assert (found.max_error, found.range, found.error_over_range) == (0.5, 4.0, 0.125)
    assert found.snr_db == pytest.approx(10 * np.log10(26 / 0.5))
    assert found.agreement == 1.0
    assert not found.passed


def test_agreement_counts_decisions_but_not_ties_within_the_tolerance():
    def reference(feed):
        return np.array([[1.0, 0.0], [1.0, 1.0 - 1e-6], [0.0, 3.0]])

    def candidate(feed):
        return np.array([[0.0, 1.0], [1.0 - 1e-6, 1.0], [0.0, 3.0]])

    assert compare_outputs(reference, candidate, [{}]).agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "reference, candidate, passed",
    [
        ([np.nan, 1.0, 2.0], [np.nan, 1.0, 2.0], True),
        ([np.inf, 1.0, 2.0], [np.inf, 1.0, 2.0], True),
        ([np.nan, 1.0, 2.0], [0.0, 1.0, 2.0], False),
        ([1.0, 1.0, 2.0], [np.nan, 1.0, 2.0], False),
        ([np.inf, 1.0, 2.0], [-np.inf, 1.0, 2.0], False),
        ([5.0], [5.0 + 1e-6], True),
        ([5.0], [5.1], False),
        ([0.0], [0.0], True),
        ([True, False], [True, True], False),
        ([3, 4], [3, 4], True),
    ],
)
def test_special_values(reference, candidate, passed):
    assert compare_outputs(lambda _: np.array(reference), lambda _: np.array(candidate), [{}]).passed is passed


def test_an_output_of_one_element_takes_its_range_from_all_feeds():
    feeds = [{"x": np.array([0.0])}, {"x": np.array([10.0])}]
    assert compare_outputs(shifted(0), shifted(5e-5), feeds).passed
    assert not compare_outputs(shifted(0), shifted(5e-4), feeds).passed


def test_an_output_that_hardly_varies_on_one_feed_is_judged_by_the_others():
    feeds = [{"x": np.array([0.0, 1.0])}, {"x": np.array([1.0, 1.0 - 1e-7])}, {"x": np.array([0.0, 2.0])}]
    assert compare_outputs(shifted(0), shifted(1e-6), feeds).passed


def test_a_large_feed_does_not_hide_an_error_on_the_others():
    feeds = [{"x": np.array([0.0, 1.0])}, {"x": np.array([0.0, 1.0])}, {"x": np.array([0.0, 1e6])}]
    assert not compare_outputs(shifted(0), shifted(1e-4), feeds).passed


@pytest.mark.parametrize("steps, passed", [(1, True), (4, True), (200, False)])
def test_rounding_of_the_outputs_own_type_passes(steps, passed):
    reference = np.array([1024.0, 1024.01], np.float32)
    candidate = reference + np.float32(steps * np.spacing(np.float32(1024)))
    assert compare_outputs(lambda _: reference, lambda _: candidate, [{}]).passed is passed


@pytest.mark.parametrize("outputs, feeds", [([1.0], []), ([np.nan], [{}])], ids=["no feeds", "nothing finite"])
def test_nothing_compared_is_an_error(outputs, feeds):
    with pytest.raises(DataError, match="Nothing was compared"):
        compare_outputs(lambda _: np.array(outputs), lambda _: np.array(outputs), feeds)


@pytest.mark.parametrize(
    "reference, candidate, words",
    [
        ({"a": np.ones(2)}, {"b": np.ones(2)}, "differ by name"),
        ([np.ones(2)], [np.ones(2), np.ones(2)], "1 outputs, the candidate 2"),
        ([np.ones(2)], [np.ones(3)], r"shape \[2\] in the reference and \[3\]"),
        ([np.array(["a"])], [np.array(["a"])], "isn't a tensor of numbers"),
    ],
)
def test_outputs_that_cannot_be_compared(reference, candidate, words):
    with pytest.raises(ModelError, match=words):
        compare_outputs(lambda _: reference, lambda _: candidate, [{}])


def test_a_callable_against_a_model(net_path):
    feeds = random_feeds(net_path)
    by_model = compare_outputs(net_path, net_path, feeds)
    assert by_model.comparisons == len(feeds)
    assert not compare_outputs(lambda feed: [np.zeros((len(feed["image"]), 5))], net_path, feeds).passed


@pytest.mark.parametrize("stride, sizes", [(8, {32, 64}), (16, {64, 128})])
def test_dynamic_sizes_are_found_by_trying(networks, stride, sizes):
    """A pooling and a Reshape to 4 columns: only multiples of 4 strides fit."""
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    net (float[N, 1, S, S] image) => (float[N, C] out) {
        small = MaxPool <kernel_shape = [STRIDE, STRIDE], strides = [STRIDE, STRIDE]> (image)
        shape = Constant <value_ints = [0, -1, 4, 4]> ()
        blocks = Reshape (small, shape)
        out = ReduceMax (blocks, axes)
    }
    """
    model = networks[1](text.replace("STRIDE", str(stride)), axes=np.array([2, 3])).SerializeToString()
    assert {feed["image"].shape[2] for feed in runnable_feeds(model)} == sizes


def test_no_size_works(networks):
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    net (float[N, S] x) => (float[N, 7] out) { out = Add (x, w) }
    """
    model = networks[1](text, w=np.ones(7, np.float32)).SerializeToString()
    with pytest.raises(ModelError, match="No size tried for S works: give real inputs"):
        runnable_feeds(model)
    assert prove(model, model, inputs={"x": np.ones((3, 7), np.float32)}).passed
