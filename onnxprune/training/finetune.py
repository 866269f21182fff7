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
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import DataError, GateError, InputError
from onnxprune.prune import schedule as schedules
from onnxprune.prune.schedule import Adaptive, Control, Planned, Position, Rising
from onnxprune.training import distributed, sharding
from onnxprune.training.averaging import Average
from onnxprune.training.checkpoint import seed_everything
from onnxprune.training.distill import Distillation, Watch
from onnxprune.training.history import EpochRecord, History, StepRecord
from onnxprune.training.runstate import ALL, PrunerLike, RunState, load_run, remember_best, return_to, save_run
from onnxprune.training.settings import OPTIMIZERS, TrainingSettings

#: A batch whose loss is this many times the first batch's (or 1, if that is more) ends the run: nothing good follows.
EXPLOSION = 1000.0
#: How often a threshold is raised in search of one that takes something more.
MOST_RAISES = 100


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
    would have ended undisturbed.

    Where torch.distributed is initialised, each rank gives its own share of the batches, equally many and equally large
    ones; gradients, losses, buffers such as BatchNorm's statistics and metrics are averaged over the ranks, all end
    with the same network, and the first one writes the checkpoint, where all can read it. A module that is sharded
    needs a loop of its own.

    Raises InputError for a sharded module; RecipeError for a checkpoint of other settings; DataError for a broken one,
    an epoch without batches and a metric that is NaN; OutputError where the checkpoint can't be written; GateError
    where the loss explodes or isn't a number.
    """
    if any(sharding.is_sharded(parameter) for parameter in module.parameters()):
        raise InputError(
            f"{type(module).__name__} is sharded, and this loop keeps whole networks. Write a loop of your own: Pruner "
            "and its step() take sharded modules."
        )
    device = next(module.parameters()).device
    distillation = distillation or Distillation()
    optimizer = _build_optimizer(module, settings)
    pruning_epochs = settings.pruning_epochs() if pruner is not None else []
    control = control or Planned(settings.guard)
    identity = {**asdict(settings), "seed": seed, "pruned": pruner is not None, "control": repr(control)}

    seed_everything(seed)
    distributed.take_from_first_(module.state_dict().values())
    state = RunState()
    average = Average(module, settings.average) if settings.average else None
    averaged = partial(average.inside, module) if average else nullcontext
    masked = pruner.masked if pruner is not None else nullcontext
    there = distributed.from_first(np.array(checkpoint is not None and checkpoint.exists()))
    if resume and checkpoint and there:
        state = load_run(checkpoint, identity, module, optimizer, pruner, average)
    else:
        if pruner is not None:
            apart = isinstance(control, Adaptive) and len(pruner.rates) > 1
            rates = pruner.rates if apart else (ALL,)
            state.positions = {rate: asdict(control.start(len(pruning_epochs))) for rate in rates}
        state.baseline, _ = _evaluate(module, evaluate)
        remember_best(state, state.baseline, settings, control, module, pruner)
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
        if pruner is not None and rate_to_move is None and state.pending is None:
            pruner.settle()

        rate = settings.learning_rate_at(epoch, pruning=pruner is not None)
        for group in optimizer.param_groups:
            group["lr"] = rate
        module.train()
        total, count, waiting = 0.0, 0, 0

        def step() -> None:
            distributed.average_gradients(module)
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
        distributed.average_(module.buffers())
        if average is not None:
            distributed.average_(average.values.values())
        with averaged(), masked():
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
            with averaged(), masked():
                remember_best(state, metric, settings, control, module, pruner)
        if checkpoint:
            save_run(checkpoint, identity, state, module, optimizer, pruner, average)
        if on_epoch:
            on_epoch(record)

    return_to(state.best, module, pruner)
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


def _is_over(state: RunState, settings: TrainingSettings, control: Control, pruner: PrunerLike | None) -> bool:
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
    return OPTIMIZERS[settings.optimizer](groups, settings.learning_rate)


def _evaluate(module: nn.Module, evaluate: Callable[[nn.Module], float | tuple[float, float]]) -> tuple[float, float]:
    """(metric, loss) in evaluation mode; the loss is NaN where `evaluate` gives none."""
    module.eval()
    with torch.no_grad():
        result = evaluate(module)
    metric, loss = (
        distributed.mean_of(float(v)) for v in (result if isinstance(result, tuple) else (result, math.nan))
    )
    if math.isnan(metric):
        raise DataError("The validation metric isn't a number (nan). Give a metric that judges every prediction.")
    return float(metric), float(loss)


def _check_loss(objective: torch.Tensor, state: RunState, epoch: int, batch: int, checkpoint: Path | None) -> float:
    """The loss as a number. Raises GateError before it can spoil the weights."""
    value = distributed.mean_of(objective.item())
    if math.isnan(state.loss_limit):
        state.loss_limit = EXPLOSION * max(value, 1.0)
    if math.isfinite(value) and value <= state.loss_limit:
        return value
    kept = f"The last good state is '{checkpoint}'" if checkpoint and epoch else "No epoch was finished before it"
    raise GateError(
        f"The loss is {value:g} in epoch {epoch}, batch {batch}. {kept}; lower the learning rate or the pruning step."
    )


def _prune(
    state: RunState,
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
    state: RunState,
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
