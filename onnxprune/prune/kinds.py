"""Plans for kinds of units that overlap: heads, and the dimensions of the heads that stay, in one run."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.errors import RecipeError
from onnxprune.graph.units import BLOCK, KINDS, Channels
from onnxprune.prune.groups import Group, Reason
from onnxprune.prune.plan import COSTS, Planner

#: {kind: kinds whose units hold some of it}: planned after them where a budget names both.
WITHIN = {"head dimension": ("head", "key-value group")}
#: The rate of what a budget says of costs.
COST = "cost"


class Planners:
    """One planner for what a budget names; a second for the kind that lies within units of another kind that it names.

    `how` is what `Planner` takes.
    """

    def __init__(self, channels: Channels, names: Sequence[str], **how: Any):
        widths = [name for name in names if name not in COSTS and name not in (*KINDS, BLOCK)]
        kinds = set(names) - set(COSTS) - set(widths) - {BLOCK}
        self.names = tuple(names)
        how["widths"] = widths
        self.inner = next((kind for kind, outer in WITHIN.items() if kind in kinds and kinds & set(outer)), None)
        self.main = Planner(channels, prefer=kinds - {self.inner}, **how)
        self.second = Planner(channels, prefer={self.inner}, **how) if self.inner else None

    @property
    def stages(self) -> list[Planner]:
        """The planners in the order in which their plans are carried out."""
        return [self.main] if self.second is None else [self.main, self.second]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups of units that are planned, those of the inner kind last."""
        if self.second is None:
            return self.main.groups
        return (*self.main.groups, *(group for group in self.second.groups if group.kind == self.inner))

    @cached_property
    def compared(self) -> list[np.ndarray]:
        """The sets of units whose saliencies are compared."""
        if self.second is None:
            return self.main.compared
        of_inner = np.concatenate([group.units for group in self.groups if group.kind == self.inner])
        inner = [units[np.isin(units, of_inner)] for units in self.second.compared]
        return [*self.main.compared, *(units for units in inner if len(units))]

    @cached_property
    def staying(self) -> dict[Reason, tuple[Group, ...]]:
        """The groups of units that are never planned, by why."""
        found = dict(self.main.staying)
        planned = {(group.name, group.kind) for group in self.groups}
        overlap = [g for g in found.pop("overlap", ()) if (g.name, g.kind) not in planned]
        return {**found, "overlap": tuple(overlap)} if overlap else found

    def taken(
        self, scores: np.ndarray, budget: Mapping[str, float], theta: float | None, gone: np.ndarray, stay
    ) -> np.ndarray:
        """Bool [units]: what would be gone after a step to `budget`, or to the threshold `theta` on the way to it.

        `gone`, bool [units], are those that are gone before, `stay` those that aren't to be chosen.
        """
        gone = gone.copy()
        for stage in self.stages:
            wanted = self.of(stage, budget)
            units = np.flatnonzero(gone).tolist()
            if theta is None:
                plan = stage.plan(scores, wanted, units, stay)
            else:
                plan = stage.plan_below(scores, theta, wanted, units, stay)
            gone[list(plan.units)] = True
        return gone

    def of(self, stage: Planner, target: Mapping[str, float]) -> dict[str, float]:
        """What of a target a stage plans."""
        inner = stage is self.second
        return {name: value for name, value in target.items() if (name == self.inner) == inner and name != BLOCK}

    @property
    def plans_units(self) -> bool:
        """Whether anything but whole residual blocks is planned."""
        return set(self.names) != {BLOCK}

    def fractions(self, budget: Mapping[str, float]) -> dict[str, float]:
        """A budget with every figure as a fraction, see `Planner.fractions`."""
        if not budget:
            raise RecipeError("The budget is empty. Give macs, params or bytes, as a fraction or a figure.")
        parts = [stage.fractions(part) for stage in self.stages if (part := self.of(stage, budget))]
        return {name: value for part in parts for name, value in part.items()}

    def check(self, budget: Mapping[str, float]) -> None:
        """Raise BudgetUnreachable for a budget below the smallest legal network."""
        for stage in self.stages:
            stage.check(self.of(stage, budget))

    def cost(self, units: Iterable[int], deleted: np.ndarray) -> dict[str, float]:
        """What is left of each cost and of each kind without `units`, whose channels are `deleted`, bool [channels]."""
        return self.main.cost_without(units) if self.second is None else self.main.cost_of(deleted)


def rate_of(name: str) -> str:
    """Costs and widths of layers go down together, each kind of unit by itself."""
    return name if name in (*KINDS, BLOCK) else COST
