"""The mixed-integer program that chooses the widths of all groups at once."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from onnxprune.errors import BudgetUnreachable

Terms = Mapping[str, Mapping[tuple[int, ...], float]]


def best_widths(
    worth: Sequence[np.ndarray],
    widths: Sequence[Sequence[int]],
    sizes: Sequence[int],
    budget: Mapping[str, float],
    terms: Terms,
    totals: Mapping[str, float],
) -> list[int]:
    """The width of each group: the most `worth`, one value a choice in `widths`, with the costs within `budget`.

    `sizes` are the groups' units; `terms` what {() or (group,) or two groups} cost together, `totals` the whole.
    Raises BudgetUnreachable.
    """
    start = np.r_[0, np.cumsum([len(w) for w in widths])].astype(int)
    pairs = sorted({key for name in budget for key in terms[name] if len(set(key)) == 2})
    offset = {}
    count = int(start[-1])
    for a, b in pairs:
        offset[a, b] = count
        count += len(widths[a]) * len(widths[b])
    left = [np.array(w) / size for w, size in zip(widths, sizes, strict=True)]

    rows, columns, entries, low, high = [], [], [], [], []

    def add(indices, coefficients, lower: float, upper: float) -> None:
        rows.extend([len(low)] * len(indices))
        columns.extend(indices)
        entries.extend(coefficients)
        low.append(lower)
        high.append(upper)

    for g in range(len(widths)):
        add(range(start[g], start[g + 1]), np.ones(len(widths[g])), 1, 1)
    for a, b in pairs:
        # The pair variables' margins are the choices of either group.
        grid = offset[a, b] + np.arange(len(widths[a]) * len(widths[b])).reshape(len(widths[a]), len(widths[b]))
        for k in range(len(widths[a])):
            add([*grid[k], start[a] + k], [*np.ones(len(widths[b])), -1], 0, 0)
        for m in range(len(widths[b])):
            add([*grid[:, m], start[b] + m], [*np.ones(len(widths[a])), -1], 0, 0)
    for name, limit in budget.items():
        coefficients = np.zeros(count)
        constant = 0.0
        for key, value in terms[name].items():
            if not key:
                constant += value
            elif len(set(key)) == 1:
                g = key[0]
                coefficients[start[g] : start[g + 1]] += value * left[g] ** len(key)
            else:
                a, b = key
                first = offset[a, b]
                product = np.outer(left[a], left[b]).ravel()
                coefficients[first : first + product.size] += value * product
        total = max(totals[name], 1e-12)
        used = np.flatnonzero(coefficients)
        add(used, coefficients[used] / total, -np.inf, limit - constant / total)
    if not rows:
        return []
    objective = np.zeros(count)
    # What the narrowest widths would cost.
    scale = max(sum(float(np.abs(w).max(initial=0)) for w in worth), 1e-30)
    for g, values in enumerate(worth):
        # Where saliency can't tell, wider is better.
        objective[start[g] : start[g + 1]] = -values / scale - 1e-6 * left[g]
    matrix = coo_array((entries, (rows, columns)), shape=(len(low), count)).tocsr()
    integral = np.r_[np.ones(start[-1]), np.zeros(count - start[-1])]
    result = milp(
        objective,
        constraints=LinearConstraint(matrix, low, high),
        integrality=integral,
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-3, "node_limit": 2000},
    )
    if result.x is None:
        raise BudgetUnreachable(f"No widths within the budget were found ({result.message}). Ask for a larger budget.")
    return [widths[g][int(np.argmax(result.x[start[g] : start[g + 1]]))] for g in range(len(widths))]
