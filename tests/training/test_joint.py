"""Units and single weights against each other for one budget."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import BudgetUnreachable, RecipeError
from onnxprune.prune.weights import SingleWeights
from onnxprune.training.pruner import Pruner


def by_hand() -> nn.Module:
    """Two neurons: of weights 1, 0.1 and 1, and of three times 0.3."""
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 0.1], [0.3, 0.3]]))
        module[2].weight.copy_(torch.tensor([[1.0, 0.3]]))
    return module


SMALL = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
CHANNELS = Pruner(by_hand(), (SMALL,), budget={"params": 0.9}, round_to=1).channels


def pruner_of(module, x, zero_cost, left, **how):
    how = {"round_to": 1, "schedule": "linear", **how}
    return Pruner(module, (x,), budget={"params": left}, weights=SingleWeights(joint=zero_cost), **how)


@pytest.mark.parametrize(
    "zero_cost, budget, left, gone",
    [
        # a single weight goes at the price s / (1 - z): 0.1 at 0.2; the second neuron at 0.9 / 3 = 0.3, before its
        # weights at 0.6. Of 6 parameters 5 and a zero at a half are left, then 2 and one zero
        (0.5, 0.95, 5.5 / 6, {"0.weight": [[0, 1], [0, 0]], "2.weight": [[0, 0]]}),
        (0.5, 0.9, 2.5 / 6, {"0.weight": [[0, 1], [1, 1]], "2.weight": [[0, 1]]}),
        (0.5, 0.42, 2.5 / 6, {"0.weight": [[0, 1], [1, 1]], "2.weight": [[0, 1]]}),
        # zeros cost nothing: single weights first, by their size
        (0.0, 0.84, 5.0 / 6, {"0.weight": [[0, 1], [0, 0]], "2.weight": [[0, 0]]}),
        # zeros cost what any number costs: only units go
        (1.0, 0.95, 3.0 / 6, {"0.weight": [[0, 0], [1, 1]], "2.weight": [[0, 1]]}),
    ],
)
def test_the_least_saliency_for_its_cost_goes(zero_cost, budget, left, gone):
    module = by_hand()
    pruner = pruner_of(module, SMALL, zero_cost, budget, channels=CHANNELS)
    pruner.prune(1.0)
    assert pruner.cost["joint"] == pytest.approx(left)
    assert {n: (p == 0).int().tolist() for n, p in module.named_parameters()} == gone


def test_a_budget_below_one_unit_a_layer_is_refused():
    pruner = pruner_of(by_hand(), SMALL, 0.5, 0.1, channels=CHANNELS)
    with pytest.raises(BudgetUnreachable, match=r"together, can't be reached: the smallest has 41.7%"):
        pruner.prune(1.0)


@pytest.mark.parametrize(
    "rule, budget, words",
    [
        ({"joint": 1.5}, {"params": 0.5}, "joint a number from 0 to 1"),
        ({"joint": 0.5, "share": 0.5}, {"params": 0.5}, "Leave share, pattern and threshold out"),
        ({"joint": 0.5}, {"params": 0.5, "macs": 0.5}, "params, macs"),
        ({"joint": 0.5}, {"neuron": 0.5}, "names neuron"),
    ],
)
def test_what_does_not_go_with_joint(rule, budget, words):
    with pytest.raises(RecipeError, match=words):
        Pruner(by_hand(), (SMALL,), budget=budget, weights=SingleWeights(**rule), round_to=1, channels=CHANNELS)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "obd"])
def test_a_network_is_pruned_jointly_while_it_trains(criterion):
    """Both units and single weights go, what is gone stays so, the budget holds, and the export computes the same."""
    torch.manual_seed(0)
    x, y = torch.randn(128, 8), torch.arange(128) % 4
    x = x + 3 * nn.functional.one_hot(y, 8)
    module = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))
    weights = SingleWeights(joint=0.3, criterion=criterion)
    pruner = Pruner(
        module, (x[:2],), budget={"params": 0.25}, weights=weights, round_to=1, calibration=lambda: [(x, y)]
    )
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for step in range(120):
        optimizer.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        optimizer.step()
        pruner.step(optimizer)
        if step in (40, 55, 70, 85):
            pruner.prune((step - 25) / 60)
    assert pruner.cost["joint"] <= 0.25 + 1e-9
    structure = pruner.cost["params"]
    assert pruner.cost["joint"] < structure < 1.0  # units went, and weights of what stayed
    held = dict(pruner.masks.held)
    assert all(not p[~held[n]].any() for n, p in module.named_parameters() if n in held)
    assert float((module(x).argmax(1) == y).float().mean()) > 0.9
    result = pruner.export()
    assert result.equivalence.passed
    kept = sum(v.const_value.size for v in result.model.ir.graph.initializers.values() if len(v.shape) == 2)
    assert kept <= np.ceil(structure * sum(p.numel() for p in module.parameters()))


def test_joint_masks_come_back_with_a_snapshot_and_with_the_state():
    module = by_hand()
    pruner = pruner_of(module, SMALL, 0.5, 0.5, channels=CHANNELS)
    weights, before = {n: v.clone() for n, v in module.state_dict().items()}, pruner.snapshot()
    pruner.prune(1.0)
    other = pruner_of(by_hand(), SMALL, 0.5, 0.5, channels=CHANNELS)
    other.load_state_dict(pruner.state_dict())
    assert other.cost == pruner.cost
    module.load_state_dict(weights)
    pruner.restore(before)
    assert pruner.cost["joint"] == 1.0
