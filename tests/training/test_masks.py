"""Masks under every optimizer, and soft ones: what they zero, what comes back, and that they end hard."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import RecipeError
from onnxprune.prune.weights import SingleWeights
from onnxprune.training.finetune import train
from onnxprune.training.pruner import Pruner
from onnxprune.training.settings import OPTIMIZERS, TrainingSettings
from tests.training.two_layers import X, Y, channels, network


def pruner_of(module, **how):
    how = {"budget": {"params": 0.5}, "round_to": 1, "channels": channels(), **how}
    return Pruner(module, (X[:2],), **how)


def batches(epoch):
    order = torch.randperm(len(X))
    return [(X[part], Y[part]) for part in order.split(16)]


def accuracy(module):
    return (module(X).argmax(1) == Y).double().mean().item()


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(one, other):
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def all_zero(module, pruner):
    """Whether whatever is masked is exactly zero."""
    return all((module.get_parameter(name)[~mask] == 0).all() for name, mask in pruner.masks.held.items())


# --- optimizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [0.0, 0.8])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masked_weights_are_exactly_zero_after_every_epoch(optimizer, average):
    """With momenta from before the cut, weight decay, accumulated gradients, and in running averages."""
    module = network()
    pruner = pruner_of(module, weights=SingleWeights(share=0.3))
    held = []

    def check():
        assert all_zero(module, pruner)
        held.append(sum(int((~mask).sum()) for mask in pruner.masks.held.values()))

    def evaluate(module):
        check()
        return accuracy(module)

    settings = TrainingSettings(
        epochs=6,
        learning_rate=0.005,
        optimizer=optimizer,
        weight_decay=0.1,
        prune_start=0.3,
        prune_steps=2,
        guard=1.0,
        accumulate=4,
        average=average,
    )
    train(module, batches, settings=settings, evaluate=evaluate, pruner=pruner, on_epoch=lambda _: check())
    check()
    assert held[0] == 0 and held[-1] > 0.5 * sum(p.numel() for p in module.parameters() if p.ndim > 1)


# --- soft masks -------------------------------------------------------------------------------------------------------


def by_hand():
    """Three neurons of sizes 7, 3 and 5."""
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 2.0], [1.0, 0.5], [1.0, 1.0]]))
        module[0].bias.copy_(torch.tensor([1.0, 0.5, 1.0]))
        module[2].weight.copy_(torch.tensor([[3.0, 1.0, 2.0]]))
        module[2].bias.fill_(0.25)
    x = torch.tensor([[1.0, 1.0], [0.5, 0.0]])
    how = {"criterion": "magnitude", "schedule": "one-shot", "round_to": 1, "budget": {"*": 0.67}}
    return module, Pruner(module, (x,), soft=True, **how), x


def test_soft_masks_by_hand():
    module, pruner, x = by_hand()
    pruner.prune(0.5)
    # What reads the smallest is zero, and so it has a gradient; what makes it is as it was.
    assert module[2].weight.tolist() == [[3.0, 0.0, 2.0]]
    assert module[0].weight.tolist() == [[1.0, 2.0], [1.0, 0.5], [1.0, 1.0]]
    module(x).sum().backward()
    pruner.step()
    assert module[2].weight.grad.tolist() == [[5.5, 3.0, 4.5]]
    assert [w["after"] for w in pruner.widths()] == [2]
    with torch.no_grad():
        module[2].weight[0, 1] = 5.0
    with pruner.masked():
        assert module[0].weight.tolist() == [[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]]
        assert module[0].bias.tolist() == [1.0, 0.0, 1.0] and module[2].weight.tolist() == [[3.0, 0.0, 2.0]]
    assert module[2].weight.tolist() == [[3.0, 5.0, 2.0]] and module[0].bias.tolist() == [1.0, 0.5, 1.0]
    # Sizes are 7, 7 and 5 now: the second is back, the third goes, and with progress 1 for good.
    pruner.prune(0.75)
    assert module[2].weight.tolist() == [[3.0, 5.0, 0.0]] and module[0].weight[2].tolist() == [1.0, 1.0]
    pruner.prune(1.0)
    assert module[0].weight[2].tolist() == [0.0, 0.0] and module[0].bias.tolist() == [1.0, 0.5, 0.0]
    with torch.no_grad():
        module[2].weight.fill_(9.0)
    pruner.step()
    assert module[2].weight.tolist() == [[9.0, 9.0, 0.0]]


def training(module, pruner, steps=40, learning_rate=0.02, seen=None):
    optimizer = torch.optim.AdamW(module.parameters(), learning_rate)
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (functional.cross_entropy(module(X), Y) + pruner.penalty()).backward()
        optimizer.step()
        pruner.step(optimizer)
        if seen is not None:
            seen.append(pruner.masks.deleted.copy())
    module.eval()


@pytest.mark.parametrize("soft", [False, True])
def test_a_small_unit_that_is_needed_comes_back_and_the_last_masks_are_hard(soft):
    """Of two neurons one may stay: one reads what the target is made of and is small, the other is large and off."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[0.1, 0.0], [0.0, 1.0]]))
        module[0].bias.copy_(torch.tensor([0.0, -1.0]))
        module[2].weight.copy_(torch.tensor([[0.1, 1.0]]))
    x = torch.rand(64, 2)
    how = {"criterion": "magnitude", "schedule": "one-shot", "total_steps": 200, "pruning_steps": 10, "soft": soft}
    pruner = Pruner(module, (x[:2],), budget={"*": 0.5}, round_to=1, **how)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.5)
    gone = []
    for step in range(260):
        noise = torch.randn(64, 1, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        functional.mse_loss(module(x), 4 * x[:, :1] + 0.1 * noise).backward()
        optimizer.step()
        pruner.step(optimizer)
        gone.append([not bool(mask) for mask in pruner.masks.units["2.weight"][0]] if pruner.masks.units else [])
    assert gone[19] == [True, False]
    assert gone[-1] == [not soft, soft]
    assert all_zero(module, pruner) and not pruner.masks.open
    assert pruner.export().equivalence.passed


def test_single_weights_come_back_too():
    module, seen = network(), []
    rule = SingleWeights(share=0.6)
    pruner = pruner_of(module, budget={}, weights=rule, schedule="one-shot", total_steps=30, soft=True)
    optimizer = torch.optim.AdamW(module.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(module(X), Y).backward()
        optimizer.step()
        pruner.step(optimizer)
        mask = pruner.masks.held.get("0.weight")
        seen.append(np.zeros((12, 4), bool) if mask is None else ~mask.numpy())
    assert (np.any(seen, axis=0) & ~seen[-1]).any()
    assert pruner.density == pytest.approx(0.4, abs=0.01)
    assert all_zero(module, pruner)


def test_a_step_that_is_undone_leaves_soft_weights_as_they_were():
    module = network()
    pruner = pruner_of(module, soft=True, schedule="linear")
    training(module, pruner, steps=5)
    pruner.prune(0.5)
    training(module, pruner, steps=5)
    masks, weights = copy.deepcopy(pruner.snapshot()), state_of(module)
    assert any(module[3].weight[~pruner.masks.units["3.weight"]] != 0)
    pruner.prune(1.0)
    training(module, pruner, steps=2)
    module.load_state_dict(weights)
    pruner.restore(masks)
    assert_same(weights, module.state_dict())
    assert pruner.cost["params"] > 0.5
    training(module, pruner, steps=3)
    assert any(module[3].weight[~pruner.masks.units["3.weight"]] != 0)


@pytest.mark.parametrize(("guard", "left"), [(1.0, 0.3), (0.5, 0.1)])
def test_a_resumed_run_with_soft_masks_ends_where_an_undisturbed_one_does(tmp_path, guard, left):
    """With steps that are kept, and with a guard that undoes some; weights are judged and kept masked."""

    def run(checkpoint, stop=None):
        module = network()
        pruner = pruner_of(module, budget={"params": left}, soft=True)

        def evaluate(module):
            assert all(
                (p[~pruner.masks.held[n]] == 0).all() for n, p in module.named_parameters() if n in pruner.masks.held
            )
            return accuracy(module) - (guard < 1 and pruner.cost["params"] < 0.5)

        def told(record):
            if record.epoch == stop:
                raise KeyboardInterrupt

        settings = TrainingSettings(
            epochs=10, learning_rate=0.02, prune_steps=4, prune_end=0.7, guard=guard, average=0.5
        )
        how = {"settings": settings, "evaluate": evaluate, "pruner": pruner, "resume": True}
        history = train(module, batches, checkpoint=checkpoint, on_epoch=told, **how)
        return module, pruner, history

    module, pruner, history = run(tmp_path / "undisturbed.pt")
    for stop in (2, 5, 7):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "disturbed.pt", stop)
    again, other, resumed = run(tmp_path / "disturbed.pt")
    assert [s.decision for s in resumed.steps] == [s.decision for s in history.steps]
    assert ("rolled back" in [s.decision for s in history.steps]) == (guard < 1)
    assert_same(module.state_dict(), again.state_dict())
    assert np.array_equal(pruner.masks.deleted, other.masks.deleted) and pruner.masks.deleted.any()
    assert not pruner.masks.open and not other.masks.open
    assert other.export().equivalence.passed


def test_export_makes_soft_masks_hard():
    module = network()
    pruner = pruner_of(module, soft=True)
    training(module, pruner, steps=3)
    pruner.prune(0.5)
    training(module, pruner, steps=3)
    assert any(module[3].weight[~pruner.masks.units["3.weight"]] != 0)
    result = pruner.export()
    assert result.equivalence.passed and result.units > 0
    assert all_zero(module, pruner)


def test_units_that_no_matrix_reads_are_zeroed_as_a_whole():
    """The dimensions in which queries meet keys: only their own rows could be zeroed."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 4)
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            scores = self.query(x) @ self.key(x).transpose(-1, -2)
            return self.out(torch.softmax(scores, -1) @ self.value(x))

    torch.manual_seed(0)
    module = Attention()
    pruner = Pruner(
        module, (torch.randn(2, 5, 4),), budget={"params": 0.6}, criterion="magnitude", round_to=1, soft=True
    )
    pruner.prune(0.9)
    masks = pruner.masks.units
    assert (~masks["query.weight"]).any() and (~masks["value.weight"]).any()
    assert (module.query.weight[~masks["query.weight"]] == 0).all()
    assert (module.value.weight[~masks["value.weight"]] != 0).all()
    assert (module.out.weight[~masks["out.weight"]] == 0).all()
    pruner.prune(1.0)
    assert pruner.export().equivalence.passed


@pytest.mark.parametrize("adjust", ["rescale", "bias", "least_squares"])
def test_adjustments_that_count_on_units_being_gone_are_refused(adjust):
    with pytest.raises(RecipeError, match="soft masks they may come back"):
        pruner_of(network(), soft=True, adjust=adjust)
