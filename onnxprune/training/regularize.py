"""Penalties that drive what will be pruned towards zero while it is still there."""

import numpy as np
import torch
from torch import nn

from onnxprune.errors import RecipeError
from onnxprune.graph.units import Channels
from onnxprune.training import layers
from onnxprune.training.contributions import ChannelSums

PENALTIES = ("l1", "group", "batchnorm")


class Penalty:
    """A penalty of one network, to be added to its loss; call it for the scalar.

    l1          sum |w| over all prunable parameters. Tibshirani 1996
    group       sum over channels c that can go of sqrt(P_c) ||w_c||, P_c the number of parameters that go with it. Yuan
                and Lin 2006; for channels Wen et al. 2016, arXiv:1608.03665
    batchnorm   sum |gamma| over the weights of BatchNorms. Liu et al. 2017, arXiv:1708.06519

    Only what is trained counts, so running statistics don't. Raises RecipeError for another name, a weight below 0, and
    "batchnorm" on a network without BatchNorm.
    """

    def __init__(
        self, kind: str, weight: float, module: nn.Module, parameters: dict[str, nn.Parameter], channels: Channels
    ):
        if kind not in PENALTIES or not weight >= 0:
            raise RecipeError(
                f"There is no penalty {kind!r} of {weight!r}. Choose {' or '.join(PENALTIES)}, and at least 0."
            )
        self.kind, self.weight = kind, weight
        self.parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        self._zero = next(iter(parameters.values()))
        if kind == "batchnorm":
            scales = set(layers.scales(module))
            self.parameters = {name: p for name, p in self.parameters.items() if name in scales}
            if not self.parameters:
                raise RecipeError(
                    f"{type(module).__name__} has no BatchNorm to penalise. Choose the penalty l1 or group."
                )
        if kind == "group" and weight:
            self._sums = ChannelSums(channels, self.parameters)
            can_go = np.zeros(channels.count, bool)
            can_go[[channel for unit in channels.units for channel in unit.channels]] = True
            sizes = channels.weigh({name: np.ones(p.shape, np.float32) for name, p in self.parameters.items()})
            self._channels = torch.from_numpy(np.flatnonzero(can_go)).to(self._zero.device)
            self._roots = torch.from_numpy(np.sqrt(sizes[can_go])).to(self._zero.device)

    def __call__(self) -> torch.Tensor:
        if not self.weight:
            return self._zero.new_zeros(())
        if self.kind == "group":
            return self.weight * self._groups().to(self._zero.dtype)
        return self.weight * sum(p.abs().sum() for p in self.parameters.values())

    def _groups(self) -> torch.Tensor:
        squares = self._sums.of({name: p.square() for name, p in self.parameters.items()})[self._channels]
        # The root has no slope at zero; what is there stays there.
        alive = squares > 0
        return (torch.where(alive, squares, 1.0).sqrt() * alive * self._roots).sum()
