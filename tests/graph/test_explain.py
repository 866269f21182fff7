"""Chains of ties and pins: on graphs small enough to follow by hand, and as properties of random ones."""

from collections import deque

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from onnxprune.errors import InputError
from onnxprune.graph.labels import PINNED
from onnxprune.graph.model import load
from onnxprune.graph.pins import Causes, pins, runs
from onnxprune.graph.units import Channels, trace
from tests.strategies import Network, networks

IMAGE = {"x": "N,3,8,8"}


@pytest.fixture
def traced(oracle):
    """The channels of a network given as text; every node is called after its result."""

    def build(body: str, weights: dict[str, tuple[int, ...]], inputs=None, **more) -> Channels:
        source = oracle.parse(body, inputs or IMAGE, weights, **more)
        for node in source.graph.node:
            node.name = f"n{node.output[0]}"
        return trace(load(source))

    return build


CHAIN = "a = Conv(x, w0) c = Conv(a, w1) d = Relu(c) e = Conv(d, w2) b = Add(e, a) y = Conv(b, w9)"
CHAIN_WEIGHTS = {"w0": (8, 3, 1, 1), "w1": (4, 8, 1, 1), "w2": (8, 4, 1, 1), "w9": (5, 8, 1, 1)}


def test_a_free_axis_lists_what_goes_along_nearest_first(traced):
    assert (
        str(traced(CHAIN, CHAIN_WEIGHTS).explain("w2"))
        == """\
w2 [8, 4, 1, 1]

axis 0: 8 channels can go (exact)
  with each of them goes its place in
    w0 axis 0, by Add 'nb'
      w1 axis 1, by Conv 'nc'
    w9 axis 1, by Conv 'ny'

axis 1: 4 channels can go (exact)
  with each of them goes its place in
    w1 axis 0, by Conv 'ne'"""
    )


def test_a_pinned_axis_shows_the_shortest_way_to_the_pin(traced):
    body = "a = Conv(x, w0) c = Conv(x, w1) b = Add(a, c) s = Softmax<axis=1>(b) t = Conv(s, w2) y = Conv(t, w9)"
    weights = {"w0": (6, 3, 1, 1), "w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1), "w9": (2, 4, 1, 1)}
    found = traced(body, weights).explain("w1")
    assert (
        str(found)
        == """\
w1 [6, 3, 1, 1]

axis 0: 6 places stay
  tied by Add 'nb' to w0 axis 0
  pinned: Softmax 'ns' mixes the places of the axis

axis 1: 3 places stay
  pinned: Conv 'nc' meets 'x', whose axis can't shrink"""
    )
    (part,) = found.axes[0].parts
    assert (part.cause.operator, part.cause.node, part.cause.why) == ("Softmax", "ns", "mixes the places of the axis")
    assert part.cause.by == "Softmax 'ns'"


def test_a_concat_with_an_input_says_which_part_stays(traced):
    """Channels 0-3 are a convolution's, 4-6 are the image's."""
    body = "a = Conv(x, w0) r = Concat<axis=1>(a, x) d = Relu(r) y = Conv(d, w9)"
    found = traced(body, {"w0": (4, 3, 1, 1), "w9": (5, 7, 1, 1)}).explain("w9")
    free, stuck = found.axes[1].parts
    assert (free.places, free.kind, [step.tensor for step in free.chain]) == (((0, 4),), "channel", ["w0"])
    assert stuck.places == ((4, 7),)
    assert stuck.cause.reason == "Concat 'nr' joins it with 'x', which can't shrink"
    assert "places 4–6: 3 places stay" in str(found)


def test_the_axes_of_a_kernel_are_told_together(traced):
    text = str(traced("a = Conv(x, w0) y = Conv(a, w9)", {"w0": (8, 3, 3, 3), "w9": (5, 8, 1, 1)}).explain("w0"))
    assert "axes 2 and 3: 3 and 3 places stay\n  pinned: Conv 'na' slides a window over the axis" in text


def test_a_tensor_between_layers_can_be_asked_for(traced):
    found = traced(CHAIN, CHAIN_WEIGHTS).explain("d")
    assert [axis.axes for axis in found.axes] == [(1,)]
    assert [(s.tensor, s.node, s.after) for s in found.axes[0].parts[0].chain] == [("w1", "nd", -1), ("w2", "ne", 0)]
    assert str(found).startswith("d [?, 4, 8, 8]\n")


@pytest.mark.parametrize(
    ("asked", "note"),
    {
        "x": "it is an input of the model, which keeps its shape",
        "s": "Softmax 'ns' mixes the places of the axis",
        "k": "no operator that reads it says how it could be cut",
        "z": "Sin 'nz' gives it no axis that could be cut",
    }.items(),
)
def test_a_tensor_without_labels_says_why(traced, asked, note):
    body = "z = Sin(x) a = Conv(z, w0) s = Softmax<axis=1>(a) y = Reshape(s, k)"
    channels = traced(body, {"w0": (6, 3, 1, 1)}, constants={"k": np.array([-1, 3, 16, 8])})
    assert str(channels.explain(asked)).endswith(f"]\nno axis can shrink: {note}")


def test_long_chains_are_cut_in_print_only(traced):
    count = 30
    lines = ["b0 = Conv(x, w0)"]
    lines += [f"a{i} = Conv(b{i - 1}, w{i}) b{i} = Add(b{i - 1}, a{i})" for i in range(1, count)]
    lines += [f"y = Conv(b{count - 1}, w{count})"]
    weights = {f"w{i}": (4, 4, 1, 1) for i in range(1, count)} | {"w0": (4, 3, 1, 1), f"w{count}": (2, 4, 1, 1)}
    found = traced(" ".join(lines), weights).explain("w0")
    assert len(found.axes[0].parts[0].chain) == 2 * (count - 1) + 1
    assert len(str(found).splitlines()) < 25 and "more" in str(found)


@pytest.mark.parametrize(
    ("asked", "answer"),
    {
        "w3": "Is it 'w",
        "w": "Is it",
        "layers.0.conv.weight": "Weights have names such as 'w0', 'w1' or 'w2'",
        "": "Weights have names",
    }.items(),
)
def test_an_unknown_name_is_answered_with_near_ones(traced, asked, answer):
    with pytest.raises(InputError, match=f"There is no tensor '{asked}' in this model") as error:
        traced(CHAIN, CHAIN_WEIGHTS).explain(asked)
    assert answer in str(error.value)


def test_weights_pinned_on_both_axes_count_for_what_could_be_lifted(traced):
    """w0 is held by the image on one side and by Softmax on the other; the head's bias by the output alone."""
    body = "a = Conv(x, w0) s = Softmax<axis=1>(a) y = Conv(s, w9, b9)"
    channels = traced(body, {"w0": (6, 3, 1, 1), "w9": (5, 6, 1, 1), "b9": (5,)})
    assert channels.pinned == {
        "Conv 'ny' meets 's', whose axis can't shrink": 30,
        "Softmax 'ns' mixes the places of the axis": 18,
        "graph output 'y'": 5,
    }
    conv, softmax, output = (pin for pin in pins(channels) if pin.weights)
    assert [(axis.tensor, axis.axes, axis.places) for axis in conv.axes] == [("w9", (1,), ((0, 6),))]
    assert [(axis.tensor, axis.axes, axis.places) for axis in softmax.axes] == [("w0", (0,), ((0, 6),))]
    assert (output.cause.operator, output.cause.node) == ("graph output", "y")
    assert channels.prunable == 0


LIGHT = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def distances(channels: Channels, start: int) -> dict[int, int]:
    """How many ties each label is away: breadth first, label by label."""
    near: dict[int, set[int]] = {}
    for _, a, b in channels.trace.ledger.ties:
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            near.setdefault(one, set()).add(other)
            near.setdefault(other, set()).add(one)
    found, waiting = {start: 0}, deque([start])
    while waiting:
        label = waiting.popleft()
        for other in near.get(label, ()):
            if other not in found:
                found[other] = found[label] + 1
                waiting.append(other)
    return found


@LIGHT
@given(net=networks())
def test_ways_to_pins_are_the_shortest(oracle, net: Network):
    channels = trace(load(oracle.parse(net.body, IMAGE, net.weights, net.constants)))
    causes = Causes(channels)
    held = {int(label) for _, labels, _ in channels.trace.ledger.pins for label in labels} | {PINNED}
    for start in range(0, channels.trace.ledger.count, 7):
        label, hops = start, 0
        while causes.toward[label] >= 0:
            label, hops = int(causes.toward[label]), hops + 1
        away = distances(channels, start)
        reached = [away[pin] for pin in held if pin in away]
        assert (hops == min(reached) and label in held) if reached else (hops == 0)


@LIGHT
@given(net=networks())
def test_every_place_has_one_fate_and_every_step_is_on_its_channel(oracle, net: Network):
    channels = trace(load(oracle.parse(net.body, IMAGE, net.weights, net.constants)))
    can_go = channels.deletable
    values = {value.name: value for value in channels.trace.facets}
    for name, facets in channels.parameters():
        found = channels.explain(name)
        assert len(found.axes) == len(facets) and str(found)
        for axis, facet in zip(found.axes, facets, strict=True):
            covered = np.zeros(facet.size, int)
            for part in axis.parts:
                for start, end in part.places:
                    covered[start:end] += 1
                    free = can_go[channels.channel[facet.ravel()[start:end]]]
                    assert free.all() if part.cause is None else not free.any()
                channel = channels.channel[facet.ravel()[part.places[0][0]]]
                assert bool(part.kind) == (part.cause is None)
                for number, step in enumerate(part.chain):
                    assert -1 <= step.after < number
                    on = [channels.channel[f] for f in channels.facets(values[step.tensor])]
                    assert any(channel in labels for labels in on), (name, step)
            assert (covered == 1).all()


@LIGHT
@given(net=networks())
def test_what_is_pinned_adds_up(oracle, net: Network):
    """Elements that no unit can delete, counted one by one."""
    channels = trace(load(oracle.parse(net.body, IMAGE, net.weights, net.constants)))
    can_go = channels.deletable
    stuck = 0
    for name, facets in channels.parameters():
        free = np.zeros(channels.trace.shape_of[channels.model.ir.graph.initializers[name]], bool)
        for facet in facets:
            free |= can_go[channels.channel[facet]]
        stuck += int((~free).sum())
    assert sum(channels.pinned.values()) == sum(pin.weights for pin in pins(channels)) == stuck


def test_runs_of_a_bool_array():
    assert runs(np.array([True, True, False, True])) == ((0, 2), (3, 4))
    assert runs(np.zeros(3, bool)) == ()
