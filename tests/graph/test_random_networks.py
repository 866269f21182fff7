"""Properties on random networks. ONNXPRUNE_EXAMPLES=2000 draws more of them."""

import os

import numpy as np
from hypothesis import HealthCheck, given, settings

from onnxprune.graph.model import load, to_bytes
from onnxprune.graph.remove import remove
from onnxprune.graph.shrink import shrink
from onnxprune.graph.units import trace
from tests.strategies import Network, networks

IMAGE = {"x": "N,3,8,8"}
EXAMPLES = int(os.environ.get("ONNXPRUNE_EXAMPLES", "60"))
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
        has_units.append(bool(oracle.check(build(oracle, net), trials=3).units))

    check()
    assert np.mean(has_units) > 0.9


@LIGHT
@given(net=networks())
def test_shrink_changes_no_output_and_is_idempotent(oracle, net):
    """Zero random units in the weights; shrink finds at least those, and the function stays."""
    source = build(oracle, net)
    channels = trace(load(source))
    chosen = oracle.legal(channels, np.random.default_rng(0), 0.35) if channels.units else []
    deleted = channels.deleted(chosen)
    for tensor in source.graph.initializer:
        value = channels.model.ir.graph.initializers.get(tensor.name)
        if value is not None and channels.facets(value) and not tensor.name.endswith("var"):
            array = np.array(value.const_value.numpy())
            array *= np.broadcast_to(channels.keep_mask(value, deleted), array.shape)
            tensor.raw_data = array.tobytes()
    model = load(source)
    smaller, report = shrink(model)
    assert report.verdicts["removed"] >= deleted.sum()
    assert oracle.parameters(smaller) <= oracle.parameters(remove(channels.model, channels, chosen))
    feeds = oracle.feeds_for(model, 3)
    assert oracle.error_over_range(oracle.run(model, feeds), oracle.run(smaller, feeds)) <= 1e-5
    again, second = shrink(smaller)
    assert second.verdicts["removed"] == 0
    assert to_bytes(again) == to_bytes(smaller)
