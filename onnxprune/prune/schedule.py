"""How much of the network is left when: pure functions of progress.

A schedule takes the progress of pruning, 0 to 1, and the budget, the fraction of the cost that shall be left at the
end; it gives the fraction that may be left now. All start at 1 and end at the budget.
"""

from collections.abc import Callable

from onnxprune.errors import RecipeError

Schedule = Callable[[float, float], float]


def one_shot(progress: float, budget: float) -> float:
    """Everything at once, in the first step."""
    return budget if progress > 0 else 1.0


def fixed_step(progress: float, budget: float) -> float:
    """The same share of what is left in every step: budget^progress."""
    return budget**progress


def cubic(progress: float, budget: float) -> float:
    """budget + (1 - budget)(1 - progress)^3: much at first, little at the end. Zhu and Gupta 2017, arXiv:1710.01878."""
    return budget + (1 - budget) * (1 - progress) ** 3


SCHEDULES: dict[str, Schedule] = {"one-shot": one_shot, "fixed": fixed_step, "cubic": cubic}


def find(schedule: "str | Schedule") -> Schedule:
    """A schedule by name, or the callable itself. Raises RecipeError for an unknown name."""
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise RecipeError(f"There is no schedule '{schedule}'. Choose one of: {', '.join(sorted(SCHEDULES))}.")
    return SCHEDULES[schedule]
