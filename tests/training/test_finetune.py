"""The ready loop: what it trains, when it prunes, what it undoes, and that interruptions cost nothing."""

import contextlib
import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import DataError, GateError, OutputError, RecipeError
from onnxprune.prune.schedule import Adaptive, Hierarchical, Rising
from onnxprune.training.averaging import Average
from onnxprune.training.distill import Distillation
from onnxprune.training.finetune import train
from onnxprune.training.history import join_histories
from onnxprune.training.pruner import Pruner
from onnxprune.training.settings import OPTIMIZERS, TrainingSettings

HIDDEN = 16


class RowPruner:
    """Masks the smallest rows of a network's first layer: half of them at progress 1."""

    def __init__(self, module, penalty=0.0):
        self.layer, self.extra = module[0], penalty
        self.keep = torch.ones(HIDDEN, dtype=torch.bool)
        self.asked, self.steps_seen = [], 0

    rates = ("cost",)

    @property
    def cost(self):
        return {"params": self.keep.double().mean().item()}

    def penalty(self):
        return torch.tensor(self.extra)

    def threshold_at(self, share):
        return self.layer.weight.detach().abs().sum(1)[self.keep].quantile(share).item()

    def prune_below(self, theta):
        below = int((self.layer.weight.detach().abs().sum(1) <= theta).sum())
        self.prune(min(1.0, below / (HIDDEN / 2)))
        return self.asked[-1]

    def prune(self, progress):
        self.asked.append(progress)
        size = self.layer.weight.detach().abs().sum(1)
        self.keep = torch.zeros(HIDDEN, dtype=torch.bool)
        self.keep[size.argsort(descending=True)[: HIDDEN - round(progress * HIDDEN / 2)]] = True
        self._zero()

    def step(self, optimizer=None):
        self.steps_seen += 1
        self._zero()

    def snapshot(self):
        return self.keep.numpy().copy()

    def restore(self, snapshot):
        self.keep = torch.from_numpy(np.array(snapshot))
        self._zero()

    def settle(self):
        self._zero()

    @contextlib.contextmanager
    def masked(self):
        self._zero()
        yield

    def state_dict(self):
        return {"keep": self.keep, "steps_seen": self.steps_seen}

    def load_state_dict(self, state):
        self.keep, self.steps_seen = state["keep"], state["steps_seen"]

    def _zero(self):
        with torch.no_grad():
            self.layer.weight[~self.keep] = 0
            self.layer.bias[~self.keep] = 0


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.1), nn.Linear(HIDDEN, 3))


def sample(n, seed):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, :3] + 0.3 * x[:, 3:]).argmax(1)


TRAINING, VALIDATION = sample(192, 1), sample(100, 2)


def batches(epoch):
    """Uses NumPy's and torch's global generators on purpose: a resumed run must find them where they were."""
    x, y = TRAINING
    for part in torch.from_numpy(np.random.permutation(len(x))).split(32):
        yield x[part] + 0.05 * torch.randn(len(part), 4), y[part]


def accuracy(module):
    x, y = VALIDATION
    logits = module(x)
    return (logits.argmax(1) == y).double().mean().item(), functional.cross_entropy(logits, y).item()


def run(module=None, *, pruner=True, settings=None, **others):
    module = module or build()
    settings = settings or TrainingSettings(epochs=8, learning_rate=0.02, prune_steps=3, guard=0.5)
    pruner = RowPruner(module) if pruner is True else pruner
    arguments = {"settings": settings, "evaluate": accuracy, "pruner": pruner, **others}
    return module, train(module, arguments.pop("batches", batches), **arguments)


def scripted(metrics):
    """An `evaluate` that says what it is told to, call after call, whatever the module does."""
    values = iter(metrics)
    return lambda module: next(values)


def state_of(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def without_seconds(history):
    return [{**record, "seconds": 0} for record in history.as_dict()["epochs"]], history.as_dict()["steps"]


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "start", "end", "steps", "expected"),
    [
        (20, 0.1, 0.5, 5, [2, 4, 6, 8, 10]),
        (20, 0.0, 0.5, 3, [1, 6, 10]),  # never epoch 0: nothing is known of the gradients yet
        (20, 0.5, 0.5, 4, [10]),
        (4, 0.0, 1.0, 10, [1, 2, 3]),  # fewer epochs than steps
        (1, 0.0, 1.0, 10, [0]),
        (40, 0.05, 0.5, 1, [2]),
    ],
)
def test_pruning_epochs_are_spread_evenly(epochs, start, end, steps, expected):
    settings = TrainingSettings(epochs=epochs, prune_start=start, prune_end=end, prune_steps=steps)
    assert settings.pruning_epochs() == expected


def test_learning_rate_rises_stays_and_falls():
    settings = TrainingSettings(epochs=10, learning_rate=1.0, warmup=0.2, hold=0.4, prune_end=0.6)
    dense = [settings.learning_rate_at(epoch, pruning=False) for epoch in range(10)]
    assert dense[:4] == pytest.approx([0.25, 0.75, 1, 1])
    assert dense[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * (k + 0.5) / 6)) for k in range(6)])
    pruning = [settings.learning_rate_at(epoch, pruning=True) for epoch in range(10)]
    assert pruning[:6] == pytest.approx([0.25, 0.75, 1, 1, 1, 1])
    assert pruning[6:] == sorted(pruning[6:], reverse=True)
    assert TrainingSettings(epochs=2, warmup=0, hold=1).learning_rate_at(1, pruning=False) == 3e-3


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"learning_rate": 0},
        {"optimizer": "lion"},
        {"weight_decay": -1},
        {"warmup": 1},
        {"hold": 1.5},
        {"prune_start": -0.1},
        {"prune_end": 0.01},
        {"prune_steps": 0},
        {"guard": -0.1},
        {"tolerance": -0.1},
        {"noise": -0.1},
    ],
)
def test_settings_out_of_range_are_refused_by_name(bad):
    with pytest.raises(RecipeError, match=next(iter(bad))):
        TrainingSettings(**bad)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_dense_training_learns_and_reports_every_epoch(optimizer):
    seen = []
    settings = TrainingSettings(epochs=12, learning_rate=0.02, optimizer=optimizer)
    module, history = run(pruner=None, settings=settings, on_epoch=seen.append)
    assert not module.training
    assert history.baseline < 0.6 < 0.85 < history.best_metric
    assert accuracy(module)[0] == history.best_metric
    assert tuple(seen) == history.epochs
    assert [(r.epoch, r.phase) for r in seen] == [(epoch, "dense") for epoch in range(12)]
    assert seen[-1].train_loss < seen[0].train_loss
    assert (history.reached, history.within_tolerance, history.steps) == (True, True, ())


def test_scales_and_biases_have_no_weight_decay():
    module = build()
    before = state_of(module)
    settings = TrainingSettings(epochs=1, learning_rate=0.1, weight_decay=1.0, warmup=0)
    nothing = [(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))]
    run(
        module,
        pruner=None,
        settings=settings,
        batches=lambda epoch: nothing,
        loss=lambda out, y: out.sum() * 0,
        evaluate=scripted([0, 0]),
    )
    shrink = 1 - settings.learning_rate_at(0, pruning=False)
    for name, value in module.named_parameters():
        assert torch.allclose(value, before[name] * (shrink if value.ndim > 1 else 1)), name


def test_the_teacher_replaces_the_labels_and_stays_as_it_is():
    settings = TrainingSettings(epochs=10, learning_rate=0.02)
    teacher, _ = run(pruner=None, settings=settings)
    before = state_of(teacher)

    def mislabelled(epoch):
        return ((x, torch.zeros_like(y)) for x, y in batches(epoch))

    arguments = {"pruner": None, "settings": settings, "batches": mislabelled, "teacher": teacher.train()}
    _, taught = run(build(1), distillation=Distillation(weight=1.0), **arguments)
    assert taught.best_metric > 0.85
    _, misled = run(build(1), distillation=Distillation(weight=0.0), **arguments)
    assert misled.epochs[-1].validation_metric < 0.5
    assert_same_state(before, state_of(teacher))


def test_the_last_point_within_the_noise_of_the_best_is_taken():
    metrics = [0.10, 0.90, 0.97, 0.95, 0.966, 0.90]  # baseline, then five epochs
    states = []
    module = build()
    settings = TrainingSettings(epochs=5, noise=0.005)
    _, history = run(
        module,
        pruner=None,
        settings=settings,
        evaluate=scripted(metrics),
        on_epoch=lambda record: states.append(state_of(module)),
    )
    assert (history.best_epoch, history.best_metric) == (3, 0.966)
    assert_same_state(state_of(module), states[3])


def test_noise_never_lets_the_choice_drift_away_from_the_best():
    metrics = [0.5, 0.970, 0.966, 0.962, 0.958]
    _, history = run(pruner=None, settings=TrainingSettings(epochs=4, noise=0.005), evaluate=scripted(metrics))
    assert history.best_metric == 0.966


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_pruning_follows_its_plan_to_the_budget():
    settings = TrainingSettings(epochs=10, learning_rate=0.02, prune_start=0.1, prune_end=0.5, prune_steps=3, guard=1)
    module, history = run(settings=settings)
    assert [(s.epoch, s.decision) for s in history.steps] == [(1, "kept"), (3, "kept"), (5, "kept")]
    assert [s.target for s in history.steps] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [s.cost["params"] for s in history.steps] == [13 / 16, 11 / 16, 8 / 16]
    assert [r.phase for r in history.epochs] == ["prune"] * 7 + ["finetune"] * 3
    assert (module[0].weight == 0).all(1).sum() == 8
    assert history.reached
    assert history.best_epoch >= 6
    assert accuracy(module)[0] == history.best_metric


def test_the_pruner_steps_after_every_batch_and_its_penalty_is_minimised():
    module = build()
    pruner = RowPruner(module, penalty=100.0)
    _, history = run(module, pruner=pruner)
    assert pruner.steps_seen == 8 * 6
    assert all(100 < record.train_loss < 102 for record in history.epochs)


def test_a_bad_step_is_undone_and_the_next_one_is_half_as_large():
    # Two steps are planned, before epochs 1 and 3; metrics below 0.95 are refused.
    metrics = [1.0, 1.0, 0.9, 0.9, 1.0, 1.0, 0.9, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0]
    settings = TrainingSettings(epochs=12, prune_start=0.1, prune_end=0.25, prune_steps=2, guard=0.05)
    module = build()
    pruner, masks = RowPruner(module), []
    _, history = run(
        module,
        pruner=pruner,
        settings=settings,
        evaluate=scripted(metrics),
        on_epoch=lambda record: masks.append(int((~pruner.keep).sum())),
    )
    assert [(s.epoch, s.target, s.decision) for s in history.steps] == [
        (1, 0.5, "rolled back"),
        (3, 0.25, "kept"),
        (5, 1.0, "rolled back"),
        (7, 0.625, "kept"),
        (9, 1.0, "kept"),
    ]
    assert "0.9000 is below 0.9500" in history.steps[0].reason
    assert [s.cost["params"] for s in history.steps] == [12 / 16, 14 / 16, 8 / 16, 11 / 16, 8 / 16]
    assert masks == [0, 4, 0, 2, 2, 8, 2, 5, 5, 8, 8, 8]
    assert history.reached


def test_roll_back_restores_weights_optimizer_and_masks():
    """With nothing to learn after it, a refused step must leave exactly what the run had before the step."""
    module, states = build(), []
    settings = TrainingSettings(epochs=6, prune_start=0.5, prune_end=0.5, prune_steps=1, guard=0.05)
    _, history = run(
        module,
        settings=settings,
        evaluate=scripted([1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]),
        on_epoch=lambda record: states.append(state_of(module)),
    )
    assert [s.decision for s in history.steps] == ["rolled back"] * 3
    assert [s.target for s in history.steps] == [1.0, 0.5, 0.25]
    for state in states[3:]:
        assert_same_state(state, states[2])
    assert (history.reached, history.progress, history.best_epoch) == (False, 0.0, 2)
    assert_same_state(state_of(module), states[2])


def test_pruning_gives_up_when_steps_become_too_small():
    settings = TrainingSettings(epochs=30, prune_start=0, prune_end=0, prune_steps=1, guard=0)
    module = build()
    pruner = RowPruner(module)
    _, history = run(module, pruner=pruner, settings=settings, evaluate=scripted([1.0] * 2 + [0.0] * 29))
    assert pruner.asked == [2.0**-k for k in range(8)]
    assert not history.reached
    assert not pruner.keep.logical_not().any()


def test_a_step_just_before_the_end_is_judged_too():
    settings = TrainingSettings(epochs=3, prune_start=1, prune_end=1, prune_steps=1, guard=0.1)
    module, good = run(settings=settings, evaluate=scripted([1.0, 1.0, 1.0, 0.95]))
    assert [s.decision for s in good.steps] == ["kept"]
    assert (good.reached, good.best_epoch, good.best_metric) == (True, 2, 0.95)
    assert (module[0].weight == 0).all(1).sum() == 8
    _, bad = run(settings=settings, evaluate=scripted([1.0, 1.0, 1.0, 0.8]))
    assert [s.decision for s in bad.steps] == ["rolled back"]
    assert bad.best_epoch == 1


def test_the_result_says_whether_it_is_within_tolerance():
    settings = TrainingSettings(epochs=3, prune_steps=1, guard=0.1, tolerance=0.02)
    _, near = run(settings=settings, evaluate=scripted([1.0, 1.0, 0.98, 0.98]))
    _, far = run(settings=settings, evaluate=scripted([1.0, 1.0, 0.97, 0.97]))
    assert (near.reached, near.within_tolerance) == (True, True)
    assert (far.reached, far.within_tolerance) == (True, False)


def test_every_so_many_epochs():
    settings = TrainingSettings(epochs=40, prune_start=0.1, prune_end=0.5, prune_every=5, prune_steps=3)
    assert settings.pruning_epochs() == [4, 9, 14]
    assert [epoch for epoch in range(26) if settings.may_prune_before(epoch)] == [4, 9, 14, 19, 24]


def test_adaptive_steps_follow_the_metric_and_no_point_outside_the_tolerance_is_returned():
    """Drop, recover, plateau, and after the last step a drop that fine-tuning doesn't make good."""
    metrics = [1.0, 1.0, 0.9, 1.0, 0.96, 0.96, 0.96, 0.96, 0.97, 0.9, 0.9]
    settings = TrainingSettings(epochs=10, prune_every=1, prune_start=0, prune_end=1, noise=0)
    module, history = run(settings=settings, control=Adaptive(first=0.4), evaluate=scripted(metrics))
    assert [(s.epoch, s.target, s.size, s.decision) for s in history.steps] == [
        (1, 0.4, 0.4, "rolled back"),
        (2, 0.2, 0.2, "kept"),
        (3, 0.4, 0.2, "kept"),
        (4, pytest.approx(0.7), pytest.approx(0.3), "kept"),
        (5, 1.0, pytest.approx(0.3), "kept"),
    ]
    assert "0.9000 is below 0.9500 (1.0000 less 5.0%)" in history.steps[0].reason
    assert (history.best_epoch, history.best_metric, history.reached) == (7, 0.97, True)
    assert (module[0].weight == 0).all(1).sum() == 8


def test_adaptive_steps_that_never_hold_return_the_network_as_it_was():
    module, history = run(control=Adaptive(), evaluate=scripted([1.0] + [0.5] * 8))
    assert (history.progress, history.best_metric, history.best_epoch) == (0.0, 1.0, -1)
    assert not (module[0].weight == 0).all(1).any()


def test_accumulated_gradients_are_those_of_the_whole_batch():
    """Two halves make one step; without noise, dropout and BatchNorm the same one as of the whole."""
    x, y = TRAINING
    results = []
    for size, accumulate in ((64, 1), (32, 2)):
        torch.manual_seed(0)
        module = nn.Linear(4, 3)
        settings = TrainingSettings(epochs=2, optimizer="sgd", accumulate=accumulate)
        parts = list(zip(x.split(size), y.split(size), strict=True))
        train(module, lambda epoch, parts=parts: parts, settings=settings, evaluate=accuracy)
        results.append(state_of(module))
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-6) for name in results[0])


def test_what_is_left_over_of_an_epoch_makes_a_step_too():
    settings = TrainingSettings(epochs=2, accumulate=4)
    module = build()
    pruner = RowPruner(module)
    run(module, pruner=pruner, settings=settings)
    assert pruner.steps_seen == 2 * 2  # six batches: four and two


def test_the_average_is_judged_and_kept_and_masked_rows_are_zero_in_it():
    module = build()
    pruner = RowPruner(module)
    seen = []

    def evaluate(module):
        seen.append(state_of(module))
        return 0.5 + 0.01 * len(seen)

    settings = TrainingSettings(epochs=5, learning_rate=0.02, prune_steps=2, guard=1.0, average=0.9)
    run(module, pruner=pruner, settings=settings, evaluate=evaluate)
    assert_same_state(state_of(module), seen[-1])
    assert (module[0].weight[~pruner.keep] == 0).all() and (~pruner.keep).sum() == HIDDEN / 2


def test_a_running_average_by_hand():
    module = nn.Linear(1, 1, bias=False)
    average = Average(module, decay=0.75)
    for value in (1.0, 3.0, 5.0, 5.0, 9.0):
        with torch.no_grad():
            module.weight.fill_(value)
        average.update(module)
    # The mean of the first four is 3.5; from then on a quarter is new.
    with average.inside(module):
        assert module.weight.item() == pytest.approx(3.5 + 0.25 * (9 - 3.5))
    assert module.weight.item() == 9.0


def test_forward_passes_in_bfloat16_learn_as_well():
    seen = []

    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build()

        def forward(self, x):
            y = self.inner(x)
            seen.append((self.training, y.dtype))
            return y

    module = Noting()
    settings = TrainingSettings(epochs=6, learning_rate=0.02, amp=True)
    _, history = run(module, pruner=None, settings=settings)
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}
    assert history.best_metric > 0.8 and all(p.dtype == torch.float32 for p in module.parameters())


def test_training_ends_when_nothing_gets_better():
    """Better in epochs 0 and 1, then never; pruning is over before the waiting begins."""
    metric = scripted([0.1, 0.5, 0.6, *[0.6] * 20])
    _, history = run(pruner=None, settings=TrainingSettings(epochs=20, patience=3), evaluate=metric)
    assert len(history.epochs) == 5
    settings = TrainingSettings(epochs=20, patience=3, prune_steps=2, prune_start=0.3, prune_end=0.4, guard=1.0)
    _, history = run(settings=settings, evaluate=scripted([0.9] * 30))
    assert history.progress == 1 and history.steps[-1].epoch + 3 <= len(history.epochs) < 20


class TwoRates(RowPruner):
    """Notes what it is asked for; the metric decides."""

    rates = ("neuron", "connections")

    def prune(self, progress):
        self.asked.append(dict(progress))


def test_adaptive_steps_move_each_rate_by_the_metric():
    """Neurons hold and connections don't: theirs is undone and halved, the others' goes on."""
    module = build()
    pruner = TwoRates(module)
    settings = TrainingSettings(epochs=6, learning_rate=0.01, prune_every=1, prune_steps=5, prune_start=0, prune_end=1)
    control = Adaptive(first=0.4, tolerance=0.05, growth=1.0)
    # The network as it came, an epoch without a step, then one metric after each.
    _, history = run(
        module,
        pruner=pruner,
        settings=settings,
        control=control,
        evaluate=scripted([0.9, 0.9, 0.9, 0.5, 0.9, 0.9, 0.9]),
    )
    assert pruner.asked == [
        {"neuron": 0.4, "connections": 0.0},
        {"neuron": 0.4, "connections": 0.4},
        {"neuron": 0.4, "connections": 0.2},
        {"neuron": 0.4, "connections": 0.4},
        {"neuron": 0.8, "connections": 0.4},
    ]
    told = [(step.rate, step.target, step.decision) for step in history.steps]
    assert told == [
        ("neuron", 0.4, "kept"),
        ("connections", 0.4, "rolled back"),
        ("connections", 0.2, "kept"),
        ("connections", 0.4, "kept"),
        ("neuron", 0.8, "kept"),
    ]
    assert history.progress == pytest.approx(0.6)


def test_layers_one_by_one_each_until_the_metric_stops_it():
    """The first holds to its end; the second drops at once, and at half of it, and is left where it was."""
    module = build()
    pruner = TwoRates(module)
    settings = TrainingSettings(epochs=6, learning_rate=0.01, prune_every=1, prune_steps=5, prune_start=0, prune_end=1)
    metric = scripted([0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 0.9])
    control = Hierarchical(first=0.5, growth=1.0)
    _, history = run(module, pruner=pruner, settings=settings, control=control, evaluate=metric)
    told = [(step.rate, step.target, step.decision) for step in history.steps]
    assert told == [
        ("neuron", 0.5, "kept"),
        ("neuron", 1.0, "kept"),
        ("connections", 0.5, "rolled back"),
        ("connections", 0.25, "rolled back"),
        ("connections", 0.125, "kept"),
    ]


def test_a_rising_threshold_prunes_to_the_budget_and_goes_back_where_it_costs_too_much():
    settings = TrainingSettings(epochs=12, prune_every=1, prune_start=0, prune_end=1)
    metrics = [1.0, 1.0, 1.0, 0.5, *[1.0] * 10]
    module, history = run(settings=settings, control=Rising(), evaluate=scripted(metrics))
    decisions = [s.decision for s in history.steps]
    assert decisions[:2] == ["kept", "rolled back"] and decisions[-1] == "kept"
    kept = [s.target for s in history.steps if s.decision == "kept"]
    assert kept == sorted(kept) and kept[-1] == 1.0 == history.progress
    assert history.steps[2].size == pytest.approx(1.5**0.5)
    assert (module[0].weight == 0).all(1).sum() == 8


# --- interruptions ----------------------------------------------------------------------------------------------------


def interrupted_at(when):
    """Batches that are broken off by Ctrl-C in the middle of epoch `when`."""

    def broken(epoch):
        for index, batch in enumerate(batches(epoch)):
            if epoch == when and index == 3:
                raise KeyboardInterrupt
            yield batch

    return broken


@pytest.fixture(scope="module")
def teacher():
    return run(build(9), pruner=None, settings=TrainingSettings(epochs=4, learning_rate=0.02))[0]


@pytest.fixture(scope="module")
def undisturbed(teacher):
    return run(teacher=teacher, evaluate=fussy(), seed=3)


def fussy():
    """Accuracy, but with exactly 5 zeroed rows a network is found poor: a step that must be rolled back."""

    def evaluate(module):
        metric, loss = accuracy(module)
        zeroed = (module[0].weight == 0).all(1).sum().item()
        return (metric - 2.0 if zeroed == 5 else metric), loss

    return evaluate


@pytest.mark.parametrize("when", range(8))
def test_a_resumed_run_ends_where_an_undisturbed_one_does(tmp_path, undisturbed, teacher, when):
    checkpoint = tmp_path / "run.safetensors"
    arguments = {"teacher": teacher, "evaluate": fussy(), "seed": 3, "checkpoint": checkpoint}
    with pytest.raises(KeyboardInterrupt):
        run(batches=interrupted_at(when), **arguments)
    assert checkpoint.exists() == (when > 0)
    torch.manual_seed(12345)
    module, history = run(build(77) if when else None, resume=True, **arguments)
    expected_module, expected_history = undisturbed
    assert "rolled back" in [s.decision for s in expected_history.steps]
    assert without_seconds(history) == without_seconds(expected_history)
    assert_same_state(state_of(module), state_of(expected_module))


def test_resuming_a_finished_run_only_returns_its_result(tmp_path):
    module, history = run(checkpoint=tmp_path / "run.safetensors")

    def none_left(epoch):
        raise AssertionError("trained again")

    again, told = run(build(5), batches=none_left, checkpoint=tmp_path / "run.safetensors", resume=True)
    assert told == history
    assert_same_state(state_of(again), state_of(module))


def test_without_resume_an_old_checkpoint_is_replaced(tmp_path):
    (tmp_path / "run.safetensors").write_bytes(b"from yesterday")
    run(checkpoint=tmp_path / "run.safetensors")
    run(checkpoint=tmp_path / "run.safetensors", resume=True)


def test_a_checkpoint_of_other_settings_is_refused_with_the_difference(tmp_path):
    run(checkpoint=tmp_path / "run.safetensors")
    with pytest.raises(RecipeError, match=r"run\.safetensors.*epochs=8.*epochs=9"):
        run(settings=TrainingSettings(epochs=9, learning_rate=0.02, prune_steps=3, guard=0.5),
            checkpoint=tmp_path / "run.safetensors", resume=True)  # fmt: skip
    with pytest.raises(RecipeError, match=r"seed=0.*seed=1"):
        run(checkpoint=tmp_path / "run.safetensors", resume=True, seed=1)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run(checkpoint=tmp_path / "run.safetensors", pruner=None)
    other = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(DataError, match=r"run\.safetensors.*network"):
        run(other, pruner=None, checkpoint=tmp_path / "run.safetensors", resume=True)


def test_a_checkpoint_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        run(checkpoint=tmp_path / "file" / "run.safetensors")


class TinyConvNet(nn.Module):
    """Points on a 4x4 board through a residual convolution, so that the pruner has tied channels to deal with."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8 * 16, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(self.block(x) + x).flatten(1))


def boards(n, seed):
    x, y = sample(n, seed)
    return x[:, None, :, None].expand(n, 1, 4, 4).contiguous(), y


def test_the_real_pruner_resumes_to_the_same_network(tmp_path):
    """Interrupted between two pruning steps, with saliency half gathered and one step pending."""
    x, y = boards(96, 1)
    images, labels = boards(60, 2)
    settings = TrainingSettings(epochs=5, learning_rate=0.02, prune_steps=2, prune_end=0.6, guard=1.0)

    def evaluate(module):
        return (module(images).argmax(1) == labels).double().mean().item()

    def until(last):
        def shuffled(epoch):
            if epoch > last:
                raise KeyboardInterrupt
            order = torch.randperm(len(x))
            return ((x[part], y[part]) for part in order.split(32))

        return shuffled

    def go(last, seed, **others):
        torch.manual_seed(seed)
        module = TinyConvNet()
        names = {"input_names": ("image",), "output_names": ("logits",)}
        pruner = Pruner(module, (x[:2],), budget={"macs": 0.5}, round_to=1, **names)
        arguments = {"settings": settings, "evaluate": evaluate, "pruner": pruner, **others}
        return pruner, train(module, until(last), **arguments)

    whole, history = go(99, seed=0)
    with pytest.raises(KeyboardInterrupt):
        go(1, seed=0, checkpoint=tmp_path / "run.safetensors")
    resumed, told = go(99, seed=5, checkpoint=tmp_path / "run.safetensors", resume=True)
    assert [s.decision for s in history.steps] == ["kept", "kept"]
    assert whole.cost["macs"] <= 0.5
    assert without_seconds(told) == without_seconds(history)
    assert_same_state(state_of(resumed.module), state_of(whole.module))
    assert resumed.widths() == whole.widths()


# --- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_an_exploding_loss_stops_with_the_place_and_the_last_good_checkpoint(tmp_path, value):
    checkpoint, calls = tmp_path / "run.safetensors", iter(range(1000))

    def loss(outputs, targets):
        normal = functional.cross_entropy(outputs, targets)
        return normal * value if next(calls) == 6 * 2 + 4 else normal

    module = build()
    with pytest.raises(GateError, match=r"epoch 2, batch 4.*run\.safetensors.*learning rate"):
        run(module, loss=loss, checkpoint=checkpoint)
    assert all(p.isfinite().all() for p in module.parameters())
    _, resumed = run(checkpoint=checkpoint, resume=True)
    assert without_seconds(resumed) == without_seconds(run()[1])


def test_an_explosion_in_the_first_epoch_names_no_checkpoint(tmp_path):
    with pytest.raises(GateError, match="No epoch was finished"):
        run(loss=lambda outputs, targets: outputs.sum() * math.nan, checkpoint=tmp_path / "run.safetensors")


def test_a_metric_that_is_no_number_is_refused():
    with pytest.raises(DataError, match="validation metric"):
        run(evaluate=scripted([0.5, 0.6, math.nan]))


def test_an_epoch_without_batches_is_refused():
    with pytest.raises(DataError, match="epoch 0"):
        run(batches=lambda epoch: [])


# --- history ----------------------------------------------------------------------------------------------------------


def test_joined_histories_count_epochs_through_and_are_json():
    settings = TrainingSettings(epochs=3, learning_rate=0.02, prune_steps=1, guard=1)
    module, dense = run(pruner=None, settings=settings, evaluate=lambda m: accuracy(m)[0])
    _, pruned = run(copy.deepcopy(module), settings=settings)
    widths = [{"group": "0.weight", "kind": "channel", "before": 16, "after": 8}]
    joined = json.loads(json.dumps(join_histories([dense, pruned], widths), allow_nan=False))
    assert sorted(joined) == ["epochs", "seed", "steps", "units", "version", "widths"]
    assert joined["units"] == []
    assert [(e["epoch"], e["phase"]) for e in joined["epochs"]] == [
        (0, "dense"), (1, "dense"), (2, "dense"), (3, "prune"), (4, "prune"), (5, "finetune"),
    ]  # fmt: skip
    assert joined["epochs"][0]["validation_loss"] is None
    assert [s["epoch"] for s in joined["steps"]] == [4]
    assert joined["widths"] == widths
