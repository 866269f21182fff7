"""Units of several kinds in one run, each with its own rate."""

import pytest
import torch
from torch import nn

from onnxprune.errors import InputError, RecipeError
from onnxprune.prune.thresholds import Threshold
from onnxprune.prune.weights import SingleWeights
from onnxprune.training.pruner import Pruner


class Attention(nn.Module):
    """Four heads of queries, keys and values in one matrix, a residual sum, and a feed-forward layer."""

    def __init__(self, width: int = 16, heads: int = 4):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 24), nn.Linear(24, width), nn.Linear(width, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        score = torch.softmax(q @ k.transpose(-1, -2) * 0.5, dim=-1)
        x = x + self.out((score @ v).transpose(1, 2).flatten(2))
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


def test_heads_and_neurons_have_rates_of_their_own():
    torch.manual_seed(0)
    module = Attention().eval()
    x = torch.randn(2, 5, 16)
    pruner = Pruner(module, (x,), budget={"head": 0.5, "neuron": 0.75}, criterion="magnitude", round_to=1)
    pruner.prune(1.0)
    assert {w["kind"]: (w["before"], w["after"]) for w in pruner.widths()} == {"head": (4, 2), "neuron": (24, 18)}
    assert pruner.export().equivalence.passed


def test_without_a_rate_of_their_own_heads_lose_dimensions():
    pruner = Pruner(Attention().eval(), (torch.randn(2, 5, 16),), budget={"params": 0.9}, round_to=1)
    assert [w["kind"] for w in pruner.widths()] == ["head dimension", "neuron"]


def test_heads_the_dimensions_of_those_that_stay_neurons_and_single_weights_in_one_run():
    torch.manual_seed(0)
    module = Attention().eval()
    x = torch.randn(2, 5, 16)
    pruner = Pruner(
        module,
        (x,),
        budget={"head": 0.5, "head dimension": 0.75, "neuron": 0.75},
        weights=SingleWeights(share=0.3, threshold=Threshold("fixed", 1e-3), clip=(-10.0, 10.0)),
        criterion="magnitude",
        round_to=1,
    )
    assert pruner.rates == ("head", "neuron", "head dimension", "connections", "parameters")
    for progress in (0.5, 1.0):
        plan = pruner.prune(progress)
    kept = {(w["kind"], w["before"], w["after"]) for w in pruner.widths()}
    assert kept == {("head", 4, 2), ("neuron", 24, 18), ("head dimension", 4, 3)}
    assert plan.cost == pruner.cost and plan.cost["head dimension"] == 0.75
    result = pruner.export()
    assert result.equivalence.passed
    # Two heads of three dimensions each are left of four of four.
    shapes = {tuple(v.shape) for v in result.model.ir.graph.initializers.values()}
    assert {(16, 18), (6, 16)} <= shapes or {(18, 16), (16, 6)} <= shapes
    assert pruner.cost["params"] == pytest.approx(_left(pruner, module), rel=1e-6)


def _left(pruner, module):
    """Counted in the masks."""
    masks = pruner.masks.units
    left = sum(int(masks[n].sum()) if n in masks else p.numel() for n, p in module.named_parameters())
    return left / sum(p.numel() for p in module.parameters())


def test_each_rate_goes_its_own_way():
    torch.manual_seed(0)
    module = Attention().eval()
    pruner = Pruner(
        module,
        (torch.randn(2, 5, 16),),
        budget={"head": 0.5, "neuron": 0.5},
        weights=SingleWeights(share=0.5, threshold=Threshold("fixed", 0.2)),
        criterion="magnitude",
        schedule="linear",
        round_to=1,
    )
    pruner.prune({"head": 0.0, "neuron": 1.0, "connections": 0.0, "parameters": 0.0})
    assert pruner.cost["head"] == 1 and pruner.cost["neuron"] == 0.5
    assert all(p[p != 0].abs().min() < 0.1 for p in module.parameters() if p.ndim > 1)
    pruner.prune({"head": 0.5, "neuron": 1.0, "connections": 0.0, "parameters": 0.5})
    assert pruner.cost["head"] == 0.75
    assert all(p[p != 0].abs().min() > 0.1 for p in module.parameters() if p.ndim > 1)
    with pytest.raises(InputError, match="or one for each of head, neuron, connections, parameters"):
        pruner.prune({"head": 0.5})


def test_a_threshold_cannot_take_heads_and_their_dimensions():
    budget = {"head": 0.5, "head dimension": 0.75}
    pruner = Pruner(Attention().eval(), (torch.randn(2, 5, 16),), budget=budget, criterion="magnitude", round_to=1)
    with pytest.raises(RecipeError, match="Leave 'head dimension' out of the budget"):
        pruner.prune_below(0.1)
