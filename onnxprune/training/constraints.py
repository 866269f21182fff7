"""Steps after the optimizer's that reach exact zeros: proximal ones for a penalty, and projections on a constraint.

A gradient step on a penalty makes weights small and none zero. A proximal step (Parikh and Boyd 2014, "Proximal
Algorithms", chapters 4 and 6) minimises the penalty and the distance to where the optimizer went together, which is
soft thresholding for L1 and block soft thresholding for a group lasso.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch

import numpy as np
import torch
from torch import nn

from onnxprune.errors import InputError, RecipeError
from onnxprune.graph.units import Channels
from onnxprune.training.contributions import ChannelSums
from onnxprune.training.regularize import Penalty

CONSTRAINTS = ("l1", "units")
Groups = Sequence[np.ndarray]


def soft_threshold(values: torch.Tensor, threshold: float) -> torch.Tensor:
    """sign(w) max(|w| - threshold, 0) of each element. Parikh and Boyd 2014, 6.5.2."""
    return values.sign() * (values.abs() - threshold).clamp_min(0)


def project_l1(values: torch.Tensor, radius: float) -> torch.Tensor:
    """The nearest tensor whose absolute values sum to at most `radius`, which is above 0.

    Duchi et al. 2008, "Efficient Projections onto the l1-Ball": soft thresholding with the one threshold that gives the
    sum. It is found without sorting, from the sums over what lies above it (Michelot 1986).
    """
    active = values.abs().flatten().double()
    if active.sum() <= radius:
        return values
    while True:
        threshold = (active.sum() - radius) / len(active)
        above = active[active > threshold]
        if len(above) in (0, len(active)):
            return soft_threshold(values, float(threshold))
        active = above


class SparseSteps:
    """What follows each step of the optimizer in one network.

    `limits` are constraints: {"l1": the sum of |w| that each matrix or kernel may have, up to 1 a fraction of what it
    has now, above 1 a figure; "units": live units that each layer may have, likewise}. `penalty` takes proximal steps
    where it is proximal. Parameters that `keep` says nothing about and units in the groups of a call are touched, no
    others; each group keeps its `least` largest units. `layouts` names matrices and kernels.

    Raises RecipeError for another constraint or a limit that isn't above 0.
    """

    def __init__(
        self,
        penalty: Penalty,
        limits: Mapping[str, float],
        parameters: Mapping[str, nn.Parameter],
        layouts: Iterable[str],
        channels: Channels,
        *,
        keep: Sequence[str] = (),
        least: int = 1,
    ):
        for name, limit in limits.items():
            if name not in CONSTRAINTS or not 0 < limit < np.inf:
                raise RecipeError(
                    f"There is no constraint {name!r} to {limit!r}. Choose {' or '.join(CONSTRAINTS)}, above 0."
                )
        self.penalty, self.limits, self.least = penalty, dict(limits), least
        self.parameters = {
            name: p
            for name, p in parameters.items()
            if p.requires_grad and not any(fnmatch(name, f"*{pattern}*") for pattern in keep)
        }
        self.active = bool(limits) or (penalty.proximal and penalty.weight > 0)
        self.radii: dict[str, float] = {}
        self._dead = np.zeros(channels.count, bool)
        if not self.active:
            return
        self.sums = ChannelSums(channels, parameters)
        self._facets = {
            name: [torch.from_numpy(np.array(channels.named(facet))) for facet in facets]
            for name, facets in channels.parameters()
            if name in parameters
        }
        if "l1" in self.limits:
            limit = self.limits["l1"]
            for name in self.parameters.keys() & set(layouts):
                radius = limit if limit > 1 else limit * float(self.parameters[name].detach().abs().sum())
                if radius > 0:  # what starts at zero is to be trained
                    self.radii[name] = radius

    @torch.no_grad()
    def take(self, optimizer: torch.optim.Optimizer | None, channels: Channels, groups: Groups) -> None:
        """The proximal step of the optimizer's learning rate, and then the projections.

        `groups` are indices of `channels.units`, layer by layer. Raises InputError where the step needs an optimizer.
        """
        if self.penalty.proximal and self.penalty.weight > 0:
            if optimizer is None:
                raise InputError("A proximal step is as long as the learning rate. Call step(optimizer).")
            if self.penalty.kind == "group":
                self._shrink_channels(_rates(optimizer), channels, groups)
            else:
                rates = _rates(optimizer)
                for name, parameter in self.penalty.parameters.items():
                    if name in self.parameters:
                        threshold = rates.get(parameter, 0.0) * self.penalty.weight
                        parameter.copy_(soft_threshold(parameter, threshold))
        if "units" in self.limits:
            self._project_units(channels, groups)
        for name, radius in self.radii.items():
            parameter = self.parameters[name]
            parameter.copy_(project_l1(parameter, radius))

    def dead(self) -> np.ndarray:
        """bool [channels]: those whose every weight is zero."""
        alive = self.sums.of({name: (p != 0).float() for name, p in self.sums.parameters.items()})
        return self.sums.seen & (alive.cpu().numpy() < 0.5)

    def newly_dead(self, deleted: np.ndarray) -> np.ndarray | None:
        """The dead and the `deleted` channels, bool [channels]; None where they were the same at the last call."""
        dead = self.dead() | deleted
        if np.array_equal(dead, self._dead):
            return None
        self._dead = dead
        return dead

    def to_delete(self, dead: np.ndarray, deleted: np.ndarray, channels: Channels, groups: Groups) -> list[int]:
        """The units that lie within `dead` and not within `deleted`; `least` of each group stay."""
        sets = channels.units.sets
        died, gone = sets.all(dead), sets.all(deleted)
        found: list[int] = []
        for units in groups:
            room = len(units) - self.least - int(gone[units].sum())
            found += units[died[units] & ~gone[units]][: max(room, 0)].tolist()
        return found

    def _squares(self) -> np.ndarray:
        """[channels]: the sums of squared weights."""
        return self.sums.of({name: p.square() for name, p in self.sums.parameters.items()}).cpu().numpy()

    def _shrink_channels(self, rates: Mapping, channels: Channels, groups: Groups) -> None:
        """Block soft thresholding, w max(1 - t / ||w||, 0): each channel that a weight belongs to shrinks it.

        t is the penalty's weight times the root of the channel's size times the largest learning rate of any parameter.
        """
        rate = max((rates.get(p, 0.0) for p in self.penalty.parameters.values()), default=0.0)
        squares, factors = self._squares(), np.ones(channels.count)
        norms = np.sqrt(squares)
        thresholds = rate * self.penalty.weight * self.penalty.roots
        shrunk = np.maximum(1 - thresholds / np.maximum(norms, 1e-300), 0)
        sets = channels.units.sets
        for units in groups:
            members = sets.chosen(units).flat
            factors[members] = shrunk[members]
            self._spare(units, channels, squares, factors)
        self._scale(factors)

    def _project_units(self, channels: Channels, groups: Groups) -> None:
        """Only the largest units of each layer stay: the nearest weights with so many live units."""
        limit, squares, factors = self.limits["units"], self._squares(), np.ones(channels.count)
        for units in groups:
            most = int(limit if limit > 1 else limit * len(units) + 1e-9)
            order = np.argsort(-channels.units.sets.chosen(units).sums(squares), kind="stable")
            factors[channels.units.sets.chosen(units[order[max(most, self.least) :]]).flat] = 0.0
        self._scale(factors)

    def _spare(self, units: np.ndarray, channels: Channels, squares: np.ndarray, factors: np.ndarray) -> None:
        """A layer's largest units stay as they are where they would be gone."""
        sets = channels.units.sets.chosen(units)
        largest = np.argsort(-sets.sums(squares), kind="stable")[: self.least]
        members = sets.chosen(largest).flat
        factors[members] = np.where(factors[members] > 0, factors[members], 1.0)

    def _scale(self, factors: np.ndarray) -> None:
        """Multiply the weights of every channel by its factor, once where two facets give a weight to one channel."""
        for name, facets in self._facets.items():
            parameter, scale = self.sums.parameters[name], None
            if not parameter.requires_grad:
                continue
            for number, named in enumerate(facets):
                own = torch.from_numpy(factors[named.numpy()])
                for other in facets[:number]:
                    own = torch.where(other == named, 1.0, own)
                scale = own if scale is None else scale * own
            if scale is not None and bool((scale != 1).any()):
                parameter.mul_(scale.to(parameter))


def _rates(optimizer: torch.optim.Optimizer) -> dict[nn.Parameter, float]:
    return {p: float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
