"""The pruner: what is masked while training is what the exported graph loses."""

import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from onnxprune.errors import BudgetUnreachable, DataError, ExportError, InputError, NotEquivalentError, RecipeError
from onnxprune.graph.model import load
from onnxprune.graph.remove import remove
from onnxprune.prune.cost import count
from onnxprune.training.export import deployed, export_module, optimized
from onnxprune.training.pruner import Pruner


class Block(nn.Module):
    """Every structure that plain networks prune by: residual, depthwise, grouped, gate, Flatten into a head."""

    def __init__(self, groups: int = 2):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=groups)
        self.back = nn.Conv2d(12, 8, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(self.grouped(torch.relu(self.deep(x))))
        x = torch.relu(self.norm2(self.back(y)) + x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).flatten(1))


X, Y = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 5


def randomised(module: nn.Module) -> nn.Module:
    """Weights and statistics as after training, so that no layer is trivial."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return module


@functools.cache
def dense_cost():
    return count(deployed(randomised(Block()), (X[:2],), input_names=["input"], output_names=["output"]))


def train_step(module, pruner, optimizer):
    module.train()
    loss = nn.functional.cross_entropy(module(X), Y) + pruner.penalty()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    pruner.step(optimizer)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_weights_stay_zero_and_the_export_is_the_module(name, tmp_path):
    module = randomised(Block())
    pruner = Pruner(module, (X[:2],), budget={"macs": 0.5}, round_to=2)
    optimizer = OPTIMIZERS[name](module.parameters())
    for progress in (0.5, 1.0):
        train_step(module, pruner, optimizer)
        plan = pruner.prune(progress)
        assert plan.units
    for _ in range(3):
        train_step(module, pruner, optimizer)
    zeros = {n: int((p == 0).sum()) for n, p in module.named_parameters()}
    assert sum(zeros.values()) > 0.3 * sum(p.numel() for p in module.parameters())
    result = pruner.export(tmp_path / "pruned.onnx")
    assert result.equivalence.passed and result.equivalence.comparisons > 0
    dense = dense_cost()
    pruned = count(load(tmp_path / "pruned.onnx"))
    assert pruned.macs <= 0.5 * dense.macs
    # Shrinking finds more that is dead: behind a ReLU, channels that weigh what is left of their inputs negatively.
    channels, units = pruner._trace().covering(pruner.masks.deleted)
    removed = count(optimized(remove(channels.model, channels, units)))
    assert removed.macs / dense.macs == pytest.approx(pruner.cost["macs"], abs=0.01)
    assert pruned.macs < removed.macs if result.shrink.gone else pruned.macs == removed.macs


def test_with_total_steps_it_prunes_by_itself():
    module = randomised(Block())
    pruner = Pruner(
        module, (X[:2],), budget={"macs": 0.3}, schedule="exponential", round_to=1, total_steps=7, pruning_steps=3
    )
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    left = []
    for _ in range(9):
        train_step(module, pruner, optimizer)
        left.append(pruner.cost["macs"])
    cuts = [i + 1 for i, (a, b) in enumerate(itertools.pairwise([1.0, *left])) if b < a]
    assert cuts == [3, 5, 7]
    assert left[-1] <= 0.3


def test_magnitude_needs_no_gradient_and_taylor_does():
    module = randomised(Block())
    assert Pruner(module, (X[:2],), budget={"params": 0.6}, criterion="magnitude", round_to=2).prune(1.0).units
    with pytest.raises(InputError, match=r"step\(\) after backward\(\)"):
        Pruner(module, (X[:2],), budget={"params": 0.6}, round_to=2).prune(1.0)


def test_magnitude_takes_the_smallest_channels():
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))
    with torch.no_grad():
        for index, size in enumerate((3.0, 0.1, 2.0, 0.2)):
            module[0].weight[index] = size
        module[2].weight.fill_(1.0)
    pruner = Pruner(module, (X[:2],), budget={"macs": 0.5}, criterion="magnitude", round_to=1)
    pruner.prune(1.0)
    assert [bool(row.any()) for row in module[0].weight] == [True, False, True, False]
    assert [bool(column.any()) for column in module[2].weight.transpose(0, 1)] == [True, False, True, False]


def test_a_callable_criterion_and_schedule():
    module = randomised(Block())
    pruner = Pruner(
        module,
        (X[:2],),
        budget={"params": 0.6},
        criterion=lambda weight, gradient: np.abs(gradient),
        schedule=lambda progress, budget: 1 - (1 - budget) * progress,
        round_to=1,
    )
    train_step(module, pruner, torch.optim.SGD(module.parameters(), 0.01))
    assert 0.6 < pruner.prune(0.5).cost["params"] <= 0.8


def test_what_is_pruned_stays_pruned_and_state_survives():
    module = randomised(Block())
    pruner = Pruner(module, (X[:2],), budget={"macs": 0.4}, round_to=1)
    optimizer = torch.optim.AdamW(module.parameters(), 0.01)
    train_step(module, pruner, optimizer)
    before, weights = pruner.snapshot(), {n: p.clone() for n, p in module.state_dict().items()}
    masks = []
    for progress in (0.3, 0.6, 1.0):
        pruner.prune(progress)
        train_step(module, pruner, optimizer)
        masks.append({n: p.detach() == 0 for n, p in module.named_parameters()})
    for earlier, later in itertools.pairwise(masks):
        assert all((later[n] | ~earlier[n]).all() for n in earlier)

    other = randomised(Block())
    other.load_state_dict(module.state_dict())
    again = Pruner(other, (X[:2],), budget={"macs": 0.4}, round_to=1)
    again.load_state_dict(pruner.state_dict())
    assert again.cost == pruner.cost and again.widths() == pruner.widths()
    assert again.prune(1.0).units == pruner.prune(1.0).units

    module.load_state_dict(weights)
    pruner.restore(before)
    assert pruner.cost["macs"] == 1.0
    assert all(torch.equal(p, weights[n]) for n, p in module.named_parameters())


def test_grouped_convolutions_lose_what_was_planned_and_no_more():
    """Bundles follow the ranking, and what is gone stays gone, however the ranking changes in between."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1, groups=4), nn.Conv2d(32, 3, 1))
    noise = np.random.default_rng(0)
    pruner = Pruner(
        module,
        (X[:2],),
        budget={"macs": 0.5},
        criterion=lambda w, g: noise.random(w.shape),
        schedule="exponential",
        round_to=1,
    )
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    for progress in (0.25, 0.5, 0.75, 1.0):
        loss = module(X).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
        plan = pruner.prune(progress)
        assert pruner.cost == pytest.approx(dict(plan.cost))
    assert pruner.export().equivalence.passed


def test_state_of_another_network():
    small = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    state = Pruner(small, (X[:2],), budget={"macs": 0.5}, round_to=1).state_dict()
    with pytest.raises(DataError, match="another network"):
        Pruner(Block(), (X[:2],), budget={"macs": 0.5}, round_to=1).load_state_dict(state)


@pytest.mark.parametrize("tied", [False, True], ids=["one layer twice", "two layers of one weight"])
def test_a_shared_parameter_loses_what_all_its_uses_lose(tied):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)
            self.again = nn.Conv2d(6, 6, 1) if tied else self.conv
            self.again.weight = self.conv.weight

        def forward(self, x):
            return self.last(torch.relu(self.again(torch.relu(self.conv(torch.relu(self.first(x)))))))

    torch.manual_seed(0)
    module = Twice()
    pruner = Pruner(module, (X[:2],), budget={"macs": 0.5}, criterion="magnitude", round_to=1)
    pruner.prune(1.0)
    weight = module.conv.weight.squeeze()
    assert torch.equal(weight.any(0), weight.any(1)) and int(weight.any(0).sum()) < 6
    assert pruner.export().equivalence.passed


def test_modes_are_restored_and_dropout_does_not_reach_the_export():
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(8, 2, 1))
    module.train()
    module[1].eval()
    exported = export_module(module, (X[:2],))
    assert [part.training for part in module] == [True, False, True, True] and module.training
    assert "Dropout" not in {node.op_type for node in exported.graph}


def test_parameters_keep_their_names_and_the_batch_is_dynamic():
    exported = export_module(Block(), (X[:1],))
    assert {n for n, _ in Block().named_parameters()} <= set(exported.graph.initializers)
    assert not isinstance(exported.graph.inputs[0].shape[0], int)


class Refused(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Pruner(Refused(), (X[:2],), budget={"macs": 0.5}), ExportError, "can't export Refused"),
        (lambda: Pruner(Block(), (X[:2],), budget={}), RecipeError, "budget is empty"),
        (lambda: Pruner(Block(), (X[:2],), budget={"macs": 0.5}, criterion="luck"), RecipeError, "no criterion"),
        (lambda: Pruner(Block(), (X[:2], X[:2]), budget={"macs": 0.5}), ExportError, "2 example inputs and 1 name"),
        (lambda: Pruner(Block(), (X[:2],), budget={"macs": 0.5}, total_steps=5), RecipeError, "10 pruning steps"),
        (lambda: Pruner(nn.ReLU(), (X[:2],), budget={"macs": 0.5}), ExportError, "no parameter"),
        (
            lambda: Pruner(Block(), (X[:2],), budget={"macs": 1e-4}, criterion="magnitude").prune(1.0),
            BudgetUnreachable,
            "smallest legal network",
        ),
        (lambda: Pruner(Block(), (X[:2],), budget={"macs": 0.5}, round_to=2).prune(1.5), InputError, "from 0"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_network_that_changed_since_it_was_traced():
    module = randomised(Block())
    pruner = Pruner(module, (X[:2],), budget={"macs": 0.5}, criterion="magnitude", round_to=2)
    pruner.prune(1.0)
    module.squeeze, module.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
    with pytest.raises(ExportError, match="another graph than when it was traced"):
        pruner.export()


def test_a_module_that_disagrees_with_its_export_is_not_delivered(tmp_path):
    """The module computes something else in its own code than the graph that was exported."""

    class Liar(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            y = self.b(torch.relu(self.a(x)))
            return y if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() else y * 1.01

    module = Liar()
    pruner = Pruner(module, (X[:2],), budget={"macs": 0.6}, criterion="magnitude", round_to=2)
    pruner.prune(1.0)
    with pytest.raises(NotEquivalentError):
        pruner.export(tmp_path / "pruned.onnx")
    assert not (tmp_path / "pruned.onnx").exists()
