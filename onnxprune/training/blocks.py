"""Whole residual blocks as units of the pruner: which can go, what they are worth, what is held at zero for them.

A block is off where its own parameters are zero and its branch therefore adds nothing: the sum gives what skips it. A
branch that would add something all the same, such as the 0.5 of a Sigmoid at its end, isn't a block here. Of blocks
that lie in one another the innermost count.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxprune.errors import RecipeError
from onnxprune.graph.exact.forward import forward
from onnxprune.graph.residual import Block
from onnxprune.graph.units import BLOCK, Channels
from onnxprune.prune import criteria
from onnxprune.prune.groups import Group
from onnxprune.training import distributed, probing
from onnxprune.training.export import evaluation_mode
from onnxprune.training.scoring import UNSEEN, Scorer, array

#: What the group of all residual blocks is called.
GROUP = "residual blocks"


class Blocks:
    """The residual blocks of one network that can go, in the graph's order; none where they aren't `wanted`.

    `parameters[b]` names the trained weights that are block b's alone, `units` are indices of units from
    `len(channels.units)` on, as `channels.blocks` counts. `dropped` says which are off: bool [blocks], replaced as a
    whole. `keep` are patterns over parameter names, or parts of them.
    """

    def __init__(
        self,
        channels: Channels,
        parameters: Mapping[str, nn.Parameter],
        keep: Sequence[str] = (),
        *,
        wanted: bool = True,
    ):
        found = [(b.index, channels.dropped([b.index])[0]) for b in channels.blocks] if wanted else []
        inner = [(i, block) for i, block in found if not any(_holds(block, other) for _, other in found)]
        self.units: list[int] = []
        self.parameters: list[tuple[str, ...]] = []
        self.weights: list[frozenset[str]] = []  # with what isn't trained, such as a BatchNorm's statistics
        for index, block in inner:
            names = tuple(value.name for value in block.weights() if value.name in parameters)
            kept = any(fnmatch(name, f"*{pattern}*") for name in names for pattern in keep)
            if names and not kept and _adds_nothing(channels, block, names):
                self.units.append(index)
                self.parameters.append(names)
                self.weights.append(frozenset(value.name or "" for value in block.weights()))
        self.inside = [_channels_of(channels, names) for names in self.weights]
        self.dropped = np.zeros(len(self.units), bool)
        # Numbered on from the units, without those that can't go.
        self.group = Group(len(channels.units) + np.arange(len(self.units)), GROUP, BLOCK)

    def fraction(self, left: float) -> float:
        """What a budget says of blocks, as a fraction of those that can go. Raises RecipeError where it can't be."""
        if not self.units:
            raise RecipeError(
                "The budget asks for residual blocks, and this network has none that could go whole. Leave 'block' out."
            )
        if not 0 < left < np.inf:
            raise RecipeError(f"The budget asks for {left!r} block. Give what may be left, above 0.")
        return left if left <= 1 else min(1.0, left / len(self))

    def __len__(self) -> int:
        return len(self.units)

    def choose(self, scores: np.ndarray, left: float, stay: np.ndarray | None = None) -> np.ndarray:
        """Which blocks are off so that at most the share `left` stays, the least `scores` first: bool [blocks].

        Those that are dropped stay so; those in `stay` aren't chosen.
        """
        wanted = int(np.ceil(len(self) * (1 - left) - 1e-9))
        free = ~self.dropped if stay is None else ~self.dropped & ~stay
        order = np.lexsort((scores, ~free))[: int(free.sum())]
        found = self.dropped.copy()
        found[order[: max(wanted - int(found.sum()), 0)]] = True
        return found

    @property
    def left(self) -> float:
        """The share that is on."""
        return 1 - float(self.dropped.mean())

    @property
    def dropped_units(self) -> list[int]:
        """The units that are off."""
        return [self.units[number] for number in np.flatnonzero(self.dropped)]

    @property
    def dropped_parameters(self) -> frozenset[str]:
        """The parameters of what is off."""
        return frozenset(name for number in np.flatnonzero(self.dropped) for name in self.parameters[number])

    @property
    def dropped_weights(self) -> frozenset[str]:
        """All that goes with it."""
        return frozenset(name for number in np.flatnonzero(self.dropped) for name in self.weights[number])

    def units_inside(self, channels: Channels) -> np.ndarray:
        """Which units lie wholly within what is off: bool [units]."""
        if not self.dropped.any():
            return np.zeros(len(channels.units), bool)
        flags = np.zeros(channels.count, bool)
        for number in np.flatnonzero(self.dropped):
            flags |= self.inside[number]
        return channels.units.sets.all(flags)

    def scores(self, scorer: Scorer, channels: Channels, batches: Sequence = ()) -> np.ndarray:
        """[blocks]: what each is worth by the scorer's criterion, at least 0; of several the sum of ranks."""
        parts = []
        for number, (weight, _) in enumerate(scorer.terms):
            scores = self._by_term(scorer, number, channels, batches)
            criteria.require_finite({"the residual blocks": np.nan_to_num(scores, nan=0.0, posinf=np.inf)})
            seen = np.isfinite(scores)
            last = UNSEEN * float(scores[seen].max(initial=0)) or 1.0
            parts.append((weight, np.where(seen, np.maximum(scores, 0), last)))
        return criteria.combine(parts)

    def _by_term(self, scorer: Scorer, number: int, channels: Channels, batches: Sequence) -> np.ndarray:
        """Sums over what belongs to each block alone; what is measured with parts off is measured with it off."""
        term = scorer.terms[number][1]
        if "contribution" in term.reads:
            return scorer.of_blocks(number)
        weights = {name: array(p) for names in self.parameters for name in names for p in [scorer.parameters[name]]}

        def sums(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            return np.array([sum(float(of(weights[n]).sum()) for n in names) for names in self.parameters])

        if "wrong" in term.reads or "curve" in term.reads:
            return self._rises(scorer, batches, of_answers="wrong" in term.reads)
        if term.scope == "units":
            evidence = {"magnitude": sums(np.abs), "squares": sums(np.square), "sizes": sums(np.ones_like)}
            return term(**evidence, generator=np.random.default_rng(scorer.seed))
        if term.scope == "weights":
            of_weights = scorer.of_weights(number)
            found = [[of_weights[n].sum() for n in names if n in of_weights] for names in self.parameters]
            return np.array([float(sum(values)) if values else np.nan for values in found])
        of_channels = scorer.of_channels(channels, number)
        told = [flags & of_channels.seen for flags in self.inside]
        return np.array([float(of_channels.total[flags].sum()) if flags.any() else np.nan for flags in told])

    def _rises(self, scorer: Scorer, batches: Sequence, of_answers: bool) -> np.ndarray:
        """[blocks]: the rise of the error rate, or of the mean loss, with each off; over the batches of all ranks."""

        def measure() -> tuple[float, float]:
            if of_answers:
                return probing.wrong_answers(scorer.module, batches)
            return probing.total_loss(scorer.module, batches, scorer.loss)

        with evaluation_mode(scorer.module), torch.no_grad():
            sums = [measure()]
            for names in self.parameters:
                with _off(scorer.parameters, names):
                    sums.append(measure())
        of_all = distributed.total({"sums": np.array(sums, float)})["sums"]
        means = of_all[:, 0] / np.maximum(of_all[:, 1], 1)
        return np.maximum(means[1:] - means[0], 0)


def _holds(block: Block, other: Block) -> bool:
    """Whether the other block lies within the branch of this one."""
    return other is not block and set(other.branch) < set(block.branch)


def _adds_nothing(channels: Channels, block: Block, names: Collection[str]) -> bool:
    """Whether the branch gives 0 where its own parameters are 0, whatever it reads."""
    known = forward(channels.trace, block.branch, names).known.get(block.add.inputs[block.operand])
    return known is not None and known.holds(0)


def _channels_of(channels: Channels, names: Collection[str]) -> np.ndarray:
    """The channels that no parameter but these carries: bool [channels]."""
    inside, outside = np.zeros(channels.count, bool), np.zeros(channels.count, bool)
    for name, facets in channels.parameters():
        for facet in facets:
            (inside if name in names else outside)[channels.named(facet)] = True
    return inside & ~outside & channels.deletable


@contextmanager
def _off(parameters: Mapping[str, nn.Parameter], names: Collection[str]) -> Iterator[None]:
    before: dict[str, Any] = {name: parameters[name].detach().clone() for name in names}
    try:
        with torch.no_grad():
            for name in names:
                parameters[name].zero_()
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)
