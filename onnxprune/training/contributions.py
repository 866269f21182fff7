"""Sums over the weights of each channel: of whatever belongs to single weights, batch by batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import nn

from onnxprune.graph.units import Channels


@dataclass(frozen=True)
class _Part:
    """One facet of a parameter: sum along `axes`, take the elements `of` (None for all), add them to `channels`."""

    name: str
    axes: tuple[int, ...]
    of: torch.Tensor | None
    channels: torch.Tensor
    sign: float = 1.0


class ChannelSums:
    """What is made ready once for the channels of one network, so that a sum takes a few additions."""

    def __init__(self, channels: Channels, parameters: Mapping[str, nn.Parameter]):
        self.parameters = parameters
        self.count = channels.count
        self.seen = np.zeros(channels.count, bool)
        self._parts: list[_Part] = []
        for name, facets in channels.parameters():
            if name not in parameters:
                continue
            named = [channels.named(facet) for facet in facets]
            for facet in named:
                self.seen[facet] = True
                self._add(name, facet.shape, None, facet.ravel(), 1.0)
            for one, other in combinations(named, 2):
                if not np.isin(one, other).any():
                    continue
                # What two facets give to one channel counts once.
                a, b = np.broadcast_arrays(one, other)
                same = np.flatnonzero((a == b).ravel())
                self._add(name, a.shape, same, a.ravel()[same], -1.0)

    def _add(self, name: str, shape: tuple[int, ...], of: np.ndarray | None, to: np.ndarray, sign: float) -> None:
        device = self.parameters[name].device
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and self.parameters[name].shape[axis] != 1)
        elements = None if of is None else torch.from_numpy(of).to(device)
        self._parts.append(_Part(name, axes, elements, torch.from_numpy(np.array(to)).to(device), sign))

    def of(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[channels], float64: the sum of {parameter: a value for each of its weights}; gradients flow through it."""
        device = next(iter(self.parameters.values())).device
        total = torch.zeros(self.count, dtype=torch.float64, device=device)
        for part in self._parts:
            if part.name not in values:
                continue
            sums = values[part.name].sum(dim=part.axes) if part.axes else values[part.name]
            sums = sums.reshape(-1).double()
            if part.of is not None:
                sums = sums[part.of]
            total = total.index_add(0, part.channels.to(device), sums.to(device), alpha=part.sign)
        return total


class Contributions(ChannelSums):
    """What the weights of each channel contribute together to a change of the loss: the sum of w dL/dw."""

    @torch.no_grad()
    def sums(self) -> np.ndarray:
        """[channels], with the gradients that lie there now."""
        products = {
            name: p.detach().float() * p.grad.float() for name, p in self.parameters.items() if p.grad is not None
        }
        return self.of(products).cpu().numpy()
