"""Penalties against values worked out by hand, and what training under them does to units."""

import numpy as np
import pytest
import torch
from torch import nn

from onnxprune.errors import RecipeError
from onnxprune.training.pruner import Pruner

X = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))


CHANNELS = Pruner(network(), (X[:2],), budget={"macs": 0.9}, round_to=1).channels


def pruner_of(module, kind, weight=0.1):
    return Pruner(
        module,
        (X[:2],),
        budget={"macs": 0.7},
        criterion="magnitude",
        round_to=1,
        penalty=weight,
        penalty_kind=kind,
        channels=CHANNELS,
    )


def by_channel(module):
    """[3, weights]: everything that goes with each of the three channels."""
    first, norm, last = module[0], module[1], module[3]
    parts = [
        first.weight.flatten(1),
        first.bias[:, None],
        norm.weight[:, None],
        norm.bias[:, None],
        last.weight.flatten(1).T,
    ]
    return torch.cat(parts, dim=1).detach().numpy()


def test_penalties_by_hand():
    module = network()
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([0.5, -2.0, 1.0]))
        module[1].bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    every = sum(float(p.detach().abs().sum()) for p in module.parameters())
    assert pruner_of(module, "l1").penalty().item() == pytest.approx(0.1 * every)
    assert pruner_of(module, "batchnorm").penalty().item() == pytest.approx(0.1 * 3.5)
    norms = np.linalg.norm(by_channel(module), axis=1)
    assert pruner_of(module, "group").penalty().item() == pytest.approx(0.1 * 7**0.5 * norms.sum(), rel=1e-5)


def test_a_matrix_that_reads_and_writes_one_stream_counts_its_diagonal_once():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again = nn.Linear(2, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.head = nn.Linear(3, 2, bias=False)

        def forward(self, x):
            x = self.first(x)
            return self.head(x + self.again(x))

    torch.manual_seed(0)
    module = Square()
    pruner = Pruner(module, (torch.randn(2, 2),), budget={"macs": 0.9}, round_to=1, penalty=1.0, penalty_kind="group")
    expected = 0.0
    for c in range(3):
        again = module.again.weight
        parts = [module.first.weight[c], again[c], again[:, c][torch.arange(3) != c], module.head.weight[:, c]]
        values = torch.cat(parts)
        expected += len(values) ** 0.5 * float(values.detach().norm())
    assert pruner.penalty().item() == pytest.approx(expected, rel=1e-5)


def test_a_unit_that_is_gone_adds_nothing_and_no_gradient():
    module = network()
    pruner = pruner_of(module, "group")
    pruner.prune(1.0)
    (gone,) = np.flatnonzero(~by_channel(module).any(axis=1))
    pruner.penalty().backward()
    for p in (module[0].weight, module[1].weight, module[3].weight):
        assert torch.isfinite(p.grad).all()
    assert not module[0].weight.grad[gone].any() and not module[3].weight.grad[:, gone].any()


def test_a_group_lasso_makes_whole_units_small():
    """One channel's weights are smaller than the others': alone with the penalty it is the first to be nothing."""
    module = network()
    with torch.no_grad():
        for p, rows in ((module[0].weight, 0), (module[3].weight, 1)):
            p.select(rows, 1).mul_(0.1)
        module[0].bias[1] = module[1].weight[1] = module[1].bias[1] = 0.01
    pruner = pruner_of(module, "group", weight=1.0)
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    before = np.linalg.norm(by_channel(module), axis=1)
    for _ in range(5):
        optimizer.zero_grad()
        pruner.penalty().backward()
        optimizer.step()
    after = np.linalg.norm(by_channel(module), axis=1)
    assert (after < before).all() and after[1] / before[1] < 0.6 < (after / before)[[0, 2]].min()


def test_penalties_that_are_not_there():
    with pytest.raises(RecipeError, match="no penalty 'l0'"):
        pruner_of(network(), "l0")
    with pytest.raises(RecipeError, match="no penalty 'l1' of -1"):
        pruner_of(network(), "l1", weight=-1)
    plain = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    with pytest.raises(RecipeError, match="no BatchNorm to penalise"):
        Pruner(plain, (X[:2],), budget={"macs": 0.7}, round_to=1, penalty=0.1, penalty_kind="batchnorm")


def test_the_growing_penalty_by_hand():
    module = network()
    pruner = pruner_of(module, "growing", weight=0.25)
    (marked,) = (u for u in range(3) if u == int(np.argmin(np.abs(by_channel(module)).sum(axis=1))))
    half = 0.5 * np.square(by_channel(module)).sum(axis=1)[marked]
    for _ in range(9):
        pruner.step()
        assert pruner.penalty() == 0
    pruner.step()  # the tenth chooses what is about to go, and from then on its factor grows, up to 1
    for factor in (0.25, 0.5, 0.75, 1.0, 1.0):
        pruner.step()
        assert pruner.penalty().item() == pytest.approx(factor * half, rel=1e-5)
    pruner.penalty().backward()
    kernel = module[0].weight
    assert torch.allclose(kernel.grad[marked], kernel[marked])
    others = [channel for channel in range(3) if channel != marked]
    assert not kernel.grad[others].any() and not module[3].weight.grad[:, others].any()
    pruner.prune(1.0)
    assert not kernel[marked].any() and pruner.penalty() == 0


def test_what_isnt_about_to_go_any_more_starts_again_and_state_is_kept():
    module = network()
    pruner = pruner_of(module, "growing", weight=0.25)
    pruner.prune(0.0)  # nothing goes yet, and what is about to is chosen
    pruner.step()
    snapshot, first = pruner.snapshot(), pruner.penalty().item()
    assert first > 0
    with torch.no_grad():
        for p, rows in ((module[0].weight, 0), (module[3].weight, 1)):
            p.copy_(p.roll(1, rows))
        for vector in (module[0].bias, module[1].weight, module[1].bias):
            vector.copy_(vector.roll(1))
    pruner.prune(0.0)
    assert pruner.penalty() == 0  # another one, from 0
    pruner.step()
    assert pruner.penalty().item() == pytest.approx(first, rel=1e-5)
    pruner.step()
    pruner.restore(snapshot)
    assert pruner.snapshot()["penalty"]["factors"].max() == 0.25
    again = pruner_of(network(), "growing", weight=0.25)
    again.load_state_dict(pruner.state_dict())
    again.step()
    assert again.snapshot()["penalty"]["factors"].max() == 0.5


def test_what_is_about_to_go_is_small_when_it_goes():
    """Alone with the penalty its weights decay, faster and faster, and others' don't."""
    module = network()
    pruner = pruner_of(module, "growing", weight=0.02)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    before = np.linalg.norm(by_channel(module), axis=1)
    pruner.prune(0.0)
    for _ in range(80):
        optimizer.zero_grad()
        (pruner.penalty() + 0 * module(X).sum()).backward()
        optimizer.step()
        pruner.step(optimizer)
    after = np.linalg.norm(by_channel(module), axis=1)
    small = after < 0.02 * before
    assert small.sum() == 1 and after[~small] == pytest.approx(before[~small])
    pruner.prune(1.0)
    assert not by_channel(module)[small].any()


def test_the_growing_penalty_needs_a_budget():
    from onnxprune.prune.weights import SingleWeights

    with pytest.raises(RecipeError, match="budget names none"):
        Pruner(
            network(),
            (X[:2],),
            budget={},
            weights=SingleWeights(share=0.5),
            penalty=1e-4,
            penalty_kind="growing",
            channels=CHANNELS,
        )
