"""Properties on random networks, of which a sample is drawn. Thousands:

ONNXPRUNE_EXAMPLES=3000 python -m pytest --timeout 0 tests/graph/test_random_networks.py
"""

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxprune.graph.model import Model, load, to_bytes
from onnxprune.graph.remove import remove
from onnxprune.graph.shrink import ShrinkReport, shrink
from onnxprune.graph.units import Channels, trace
from tests.graph.brute_force import removable
from tests.strategies import Network, networks

IMAGE = {"x": "N,3,8,8"}
EXAMPLES = int(os.environ.get("ONNXPRUNE_EXAMPLES", "60"))
#: What is folded into biases is written down as float32: that much of the range is its rounding at most.
FOLDED = 1e-5
LIGHT = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def build(oracle, net: Network):
    return oracle.parse(net.body, IMAGE, net.weights, net.constants)


def test_any_legal_deletion_computes_what_the_mask_computes(oracle):
    has_units = []

    @LIGHT
    @given(net=networks())
    def check(net):
        has_units.append(bool(oracle.check(build(oracle, net), trials=3, doubles=True).units))

    check()
    assert np.mean(has_units) > 0.9


@LIGHT
@given(net=networks(), seed=st.integers(0, 2**16))
def test_shrink_changes_no_output_takes_what_is_dead_and_is_idempotent(oracle, net, seed):
    """Channels, biases and filters zeroed, repeated or made constant at random."""
    source = build(oracle, net)
    kill(source, np.random.default_rng(seed))
    model = load(source)
    smaller, report = shrink(model)
    feeds = oracle.feeds_for(model, 3)
    expected = oracle.run(model, feeds)[0]
    if np.ptp(expected) > 1e-5:
        oracle.agree(model, smaller, feeds, FOLDED)
    else:  # nothing is left but a constant
        np.testing.assert_allclose(oracle.run(smaller, feeds)[0], expected, rtol=1e-5, atol=1e-5)
    again, second = shrink(smaller)
    assert not second.gone
    assert to_bytes(again) == to_bytes(smaller)
    channels = trace(model)
    judged = oracle.parameters(remove(model, channels, removable(channels)))
    assert oracle.parameters(smaller) <= judged + kept_dead(trace(smaller), report) + new_biases(model, smaller)


def kill(source, rng: np.random.Generator) -> None:
    """Zero some filters, some columns and some biases; make some filters equal to another."""
    for tensor in source.graph.initializer:
        array = np.array(numpy_helper.to_array(tensor))
        if array.dtype != np.float32 or tensor.name.endswith("var"):
            continue
        if rng.random() < 0.7:
            array[rng.random(len(array)) < rng.choice([0.2, 0.5, 0.9])] = 0
        if array.ndim > 1 and rng.random() < 0.3:
            array[:, rng.random(array.shape[1]) < 0.3] = 0
        if array.ndim > 1 and rng.random() < 0.3:
            array[rng.integers(len(array))] = array[rng.integers(len(array))]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def kept_dead(channels: Channels, report: ShrinkReport) -> int:
    """Weights of the units of which the report says that they are dead and had to stay."""
    value_of = {value.name: value for value in channels.trace.facets}
    dead = set()
    for entry in report.kept_dead:
        for facet in channels.facets(value_of[entry.tensor]):
            if facet.shape[entry.axis] > 1:
                dead.add(int(channels.channel[facet].ravel()[entry.index]))
    return sum(unit.size for unit in channels.units if dead & set(unit.channels))


def new_biases(model: Model, smaller: Model) -> int:
    """Elements of the biases that readers without one were given."""
    names = smaller.ir.graph.initializers.keys() - model.ir.graph.initializers.keys()
    return sum(smaller.ir.graph.initializers[name].const_value.size for name in names)
