"""What criteria read, gathered from a network, against values worked out apart; every criterion prunes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import InputError, RecipeError
from onnxprune.prune import criteria
from onnxprune.prune.criteria import CRITERIA
from onnxprune.training.contributions import Contributions
from onnxprune.training.pruner import Pruner
from tests.training.test_pruner import Block, X, Y, randomised

TRACED = {}


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    """Exporting takes most of the time, and the graphs of equal modules are equal."""
    trace = Pruner._trace

    def cached(self):
        key = str(self.module)
        if key not in TRACED:
            TRACED[key] = trace(self)
        return TRACED[key]

    monkeypatch.setattr(Pruner, "_trace", cached)


def batches():
    return [(X[:10], Y[:10]), (X[10:], Y[10:])]


def mlp() -> nn.Module:
    """Four hidden neurons between three inputs and two outputs."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


FEATURES = torch.randn(12, 3, generator=torch.Generator().manual_seed(2))
CLASSES = torch.arange(12) % 2


def pruner_of(module, criterion, **how):
    how = {"budget": {"params": 0.7}, "round_to": 1, "calibration": lambda: [(FEATURES, CLASSES)], **how}
    return Pruner(module, (FEATURES[:2],), criterion=criterion, **how)


def gradients(module, pruner, x=FEATURES, y=CLASSES):
    module.zero_grad()
    functional.cross_entropy(module(x), y).backward()
    pruner.step()


def test_every_criterion_scores_every_kind_of_unit_and_prunes_to_the_budget():
    """Residual, depthwise, grouped, gate and Flatten; what a criterion can't see goes last but isn't missing."""
    module = randomised(Block())
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    for criterion in [*CRITERIA, "0.5*taylor + 0.5*magnitude"]:
        module.load_state_dict(weights)
        pruner = Pruner(module, (X[:2],), budget={"macs": 0.6}, criterion=criterion, round_to=2, calibration=batches)
        gradients(module, pruner, X, Y)
        scores = pruner.score()
        assert scores.shape == (len(pruner.channels.units),), criterion
        assert (scores >= 0).all() and np.isfinite(scores).all() and len(np.unique(scores)) > 1, criterion
        assert pruner.prune(1.0).cost["macs"] <= 0.6
        assert pruner.cost["macs"] <= 0.6, criterion


def by_hidden(module):
    """(weights into, bias of, weights out of) each of the four hidden neurons."""
    return [p.detach().numpy().astype(float) for p in (module[0].weight, module[0].bias, module[2].weight.T)]


def sums(module, of):
    into, bias, out = by_hidden(module)
    return of(into).sum(1) + of(bias) + of(out).sum(1)


def hidden_activations(module):
    return torch.relu(module[0](FEATURES)).detach().numpy()


def central_fpgm(module):
    into = by_hidden(module)[0]
    return np.array([np.linalg.norm(into - row, axis=1).sum() for row in into])


EXPECTED = {
    "magnitude": lambda m: sums(m, np.abs),
    "magnitude_l2": lambda m: sums(m, np.square),
    "parameter": lambda m: sums(m, np.square) / (3 + 1 + 2),
    "neuron": lambda m: np.square(by_hidden(m)[0]).mean(1),
    "connection": lambda m: np.square(by_hidden(m)[0]).sum(1) * np.square(by_hidden(m)[2]).sum(1),
    "fpgm": central_fpgm,
    "activation": lambda m: np.abs(hidden_activations(m)).mean(0),
    "apoz": lambda m: (hidden_activations(m) != 0).mean(0),
}


def test_what_hidden_neurons_give_to_the_outputs_one_by_one():
    """The gram is that of the outer products of a neuron's activations and its outgoing weights."""
    module, seen = mlp(), {}
    term = criteria.Criterion("gram", lambda gram: seen.setdefault(len(gram), gram).diagonal(), "inputs")
    pruner_of(module, term).score()
    gives = hidden_activations(module).T[:, :, None] * module[2].weight.detach().numpy().T[:, None]
    gives = gives.reshape(4, -1)
    assert seen[4] == pytest.approx(gives @ gives.T, rel=1e-4)


@pytest.mark.parametrize("criterion", EXPECTED)
def test_scores_of_hidden_neurons(criterion):
    module = mlp()
    assert pruner_of(module, criterion).score() == pytest.approx(EXPECTED[criterion](module), rel=1e-4)


def test_the_mean_of_a_units_parameters_counts_no_running_statistics():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    pruner = Pruner(module, (X[:2],), budget={"macs": 0.6}, criterion="parameter", round_to=1)
    of = [
        module[0].weight.flatten(1),
        module[1].weight[:, None],
        module[1].bias[:, None],
        module[3].weight.flatten(1).T,
    ]
    expected = torch.cat(of, dim=1).square().mean(1).detach().numpy()
    assert pruner.score() == pytest.approx(expected, rel=1e-5)


def test_batchnorm_scales_and_what_has_none_goes_last():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)
    )
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([0.5, -3.0, 0.1, 1.0]))
    pruner = Pruner(module, (X[:2],), budget={"macs": 0.6}, criterion="batchnorm", round_to=1)
    assert pruner.score() == pytest.approx([0.5, 3.0, 0.1, 1.0, 6.0, 6.0, 6.0])


def test_the_second_derivatives_of_a_quadratic_loss_are_its_coefficients():
    """loss = sum of c w^2 over the first layer: h = 2c, whatever the signs that are drawn."""
    module = mlp()
    coefficients = torch.arange(1.0, 13.0).reshape(4, 3)

    def loss(outputs, targets):
        return (coefficients * module[0].weight.square()).sum() + 0 * outputs.sum()

    pruner = pruner_of(module, "hessian", loss=loss)
    assert pruner.score() == pytest.approx((2 * coefficients).sum(1).numpy())
    pruner = pruner_of(module, "obd", loss=loss)
    assert pruner.score() == pytest.approx((coefficients * module[0].weight.square()).sum(1).detach().numpy())


def test_hutchinson_comes_close_to_the_diagonal_where_parameters_interact():
    """loss = 1/2 b' A b over the hidden biases: h is the diagonal of A, drawn signs add what is beside it."""
    module = mlp()
    beside = torch.tensor([[4.0, 1.0, 0.5, -1.0], [1.0, 3.0, 0.0, 1.0], [0.5, 0.0, 2.0, 1.0], [-1.0, 1.0, 1.0, 1.0]])

    def loss(outputs, targets):
        return 0.5 * module[0].bias @ beside @ module[0].bias + 0 * outputs.sum()

    pruner = pruner_of(module, "hessian", loss=loss, calibration=lambda: [(FEATURES[:1], CLASSES[:1])] * 300)
    found = pruner.score()
    assert found == pytest.approx(beside.diagonal().numpy(), abs=0.4)
    assert found != pytest.approx(beside.diagonal().numpy(), abs=1e-6)


class Attending(nn.Module):
    """Attention over four tokens of two features, by torch's own function or written out."""

    def __init__(self, written_out: bool):
        super().__init__()
        torch.manual_seed(1)
        self.query, self.key, self.value, self.out = nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(4, 2)
        self.written_out = written_out

    def forward(self, x):
        q, k, v = (part(x).unsqueeze(1) for part in (self.query, self.key, self.value))
        attend = functional.scaled_dot_product_attention
        met = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v if self.written_out else attend(q, k, v)
        return self.out(met.mean((1, 2)))


def test_second_derivatives_go_through_attention():
    x, y = torch.randn(8, 4, 2, generator=torch.Generator().manual_seed(3)), torch.arange(8) % 2
    how = {"budget": {"params": 0.8}, "criterion": "hessian", "round_to": 1, "calibration": lambda: [(x, y)]}
    found, expected = (Pruner(Attending(out), (x[:2],), **how).score() for out in (False, True))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert np.any(expected != 0)


def test_what_has_no_second_derivatives_is_refused():
    def loss(outputs, targets):
        spoken = outputs.log_softmax(-1)[:, None]
        return functional.ctc_loss(spoken, torch.ones(1, 1, dtype=torch.long), (len(outputs),), (1,))

    pruner = pruner_of(mlp(), "hessian", loss=loss)
    with pytest.raises(InputError, match=r"no second derivatives.*ctc_loss.*such as fisher"):
        pruner.score()


def test_gradients_are_averaged_over_batches():
    module = mlp()
    pruner = pruner_of(module, "gradient", budget={"params": 0.9})
    seen = []
    for start in range(4):
        gradients(module, pruner, FEATURES[start : start + 6], CLASSES[start : start + 6])
        seen.append(module[0].weight.grad.abs())
    assert torch.allclose(pruner.state_dict()["saliency"]["0"]["0.weight"], torch.stack(seen).mean(0))


def test_a_long_mean_of_gradients_runs_with_the_training():
    """Beyond 50 steps each renews a fiftieth."""
    module = mlp()
    pruner = pruner_of(module, "gradient", budget={"params": 0.9})
    for size in [1.0] * 50 + [2.0] * 3:
        module[0].weight.grad = torch.full_like(module[0].weight, size)
        pruner.step()
    mean = pruner.state_dict()["saliency"]["0"]["0.weight"]
    assert torch.allclose(mean, torch.full_like(mean, 2 - 0.98**3), atol=1e-5)


def test_taylor_sums_over_a_channel_before_it_squares():
    module = mlp()
    pruner = pruner_of(module, "taylor")
    expected = []
    for x, y in ((FEATURES[:6], CLASSES[:6]), (FEATURES[6:], CLASSES[6:])):
        gradients(module, pruner, x, y)
        into, bias, out = ((p * p.grad).detach() for p in (module[0].weight, module[0].bias, module[2].weight))
        expected.append((into.sum(1) + bias + out.sum(0)).square())
    assert pruner.score() == pytest.approx(torch.stack(expected).mean(0).numpy(), rel=1e-4)


def test_contributions_count_what_two_axes_give_to_one_channel_once():
    """A square matrix reads and writes one stream; grouped, depthwise, Flatten and a gate are there too."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again, self.head = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = self.first(x)
            return self.head(x + torch.relu(self.again(x)))

    for module, x, y in ((Square(), FEATURES, CLASSES), (randomised(Block()), X, Y)):
        pruner = Pruner(module, (x[:2],), budget={"macs": 0.9}, criterion="magnitude", round_to=1)
        functional.cross_entropy(module(x), y).backward()
        products = {name: (p * p.grad).detach().numpy() for name, p in module.named_parameters()}
        found = Contributions(pruner.channels, dict(module.named_parameters())).sums()
        assert found == pytest.approx(pruner.channels.weigh(products), rel=1e-4, abs=1e-5)


def test_error_rates_with_one_unit_off_at_a_time_and_the_units_that_must_stay():
    module = mlp()
    expected, answers = [], module(FEATURES).argmax(1)
    classes = torch.where(torch.arange(12) == 3, 1 - answers, answers)  # it is wrong once
    for unit in range(4):
        off = torch.ones(4)
        off[unit] = 0
        answers = module[2](torch.relu(module[0](FEATURES)) * off).argmax(1)
        expected.append(max((answers != classes).double().mean().item() - 1 / 12, 0))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    data = {"calibration": lambda: [(FEATURES[:5], classes[:5]), (FEATURES[5:], classes[5:])]}
    pruner = pruner_of(module, "error_rate", **data)
    assert pruner.score() == pytest.approx(expected) and max(expected) > 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    kept = pruner_of(module, "error_rate", retention=max(expected) - 1e-9, budget={"params": 0.4}, **data)
    kept.prune(1.0)
    assert module[0].weight[int(np.argmax(expected))].any()


def test_a_layer_that_minds_more_scores_higher_by_structure_sensitivity():
    """All but two of the second hidden layer's neurons do nothing at all."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 2))
    with torch.no_grad():
        module[2].weight[2:] = module[2].bias[2:] = 0  # the first two do, and they are the largest
        module[2].weight[:2] = module[4].weight[:] = 1.0
    pruner = pruner_of(module, "structure", loss=lambda outputs, targets: -outputs.mean())
    scores = pruner.score()
    (first, second) = (g.units for g in pruner._planner.groups)
    assert scores[first].sum() > 0
    assert (scores[second] == 0).sum() == 8


@pytest.mark.parametrize("ranking", ["layer", "isomorphic"])
def test_a_layer_loses_the_same_share_as_others_like_it(ranking):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    with torch.no_grad():
        module[0].weight.mul_(100)
    pruner = pruner_of(module, "magnitude", ranking=ranking, budget={"macs": 0.5})
    pruner.prune(0.5)
    pruner.prune(1.0)
    after = [w["after"] for w in pruner.widths()]
    assert pruner.cost["macs"] <= 0.5
    assert len(set(after)) == 1 if ranking == "layer" else after[0] > after[2]


def test_a_layer_keeps_its_least_width():
    module = mlp()
    pruner = pruner_of(module, "magnitude", min_width=3, budget={"params": 0.8})
    pruner.prune(1.0)
    assert pruner.widths()[0]["after"] == 3


def test_chance_follows_its_seed():
    module = mlp()
    first, again, other = (pruner_of(module, "random", seed=seed).score() for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_what_is_missing_is_said():
    module = mlp()
    with pytest.raises(InputError, match=r"criterion looks at .*`calibration`, a function that returns batches"):
        pruner_of(module, "activation", calibration=None).prune(1.0)
    with pytest.raises(InputError, match=r"criterion 'fisher' needs some.*step\(\) after backward\(\)"):
        pruner_of(module, "fisher").prune(1.0)
    with pytest.raises(RecipeError, match="retention threshold goes with"):
        pruner_of(module, "taylor", retention=0.1)


def test_units_below_a_threshold_go_and_never_beyond_the_budget():
    module = mlp()
    with torch.no_grad():
        for unit, size in enumerate((0.1, 3.0, 0.2, 2.0)):
            module[0].weight[unit] = size
            module[0].bias[unit] = module[2].weight[:, unit] = 0
    pruner = pruner_of(module, "magnitude", budget={"params": 0.6})
    assert pruner.threshold_at(0.5) == pytest.approx((0.6 + 6.0) / 2)
    assert pruner.prune_below(0.2) == 0
    assert pruner.prune_below(0.4) == pytest.approx((6 / 26) / 0.4)
    assert module[0].weight.any(1).tolist() == [False, True, True, True]
    assert pruner.prune_below(100.0) == 1
    assert module[0].weight.any(1).tolist() == [False, True, False, True]


def test_channels_of_a_network_that_is_built_alike_serve_another_pruner():
    first = pruner_of(mlp(), "magnitude")
    module = mlp()
    again = pruner_of(module, "magnitude", channels=first.channels)
    assert np.array_equal(again.score(), first.score())
    again.prune(1.0)
    assert not module[0].weight.any(1).all() and first.cost["params"] == 1
    with pytest.raises(InputError, match="channels belong to another network"):
        pruner_of(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), "magnitude", channels=first.channels)
