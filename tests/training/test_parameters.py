"""What a module may be made of besides plain trained weights: frozen, tied, of other types, functions of its own."""

import pytest
import torch
from torch import nn

from onnxprune.errors import ExportError
from onnxprune.training.pruner import Pruner

X = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.deep(torch.relu(self.stem(x))))).mean((2, 3)))


class Counting(Net):
    """A parameter of whole numbers that the graph reads, and one that it doesn't."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.arange(4), requires_grad=False)
        self.seen = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)

    def forward(self, x):
        return super().forward(x) + self.shift.to(x.dtype)


class Unused(Net):
    """A layer that no output depends on: it never has a gradient."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(8, 8)


class Straight(torch.autograd.Function):
    """The sign, with the gradient of the identity."""

    @staticmethod
    def forward(context, x):
        return torch.sign(x)

    @staticmethod
    def backward(context, gradient):
        return gradient


class Binary(Net):
    def forward(self, x):
        return self.head(Straight.apply(self.norm(self.deep(torch.relu(self.stem(x))))).mean((2, 3)))


def frozen(*names):
    def build():
        module = Net()
        for name in names:
            module.get_submodule(name).requires_grad_(False)
        return module

    return build


def trained(module, criterion, **settings):
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 0.01)
    pruner = Pruner(
        module, (X[:2],), budget={"params": 0.5}, criterion=criterion, total_steps=4, pruning_steps=2, round_to=1,
        **settings,
    )  # fmt: skip
    for _ in range(6):
        loss = nn.functional.cross_entropy(module(X), Y) + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    return pruner


@pytest.mark.parametrize("criterion", ["taylor", "magnitude", "fisher"])
@pytest.mark.parametrize(
    "build", [frozen("stem"), frozen("deep", "norm"), Counting, Unused, Binary],
    ids=["frozen stem", "frozen middle", "integers", "unused layer", "own function"],
)  # fmt: skip
def test_it_is_pruned_and_the_export_is_the_module(build, criterion):
    torch.manual_seed(0)
    module = build()
    before = {name: p.clone() for name, p in module.named_parameters() if not p.requires_grad}
    pruner = trained(module, criterion, penalty=1e-4)
    assert pruner.cost["params"] <= 0.5
    assert pruner.export().equivalence.passed
    # What isn't trained is masked, and else as it was.
    for name, value in before.items():
        now = dict(module.named_parameters())[name]
        assert torch.equal(now, value * (now != 0).to(value.dtype))
    assert module.training


def test_a_module_in_evaluation_mode_is_pruned_and_stays_in_it():
    torch.manual_seed(0)
    module = Net().eval()
    statistics = module.norm.running_mean.clone()
    pruner = trained(module, "taylor")
    assert pruner.cost["params"] <= 0.5 and pruner.export().equivalence.passed
    assert not any(part.training for part in module.modules())
    assert torch.equal(module.norm.running_mean, statistics)


def test_a_module_all_of_which_is_frozen_has_no_gradients_to_go_by():
    module = Net().requires_grad_(False)
    pruner = Pruner(module, (X[:2],), budget={"params": 0.5}, criterion="magnitude", round_to=1)
    pruner.prune(1.0)
    assert pruner.export().equivalence.passed


def test_a_gradient_function_that_the_exporter_cannot_read_is_refused_by_name():
    class Shape(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.conv(x)[: int(x.sum() > 0)]

    with pytest.raises(ExportError, match="can't export Shape to ONNX"):
        Pruner(Shape(), (X[:2],), budget={"params": 0.5})
