"""Layers that are replaced or dropped: what they compute then, and what stays as it is."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from onnxprune.errors import InputError, RecipeError
from onnxprune.prune.weights import SingleWeights
from onnxprune.training import restructure
from onnxprune.training.pruner import Pruner

X = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Blocks(nn.Module):
    """A stem, four residual blocks, one of another width, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(8) for _ in range(4))
        self.wider = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(torch.relu(self.wider(x)).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.conv2(torch.relu(self.conv1(x)))


def build():
    torch.manual_seed(0)
    return Blocks().eval()


def batches():
    return [(X[:16], None), (X[16:], None)]


@pytest.mark.parametrize("calibration", [None, batches], ids=["weights", "data"])
def test_a_weight_of_low_rank_is_replaced_without_loss(calibration):
    module = build()
    with torch.no_grad():
        for part in (module.blocks[0].conv1, module.wider):
            flat = part.weight.flatten(1)
            u, s, v = torch.linalg.svd(flat, full_matrices=False)
            s[2:] = 0
            part.weight.copy_((u * s @ v).reshape(part.weight.shape))
    before = module(X)
    replaced = restructure.low_rank(module, ["blocks.0.conv1", "wider"], energy=1 - 1e-6, calibration=calibration)
    assert [(r.name, r.rank) for r in replaced] == [("blocks.0.conv1", 2), ("wider", 2)]
    assert replaced[1].before == 12 * 72 and replaced[1].after == 2 * (12 + 72)
    assert torch.allclose(module(X), before, atol=1e-4)
    assert isinstance(module.wider, nn.Sequential) and not module.wider.training


def test_data_keep_what_a_layer_gives_better_than_weights_do():
    torch.manual_seed(1)
    dense = nn.Sequential(nn.Linear(12, 16))
    x = torch.randn(200, 12) * torch.linspace(0.05, 3, 12) + 1
    errors = {}
    for name, calibration in (("weights", None), ("data", lambda: [(x, None)])):
        module = copy.deepcopy(dense)
        (replaced,) = restructure.low_rank(module, energy=0.6, calibration=calibration)
        assert replaced.energy >= 0.6
        errors[name] = (module(x) - dense(x)).square().mean().item(), replaced.rank
    assert errors["data"][0] < errors["weights"][0] and errors["data"][1] <= errors["weights"][1]


def test_layers_that_do_not_get_smaller_and_those_that_cannot_be_taken_apart_stay():
    module = build()
    assert restructure.low_rank(module, energy=1.0) == []
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert restructure.low_rank(encoder, energy=0.1) == []
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    assert restructure.low_rank(tied, energy=0.1) == []
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    assert restructure.low_rank(grouped, energy=0.1) == []


def test_depthwise_and_pointwise_take_the_place_of_a_convolution():
    module = build()
    shape = module.wider(module.stem(X)).shape
    (replaced,) = restructure.depthwise(module, ["wider", "head"])
    assert (replaced.before, replaced.after) == (12 * 8 * 9, 8 * 9 + 12 * 8)
    assert module.wider(module.stem(X)).shape == shape
    assert module.wider[0].groups == 8 and module.wider[0].stride == (2, 2)


def test_every_second_block_goes_and_only_those_that_fit():
    module = build()
    replaced = restructure.drop_every_second(module, ["blocks.*", "wider"], (X[:2],))
    assert [r.name for r in replaced] == ["blocks.1", "blocks.3"]
    expected = module.blocks[2](module.blocks[0](module.stem(X)))
    assert torch.equal(module(X), module.head(torch.relu(module.wider(expected)).mean((2, 3))))
    with pytest.raises(InputError, match="0 of the parts named like wider keep the shape"):
        restructure.drop_every_second(build(), ["wider"], (X[:2],))
    with pytest.raises(InputError, match=r"No part of Blocks is named like block\.\*: it has stem"):
        restructure.low_rank(module, ["block.*"])


def test_what_was_replaced_is_pruned_and_exported():
    module = build()
    restructure.low_rank(module, ["blocks.*"], energy=0.5)
    restructure.depthwise(module, ["wider"])
    pruner = Pruner(module, (X[:2],), budget={"macs": 0.7}, criterion="magnitude", round_to=1)
    pruner.prune(1.0)
    assert pruner.export().equivalence.passed


def test_layers_by_name_keep_that_part_of_their_width():
    module = build()
    budget = {"blocks.*.conv1": 0.5, "params": 0.8}
    pruner = Pruner(module, (X[:2],), budget=budget, criterion="magnitude", round_to=1)
    pruner.prune(1.0)
    widths = {w["group"]: w["after"] for w in pruner.widths()}
    assert [widths[f"blocks.{n}.conv1.weight"] for n in range(4)] == [4] * 4
    assert pruner.rates == ("cost",) and pruner.cost["params"] <= 0.8
    with pytest.raises(RecipeError, match=r"Of layers named like 'block\.conv' 0\.5 can't be left.* narrower: stem"):
        Pruner(module, (X[:2],), budget={"block.conv": 0.5}, criterion="magnitude", channels=pruner.channels)


def test_a_pattern_for_some_layers_alone():
    module = build()
    rule = SingleWeights(pattern="2:4", only=("blocks.*.conv1",))
    pruner = Pruner(module, (X[:2],), budget={}, weights=rule, criterion="magnitude")
    pruner.prune(1.0)
    sparse = {n for n, p in module.named_parameters() if p.ndim > 1 and (p == 0).any()}
    assert sparse == {f"blocks.{n}.conv1.weight" for n in range(4)}
    assert np.isclose(float((module.blocks[0].conv1.weight != 0).float().mean()), 0.5)


def test_layers_are_rates_of_their_own_from_the_output_down():
    module = build()
    how = {"criterion": "magnitude", "round_to": 1, "schedule": "hierarchical"}
    pruner = Pruner(module, (X[:2],), budget={"*": 0.5}, **how)
    assert pruner.rates[0] == "width of wider.weight" and len(pruner.rates) == len(pruner.widths())
    pruner.prune({rate: float(rate == "width of wider.weight") for rate in pruner.rates})
    after = {w["group"]: (w["before"], w["after"]) for w in pruner.widths()}
    assert after.pop("wider.weight") == (12, 6) and all(before == left for before, left in after.values())
    with pytest.raises(RecipeError, match="takes layers one by one"):
        Pruner(module, (X[:2],), budget={"macs": 0.5}, channels=pruner.channels, **how)
