"""Sums over the weights of each channel: of whatever belongs to single weights, batch by batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import nn

from onnxprune.graph.units import Channels
from onnxprune.training import sharding


@dataclass(frozen=True)
class _Part:
    """One facet of a parameter: sum along `axes`, take the elements `of` (None for all), add them to `channels`."""

    axes: tuple[int, ...]
    of: torch.Tensor | None
    channels: np.ndarray
    sign: float = 1.0

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        if self.axes:
            # Along the first axis alone memory is read as it lies; what is left is small.
            first, *others = self.axes
            if first == 0 and others:
                values = values.sum(dim=0).sum(dim=[k - 1 for k in others])
            else:
                values = values.sum(dim=self.axes)
        values = values.reshape(-1)
        return values if self.of is None else values[self.of]


class ChannelSums:
    """What is made ready once for the channels of one network, so that a sum takes a few additions."""

    def __init__(self, channels: Channels, parameters: Mapping[str, nn.Parameter]):
        self.parameters = parameters
        self.count = channels.count
        self.seen = np.zeros(channels.count, bool)
        self._parts: dict[str, list[_Part]] = {}
        self._targets: dict[tuple[str, ...], tuple[torch.Tensor, torch.Tensor]] = {}
        for name, facets in channels.parameters():
            if name not in parameters:
                continue
            self._parts[name] = []
            whole = [channels.named(facet) for facet in facets]
            for facet in whole:
                self.seen[facet] = True
            named = [sharding.facet_part(facet, parameters[name]) for facet in whole]
            for facet in named:
                self._add(name, facet.shape, None, facet.ravel(), 1.0)
            for one, other in combinations(named, 2):
                if not np.isin(one, other).any():
                    continue
                # What two facets give to one channel counts once.
                a, b = np.broadcast_arrays(one, other)
                same = np.flatnonzero((a == b).ravel())
                self._add(name, a.shape, same, a.ravel()[same], -1.0)

    def _add(self, name: str, shape: tuple[int, ...], of: np.ndarray | None, to: np.ndarray, sign: float) -> None:
        own = sharding.local(self.parameters[name])
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and own.shape[axis] != 1)
        elements = None if of is None else torch.from_numpy(of).to(own.device)
        self._parts[name].append(_Part(axes, elements, np.array(to), sign))

    def of(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[channels], float64: the sum of {parameter: a value for each of its weights}; gradients flow through it.

        Of a sharded parameter the values are those of this rank's part.
        """
        device = sharding.local(next(iter(self.parameters.values()))).device
        sharded = {name for name in values if sharding.is_sharded(self.parameters[name])}
        found = torch.zeros(self.count, dtype=torch.float64, device=device)
        there = [name for name in self._parts if name in values]
        for names in ([n for n in there if n not in sharded], [n for n in there if n in sharded]):
            if not names:
                continue
            sums = [part.sums(values[name]).to(device).double() for name in names for part in self._parts[name]]
            channels, signs = self._where(tuple(names), device)
            of_names = torch.zeros_like(found).index_add(0, channels, torch.cat(sums) * signs)
            found = found + sharding.over_shards(of_names, [self.parameters[name] for name in names])
        return found

    def _where(self, names: tuple[str, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The channel and the sign of each of the sums that these parameters' parts give, one after the other."""
        if names not in self._targets:
            parts = [part for name in names for part in self._parts[name]]
            channels = np.concatenate([part.channels for part in parts]).astype(np.int64)
            signs = np.concatenate([np.full(len(part.channels), part.sign) for part in parts])
            self._targets[names] = torch.from_numpy(channels).to(device), torch.from_numpy(signs).to(device)
        return self._targets[names]


class Contributions(ChannelSums):
    """What the weights of each channel contribute together to a change of the loss: the sum of w dL/dw."""

    @torch.no_grad()
    def sums(self) -> np.ndarray:
        """[channels], with the gradients that lie there now."""
        products = {
            name: sharding.local(p.detach()).float() * sharding.local(p.grad).float()
            for name, p in self.parameters.items()
            if p.grad is not None
        }
        return self.of(products).cpu().numpy()

    @torch.no_grad()
    def of_sets(self, sets: Sequence[Sequence[str]]) -> np.ndarray:
        """[sets]: the same over all weights of the parameters that each set names."""
        products = {
            name: float((sharding.full(p.detach()).double() * sharding.full(p.grad).double()).sum())
            for name, p in self.parameters.items()
            if p.grad is not None
        }
        return np.array([sum(products.get(name, 0.0) for name in names) for names in sets])
