"""Threshold rules: from a saliency I to a binary mask, 1 where I > theta.

    theta                    fixed
    k * sigma(W)             of a layer's weights, or of all layers'; Han et al. 2015, arXiv:1506.02626
    k * max|dL/dW|, k * max|a|   with 0 < k < 1, of a layer's gradients or activations, or of all layers'
    |dL/dw| < eps            theta = eps on the saliency |dL/dw|

Sigma and maximum are taken over what is alive. A layer that would be left with nothing keeps its best.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxprune.errors import RecipeError

Kind = Literal["fixed", "sigma", "max"]


@dataclass(frozen=True)
class Threshold:
    """theta = `value` ("fixed"), `value` * sigma(source) or `value` * max|source|, in each layer or `everywhere` alike.

    Raises RecipeError for a value that isn't above 0, and for a share of a maximum that isn't below 1.
    """

    kind: Kind
    value: float
    everywhere: bool = False

    def __post_init__(self) -> None:
        below = 1.0 if self.kind == "max" else math.inf
        if self.kind not in ("fixed", "sigma", "max") or not 0 < self.value < below:
            raise RecipeError(
                f"There is no threshold {self.kind!r} of {self.value!r}. Give 'fixed' or 'sigma' with a number above "
                "0, or 'max' with one between 0 and 1."
            )

    def thetas(
        self, source: Mapping[str, np.ndarray], alive: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, float]:
        """{layer: theta}. `source` has each layer's weights, gradients or activations, `alive` what of them counts."""
        living = {name: array[alive[name]] if alive and name in alive else array for name, array in source.items()}
        if not self.everywhere:
            return {name: self._theta(array) for name, array in living.items()}
        theta = self._theta(np.concatenate([np.ravel(array) for array in living.values()]))
        return dict.fromkeys(source, theta)

    def _theta(self, living: np.ndarray) -> float:
        if self.kind == "fixed" or not living.size:
            return self.value
        return self.value * float(np.std(living) if self.kind == "sigma" else np.abs(living).max())


def mask(saliency: np.ndarray, theta: float, alive: np.ndarray | None = None) -> np.ndarray:
    """1[I > theta] of one layer as bool, nothing that is dead among it; the best of what is alive always stays."""
    alive = np.ones(saliency.shape, bool) if alive is None else alive
    keep = (saliency > theta) & alive
    if not keep.any() and alive.any():
        keep[np.unravel_index(np.argmax(np.where(alive, saliency, -np.inf)), saliency.shape)] = True
    return keep
