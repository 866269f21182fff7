"""Proximal steps and projections against values worked out by hand, and that training under them reaches zeros."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional

from onnxprune.errors import InputError, RecipeError
from onnxprune.training.constraints import project_l1, soft_threshold
from onnxprune.training.pruner import Pruner
from tests.training.two_layers import X, Y, channels, network


def pruner_of(module, **how):
    how = {"budget": {"params": 0.9}, "criterion": "magnitude", "round_to": 1, "channels": channels(), **how}
    return Pruner(module, (X[:2],), **how)


def training(module, pruner, steps=60, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (functional.cross_entropy(module(X), Y) + pruner.penalty()).backward()
        optimizer.step()
        pruner.step(optimizer)
    accuracy = (module(X).argmax(1) == Y).double().mean().item()  # by the batch's own statistics
    module.eval()
    return accuracy


def live(module):
    """The neurons of the two hidden layers that have any weight."""
    parts = [[module[0].weight, module[0].bias[:, None], module[1].weight[:, None], module[1].bias[:, None]]]
    parts.append([module[3].weight, module[3].bias[:, None]])
    readers = [module[3].weight.T, module[5].weight.T]
    return [int(torch.cat([*own, reader], 1).detach().any(1).sum()) for own, reader in zip(parts, readers, strict=True)]


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_soft_thresholding_by_hand():
    values = torch.tensor([3.0, -0.5, 0.2, -2.0])
    assert soft_threshold(values, 0.5).tolist() == [2.5, 0.0, 0.0, -1.5]


@pytest.mark.parametrize(
    ("values", "radius", "expected"),
    [
        ([3.0, -1.0], 2.0, [2.0, 0.0]),  # threshold 1
        ([3.0, -2.0, 0.5], 3.0, [2.0, -1.0, 0.0]),  # threshold 1
        ([[1.0, -1.0], [1.0, 1.0]], 2.0, [[0.5, -0.5], [0.5, 0.5]]),
        ([0.5, -0.25], 1.0, [0.5, -0.25]),  # inside already
        ([0.0, 0.0], 1.0, [0.0, 0.0]),
        ([5.0], 1e-30, [0.0]),
    ],
)
def test_the_projection_on_the_l1_ball_by_hand(values, radius, expected):
    assert project_l1(torch.tensor(values), radius).numpy() == pytest.approx(np.array(expected), abs=1e-7)


def test_no_point_of_the_ball_is_nearer():
    """Against a general solver, over positive and negative parts."""
    for seed in range(5):
        values = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        radius = 0.4 * float(values.abs().sum())
        v = values.numpy()
        found = minimize(
            lambda z, v=v: 0.5 * ((z[:6] - z[6:] - v) ** 2).sum(),
            np.zeros(12),
            jac=lambda z, v=v: np.r_[z[:6] - z[6:] - v, -(z[:6] - z[6:] - v)],
            bounds=[(0, None)] * 12,
            constraints={"type": "ineq", "fun": lambda z, r=radius: r - z.sum()},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert found.success
        assert project_l1(values, radius).numpy() == pytest.approx(found.x[:6] - found.x[6:], abs=1e-5)


def two_neurons():
    """One has the weights (3, 4) and reads into 12, the other (0.3, 0.4) into 1.2: norms 13 and 1.3, no biases."""
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        module[2].weight.copy_(torch.tensor([[12.0, 1.2]]))
    return module


def standing(module, **how):
    """A step whose gradients are zero, at a learning rate of 0.5."""
    how = {"budget": {"params": 0.9}, "criterion": "magnitude", "round_to": 1, **how}
    pruner = Pruner(module, (torch.ones(2, 2),), **how)
    pruner.step(torch.optim.SGD(module.parameters(), 0.5))
    return [*module[0].weight.flatten().tolist(), *module[2].weight.flatten().tolist()], pruner


def test_proximal_steps_by_hand():
    # L1: 0.5 * 0.8 from each weight.
    weights, pruner = standing(two_neurons(), penalty=0.8, proximal=True)
    assert weights == pytest.approx([2.6, 3.6, 0.0, 0.0, 11.6, 0.8])
    assert pruner.penalty() == 0 and pruner.cost["params"] == 1.0 and pruner.density == pytest.approx(4 / 6)
    # Groups of three weights: 1 - 0.5 * 1 * sqrt(3) / 13 = 0.9334, and 1 - 0.866 / 1.3 = 0.3338.
    weights, pruner = standing(two_neurons(), penalty=1.0, penalty_kind="group", proximal=True)
    large, small = 1 - 0.5 * 3**0.5 / 13, 1 - 0.5 * 3**0.5 / 1.3
    assert weights == pytest.approx([3 * large, 4 * large, 0.3 * small, 0.4 * small, 12 * large, 1.2 * small])
    # Twice that is more than the small one has, and what is zero counts as pruned.
    weights, pruner = standing(two_neurons(), penalty=2.0, penalty_kind="group", proximal=True)
    assert weights[2:4] == [0, 0] and weights[5] == 0 and weights[0] == pytest.approx(3 * (2 * large - 1))
    assert pruner.cost["params"] == 0.5 and [w["after"] for w in pruner.widths()] == [1]
    assert pruner.export().equivalence.passed
    # The last unit of a layer stays, however heavy the penalty.
    weights, pruner = standing(two_neurons(), penalty=1e3, penalty_kind="group", proximal=True)
    assert weights == [3, 4, 0, 0, 12, 0]


def test_projections_by_hand():
    # Each matrix to half of its L1 norm: 7.7 to 3.85 and 13.2 to 6.6.
    weights, pruner = standing(two_neurons(), constraints={"l1": 0.5})
    theta = (7 - 3.85) / 2
    assert weights == pytest.approx([3 - theta, 4 - theta, 0, 0, 6.6, 0], abs=1e-6)
    assert pruner.cost["params"] == 0.5
    weights, _ = standing(two_neurons(), constraints={"l1": 2.0})
    assert weights == pytest.approx([0.5, 1.5, 0, 0, 2, 0], abs=1e-6)
    # At most one live unit of two.
    weights, pruner = standing(two_neurons(), constraints={"units": 0.5})
    assert weights == [3, 4, 0, 0, 12, 0] and pruner.cost["params"] == 0.5
    weights, _ = standing(two_neurons(), constraints={"units": 2})
    assert 0 not in weights
    weights, _ = standing(two_neurons(), constraints={"units": 0.01}, min_width=2, budget={"params": 1.0})
    assert 0 not in weights


@pytest.mark.parametrize(
    "how", [{"penalty": 9.0, "proximal": True}, {"constraints": {"l1": 0.1}}, {"constraints": {"units": 0.5}}]
)
def test_what_is_kept_isnt_touched(how):
    module = two_neurons()
    weights, _ = standing(module, keep=["0.weight"], budget={}, weights=_any(), **how)
    assert weights[:4] == pytest.approx([3, 4, 0.3, 0.4])


def _any():
    from onnxprune.prune.weights import SingleWeights

    return SingleWeights(share=0.1)


def test_batchnorm_scales_alone_and_frozen_parameters_never():
    module = network()
    module[1].bias.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    pruner = pruner_of(module, penalty=1.0, penalty_kind="batchnorm", proximal=True)
    pruner.step(torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.25))
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name] - 0.25 if name == "1.weight" else before[name]), name
    pruner = pruner_of(module, penalty=1e4, proximal=True)
    pruner.step(torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1.0))
    assert not module[0].weight.any() and torch.equal(module[1].bias, before["1.bias"])


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "weight"),
    [(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), 0.03), (lambda p: torch.optim.AdamW(p, 0.03), 0.1)],
    ids=["sgd", "adamw"],
)
def test_training_with_proximal_steps_reaches_zeros_and_a_plain_penalty_none(build, weight):
    found = {}
    for proximal in (False, True):
        module = network()
        pruner = pruner_of(module, penalty=weight, proximal=proximal)
        accuracy = training(module, pruner, 150, build(module.parameters()))
        found[proximal] = pruner.density
    assert found[False] == 1 and found[True] < 0.85 and accuracy > 0.8


def test_training_with_block_soft_thresholding_takes_whole_units():
    module = network()
    pruner = pruner_of(module, penalty=0.03, penalty_kind="group", proximal=True)
    assert training(module, pruner, 200) > 0.8
    after = [w["after"] for w in pruner.widths()]
    assert after == live(module) and sum(after) < 15 and pruner.cost["params"] < 0.7
    result = pruner.export()
    assert result.equivalence.passed and result.units == 20 - sum(after)


def test_training_under_constraints_stays_within_them():
    module = network()
    pruner = pruner_of(module, constraints={"units": 0.5, "l1": 0.8})
    norms = [float(p.detach().abs().sum()) for p in module.parameters() if p.ndim > 1]
    assert training(module, pruner, 100) > 0.8
    after = [float(p.detach().abs().sum()) for p in module.parameters() if p.ndim > 1]
    assert all(now <= 0.8 * before * (1 + 1e-5) for now, before in zip(after, norms, strict=True))
    assert live(module) == [6, 4] == [w["after"] for w in pruner.widths()]
    assert pruner.export().equivalence.passed


def test_dead_units_go_first_and_state_holds_the_radii():
    """What constraints took counts for the budget, and a pruner that goes on has the radii of the first."""
    module = network()
    pruner = pruner_of(module, budget={"params": 0.45}, constraints={"units": 0.75, "l1": 0.5})
    training(module, pruner, 20)
    dead = pruner.masks.deleted.copy()
    assert dead.any()
    plan = pruner.prune(1.0)
    assert (pruner.masks.deleted >= dead).all() and plan.cost["params"] <= 0.45
    other = network()
    other.load_state_dict(module.state_dict())
    again = pruner_of(other, budget={"params": 0.45}, constraints={"units": 0.75, "l1": 0.5})
    again.load_state_dict(pruner.state_dict())
    training(module, pruner, 5)
    training(other, again, 5)
    assert all(torch.equal(p, other.state_dict()[name]) for name, p in module.state_dict().items())
    assert again.cost == pruner.cost


def test_refusals():
    for limits in ({"l2": 1.0}, {"l1": 0.0}, {"units": -1}, {"units": float("nan")}, {"l1": float("inf")}):
        with pytest.raises(RecipeError, match="There is no constraint"):
            pruner_of(network(), constraints=limits)
    with pytest.raises(RecipeError, match="no proximal step to zero"):
        pruner_of(network(), penalty=1e-4, penalty_kind="growing", proximal=True)
    with pytest.raises(InputError, match=r"step\(optimizer\)"):
        pruner_of(network(), penalty=1e-4, proximal=True).step()
