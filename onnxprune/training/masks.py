"""What a pruner holds at zero: the weights of deleted channels, and single weights.

Hard masks hold it at zero from step to step. Soft masks (He et al. 2018, arXiv:1808.06866) zero it once, when it is
chosen, and let it train on, so that it may come back at the next choice; `settle` makes them hard. A unit whose every
weight is zero has no gradient and never comes back, so soft masks zero what reads the unit and leave what makes it: to
the network it is gone all the same.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxprune.graph.labels import any_flagged
from onnxprune.graph.units import Channels
from onnxprune.prune.channelwise import Layout
from onnxprune.training import distributed, sharding
from onnxprune.training.restating import Restating
from onnxprune.training.single import WeightPruner


class Masks:
    """Masks over the parameters of one network; what hard ones hold at zero has no gradient and no momentum either.

    `deleted` says which channels are gone, bool [channels]; `units` are their masks {parameter: bool of its shape,
    False where it is gone}, `held` the same with the single weights that `single` takes. Normalisations take their
    statistics over what is left, see `restating`. While `open` masks are soft.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        channels: Channels,
        single: WeightPruner | None,
        layouts: Mapping[str, Layout],
        restating: Restating,
        soft: bool = False,
    ):
        self.parameters, self.single, self.layouts, self.restating = parameters, single, layouts, restating
        self.open = soft
        self.deleted = np.zeros(channels.count, bool)
        self.off: frozenset[str] = frozenset()  # parameters of whole residual blocks
        self.units: dict[str, torch.Tensor] = {}
        self.held: dict[str, torch.Tensor] = {}
        self._readers: dict[str, torch.Tensor] = {}
        # Each rank's part of `held`, of the parameters' own type: to multiply by these is five times faster.
        self._factors: dict[str, torch.Tensor] = {}

    def delete(self, deleted: np.ndarray, channels: Channels, zero: bool = True) -> Channels:
        """Mask exactly the `deleted` channels, bool [channels]; without `zero` weights stay what they are.

        Returns the channels with bundles that take these first. Under torch.distributed the first rank's word counts.
        """
        self.deleted = deleted = distributed.from_first(deleted)
        channels, units = channels.covering(deleted)
        self.units = self._on_device(channels.keep_masks(units))
        self._readers = self._on_device(readers(channels, units, self.layouts)) if self.open else {}
        self.restating.mask(channels, deleted)
        self.hold(zero)
        return channels

    def _on_device(self, masks: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(masks[name]).to(sharding.local(p).device)
            for name, p in self.parameters.items()
            if name in masks
        }

    def hold(self, zero: bool = True) -> None:
        """Put units' and single weights' masks together, and `zero` what they hold."""
        self.held = dict(self.units) if self.single is None else self.single.with_units(self.units)
        self.held |= self._off()
        self._factors = self._of_this_rank(self.held)
        if zero and self.open:
            self._zero(self._of_this_rank({**self._soft(), **self._off()}))
        elif zero:
            self.apply()

    def _off(self) -> dict[str, torch.Tensor]:
        """What whole residual blocks hold; they stay off under soft masks too."""
        return {name: torch.zeros_like(self.parameters[name], dtype=torch.bool) for name in self.off}

    def _soft(self) -> dict[str, torch.Tensor]:
        """What reads the masked units, and the single weights that are masked in others."""
        masks = dict(self._readers)
        for name, mask in (self.single.masks if self.single else {}).items():
            alone = mask | ~self.units[name] if name in self.units else mask
            masks[name] = masks[name] & alone if name in masks else alone
        return masks

    def apply(self) -> None:
        """Zero what hard masks hold, and its gradients."""
        if self.single is not None:
            self.single.clip()
        self._zero({name: self._factors[name] for name in self.off} if self.open else self._factors)

    def _of_this_rank(self, masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: sharding.part_of(mask, self.parameters[name]).to(self.parameters[name].dtype)
            for name, mask in masks.items()
        }

    def _zero(self, factors: Mapping[str, torch.Tensor]) -> None:
        held = [(self.parameters[name], factor) for name, factor in factors.items()]
        _multiply([*held, *((p.grad, factor) for p, factor in held if p.grad is not None)])

    def apply_to_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero the momenta of what hard masks hold."""
        _multiply(
            (entry, factor)
            for name, factor in ({} if self.open else self._factors).items()
            for entry in optimizer.state.get(self.parameters[name], {}).values()
            if isinstance(entry, torch.Tensor) and entry.shape == self.held[name].shape and entry.is_floating_point()
        )

    # ---- soft masks -------------------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """Before a choice: where masks are soft, whatever they hold stands for choice again."""
        if self.open:
            self.deleted = np.zeros_like(self.deleted)
            self.units = {}
            if self.single is not None:
                self.single.masks = {}

    def settle(self) -> None:
        """Make masks hard, for good."""
        self.open = False
        self.apply()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, all that is masked is zero; what soft masks hold is afterwards what it was."""
        own = {name: self.parameters[name].detach().clone() for name in self.held} if self.open else {}
        _multiply((self.parameters[name], factor) for name, factor in self._factors.items())
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in own.items():
                    self.parameters[name].copy_(value)

    # ---- state ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Which channels are deleted, which single weights stay, and whether masks are soft."""
        single = {} if self.single is None else self.single.snapshot()
        return {"deleted": torch.from_numpy(self.deleted.copy()), "single": single, "open": self.open}

    def restore(self, snapshot: Mapping[str, Any], channels: Channels) -> Channels:
        """Go back to a snapshot: hard masks zero what they hold, soft ones leave it. Returns what `delete` does."""
        self.open = bool(snapshot["open"])
        if self.single is not None:
            self.single.restore(snapshot["single"])
        return self.delete(snapshot["deleted"].numpy().copy(), channels, zero=not self.open)


def readers(channels: Channels, units: Sequence[int], layouts: Mapping[str, Layout]) -> dict[str, np.ndarray]:
    """{parameter: bool of its shape, False where it reads one of `units`}, for all that reads any.

    What reads a channel are the weights along the inputs of matrices and kernels, as `layouts` names these. A unit that
    none of them reads is False in all of its weights.
    """
    along_inputs = {}
    for name, facets in channels.parameters():
        axis = layouts[name].inputs if name in layouts else None
        if axis is not None:
            along_inputs[name] = [channels.named(facet) for facet in facets if facet.shape[axis] > 1]
    read = np.zeros(channels.count, bool)
    for facets in along_inputs.values():
        for named in facets:
            read[named] = True
    members = {unit: list(channels.units[unit].channels) for unit in units}
    unread = [unit for unit, of_unit in members.items() if not read[of_unit].any()]
    masks = channels.keep_masks(unread) if unread else {}
    gone = np.zeros(channels.count, bool)
    for unit in members.keys() - set(unread):
        gone[members[unit]] = True
    for name, facets in along_inputs.items():
        if any(gone[named].any() for named in facets):
            mask = ~np.broadcast_to(any_flagged(gone, facets), channels.shape(name))
            masks[name] = masks[name] & mask if name in masks else mask
    return masks


@torch.no_grad()
def _multiply(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Multiply each tensor, or this rank's part of it, by the factor that goes with it."""
    tensors, factors = [], []
    for tensor, factor in pairs:
        tensors.append(sharding.local(tensor))
        factors.append(factor)
    if tensors:
        torch._foreach_mul_(tensors, factors)
