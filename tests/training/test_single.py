"""Single weights in the pruner: alone, after units, in patterns; and what the export makes of them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import RecipeError
from onnxprune.prune.thresholds import Threshold
from onnxprune.prune.weights import SingleWeights
from onnxprune.training.pruner import Pruner

X, Y = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


CHANNELS = Pruner(network(), (X[:2],), budget={"params": 0.9}).channels


def pruner_of(module, weights, **how):
    how = {"budget": {}, "criterion": "magnitude", "round_to": 1, "channels": CHANNELS, **how}
    return Pruner(module, (X[:2],), weights=weights, **how)


def train_step(module, pruner, optimizer):
    optimizer.zero_grad()
    functional.cross_entropy(module(X), Y).backward()
    optimizer.step()
    pruner.step(optimizer)


def zeros(module):
    return {name: p.detach() == 0 for name, p in module.named_parameters()}


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
@pytest.mark.parametrize("build", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)])
def test_a_share_grows_with_the_schedule_and_what_is_gone_stays_zero(build, criterion):
    module = network()
    pruner = pruner_of(module, SingleWeights(share=0.8, criterion=criterion), schedule="linear")
    optimizer = build(module.parameters())
    before = zeros(module)
    for progress, density in ((0.25, 0.8), (0.5, 0.6), (1.0, 0.2)):
        train_step(module, pruner, optimizer)
        pruner.prune(progress)
        assert pruner.density == pytest.approx(density, abs=0.01)
        train_step(module, pruner, optimizer)
        after = zeros(module)
        assert all((after[name] | ~gone).all() for name, gone in before.items())
        before = after
    matrices = [p for p in module.parameters() if p.ndim > 1]
    assert sum(int((p != 0).sum()) for p in matrices) / sum(p.numel() for p in matrices) == pytest.approx(0.2, abs=0.01)
    assert module[0].bias.all()
    assert pruner.cost["params"] == 1.0
    assert pruner.export().equivalence.passed


def test_units_first_then_weights_of_what_they_leave():
    """A hybrid: half of the parameters go in whole neurons, half of the weights that stay one by one."""
    module = network()
    pruner = pruner_of(module, SingleWeights(share=0.5), budget={"params": 0.5})
    pruner.prune(0.5)
    pruner.prune(1.0)
    assert pruner.cost["params"] <= 0.5
    alive = [p.detach()[np.ix_(p.any(1), p.any(0))] for p in module.parameters() if p.ndim > 1]
    assert sum(int((p != 0).sum()) for p in alive) / sum(p.numel() for p in alive) == pytest.approx(0.5, abs=0.03)
    result = pruner.export()
    assert result.equivalence.passed
    kept = [v.const_value.numpy() for v in result.model.ir.graph.initializers.values() if len(v.shape) == 2]
    assert sum(w.size for w in kept) <= 0.55 * sum(p.numel() for p in module.parameters() if p.ndim > 1)


def test_two_of_four_among_the_inputs_that_units_leave():
    module = network()
    pruner = pruner_of(module, SingleWeights(pattern="2:4"), budget={"params": 0.6})
    pruner.prune(0.5)
    assert module[0].weight.all(1).any()
    pruner.prune(1.0)
    for number in (0, 2, 4):
        units = pruner.masks.units[f"{number}.weight"]
        left = module[number].weight[units.any(1)][:, units.any(0)]
        for start in range(0, left.shape[1] // 4 * 4, 4):
            assert ((left[:, start : start + 4] != 0).sum(1) <= 2).all()
    assert pruner.export().equivalence.passed


def test_weights_below_a_threshold_go_and_others_are_clipped():
    module = network()
    with torch.no_grad():
        module[2].weight[0, 0] = 30.0
    pruner = pruner_of(module, SingleWeights(threshold=Threshold("sigma", 1.0), clip=(-10.0, 10.0)), keep=["4.weight"])
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    pruner.prune(1.0)
    assert module[2].weight[0, 0] == 10.0
    theta = before["0.weight"].numpy().std()
    assert torch.equal(module[0].weight == 0, before["0.weight"].abs() <= theta)
    assert torch.equal(module[4].weight, before["4.weight"])


def test_weights_come_back_with_a_snapshot_and_with_the_state():
    module = network()
    pruner = pruner_of(module, SingleWeights(share=0.5))
    weights, snapshot = {n: v.clone() for n, v in module.state_dict().items()}, pruner.snapshot()
    pruner.prune(1.0)
    other = network()
    other.load_state_dict(module.state_dict())
    again = pruner_of(other, SingleWeights(share=0.5))
    again.load_state_dict(pruner.state_dict())
    assert again.density == pruner.density == pytest.approx(0.5, abs=0.01)
    module.load_state_dict(weights)
    pruner.restore(snapshot)
    assert pruner.density == 1.0 and all(torch.equal(v, weights[n]) for n, v in module.state_dict().items())


def test_criteria_that_do_not_score_single_weights():
    for criterion in ("apoz", "batchnorm", "random", "taylor + magnitude"):
        with pytest.raises(RecipeError, match="doesn't score single weights"):
            pruner_of(network(), SingleWeights(share=0.5, criterion=criterion))
