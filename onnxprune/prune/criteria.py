"""Saliency of every weight: how much the loss is expected to mind its absence. Units sum it over their weights.

A criterion takes arrays of one shape, the weight and the gradient of the loss averaged over what was seen, and gives a
non-negative array of that shape.
"""

from collections.abc import Callable

import numpy as np

from onnxprune.errors import RecipeError

Criterion = Callable[[np.ndarray, np.ndarray], np.ndarray]


def magnitude(weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """|w|: small weights go first. Han et al. 2015, "Learning both Weights and Connections", arXiv:1506.02626."""
    return np.abs(weight)


def magnitude_l2(weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """w^2: a unit's sum is its squared L2 norm. Li et al. 2017, "Pruning Filters for Efficient ConvNets"."""
    return np.square(weight)


def taylor(weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """|w dL/dw|: the change of loss to first order when w becomes 0. Molchanov et al. 2019, arXiv:1906.10771, eq. 8."""
    return np.abs(weight * gradient)


CRITERIA: dict[str, Criterion] = {"magnitude": magnitude, "magnitude_l2": magnitude_l2, "taylor": taylor}

#: Criteria that read gradients, which have to be gathered while training.
NEEDS_GRADIENT = frozenset({"taylor"})


def find(criterion: "str | Criterion") -> Criterion:
    """A criterion by name, or the callable itself. Raises RecipeError for an unknown name."""
    if callable(criterion):
        return criterion
    if criterion not in CRITERIA:
        raise RecipeError(f"There is no criterion '{criterion}'. Choose one of: {', '.join(sorted(CRITERIA))}.")
    return CRITERIA[criterion]
