"""What happened while a network trained, as plain values that go into `history.json`."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Phase = Literal["dense", "prune", "finetune", "quantize"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch. `train_loss` is the mean over its batches of all that was minimised; `validation_loss` may be NaN."""

    epoch: int
    phase: Phase
    train_loss: float
    validation_loss: float
    validation_metric: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class StepRecord:
    """One pruning step, taken before `epoch` and judged `metric` after its recovery epochs.

    `target` is the progress it aimed at (1 is the whole budget), `size` the step that was wanted: in progress, or the
    factor of a threshold. `cost` is the fraction of the dense network's parameters, MACs and bytes that it left. `rate`
    names what moved where rates move one by one: "cost", a kind of unit, "connections" or "parameters"; else it is "".
    """

    step: int
    epoch: int
    target: float
    size: float
    cost: dict[str, float]
    metric: float
    decision: Literal["kept", "rolled back"]
    reason: str
    rate: str = ""


@dataclass(frozen=True)
class History:
    """A whole run of `train`, and which of its points the module holds now.

    `progress` is how much of the pruning was kept (1 is the whole budget; a run without a pruner has 1 from the start).
    `baseline` is the validation metric before the first epoch, `best_metric` the one of the weights that were restored.
    """

    seed: int
    epochs: tuple[EpochRecord, ...]
    steps: tuple[StepRecord, ...]
    baseline: float
    best_epoch: int
    best_metric: float
    progress: float
    tolerance: float

    @property
    def reached(self) -> bool:
        """Whether pruning went all the way to its budget."""
        return self.progress >= 1.0

    @property
    def within_tolerance(self) -> bool:
        """Whether the restored weights are at most `tolerance` below the baseline on the validation data."""
        return self.best_metric >= self.baseline - self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """The part of `history.json` that a run fills: version, seed, epochs and steps. A NaN becomes None."""
        return {
            "version": 1,
            "seed": self.seed,
            "epochs": [_without_nan(asdict(record)) for record in self.epochs],
            "steps": [_without_nan(asdict(record)) for record in self.steps],
        }


def join_histories(
    runs: Sequence[History], widths: Sequence[dict[str, Any]] = (), units: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """`history.json` of runs that followed one another (dense training, then pruning): epochs are counted through.

    `units` are what `Pruner.decisions` says of each unit, in the form that `onnxprune.prune.decisions` describes.
    """
    joined: dict[str, Any] = {"version": 1, "seed": runs[0].seed, "epochs": [], "steps": []}
    joined |= {"widths": list(widths), "units": list(units)}
    for run in runs:
        offset = len(joined["epochs"])
        for key in ("epochs", "steps"):
            joined[key] += [record | {"epoch": record["epoch"] + offset} for record in run.as_dict()[key]]
    return joined


def as_json(history: dict[str, Any]) -> str:
    """The text of `history.json`: indented, and what holds numbers alone on one line."""
    text = json.dumps(history, indent=2, allow_nan=False)
    return re.sub(r"\[[^][{}\"]*\]", lambda numbers: re.sub(r"\s+", "", numbers[0]).replace(",", ", "), text) + "\n"


def in_phase(phase: Phase, run: History) -> History:
    """The same run, all of whose epochs are of one phase."""
    return replace(run, epochs=tuple(replace(record, phase=phase) for record in run.epochs))


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
