"""Whole residual blocks pruned by score: which can go, what they are worth, and that nothing else changes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import RecipeError
from onnxprune.training.finetune import TrainingSettings, train
from onnxprune.training.pruner import Pruner
from tests.training.test_kinds import Attention


class Residual(nn.Module):
    """x + last(relu(first(x))), with a linear layer, a convolution or a BatchNorm at its end."""

    def __init__(self, first: nn.Module, last: nn.Module, end: nn.Module):
        super().__init__()
        self.first, self.last, self.end = first, last, end

    def forward(self, x):
        return x + self.end(self.last(torch.relu(self.first(x))))


def mlp(ends=(nn.Identity, nn.Identity, nn.Identity), width=6) -> nn.Module:
    torch.manual_seed(0)
    blocks = [Residual(nn.Linear(width, 8), nn.Linear(8, width), end()) for end in ends]
    return nn.Sequential(nn.Linear(4, width), *blocks, nn.Linear(width, 3)).eval()


def cnn() -> nn.Module:
    torch.manual_seed(0)
    blocks = [
        Residual(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        for _ in range(4)
    ]
    return nn.Sequential(nn.Conv2d(1, 8, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


class Transformer(nn.Module):
    """Two layers of attention and feed-forward, each before a LayerNorm, as in a ViT."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(4))
        self.parts = nn.ModuleList(Attention() for _ in range(2))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        for part, (a, b) in zip(self.parts, (self.norms[:2], self.norms[2:]), strict=True):
            y = a(x)
            q, k, v = part.qkv(y).unflatten(-1, (3, part.heads, -1)).permute(2, 0, 3, 1, 4)
            score = torch.softmax(q @ k.transpose(-1, -2) * 0.5, dim=-1)
            x = x + part.out((score @ v).transpose(1, 2).flatten(2))
            x = x + part.down(torch.relu(part.up(b(x))))
        return self.head(x.mean(1))


NETWORKS = {
    "residual MLP": (mlp, torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), 3),
    "residual CNN": (cnn, torch.randn(5, 1, 9, 9, generator=torch.Generator().manual_seed(1)), 4),
    "transformer": (lambda: Transformer().eval(), torch.randn(5, 7, 16, generator=torch.Generator().manual_seed(1)), 4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_the_blocks_go_and_the_function_is_that_of_the_masked_module(name):
    build, x, count = NETWORKS[name]
    module = build()
    pruner = Pruner(module, (x[:2],), budget={"block": 0.5}, criterion="magnitude", round_to=1)
    assert len(pruner.blocks) == count
    plan = pruner.prune(1.0)
    left = count - -(-count // 2)
    assert plan.cost["block"] == pruner.cost["block"] == pytest.approx(left / count)
    assert pruner.widths()[-1] == {"group": "residual blocks", "kind": "block", "before": count, "after": left}
    gone = {n for number in np.flatnonzero(pruner.blocks.dropped) for n in pruner.blocks.parameters[number]}
    assert all(not p.any() for n, p in module.named_parameters() if n in gone)
    result = pruner.export()
    assert result.equivalence.passed
    sizes = {name: np.prod(pruner.channels.shape(name)) for name, _ in pruner.channels.parameters()}
    off = pruner.blocks.dropped_weights
    assert pruner.cost["params"] == pytest.approx(1 - sum(sizes.get(n, 0) for n in off) / sum(sizes.values()))
    assert not gone & result.model.ir.graph.initializers.keys()


def test_blocks_heads_and_neurons_of_what_stays_in_one_run():
    module = Transformer().eval()
    x = torch.randn(2, 7, 16)
    pruner = Pruner(module, (x,), budget={"block": 0.75, "head": 0.5, "neuron": 0.5}, criterion="magnitude", round_to=1)
    assert pruner.rates == ("block", "head", "neuron")
    for progress in (0.5, 1.0):
        pruner.prune(progress)
    assert pruner.cost["block"] == 0.75 and pruner.cost["head"] <= 0.5 and pruner.cost["neuron"] <= 0.5
    assert pruner.export().equivalence.passed
    entries = {(e["group"], e["kind"]): e for e in pruner.decisions()}
    told = entries["residual blocks", "block"]
    assert len(told["cut"]["0"]) == 1 and len(told["names"]) == 4 and told["steps"][0]["rank"].count(1) == 1


def test_a_budget_of_macs_counts_what_went_with_blocks():
    module = cnn()
    pruner = Pruner(
        module, (NETWORKS["residual CNN"][1],), budget={"block": 0.5, "macs": 0.5}, criterion="magnitude", round_to=1
    )
    pruner.prune(1.0)
    # Half of the multiply-adds went with the blocks; whatever else there is may stay almost whole.
    assert 0.4 < pruner.cost["macs"] <= 0.5 + 1e-9
    assert pruner.export().equivalence.passed


X, Y = NETWORKS["residual MLP"][1], torch.tensor([0, 1, 2, 0, 1])


def with_sizes(*sizes: float) -> nn.Module:
    """Block b has all its weights and biases at sizes[b]."""
    module = mlp()
    with torch.no_grad():
        for block, size in zip(module[1:4], sizes, strict=True):
            for parameter in block.parameters():
                parameter.fill_(size)
    return module


# A block has 6 x 8 + 8 + 8 x 6 + 6 parameters; into each of its 8 neurons lead 6 weights, into its 6 outputs 8.
SCORES = {
    "magnitude": lambda s: 110 * s,
    "magnitude_l2": lambda s: 110 * s**2,
    "parameter": lambda s: s**2,
    "neuron": lambda s: 8 * s**2,
    "connection": lambda s: 8 * (6 * s**2) * (6 * s**2),
}


@pytest.mark.parametrize("criterion", SCORES)
def test_scores_are_sums_over_the_branch(criterion):
    sizes = (0.3, 0.1, 0.2)
    pruner = Pruner(with_sizes(*sizes), (X,), budget={"block": 0.67}, criterion=criterion, round_to=1)
    scores = pruner.blocks.scores(pruner._scorer, pruner.channels)
    assert scores == pytest.approx([SCORES[criterion](s) for s in sizes], rel=1e-4)
    pruner.prune(1.0)
    assert pruner.blocks.dropped.tolist() == [False, True, False]


def test_taylor_takes_a_block_as_a_whole():
    module = mlp()
    pruner = Pruner(module, (X,), budget={"block": 0.67}, criterion="taylor", round_to=1)
    functional.cross_entropy(module(X), Y).backward()
    expected = [sum(float((p.detach() * p.grad).sum()) for p in block.parameters()) ** 2 for block in module[1:4]]
    pruner.step()
    assert pruner.blocks.scores(pruner._scorer, pruner.channels) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("criterion", ["error_rate", "structure"])
def test_measured_criteria_switch_a_block_off(criterion):
    module = mlp()
    batches = [(X, Y)]
    pruner = Pruner(module, (X,), budget={"block": 0.67}, criterion=criterion, calibration=lambda: batches, round_to=1)

    def measured(net):
        y = net(X)
        return float((y.argmax(1) != Y).float().mean() if criterion == "error_rate" else functional.cross_entropy(y, Y))

    with torch.no_grad():
        whole = measured(module)
        off = [measured(nn.Sequential(*(part for j, part in enumerate(module) if j != k))) for k in (1, 2, 3)]
    before = {n: v.clone() for n, v in module.state_dict().items()}
    scores = pruner.blocks.scores(pruner._scorer, pruner.channels, batches)
    assert scores == pytest.approx(np.maximum(np.array(off) - whole, 0), abs=1e-6)
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


def test_blocks_that_cannot_go():
    """One ends in a Sigmoid, which adds 0.5 where its weights are 0; one is kept."""
    module = mlp(ends=(nn.Sigmoid, nn.Tanh, nn.Identity))
    pruner = Pruner(module, (X,), budget={"block": 0.5}, criterion="magnitude", keep=["3.first"], round_to=1)
    assert [names[0].split(".")[0] for names in pruner.blocks.parameters] == ["2"]
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(RecipeError, match="none that could go whole"):
        Pruner(plain, (X,), budget={"block": 0.5}, criterion="magnitude")
    with pytest.raises(RecipeError, match="-1 block"):
        Pruner(mlp(), (X,), budget={"block": -1}, criterion="magnitude")


def test_blocks_come_back_with_a_snapshot_and_with_the_state():
    module = mlp()
    pruner = Pruner(module, (X,), budget={"block": 0.5}, criterion="magnitude", round_to=1)
    weights, before = {n: v.clone() for n, v in module.state_dict().items()}, pruner.snapshot()
    pruner.prune(1.0)
    other = Pruner(mlp(), (X,), budget={"block": 0.5}, criterion="magnitude", round_to=1)
    other.load_state_dict(pruner.state_dict())
    assert other.cost == pruner.cost
    assert all(torch.equal(a, b) for a, b in zip(other.module.parameters(), module.parameters(), strict=True))
    module.load_state_dict(weights)
    pruner.restore(before)
    assert pruner.cost["block"] == 1.0 and all(torch.equal(v, weights[n]) for n, v in module.state_dict().items())


def test_blocks_stay_at_zero_while_training_and_hierarchically_come_before_layers():
    module = mlp()
    pruner = Pruner(
        module, (X,), budget={"*": 0.5, "block": 0.67}, criterion="magnitude", schedule="hierarchical", round_to=1
    )
    assert pruner.rates[0] == "block" and len(pruner.rates) > 1
    from onnxprune.prune.schedule import Hierarchical

    history = train(
        module,
        lambda epoch: [(X, Y)] * 3,
        settings=TrainingSettings(epochs=8, prune_steps=8, prune_end=1.0, learning_rate=0.05),
        evaluate=lambda net: 1.0,
        pruner=pruner,
        control=Hierarchical(first=1.0),
    )
    assert history.steps[0].rate == "block" and history.steps[0].cost["block"] == pytest.approx(2 / 3)
    (dropped,) = np.flatnonzero(pruner.blocks.dropped)
    assert not any(p.any() for p in module[1 + dropped].parameters())
    assert pruner.export().equivalence.passed
