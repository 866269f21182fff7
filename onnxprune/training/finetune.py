"""A ready training loop, for a dense network and for one that is pruned while it trains.

    history = train(module, batches, settings=TrainingSettings(epochs=25), evaluate=top1(images, labels))

With a `pruner` the run has three parts, all in the same loop:

    epoch   0 ......... prune_start ......................... prune_end ............ epochs
            warm up     a pruning step every few epochs,      fine-tune what is left,
                        each judged after its recovery        the learning rate decays

Each step aims a little closer to the budget. Just before the next one it is judged by a control of
`onnxprune.prune.schedule`: where the validation metric lies too far below the network as it came, weights, optimizer
and masks go back to what they were, and the next attempt is smaller. The best point on the validation data at the final
budget is what the module holds in the end. Whoever has a training loop of their own needs none of this: see `Pruner`.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import DataError, GateError, RecipeError
from onnxprune.prune import schedule as schedules
from onnxprune.prune.schedule import Adaptive, Control, Planned, Position, Rising
from onnxprune.training.averaging import Average
from onnxprune.training.checkpoint import load_checkpoint, save_checkpoint, seed_everything
from onnxprune.training.distill import Distillation, Watch
from onnxprune.training.history import EpochRecord, History, StepRecord

#: A batch whose loss is this many times the first batch's (or 1, if that is more) ends the run: nothing good follows.
EXPLOSION = 1000.0
#: The rate of a control that moves everything at once.
ALL = ""
#: How often a threshold is raised in search of one that takes something more.
MOST_RAISES = 100


class PrunerLike(Protocol):
    """What the loop needs of a pruner; `onnxprune.training.pruner.Pruner` is the real one."""

    @property
    def cost(self) -> dict[str, float]: ...
    @property
    def rates(self) -> tuple[str, ...]: ...
    def penalty(self) -> torch.Tensor: ...
    def step(self, optimizer: torch.optim.Optimizer | None = None) -> None: ...
    def prune(self, progress: float | dict[str, float]) -> Any: ...
    def prune_below(self, theta: float) -> float: ...
    def threshold_at(self, share: float) -> float: ...
    def snapshot(self) -> Any: ...
    def restore(self, snapshot: Any) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class TrainingSettings:
    """How long, how fast, and when to prune. Raises RecipeError for values out of range.

    epochs          passes over the training data
    learning_rate   its peak; it rises linearly over the first `warmup` of the epochs, stays until `hold`, then falls to
                    zero along a half cosine. With a pruner it stays at its peak at least until `prune_end`
    weight_decay    of matrices and kernels only; scales, shifts and biases have none
    prune_start, prune_end   fractions of the epochs between which `prune_steps` pruning steps are spread evenly
    prune_every     the number of epochs from one step to the next, instead; `prune_steps` is then the most there are
    guard           drop of the validation metric below the untouched network that a pruning step may show
    tolerance       drop that the final network may show; it is reported, and the caller decides
    noise           the last point whose metric is within this of the best is taken: on few validation samples an early
                    maximum is luck more often than skill, and late points have the smaller learning rate
    accumulate      batches whose gradients make one step; the last ones of an epoch step with what there is
    amp             forward passes in bfloat16 where autocast takes it; weights and gradients stay float32
    average         decay of a running average of the weights, which is what is judged and kept; 0 for none
    patience        epochs without a better validation metric, once pruning is over, after which training ends
    """

    epochs: int = 40
    learning_rate: float = 3e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.05
    warmup: float = 0.2
    hold: float = 0.0
    prune_start: float = 0.05
    prune_end: float = 0.5
    prune_steps: int = 10
    prune_every: int | None = None
    guard: float = 0.05
    tolerance: float = 0.01
    noise: float = 0.005
    accumulate: int = 1
    amp: bool = False
    average: float = 0.0
    patience: int | None = None

    def __post_init__(self) -> None:
        def demand(condition: bool, name: str, advice: str) -> None:
            if not condition:
                raise RecipeError(f"Training setting '{name}' is {getattr(self, name)}; give {advice}.")

        demand(self.epochs >= 1, "epochs", "a whole number of at least 1")
        demand(self.learning_rate > 0, "learning_rate", "a number above 0")
        demand(self.optimizer in ("adamw", "sgd"), "optimizer", "'adamw' or 'sgd'")
        demand(self.weight_decay >= 0, "weight_decay", "a number of at least 0")
        demand(0 <= self.warmup < 1, "warmup", "a fraction of the epochs below 1")
        demand(0 <= self.hold <= 1, "hold", "a fraction of the epochs")
        demand(0 <= self.prune_start <= 1, "prune_start", "a fraction of the epochs")
        demand(self.prune_start <= self.prune_end <= 1, "prune_end", "a fraction from prune_start to 1")
        demand(self.prune_steps >= 1, "prune_steps", "a whole number of at least 1")
        demand(self.prune_every is None or self.prune_every >= 1, "prune_every", "a number of epochs of at least 1")
        demand(self.guard >= 0, "guard", "a drop of at least 0, such as 0.05")
        demand(self.tolerance >= 0, "tolerance", "a drop of at least 0, such as 0.01")
        demand(self.noise >= 0, "noise", "a difference of at least 0, such as 0.005")
        demand(self.accumulate >= 1, "accumulate", "a number of batches of at least 1")
        demand(0 <= self.average < 1, "average", "a decay from 0 to below 1, such as 0.99")
        demand(self.patience is None or self.patience >= 1, "patience", "a number of epochs of at least 1")

    def pruning_epochs(self) -> list[int]:
        """The epochs before which a pruning step is planned, evenly spread from `prune_start` to `prune_end`.

        Never epoch 0 where there is another, because saliency is gathered while training. Where there are fewer epochs
        than steps, each epoch has one.
        """
        first = min(max(1, round(self.prune_start * self.epochs)), self.epochs - 1)
        last = min(max(first, round(self.prune_end * self.epochs)), self.epochs - 1)
        if self.prune_every is not None:
            return list(range(first, last + 1, self.prune_every))[: self.prune_steps]
        return sorted({round(epoch) for epoch in np.linspace(first, last, self.prune_steps)})

    def may_prune_before(self, epoch: int) -> bool:
        """Whether a step may come before `epoch`: as planned, or at the same pace where roll-backs cost time."""
        planned = self.pruning_epochs()
        pace = self.prune_every or max(1, round((planned[-1] - planned[0]) / max(1, len(planned) - 1)))
        return epoch in planned or (epoch > planned[-1] and (epoch - planned[-1]) % pace == 0)

    def learning_rate_at(self, epoch: int, pruning: bool) -> float:
        """The learning rate of a whole epoch: what the curve has in the epoch's middle."""
        now = (epoch + 0.5) / self.epochs
        peak_until = max(self.warmup, self.hold, self.prune_end if pruning else 0.0)
        if now < self.warmup:
            return self.learning_rate * now / self.warmup
        if now < peak_until:
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (now - peak_until) / (1 - peak_until)))


@dataclass
class _State:
    """All that a run knows besides weights, optimizer, masks and random state; a checkpoint holds it field by field."""

    epoch: int = 0
    baseline: float = math.nan
    loss_limit: float = math.nan
    positions: dict[str, dict[str, Any]] = field(default_factory=lambda: {ALL: vars(Position(progress=1.0)).copy()})
    pending: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def at(self, rate: str) -> Position:
        """Where pruning stands with one rate."""
        return Position(**self.positions[rate])

    @property
    def progress(self) -> float:
        """The mean over the rates: 1 where all are at the budget."""
        return sum(position["progress"] for position in self.positions.values()) / len(self.positions)

    def next_rate(self, control: Control) -> str | None:
        """The rate that has come least far among those that want more, or the first of them; None where none does."""
        wanting = [rate for rate in self.positions if control.wants_more(self.at(rate))]
        if getattr(control, "in_order", False):
            return next(iter(wanting), None)
        return min(wanting, key=lambda rate: self.at(rate).progress, default=None)


def train(
    module: nn.Module,
    batches: Callable[[int], Iterable[tuple[torch.Tensor, torch.Tensor]]],
    *,
    settings: TrainingSettings,
    evaluate: Callable[[nn.Module], float | tuple[float, float]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = functional.cross_entropy,
    pruner: PrunerLike | None = None,
    control: Control | None = None,
    teacher: nn.Module | None = None,
    distillation: Distillation | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    seed: int = 0,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> History:
    """Train `module` in place, prune it on the way if there is a pruner, and leave its best point in it.

    `batches(epoch)` gives an epoch's (inputs, targets); `evaluate(module)` the validation metric (more is better), or
    the metric and the validation loss. `control` judges pruning steps: evenly planned ones with `settings.guard` where
    none is given; Adaptive and Rising make steps of their own until their budget, tolerance or last step, and never
    return a point outside their tolerance; Adaptive moves each of several rates (costs, kinds of units, single weights)
    by itself, the one that has come least far first. Batches are moved to the module's device, and the module ends in
    evaluation mode. Python's, NumPy's and torch's global random generators are seeded with `seed`.

    After each epoch `checkpoint` is replaced as a whole, so that an interruption at any moment, Ctrl-C included, costs
    at most the current epoch; with `resume` a run goes on from it (or starts, if there is none) and ends where it
    would have ended undisturbed. Raises RecipeError for a checkpoint of other settings; DataError for a broken one, an
    epoch without batches and a metric that is NaN; OutputError where the checkpoint can't be written; GateError where
    the loss explodes or isn't a number.
    """
    device = next(module.parameters()).device
    distillation = distillation or Distillation()
    optimizer = _build_optimizer(module, settings)
    pruning_epochs = settings.pruning_epochs() if pruner is not None else []
    control = control or Planned(settings.guard)
    identity = {**asdict(settings), "seed": seed, "pruned": pruner is not None, "control": repr(control)}

    seed_everything(seed)
    state = _State()
    average = Average(module, settings.average) if settings.average else None
    averaged = partial(average.inside, module, pruner) if average else nullcontext
    if resume and checkpoint and checkpoint.exists():
        state = _load(checkpoint, identity, module, optimizer, pruner, average)
    else:
        if pruner is not None:
            apart = isinstance(control, Adaptive) and len(pruner.rates) > 1
            rates = pruner.rates if apart else (ALL,)
            state.positions = {rate: asdict(control.start(len(pruning_epochs))) for rate in rates}
        state.baseline, _ = _evaluate(module, evaluate)
        _remember_best(state, state.baseline, settings, control, module, pruner)
    watch = None
    if teacher is not None:
        teacher.to(device).eval()
        if distillation.features:
            watch = Watch(module, teacher, distillation.features)

    for epoch in range(state.epoch, settings.epochs):
        if _is_over(state, settings, control, pruner):
            break
        started = time.perf_counter()
        rate_to_move = state.next_rate(control) if pruner is not None else None
        if rate_to_move is not None and settings.may_prune_before(epoch):
            _prune(state, rate_to_move, control, module, optimizer, pruner, average)

        rate = settings.learning_rate_at(epoch, pruning=pruner is not None)
        for group in optimizer.param_groups:
            group["lr"] = rate
        module.train()
        total, count, waiting = 0.0, 0, 0

        def step() -> None:
            optimizer.step()
            if pruner is not None:
                pruner.step(optimizer)
            if average is not None:
                average.update(module)
            optimizer.zero_grad()

        optimizer.zero_grad()
        for x, y in batches(epoch):
            x, y = x.to(device), y.to(device)
            with watch or nullcontext(), torch.autocast(device.type, torch.bfloat16, enabled=settings.amp):
                outputs = module(x)
                objective = loss(outputs, y)
                if teacher is not None:
                    with torch.no_grad():
                        said = teacher(x)
                    objective = distillation.mix(objective, outputs, said)
                if watch is not None:
                    objective = objective + distillation.feature_weight * watch.loss()
            if pruner is not None:
                objective = objective + pruner.penalty()
            (objective / settings.accumulate).backward()
            value = _check_loss(objective, state, epoch, count, checkpoint)
            total, count, waiting = total + value, count + 1, waiting + 1
            if waiting == settings.accumulate:
                step()
                waiting = 0
        if waiting:
            step()
        if count == 0:
            raise DataError(f"There was no batch in epoch {epoch}. Give at least one batch of training data.")
        with averaged():
            metric, validation_loss = _evaluate(module, evaluate)

        phase = "dense" if pruner is None else "prune" if state.progress < 1 else "finetune"
        seconds = time.perf_counter() - started
        record = EpochRecord(epoch, phase, total / count, validation_loss, metric, rate, seconds)
        state.epochs.append(asdict(record))
        state.epoch = epoch + 1
        kept = True
        if state.pending and (settings.may_prune_before(epoch + 1) or epoch + 1 == settings.epochs):
            kept = _judge(state, metric, control, module, optimizer, pruner, pruning_epochs, average)
        if kept and not state.pending:
            with averaged():
                _remember_best(state, metric, settings, control, module, pruner)
        if checkpoint:
            _save(checkpoint, identity, state, module, optimizer, pruner, average)
        if on_epoch:
            on_epoch(record)

    _return_to(state.best, module, pruner)
    return History(
        seed=seed,
        epochs=tuple(EpochRecord(**record) for record in state.epochs),
        steps=tuple(StepRecord(**record) for record in state.steps),
        baseline=state.baseline,
        best_epoch=state.best["epoch"],
        best_metric=state.best["metric"],
        progress=state.best["progress"],
        tolerance=settings.tolerance,
    )


def _is_over(state: _State, settings: TrainingSettings, control: Control, pruner: PrunerLike | None) -> bool:
    """Whether nothing is to be pruned any more and the metric has been no better for `patience` epochs."""
    waits = state.pending is not None or (pruner is not None and state.next_rate(control) is not None)
    if settings.patience is None or waits or state.best is None:
        return False
    return state.epoch - 1 - state.best["improved"] >= settings.patience


def _build_optimizer(module: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, settings.learning_rate)


def _evaluate(module: nn.Module, evaluate: Callable[[nn.Module], float | tuple[float, float]]) -> tuple[float, float]:
    """(metric, loss) in evaluation mode; the loss is NaN where `evaluate` gives none."""
    module.eval()
    with torch.no_grad():
        result = evaluate(module)
    metric, loss = result if isinstance(result, tuple) else (result, math.nan)
    if math.isnan(metric):
        raise DataError("The validation metric isn't a number (nan). Give a metric that judges every prediction.")
    return float(metric), float(loss)


def _check_loss(objective: torch.Tensor, state: _State, epoch: int, batch: int, checkpoint: Path | None) -> float:
    """The loss as a number. Raises GateError before it can spoil the weights."""
    value = objective.item()
    if math.isnan(state.loss_limit):
        state.loss_limit = EXPLOSION * max(value, 1.0)
    if math.isfinite(value) and value <= state.loss_limit:
        return value
    kept = f"The last good state is '{checkpoint}'" if checkpoint and epoch else "No epoch was finished before it"
    raise GateError(
        f"The loss is {value:g} in epoch {epoch}, batch {batch}. {kept}; lower the learning rate or the pruning step."
    )


def _prune(
    state: _State,
    rate: str,
    control: Control,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruner: PrunerLike,
    average: Average | None,
) -> None:
    """Take a pruning step with one rate, and keep what it takes to undo it."""
    before = copy.deepcopy(
        {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "masks": pruner.snapshot()}
    )
    before["average"] = average.state_dict() if average is not None else None
    theta = None
    if isinstance(control, Rising):
        target, theta = _raise_threshold(state.at(rate), control, pruner)
    else:
        target = schedules.target(state.at(rate))
        others = {name: position["progress"] for name, position in state.positions.items()}
        pruner.prune(target if rate == ALL else {**others, rate: target})
    state.pending = {"rate": rate, "target": target, "theta": theta, "epoch": state.epoch, "before": before}


def _raise_threshold(position: Position, control: Rising, pruner: PrunerLike) -> tuple[float, float]:
    """(progress, threshold) of the next threshold that takes something: widths are rounded, so not every one does."""
    theta, before = control.theta(position, pruner.threshold_at(control.first)), dict(pruner.cost)
    reached = position.progress
    for _ in range(MOST_RAISES):
        reached = pruner.prune_below(theta)
        if reached >= 1 or dict(pruner.cost) != before:
            break
        theta *= max(position.size, schedules.SMALLEST_FACTOR)
    return reached, theta


def _judge(
    state: _State,
    metric: float,
    control: Control,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruner: PrunerLike,
    planned: list[int],
    average: Average | None,
) -> bool:
    """Keep the pending step, or undo it and make the next one smaller. Returns whether it was kept."""
    step, state.pending = state.pending, None
    to_come = sum(epoch >= state.epoch for epoch in planned)
    rate = step["rate"]
    verdict = control.judge(state.at(rate), step["target"], metric, state.baseline, to_come)
    record = StepRecord(
        step=len(state.steps),
        epoch=step["epoch"],
        target=step["target"],
        size=state.at(rate).size,
        cost=dict(pruner.cost),
        metric=metric,
        decision="kept" if verdict.kept else "rolled back",
        reason=verdict.reason,
        rate=rate,
    )
    state.steps.append(asdict(record))
    state.positions[rate] = asdict(verdict.position)
    if verdict.kept:
        state.positions[rate]["theta"] = step["theta"]
    else:
        module.load_state_dict(step["before"]["module"])
        optimizer.load_state_dict(step["before"]["optimizer"])
        pruner.restore(step["before"]["masks"])
        if average is not None:
            average.load_state_dict(step["before"]["average"])
    return verdict.kept


def _remember_best(
    state: _State,
    metric: float,
    settings: TrainingSettings,
    control: Control,
    module: nn.Module,
    pruner: PrunerLike | None,
) -> None:
    """Keep a copy of this point if it is further pruned than any before, or as good as the best within `noise`."""
    best = state.best
    if best is not None and pruner is not None and control.strict and metric < control.floor(state.baseline):
        return
    further = best is None or state.progress > best["progress"]
    if further or metric >= best["ceiling"] - settings.noise:
        better = further or metric > best["ceiling"]
        state.best = {
            "improved": state.epoch - 1 if better else best["improved"],
            "epoch": state.epoch - 1,
            "progress": state.progress,
            "metric": metric,
            "ceiling": metric if further else max(metric, best["ceiling"]),
            "module": copy.deepcopy(module.state_dict()),
            "masks": copy.deepcopy(pruner.snapshot()) if pruner is not None else None,
        }


def _return_to(point: dict[str, Any], module: nn.Module, pruner: PrunerLike | None) -> None:
    module.load_state_dict(point["module"])
    if pruner is not None:
        pruner.restore(point["masks"])
    module.eval()


def _save(
    path: Path,
    identity: dict[str, Any],
    state: _State,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruner: PrunerLike | None,
    average: Average | None,
) -> None:
    content = {
        "average": average.state_dict() if average is not None else None,
        "identity": identity,
        "state": vars(state),
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "pruner": pruner.state_dict() if pruner is not None else None,
    }
    save_checkpoint(path, content)


def _load(
    path: Path,
    identity: dict[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruner: PrunerLike | None,
    average: Average | None,
) -> _State:
    content = load_checkpoint(path)
    changed = sorted(k for k in identity if content["identity"].get(k) != identity[k])
    if changed:
        was, now = (", ".join(f"{k}={side.get(k)}" for k in changed) for side in (content["identity"], identity))
        raise RecipeError(
            f"'{path}' comes from a run with {was}, this one has {now}. Take the same settings, or start afresh."
        )
    try:
        module.load_state_dict(content["module"])
        optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"'{path}' belongs to another network than the one given. Resume with the same network, or start afresh."
        ) from error
    if pruner is not None:
        pruner.load_state_dict(content["pruner"])
    if average is not None:
        average.load_state_dict(content["average"])
    return _State(**content["state"])
