"""Penalties that drive what will be pruned towards zero while it is still there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxprune.errors import RecipeError
from onnxprune.graph.units import Channels
from onnxprune.training import layers, sharding
from onnxprune.training.contributions import ChannelSums

PENALTIES = ("l1", "group", "batchnorm", "growing")
#: Where the factor of the growing penalty stops, and after how many steps the first channels are chosen.
CEILING, FIRST_CHOICE = 1.0, 10


class Penalty:
    """A penalty of one network, to be added to its loss; call it for the scalar.

    l1          sum |w| over all prunable parameters. Tibshirani 1996
    group       sum over channels c that can go of sqrt(P_c) ||w_c||, P_c the number of parameters that go with it. Yuan
                and Lin 2006; for channels Wen et al. 2016, arXiv:1608.03665
    batchnorm   sum |gamma| over the weights of BatchNorms. Liu et al. 2017, arXiv:1708.06519
    growing     sum over channels c that are about to go of f_c ||w_c||^2 / 2; each step adds the penalty's weight to
                their f, up to 1. Wang, Qin, Zhang and Fu 2021, arXiv:2012.09243, who add 1e-4 in every tenth step

    A `proximal` one isn't added to the loss, so that calling it gives 0, but taken in steps of its own: see
    `onnxprune.training.constraints`. Only what is trained counts, so running statistics don't. Raises RecipeError for
    another name, a weight below 0, "batchnorm" on a network without BatchNorm, and a proximal "growing", which would
    reach no zeros.
    """

    def __init__(
        self,
        kind: str,
        weight: float,
        module: nn.Module,
        parameters: dict[str, nn.Parameter],
        channels: Channels,
        proximal: bool = False,
    ):
        if kind not in PENALTIES or not weight >= 0:
            raise RecipeError(
                f"There is no penalty {kind!r} of {weight!r}. Choose {' or '.join(PENALTIES)}, and at least 0."
            )
        if proximal and kind == "growing":
            raise RecipeError("The growing penalty has no proximal step to zero. Take l1, group or batchnorm.")
        self.kind, self.weight, self.proximal = kind, weight, proximal
        self.parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        self._zero = sharding.local(next(iter(parameters.values())))
        if kind == "batchnorm":
            scales = set(layers.scales(module))
            self.parameters = {name: p for name, p in self.parameters.items() if name in scales}
            if not self.parameters:
                raise RecipeError(
                    f"{type(module).__name__} has no BatchNorm to penalise. Choose the penalty l1 or group."
                )
        if kind in ("group", "growing") and weight:
            self._sums = ChannelSums(channels, self.parameters)
        if kind == "group" and weight:
            can_go = np.zeros(channels.count, bool)
            can_go[[channel for unit in channels.units for channel in unit.channels]] = True
            sizes = channels.weigh({name: np.ones(p.shape, np.float32) for name, p in self.parameters.items()})
            self.roots = np.sqrt(sizes)
            self._channels = torch.from_numpy(np.flatnonzero(can_go)).to(self._zero.device)
            self._roots = torch.from_numpy(self.roots[can_go]).to(self._zero.device)
        self._chosen = np.zeros(channels.count, bool)
        self._factors = np.zeros(channels.count)
        self._steps = 0

    def __call__(self) -> torch.Tensor:
        if not self.weight or self.proximal:
            return self._zero.new_zeros(())
        if self.kind == "group":
            return self.weight * self._groups().to(self._zero.dtype)
        if self.kind == "growing":
            return self._growing().to(self._zero.dtype)
        return self.weight * sum(sharding.full(p.abs().sum()) for p in self.parameters.values())

    def _squares(self) -> torch.Tensor:
        return self._sums.of({name: sharding.local(p).square() for name, p in self.parameters.items()})

    def _groups(self) -> torch.Tensor:
        squares = self._squares()[self._channels]
        # The root has no slope at zero; what is there stays there.
        alive = squares > 0
        return (torch.where(alive, squares, 1.0).sqrt() * alive * self._roots).sum()

    def _growing(self) -> torch.Tensor:
        if not self._factors.any():
            return self._zero.new_zeros(())
        squares = self._squares()
        return 0.5 * (torch.from_numpy(self._factors).to(squares.device) * squares).sum()

    # ---- the growing penalty ----------------------------------------------------------------------------------------

    @property
    def grows(self) -> bool:
        """Whether it asks which channels are about to go."""
        return self.kind == "growing" and self.weight > 0

    def grow(self) -> bool:
        """After a training step: raise the factors of what is about to go. Whether the first choice is due now."""
        self._steps += 1
        self._factors[self._chosen] = np.minimum(self._factors[self._chosen] + self.weight, CEILING)
        return self._steps == FIRST_CHOICE

    def choose(self, channels: np.ndarray) -> None:
        """Which channels are about to go, bool [channels]; those that aren't any more start from 0 another time."""
        self._chosen = channels.copy()
        self._factors[~channels] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What is about to go, how far the factors are, and after how many steps."""
        chosen, factors = torch.from_numpy(self._chosen.copy()), torch.from_numpy(self._factors.copy())
        return {"chosen": chosen, "factors": factors, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._chosen = state["chosen"].numpy().copy()
        self._factors, self._steps = state["factors"].numpy().copy(), int(state["steps"])
