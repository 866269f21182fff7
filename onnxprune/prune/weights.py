"""Single weights: which of a matrix's or kernel's elements stay, over and above the units that go whole.

ONNX Runtime's CPU provider computes with zeros as with any number, so this makes no network faster there: it is for
compression, and for runtimes that have kernels for a pattern. Arrays are `[O,I,*K]`, outputs first.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import RecipeError
from onnxprune.prune.thresholds import Threshold, mask

_N_OF_M = re.compile(r"(\d+):(\d+)")
_BLOCK = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class SingleWeights:
    """What becomes of single weights. Rules may be given together; biases and scales are left alone.

    share       the share of the weights that are alive in what the units leave, least scores first, all layers together
    pattern     "2:4": of every 4 weights along the inputs 2 stay; "4x1": of the blocks of 4 outputs by 1 input each
                layer loses `share`
    threshold   weights whose score isn't above it go, see `onnxprune.prune.thresholds`
    clip        (low, high): weights are held between these
    joint       units and single weights compete for the budget, which then counts both: from 0 to 1, the part of its
                cost that a single weight's place keeps when it is zero, see `onnxprune.prune.joint`
    criterion   a criterion that scores single weights; with `joint` also the units
    only        patterns over the names of parameters, or of modules that hold them; all others stay whole

    A share grows with the schedule; patterns and thresholds come with the last step, when the units are settled.
    Raises RecipeError for values that don't fit.
    """

    share: float | None = None
    pattern: str | None = None
    threshold: Threshold | None = None
    clip: tuple[float, float] | None = None
    joint: float | None = None
    criterion: str = "magnitude"
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share < 1:
            raise RecipeError(f"The share of single weights is {self.share!r}. Give a number between 0 and 1.")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise RecipeError(f"Weights can't be clipped to {self.clip!r}. Give a low and a higher number.")
        if self.pattern is not None:
            n_of_m, block = _N_OF_M.fullmatch(self.pattern), _BLOCK.fullmatch(self.pattern)
            sound = n_of_m and 0 < int(n_of_m[1]) < int(n_of_m[2])
            sound = sound or (block and self.share is not None and int(block[1]) * int(block[2]) > 1)
            if not sound:
                raise RecipeError(
                    f"The pattern {self.pattern!r} can't be used. Give n:m with n below m, such as 2:4, or a block "
                    "such as 4x1 together with a share."
                )
        if self.joint is not None and not 0 <= self.joint <= 1:
            raise RecipeError(f"A zero can't cost {self.joint!r} of a weight. Give joint a number from 0 to 1.")
        if self.joint is not None and (self.share, self.pattern, self.threshold) != (None,) * 3:
            raise RecipeError("With joint the budget says how many weights go. Leave share, pattern and threshold out.")
        if (self.share, self.pattern, self.threshold, self.clip, self.joint) == (None,) * 5:
            raise RecipeError(
                "Nothing is said about single weights. Give a share, a pattern, a threshold, a clip, or joint."
            )

    @property
    def rates(self) -> tuple[str, ...]:
        """What can go further by itself: "connections", a share or a pattern; "parameters", a threshold."""
        connections = ("connections",) if self.share is not None or self.pattern is not None else ()
        return (*connections, "parameters") if self.threshold is not None else connections

    @property
    def grows(self) -> bool:
        """Whether a part of it comes with every step."""
        return self.share is not None and self.pattern is None

    def keep(
        self,
        weights: Mapping[str, np.ndarray],
        scores: Mapping[str, np.ndarray],
        alive: Mapping[str, np.ndarray],
        share: float,
        last: bool,
        part: float = 1.0,
    ) -> dict[str, np.ndarray]:
        """{layer: which weights stay} at a step that takes `share`; `alive` is what the units leave, bool.

        A pattern comes with the `last` step; a threshold is taken times `part`, and not at all where that is 0. Its
        sigma is that of the weights, its maximum that of the scores.
        """
        masks = dict(alive)
        if self.grows and share > 0:
            masks = least(scores, alive, share)
        if part > 0 and self.threshold is not None:
            thetas = self.threshold.thetas(weights if self.threshold.kind == "sigma" else scores, masks)
            masks = {name: mask(scores[name], part * thetas[name], masks[name]) for name in masks}
        if last and self.pattern is not None:
            found = _N_OF_M.fullmatch(self.pattern)
            for name, whole in alive.items():
                patterned = (
                    n_of_m(scores[name], whole, int(found[1]), int(found[2]))
                    if found
                    else blocks(scores[name], whole, *map(int, self.pattern.split("x")), self.share or 0.0)
                )
                masks[name] = masks[name] & patterned
        return masks


def least(scores: Mapping[str, np.ndarray], alive: Mapping[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """Take `share` of all that is alive, the least scores first; every layer keeps its best weight."""
    flat = np.concatenate([scores[name][alive[name]].ravel() for name in alive])
    taken = np.zeros(len(flat), bool)
    taken[np.argsort(flat, kind="stable")[: int(share * len(flat))]] = True
    masks, start = {}, 0
    for name, whole in alive.items():
        count = int(whole.sum())
        keep = np.zeros(whole.shape, bool)
        keep[whole] = ~taken[start : start + count]
        start += count
        if count and not keep.any():
            keep[np.unravel_index(np.argmax(np.where(whole, scores[name], -np.inf)), whole.shape)] = True
        masks[name] = keep
    return masks


def n_of_m(scores: np.ndarray, alive: np.ndarray, n: int, m: int) -> np.ndarray:
    """Of every `m` weights along the inputs that are left the best `n` stay; fewer than `m` at the end all stay.

    Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378. Of equals the first stay.
    """
    columns = np.flatnonzero(alive.any(axis=(0, *range(2, alive.ndim))))
    columns = columns[: len(columns) // m * m]
    keep = alive.copy()
    if len(columns):
        groups = np.moveaxis(scores[:, columns], 1, -1)
        groups = groups.reshape(*groups.shape[:-1], -1, m)
        order = np.argsort(np.argsort(-groups, axis=-1, kind="stable"), axis=-1)
        best = (order < n).reshape(*groups.shape[:-2], len(columns))
        keep[:, columns] &= np.moveaxis(best, -1, 1)
    return keep


def blocks(scores: np.ndarray, alive: np.ndarray, outputs: int, inputs: int, share: float) -> np.ndarray:
    """Blocks of `outputs` by `inputs` weights stay or go together: `share` of the layer's blocks goes.

    Counted among the outputs and inputs that are left; what doesn't fill a block stays. A kernel goes with its block.
    """
    rows = np.flatnonzero(alive.any(axis=tuple(range(1, alive.ndim))))
    columns = np.flatnonzero(alive.any(axis=(0, *range(2, alive.ndim))))
    rows, columns = rows[: len(rows) // outputs * outputs], columns[: len(columns) // inputs * inputs]
    keep = alive.copy()
    if not len(rows) or not len(columns):
        return keep
    sums = scores.reshape(*scores.shape[:2], -1).sum(axis=2)[np.ix_(rows, columns)]
    sums = sums.reshape(len(rows) // outputs, outputs, len(columns) // inputs, inputs).sum(axis=(1, 3))
    stay = np.ones(sums.size, bool)
    stay[np.argsort(sums.ravel(), kind="stable")[: int(share * sums.size)]] = False
    whole = np.kron(stay.reshape(sums.shape), np.ones((outputs, inputs), bool)).astype(bool)
    keep[np.ix_(rows, columns)] &= whole.reshape(*whole.shape, *[1] * (alive.ndim - 2))
    return keep
