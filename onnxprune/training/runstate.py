"""Where a training stands: what a checkpoint holds, and the best point so far."""

import copy
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from onnxprune.errors import DataError, RecipeError
from onnxprune.prune.schedule import Control, Position
from onnxprune.training import distributed
from onnxprune.training.averaging import Average
from onnxprune.training.checkpoint import load_checkpoint, save_checkpoint
from onnxprune.training.settings import TrainingSettings

#: The rate of a control that moves everything at once.
ALL = ""


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
    def settle(self) -> None: ...
    def masked(self) -> AbstractContextManager[None]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class RunState:
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


def remember_best(
    state: RunState,
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


def return_to(point: dict[str, Any], module: nn.Module, pruner: PrunerLike | None) -> None:
    module.load_state_dict(point["module"])
    if pruner is not None:
        pruner.restore(point["masks"])
        pruner.settle()
    module.eval()


def save_run(
    path: Path,
    identity: dict[str, Any],
    state: RunState,
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
    distributed.by_first(lambda: save_checkpoint(path, content))


def load_run(
    path: Path,
    identity: dict[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruner: PrunerLike | None,
    average: Average | None,
) -> RunState:
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
    return RunState(**content["state"])
