"""Units: sizes, masks, rankings, reasons and refusals, on graphs small enough to count by hand."""

import numpy as np
import pytest

from onnxprune.errors import EmptyAxisError, InputError, RaggedError
from onnxprune.graph.mask import mask
from onnxprune.graph.model import load
from onnxprune.graph.remove import remove
from onnxprune.graph.units import trace
from onnxprune.graph.weighing import Counter, Sets

IMAGE = {"x": "N,3,8,8"}


@pytest.fixture
def residual(oracle):
    body = "a = Conv(x, w0) c = Conv(a, w1) d = Relu(c) e = Conv(d, w2) b = Add(e, a) y = Conv(b, w9)"
    weights = {"w0": (8, 3, 1, 1), "w1": (4, 8, 1, 1), "w2": (8, 4, 1, 1), "w9": (5, 8, 1, 1)}
    return load(oracle.parse(body, IMAGE, weights))


@pytest.fixture
def grouped(oracle):
    body = "a = Conv(x, w0) b = Conv<group=2>(a, w1) y = Conv(b, w9)"
    return load(oracle.parse(body, IMAGE, {"w0": (8, 3, 1, 1), "w1": (6, 4, 1, 1), "w9": (5, 6, 1, 1)}))


def test_sizes_count_every_weight_once(residual):
    channels = trace(residual)
    outer = [u for u in channels.units if u.where.startswith("w0")]
    inner = [u for u in channels.units if u.where.startswith("w1")]
    # a stream channel: its row of w0 (3), column of w1 (4), row of w2 (4), column of w9 (5)
    assert {u.size for u in outer} == {3 + 4 + 4 + 5} and len(outer) == 8
    assert {u.size for u in inner} == {8 + 8} and len(inner) == 4
    assert {u.kind for u in channels.units} == {"channel"}
    assert {u.exactness for u in channels.units} == {"exact"}


def test_a_weight_that_reads_and_writes_one_stream_counts_the_crossing_once(oracle):
    body = "a = Conv(x, w0) c = Conv(a, w1) b = Add(c, a) y = Conv(b, w9)"
    model = oracle.parse(body, IMAGE, {"w0": (4, 3, 1, 1), "w1": (4, 4, 1, 1), "w9": (5, 4, 1, 1)})
    assert {u.size for u in trace(model).units} == {3 + (4 + 4 - 1) + 5}


def test_size_is_what_removal_removes(oracle, residual, grouped):
    for model in (residual, grouped):
        channels = trace(model)
        before = sum(v.const_value.size for v in model.ir.graph.initializers.values())
        for unit in channels.units:
            smaller = remove(model, channels, [unit])
            after = sum(v.const_value.size for v in smaller.ir.graph.initializers.values())
            assert before - after == unit.size, unit


def test_keep_masks_name_what_goes(residual):
    channels = trace(residual)
    masks = channels.keep_masks([channels.units[0], 1])
    smaller = remove(residual, channels, [0, 1])
    assert masks.keys() == {"w0", "w1", "w2", "w9"}
    for name, kept in masks.items():
        original = residual.ir.graph.initializers[name].const_value.numpy()
        assert kept.shape == original.shape and kept.dtype == bool
        left = smaller.ir.graph.initializers[name].const_value.numpy()
        assert np.array_equal(original[kept], left.ravel())


def test_units_of_a_grouped_convolution(grouped):
    channels = trace(grouped)
    kinds = [u.kind for u in channels.units]
    # 4 places in the groups' inputs, 3 in their outputs, 2 whole groups
    assert kinds.count("channel") == 7 and kinds.count("conv group") == 2


def test_ranked_bundles_take_each_groups_least_important(oracle, grouped):
    channels = trace(grouped)
    saliency = {"w0": np.zeros((8, 3, 1, 1), np.float32)}
    order = [3, 1, 2, 0, 5, 7, 6, 4]  # importance of each input channel; two groups of four
    saliency["w0"] += np.array(order).reshape(8, 1, 1, 1)
    ranked = channels.ranked(saliency)
    importance = ranked.importance(saliency)
    inputs = sorted(
        round(float(i) / 3)
        for i, u in zip(importance, ranked.units, strict=True)
        if u.where.startswith("w0") and u.kind == "channel"
    )
    assert inputs == [0 + 4, 1 + 5, 2 + 6, 3 + 7]
    units = [u.index for u, i in zip(ranked.units, importance, strict=True) if u.kind == "channel"][:2]
    feeds = oracle.feeds_for(grouped, 2)
    got = oracle.run(remove(grouped, ranked, units), feeds)
    assert oracle.error_over_range(oracle.run(mask(grouped, ranked, units), feeds), got) <= 1e-5


def test_what_is_pinned_says_why(oracle):
    model = oracle.parse(
        "a = Conv(x, w0) b = Bernoulli(a) y = Conv(b, w9)",
        IMAGE,
        {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)},
    )
    channels = trace(model)
    assert channels.prunable == 0
    assert sum(channels.pinned.values()) == 24 + 40
    assert any("Bernoulli" in reason and "draws random numbers" in reason for reason in channels.pinned)


def test_prunable_is_the_fraction_that_units_can_delete(residual):
    assert trace(residual).prunable == 1.0


def test_emptying_an_axis_is_an_error_that_names_it(residual):
    channels = trace(residual)
    inner = [u.index for u in channels.units if u.where.startswith("w1")]
    for call in (remove, mask):
        with pytest.raises(EmptyAxisError, match=r"axis \d of '\w+'. Keep at least one"):
            call(residual, channels, inner)
    with pytest.raises(EmptyAxisError):
        channels.keep_masks(inner)


def test_units_that_share_channels_and_do_not_go_together(oracle):
    """A group of w8 is worth two inputs to either group of w15, a pair of its outputs one; they share an output."""
    body = (
        "a = Conv(x, w1) b = Conv<group=2>(a, w8) c = Concat<axis=1>(a, b) d = Conv(c, w11) e = Concat<axis=1>(c, d)"
        "f = Conv<group=2>(e, w15) y = Conv(f, w9)"
    )
    shapes = {"w1": (4, 3, 1, 1), "w8": (4, 2, 1, 1), "w11": (4, 8, 1, 1), "w15": (4, 6, 1, 1), "w9": (5, 4, 1, 1)}
    model = load(oracle.parse(body, IMAGE, shapes))
    channels = trace(model)
    pair, group = channels.units[0], channels.units[4]
    assert set(pair.channels) & set(group.channels)
    for call in (remove, mask):
        call(model, channels, [pair]), call(model, channels, [group, group])
        with pytest.raises(RaggedError, match="share channels"):
            call(model, channels, [pair, group])


@pytest.mark.parametrize("unit", [-1, 13, 10**9])
def test_a_unit_that_is_not_there(residual, unit):
    channels = trace(residual)
    with pytest.raises(InputError, match="units 0 to 12"):
        remove(residual, channels, [unit])


def test_units_of_others_and_things_that_are_no_units(residual, grouped):
    channels = trace(residual)
    for unit in (trace(grouped).units[0], "0", 1.0, None):
        with pytest.raises(InputError, match=r"no unit|other channels"):
            remove(residual, channels, [unit])


def test_channels_belong_to_their_model(oracle, residual, grouped):
    channels = trace(residual)
    for call in (remove, mask):
        with pytest.raises(InputError, match="another model"):
            call(grouped, channels, [0])


def test_two_layers_that_share_an_initializer_by_accident(oracle):
    """Exporters merge equal scales; deleting a channel of one layer leaves the other alone."""
    body = "a = Conv(x, w0) b = Mul(a, s) c = Conv(b, w1) d = Mul(c, s) y = Conv(d, w9)"
    ones = {"s": np.ones((1, 8, 1, 1), np.float32)}
    source = oracle.parse(body, IMAGE, {"w0": (8, 3, 1, 1), "w1": (8, 8, 1, 1), "w9": (5, 8, 1, 1)}, ones)
    channels = oracle.check(source)
    assert len(channels.units) == 16
    model = channels.model
    assert dict(model.copies) == {"s.copy1": "s"}
    smaller = remove(model, channels, [])
    assert [n for n in smaller.ir.graph.initializers if n.startswith("s")] == ["s"] and not smaller.copies


def test_each_element_that_a_set_deletes_counts_once():
    """A matrix [3, 2] whose rows are the channels 1, 5 and 2, its columns 1 and 2: {1, 2} has all 6 elements."""
    rows, columns, others = np.array([[1], [5], [2]]), np.array([[1, 2]]), np.array([[3, 1]])
    grid = np.array([[1, 3], [3, 1], [2, 5]])
    counter = Counter(Sets.side_by_side([np.array([1, 2]), np.array([9]), np.array([2]), np.array([1, 3])]), 10)
    cases = [
        ([rows, columns], [6, 0, 4, 4]),
        ([columns, rows], [6, 0, 4, 4]),
        ([rows, grid], [5, 0, 2, 4]),
        ([rows, others, grid], [5, 0, 2, 6]),
        ([grid], [3, 0, 1, 4]),
        ([rows], [4, 0, 2, 2]),
    ]
    for named, deleted in cases:
        assert np.round(counter.deleted((3, 2), named), 9).tolist() == deleted
    assert counter.deleted((3, 2), [np.array([[5], [6], [7]])]) == 0.0


def test_a_set_counts_a_weight_once_whose_channel_is_read_and_written(oracle):
    """Residual streams through groups: bundles of two channels, each of them a row and a column of w2."""
    body = "a = Conv(x, w0) b = Conv<group=2>(a, w1) c = Conv(b, w2) d = Add(b, c) y = Conv(d, w9)"
    weights = {"w0": (8, 3, 1, 1), "w1": (8, 4, 1, 1), "w2": (8, 8, 1, 1), "w9": (5, 8, 1, 1)}
    channels = trace(load(oracle.parse(body, IMAGE, weights)))
    assert any(len(unit.channels) > 1 for unit in channels.units)
    for unit in channels.units:
        assert unit.size == sum(int((~mask).sum()) for mask in channels.keep_masks([unit]).values())
