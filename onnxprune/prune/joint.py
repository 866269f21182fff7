"""Units and single weights against each other, for one budget: whatever has the least saliency for what it costs goes.

A weight w with saliency s_w costs c_w; where it alone is zero its place still costs z c_w, 0 <= z <= 1, since a dense
tensor holds zeros too (z = 1 on ONNX Runtime's CPU provider, where only units pay; z = 0 where only what isn't zero is
stored or computed). For a price p of a unit of cost, the best that a unit u can be worth is

    V_u(p) = sum over its weights of max(s_w - p c_w, -p z c_w)

so that a weight in a unit that stays goes where s_w / ((1 - z) c_w) <= p, and the unit where V_u(p) <= 0: where the
saliency of the weights that would stay is no more than p times what they and the zeros between them cost. What goes at
one price goes at every higher one; the lowest price that meets the budget is taken. This is the knapsack problem by
Lagrange multipliers (Everett 1963, "Generalized Lagrange Multiplier Method", Operations Research 11(3); of pruning as a
knapsack problem, Aflalo et al. 2020, "Knapsack Pruning with Inner Distillation", arXiv:2002.08258). Weights that lie in
two units, as those of a matrix in a row and a column, count in both.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import BudgetUnreachable, RecipeError
from onnxprune.prune.plan import COSTS, Plan, Planner

#: What is left of a network's cost with its single weights, among a pruner's costs.
JOINT = "joint"
#: Halvings of the interval in which the price lies.
HALVINGS = 40


@dataclass(frozen=True, eq=False)
class Joint:
    """What goes: units as a `plan`, single weights as `masks` (bool, False where one goes), and what is `left`.

    `left` is the fraction of the dense network's cost, zeros that stay counted at their part. `worth` [units] is what
    each unit was worth for what it costs at no price: the ratio by which they can be compared.
    """

    plan: Plan
    masks: Mapping[str, np.ndarray]
    left: float
    worth: np.ndarray


def choose(
    planner: Planner,
    saliency: Mapping[str, np.ndarray],
    single: Mapping[str, np.ndarray],
    *,
    cost: str,
    limit: float,
    zero_cost: float,
    deleted: np.ndarray,
) -> Joint:
    """The units and weights that go so that at most the fraction `limit` of the `cost` is left.

    `saliency` has a score for each weight of each parameter; `single`, bool, which weights of matrices and kernels may
    go by themselves and are there, all others only with their units. `deleted`, bool [units], are gone already.
    Raises BudgetUnreachable where even the least widths cost more.
    """
    costs = planner.element_costs(cost)
    names = [name for name in saliency if costs.get(name, 0.0) > 0]
    channels = planner.channels
    sums = channels.importance({name: saliency[name] for name in names})
    prices = channels.importance({name: np.full(saliency[name].shape, costs[name]) for name in names})
    worth = sums / np.maximum(prices, 1e-30)

    def at(price: float) -> Joint:
        values, masks = {}, {}
        for name in names:
            score, each = saliency[name], costs[name]
            kept = score - price * each
            if name in single:
                masks[name] = single[name] & (score > price * (1 - zero_cost) * each)
                kept = np.where(masks[name], kept, -price * zero_cost * each)
            values[name] = kept
        stays = (channels.importance(values) > 0) & ~deleted
        plan = planner.plan_around(worth, stays, np.flatnonzero(deleted))
        gone = channels.units.sets.chosen(np.array(plan.units, np.int64)).flat
        flags = np.zeros(channels.count, bool)
        flags[gone] = True
        there = {name: np.broadcast_to(planner.kept(name, flags), saliency[name].shape) for name in names}
        for name, mask in masks.items():
            if there[name].any() and not (there[name] & mask).any():  # a layer keeps its best weight
                mask[np.unravel_index(np.argmax(np.where(there[name], saliency[name], -1.0)), mask.shape)] = True
        alive = {name: there[name] & masks[name] if name in masks else there[name] for name in names}
        left = left_of(planner, cost, zero_cost, there, alive)
        return Joint(plan, masks, left, worth)

    low, high = 0.0, 2.0 * max((float((saliency[n] / costs[n]).max(initial=0)) for n in names), default=0.0)
    high = high / max(1 - zero_cost, 1e-3) + 1e-12
    best = at(high)
    if best.left > limit + 1e-9:
        raise BudgetUnreachable(
            f"A budget of {limit:.1%} of the {cost}, units and single weights together, can't be reached: the smallest "
            f"has {best.left:.1%}. Ask for more, or keep fewer layers whole."
        )
    free = at(0.0)
    if free.left <= limit:
        return free
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = at(middle)
        if found.left <= limit + 1e-9:
            high, best = middle, found
        else:
            low = middle
    return best


def left_of(
    planner: Planner, cost: str, zero_cost: float, there: Mapping[str, np.ndarray], alive: Mapping[str, np.ndarray]
) -> float:
    """The fraction of the `cost` that is left, zeros that stay counted at their part.

    `there`, bool, has the elements that units leave, `alive` those that aren't zero; who isn't named is whole.
    """
    left = whole = 0.0
    for name, each in planner.element_costs(cost).items():
        size = float(np.prod(planner.channels.shape(name)))
        places = float(there[name].sum()) if name in there else size
        living = float(alive[name].sum()) if name in alive else places
        whole += each * size
        left += each * (zero_cost * places + (1 - zero_cost) * living)
    return left / max(whole, 1e-30)


def check(budget: Mapping[str, float]) -> None:
    """Raise RecipeError for a budget that isn't one cost."""
    if len(budget) != 1 or not set(budget) <= set(COSTS):
        raise RecipeError(
            f"Units and single weights compete for one budget, and this one names {', '.join(budget) or 'none'}. "
            "Give macs, params or bytes alone with joint."
        )
