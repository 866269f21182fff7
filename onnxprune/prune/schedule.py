"""How much of the network is left when, and what a step's metric means for the next one: pure functions.

A schedule takes the progress of pruning, 0 to 1, and the budget, the fraction of the cost that shall be left at the
end; it gives the fraction that may be left now. All start at 1 and end at the budget.

A control decides, step after step, how far the next step goes and whether it is kept:

    Planned        even steps of progress; one that costs too much is undone and halved
    Adaptive       steps that grow while the metric holds and are halved when it doesn't
    Hierarchical   the same layer by layer, from the output down
    Rising         a threshold on the units' scores that is multiplied while the metric holds
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from onnxprune.errors import RecipeError

Schedule = Callable[[float, float], float]

#: Below this progress a step isn't worth its epochs, and pruning ends.
SMALLEST_STEP = 1 / 128
#: A threshold's factor closer to 1 than this isn't worth them either.
SMALLEST_FACTOR = 1.02


def one_shot(progress: float, budget: float) -> float:
    """Everything at once, in the first step."""
    return budget if progress > 0 else 1.0


def linear(progress: float, budget: float) -> float:
    """1 - (1 - budget) progress: the same part of the whole in every step."""
    return 1 - (1 - budget) * progress


def cubic(progress: float, budget: float) -> float:
    """budget + (1 - budget)(1 - progress)^3: much at first, little at the end. Zhu and Gupta 2017, arXiv:1710.01878."""
    return budget + (1 - budget) * (1 - progress) ** 3


def exponential(progress: float, budget: float) -> float:
    """budget^progress: the same share of what is left in every step, whatever it takes to end at the budget."""
    return budget**progress


@dataclass(frozen=True)
class FixedStep:
    """max(budget, (1 - share)^n) at the n-th of `steps` steps: `share` of what is left, until the budget is reached.

    The last step takes what is missing, where there are too few: `enough` says how many it takes.
    """

    steps: int
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.steps < 1:
            raise RecipeError(f"A fixed step takes {self.share!r} of what is left. Give a number between 0 and 1.")

    def __call__(self, progress: float, budget: float) -> float:
        return budget if progress >= 1 else max(budget, (1 - self.share) ** (progress * self.steps))

    def enough(self, budget: float) -> int:
        """The number of steps after which the budget is reached."""
        return max(1, math.ceil(math.log(budget) / math.log(1 - self.share) - 1e-9))


SCHEDULES: dict[str, Schedule] = {
    "one-shot": one_shot,
    "linear": linear,
    "cubic": cubic,
    "exponential": exponential,
}
#: Names that need more than progress and budget: the number of steps, or the metric.
OTHERS = ("fixed", "adaptive", "hierarchical", "threshold")


def find(schedule: "str | Schedule", steps: int = 10) -> Schedule:
    """A schedule by name, or the callable itself. `steps` are those in which "fixed" takes a tenth of what is left.

    "adaptive", "hierarchical" and "threshold" are linear between the points that their controls choose. Raises
    RecipeError for an unknown name.
    """
    if callable(schedule):
        return schedule
    if schedule == "fixed":
        return FixedStep(steps)
    if schedule in OTHERS:
        return linear
    if schedule not in SCHEDULES:
        raise RecipeError(
            f"There is no schedule '{schedule}'. Choose one of: {', '.join(sorted([*SCHEDULES, *OTHERS]))}."
        )
    return SCHEDULES[schedule]


# ---- controls --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """Where pruning stands: the progress that is kept, the next step's size, what came before.

    `theta` is the threshold that is kept, None where there is none yet; `stable` counts steps kept in a row, `taken`
    all steps.
    """

    progress: float = 0.0
    size: float = 0.0
    theta: float | None = None
    stable: int = 0
    taken: int = 0


@dataclass(frozen=True)
class Verdict:
    """Whether a step is kept, why, and where pruning stands now."""

    kept: bool
    reason: str
    position: Position


class Control(Protocol):
    """What the training loop asks of a control."""

    #: Whether a point may be the result only if its metric is at least the floor.
    strict: bool

    def start(self, steps: int) -> Position: ...
    def wants_more(self, position: Position) -> bool: ...
    def floor(self, baseline: float) -> float: ...
    def judge(self, position: Position, reached: float, metric: float, baseline: float, to_come: int) -> Verdict: ...


@dataclass(frozen=True)
class Planned:
    """Even steps of progress. One whose metric lies more than `guard` below the baseline is undone and halved."""

    guard: float = 0.05
    strict: bool = False

    def start(self, steps: int) -> Position:
        return Position(size=1 / max(steps, 1))

    def wants_more(self, position: Position) -> bool:
        return position.progress < 1 and position.size >= SMALLEST_STEP

    def floor(self, baseline: float) -> float:
        return baseline - self.guard

    def judge(self, position: Position, reached: float, metric: float, baseline: float, to_come: int) -> Verdict:
        """What a step to the progress `reached` led to; `to_come` are the steps planned after it."""
        floor = self.floor(baseline)
        kept = metric >= floor
        size = (1 - reached) / max(1, to_come) if kept else (reached - position.progress) / 2
        after = Position(reached if kept else position.progress, size, taken=position.taken + 1)
        return Verdict(kept, _reason(metric, floor, f"{baseline:.4f} - {self.guard:g}"), after)


@dataclass(frozen=True)
class Adaptive:
    """Steps that follow the metric, whatever it takes to reach the budget.

    A drop of more than `tolerance`, as a share of the baseline, undoes the step and halves the next; after `patience`
    steps kept in a row the next is `growth` times as large. It ends at the budget, when steps become too small to be
    worth it, and after `most` steps.
    """

    first: float = 0.1
    tolerance: float = 0.05
    growth: float = 1.5
    patience: int = 2
    most: int = 100
    strict: bool = True
    #: Whether one rate goes as far as it can before the next one starts.
    in_order: bool = False

    def __post_init__(self) -> None:
        sound = 0 < self.first <= 1 and 0 <= self.tolerance < 1 and self.growth >= 1
        if not sound or self.patience < 1 or self.most < 1:
            raise RecipeError(
                f"{self} can't be followed. Give a first step up to 1, a tolerance below 1, a growth of at least 1, "
                "and whole numbers of at least 1."
            )

    def start(self, steps: int) -> Position:
        return Position(size=self.first)

    def wants_more(self, position: Position) -> bool:
        return position.progress < 1 and position.size >= SMALLEST_STEP and position.taken < self.most

    def floor(self, baseline: float) -> float:
        return baseline - self.tolerance * abs(baseline)

    def judge(self, position: Position, reached: float, metric: float, baseline: float, to_come: int) -> Verdict:
        floor = self.floor(baseline)
        kept = metric >= floor
        reason = _reason(metric, floor, f"{baseline:.4f} less {self.tolerance:.1%}")
        taken = position.taken + 1
        if not kept:
            half = (reached - position.progress) / 2
            return Verdict(False, reason, Position(position.progress, half, taken=taken))
        stable = position.stable + 1
        size = position.size
        if stable == self.patience:
            stable, size = 0, size * self.growth
        return Verdict(True, reason, Position(reached, size, stable=stable, taken=taken))


@dataclass(frozen=True)
class Hierarchical(Adaptive):
    """`Adaptive` layer by layer: in each the least important units go until the metric or `left` stops it.

    `left` is the part of its units that each layer may end with. The layer next to the output comes first, and before
    all layers whole residual blocks, where `blocks` is the part of them that may be left.
    """

    first: float = 0.5
    left: float = 0.5
    blocks: float | None = None
    in_order: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.left < 1:
            raise RecipeError(f"{self.left!r} can't be left of each layer. Give a number between 0 and 1.")
        if self.blocks is not None and not 0 < self.blocks < 1:
            raise RecipeError(f"{self.blocks!r} of the residual blocks can't be left. Give a number between 0 and 1.")


@dataclass(frozen=True)
class Rising:
    """A threshold that rises by `factor` a step while the metric holds, and goes back after a violation.

    `first` is the share of units that the first threshold takes; it is halved until it holds. After a later step that
    costs more than `tolerance`, as a share of the baseline, the threshold is what it was and the next factor the square
    root of this one. It ends at the budget, when the factor is close to 1, and after `most` steps.
    """

    first: float = 0.1
    factor: float = 1.5
    tolerance: float = 0.05
    most: int = 100
    strict: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.first < 1 or not self.factor > 1 or not 0 <= self.tolerance < 1 or self.most < 1:
            raise RecipeError(
                f"{self} can't be followed. Give a first share and a tolerance below 1, a factor above 1, and a whole "
                "number of steps."
            )

    def start(self, steps: int) -> Position:
        return Position(size=self.factor)

    def wants_more(self, position: Position) -> bool:
        return position.progress < 1 and position.size >= SMALLEST_FACTOR and position.taken < self.most

    def floor(self, baseline: float) -> float:
        return baseline - self.tolerance * abs(baseline)

    def theta(self, position: Position, at_first: float) -> float:
        """The next step's threshold; `at_first` is the score below which the share `first` of the units lies."""
        return at_first * 0.5**position.taken if position.theta is None else position.theta * position.size

    def judge(self, position: Position, reached: float, metric: float, baseline: float, to_come: int) -> Verdict:
        floor = self.floor(baseline)
        kept = metric >= floor
        reason = _reason(metric, floor, f"{baseline:.4f} less {self.tolerance:.1%}")
        if kept:
            return Verdict(True, reason, replace(position, progress=reached, taken=position.taken + 1))
        if position.theta is None:
            return Verdict(False, reason, replace(position, taken=position.taken + 1))
        return Verdict(False, reason, replace(position, size=math.sqrt(position.size), taken=position.taken + 1))


CONTROLS: dict[str, type] = {"adaptive": Adaptive, "hierarchical": Hierarchical, "threshold": Rising}


def target(position: Position) -> float:
    """The progress of the next step."""
    aim = position.progress + position.size
    return 1.0 if aim > 1 - 1e-9 else aim


def _reason(metric: float, floor: float, how: str) -> str:
    sign = "at least" if metric >= floor else "below"
    return f"validation metric {metric:.4f} is {sign} {floor:.4f} ({how})"
