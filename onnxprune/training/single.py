"""Masks over single weights, for the pruner: chosen among what its units leave, and gone for good."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxprune.prune.weights import SingleWeights
from onnxprune.training import sharding
from onnxprune.training.scoring import Loss, Scorer, array

Masks = dict[str, torch.Tensor]


class WeightPruner:
    """Which single weights of `parameters` (matrices and kernels) stay, as `rule` says."""

    def __init__(
        self, rule: SingleWeights, module: nn.Module, parameters: dict[str, nn.Parameter], loss: Loss, seed: int
    ):
        self.rule, self.parameters = rule, parameters
        self.scorer = Scorer(rule.criterion, module, parameters, loss, seed)
        self.scorer.require_weights()
        self.masks: Masks = {}  # of tensors that lose some

    def choose(
        self,
        schedule: Callable[[float, float], float],
        progress: float,
        part: float,
        units: Masks,
        look: Callable[[], list],
    ) -> None:
        """Choose among the weights that `units`, masks of the pruner's own, leave.

        A share and a pattern are at `progress`, a threshold is taken times `part`.
        """
        self.scorer.agree()
        batches = look() if self.scorer.needs_data else []
        with sharding.whole(self.scorer.module, self.parameters):
            self.scorer.observe(batches)
            weights = {name: array(parameter) for name, parameter in self.parameters.items()}
            scores, alive = self.scorer.weights(), {}
        for name, score in scores.items():
            whole = np.ones(score.shape, bool)
            alive[name] = units[name].cpu().numpy() if name in units else whole
            gone = ~self.masks[name].cpu().numpy() if name in self.masks else ~whole
            scores[name] = np.where(gone, -1.0, score)
        share = 1 - schedule(progress, 1 - (self.rule.share or 0.0))
        for name, mask in self.rule.keep(weights, scores, alive, share, progress >= 1, part).items():
            if not np.array_equal(mask, alive[name]):
                self.masks[name] = torch.from_numpy(mask).to(self.parameters[name].device)

    def take(self, masks: Mapping[str, np.ndarray]) -> None:
        """Let go of the weights where `masks`, bool, are False, of the tensors that they name."""
        for name, mask in masks.items():
            if not mask.all():
                self.masks[name] = torch.from_numpy(mask.copy()).to(sharding.local(self.parameters[name]).device)

    def with_units(self, units: Masks) -> Masks:
        """What stays of every parameter that loses a unit or a single weight."""
        held = dict(units)
        for name, mask in self.masks.items():
            held[name] = held[name] & mask if name in held else mask
        return held

    @torch.no_grad()
    def clip(self) -> None:
        """Hold weights between the rule's bounds."""
        if self.rule.clip is not None:
            for parameter in self.parameters.values():
                sharding.local(parameter).clamp_(*self.rule.clip)

    def snapshot(self) -> Masks:
        return {name: mask.clone() for name, mask in self.masks.items()}

    def restore(self, masks: Mapping[str, torch.Tensor]) -> None:
        self.masks = {name: mask.clone().to(self.parameters[name].device) for name, mask in masks.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.snapshot(), "saliency": self.scorer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.restore(state["masks"])
        self.scorer.load_state_dict(state["saliency"])
