"""How a training goes: how long, how fast, and when it prunes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from onnxprune.errors import RecipeError

#: Optimizers by name, as (parameter groups, learning rate) -> optimizer; the weight decay is the groups' own.
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "rmsprop": torch.optim.RMSprop,
}


@dataclass(frozen=True)
class TrainingSettings:
    """How long, how fast, and when to prune. Raises RecipeError for values out of range.

    epochs          passes over the training data
    learning_rate   its peak; it rises linearly over the first `warmup` of the epochs, stays until `hold`, then falls to
                    zero along a half cosine. With a pruner it stays at its peak at least until `prune_end`
    optimizer       adamw, adam, sgd (with Nesterov momentum 0.9) or rmsprop; adamw alone decays weights apart from the
                    gradient
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
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
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
        demand(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
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
