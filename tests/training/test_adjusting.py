"""Repairs of a network's layers after a cut: what each makes of the outputs."""

import numpy as np
import pytest
import torch
from torch import nn

from onnxprune.errors import InputError, RecipeError
from onnxprune.training.adjusting import ADJUSTMENTS, NEEDS_DATA, Adjuster, reestimate
from onnxprune.training.pruner import Pruner

X = torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(0))
BATCHES = [(X[:32], None), (X[32:], None)]


def network() -> nn.Module:
    """Channel 1 of the first layer is constant, channel 3 twice channel 2, channel 0 tiny; all are read."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
    with torch.no_grad():
        first.weight[0] *= 0.01
        first.weight[1], first.bias[1] = 0, 0.7
        first.weight[3], first.bias[3] = 2 * first.weight[2], 2 * first.bias[2]
    return nn.Sequential(first, nn.ReLU(), second, nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).eval()


def cut(module, channels, name):
    """Zero channels of the first layer, with the adjustment `name`."""
    parameters = dict(module.named_parameters())
    masks = {
        "0.weight": np.ones((4, 2, 3, 3), bool),
        "0.bias": np.ones(4, bool),
        "2.weight": np.ones((3, 4, 3, 3), bool),
    }
    for index in channels:
        masks["0.weight"][index] = masks["0.bias"][index] = masks["2.weight"][:, index] = False
    adjuster = Adjuster(name, module, parameters)
    adjuster.look(BATCHES)
    with torch.no_grad():
        for key, mask in masks.items():
            parameters[key].mul_(torch.from_numpy(mask))
    adjuster.mend({}, masks, BATCHES)
    return masks


def error_of(module, dense):
    with torch.no_grad():
        return float((module[:3](X) - dense).abs().max())


@pytest.mark.parametrize(
    ("name", "channels", "exact"),
    [
        ("bias", [1], True),
        ("least_squares", [3], True),
        ("least_squares", [1, 3], False),
        ("none", [1], False),
        ("rescale", [1], False),
    ],
)
def test_what_can_be_made_good_is(name, channels, exact):
    module = network()
    dense = module[:3](X).detach()
    masks = cut(module, channels, name)
    assert (error_of(module, dense) < 2e-3) == exact
    assert not module[2].weight.detach().numpy()[~masks["2.weight"]].any()


def test_least_squares_is_never_further_off_than_doing_nothing():
    errors = {}
    for name in ("none", "least_squares"):
        module = network()
        dense = module[:3](X).detach()
        cut(module, [1, 2], name)
        errors[name] = float((module[:3](X).detach() - dense).square().mean())
    assert errors["least_squares"] < 0.5 * errors["none"]


def test_norm_and_rescale_make_what_is_left_larger():
    module = network()
    before = module[2].weight.detach().norm()
    cut(module, [1], "norm")
    assert float(module[2].weight.detach().norm()) == pytest.approx(float(before), rel=1e-6)
    module, dense = network(), network()[2].weight.detach()
    cut(module, [1], "rescale")
    assert torch.allclose(module[2].weight[:, 0], dense[:, 0] * 4 / 3)


def test_statistics_are_the_averages_over_the_batches():
    module = network().train()
    module[3].eval()
    reestimate(module, [x for x, _ in BATCHES])
    with torch.no_grad():
        read = [module[:3](x) for x, _ in BATCHES]
    assert torch.allclose(module[3].running_mean, torch.stack([y.mean((0, 2, 3)) for y in read]).mean(0), atol=1e-6)
    assert [part.training for part in module] == [True, True, True, False, True, True, True]
    assert module[3].momentum == 0.1


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_the_pruner_adjusts_and_what_is_pruned_stays_zero(name):
    module = network()
    pruner = Pruner(
        module,
        (X[:2],),
        budget={"params": 0.7},
        criterion="magnitude",
        round_to=1,
        adjust=name,
        calibration=lambda: BATCHES,
    )
    pruner.prune(0.5)
    pruner.prune(1.0)
    assert pruner.cost["params"] <= 0.7
    zeros = {n: (p == 0).sum() for n, p in module.named_parameters()}
    pruner.step()
    assert all((p == 0).sum() == zeros[n] for n, p in module.named_parameters())
    assert pruner.export().equivalence.passed


def test_adjustments_that_are_not_there_or_have_nothing_to_look_at():
    how = {"budget": {"params": 0.7}, "criterion": "magnitude", "round_to": 1}
    with pytest.raises(RecipeError, match=r"no adjustment 'luck'.*rescale"):
        Pruner(network(), (X[:2],), adjust="luck", **how)
    pruner = Pruner(network(), (X[:2],), adjust=sorted(NEEDS_DATA)[0], **how)
    with pytest.raises(InputError, match="adjustment looks at what the network makes of data"):
        pruner.prune(1.0)
