"""Properties on random networks."""

import numpy as np
from hypothesis import HealthCheck, given, settings

from onnxprune.graph.model import load, to_bytes
from onnxprune.graph.shrink import shrink
from onnxprune.graph.units import trace
from tests.strategies import Network, networks

IMAGE = {"x": "N,3,8,8"}
LIGHT = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def build(oracle, net: Network):
    return oracle.parse(net.body, IMAGE, net.weights, net.constants)


@LIGHT
@given(net=networks())
def test_any_legal_deletion_computes_what_the_mask_computes(oracle, net):
    channels = oracle.check(build(oracle, net), trials=3)
    assert channels.units or any("cross" in reason for reason in channels.pinned), channels.pinned


@LIGHT
@given(net=networks())
def test_shrink_changes_no_output_and_is_idempotent(oracle, net):
    """Zero random units in the weights; shrink finds at least those, and the function stays."""
    source = build(oracle, net)
    channels = trace(load(source))
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(channels.units))[: max(1, len(channels.units) // 3)].tolist()
    deleted = np.zeros(channels.count, bool)
    for index in chosen:
        deleted[list(channels.units[index].channels)] = True
    for tensor in source.graph.initializer:
        value = channels.model.ir.graph.initializers.get(tensor.name)
        if value is not None and channels.facets(value) and not tensor.name.endswith("var"):
            array = np.array(value.const_value.numpy())
            array *= np.broadcast_to(channels.keep_mask(value, deleted), array.shape)
            tensor.raw_data = array.tobytes()
    model = load(source)
    smaller, report = shrink(model)
    feeds = oracle.feeds_for(model, 3)
    assert oracle.error_over_range(oracle.run(model, feeds), oracle.run(smaller, feeds)) <= 1e-5
    again, second = shrink(smaller)
    assert second.verdicts["removed"] == 0
    assert to_bytes(again) == to_bytes(smaller)
    assert report.verdicts["removed"] + report.verdicts["kept"] > 0
