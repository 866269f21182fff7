"""Criteria: how much the loss is expected to mind the absence of each weight, filter, channel or unit.

A criterion is a function of a few lines whose parameters name what it reads:

    weight      a parameter, as PyTorch lays it out: outputs first
    gradient    of the loss with respect to that parameter, over one batch
    contribution   of each channel, over one batch: the sum of w dL/dw over its weights; of a single weight, w dL/dw
    curvature   the diagonal of the loss's Hessian there, over one batch
    activation  what a layer reads, a[N,C,*S] (C is the last axis for a linear layer and is moved here), over one batch
    gram        [I,I], inner products of what a layer's inputs give to its outputs one by one, over all batches
    scale       a BatchNorm's weight
    magnitude, squares, sizes   of each unit: the sum of |w|, the sum of w^2, the number of its weights
    incoming, outgoing   of each channel: the sum of its producers' and of its readers' squared weights
    generator   a numpy.random.Generator
    wrong, curve   what the network does with parts of it off: see `error_rate` and `structure`

What a criterion reads over one batch is averaged over all batches that were seen. What is negative after that counts as
nothing. Scores of weights are summed over a unit's weights; a unit that a criterion says nothing about goes last.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from onnxprune.errors import InputError, RecipeError

#: What the score of a criterion belongs to: each weight, each of a layer's outputs or inputs, each channel, each unit.
Scope = Literal["weights", "outputs", "inputs", "channels", "units"]
#: What has to be gathered while training, and what takes a pass of its own over some batches.
WHILE_TRAINING = frozenset({"gradient", "contribution"})
IN_A_PASS = frozenset({"curvature", "activation", "gram", "wrong", "curve"})
_KNOWN = (
    WHILE_TRAINING
    | IN_A_PASS
    | {"weight", "scale", "magnitude", "generator", "squares", "incoming", "outgoing", "sizes"}
)
#: Below this a denominator is nothing.
TINY = 1e-30


@dataclass(frozen=True)
class Criterion:
    """A function, and what its result belongs to."""

    name: str
    function: Callable[..., np.ndarray]
    scope: Scope = "weights"

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The names of what it reads. A function of two other names gets a weight and its gradient."""
        names = tuple(inspect.signature(self.function).parameters)
        return names if set(names) <= _KNOWN else ("weight", "gradient")

    def __call__(self, **evidence: object) -> np.ndarray:
        """The score, from (at least) everything that it reads."""
        given = [evidence[name] for name in self.reads]
        return np.asarray(self.function(*given))


CRITERIA: dict[str, Criterion] = {}


def _criterion(scope: Scope) -> Callable:
    def register(function: Callable) -> Callable:
        CRITERIA[function.__name__] = Criterion(function.__name__, function, scope)
        return function

    return register


# ---- weights ---------------------------------------------------------------------------------------------------------


@_criterion("weights")
def magnitude(weight: np.ndarray) -> np.ndarray:
    """|w|: small weights go first. Han et al. 2015, "Learning both Weights and Connections", arXiv:1506.02626."""
    return np.abs(weight)


@_criterion("weights")
def magnitude_l2(weight: np.ndarray) -> np.ndarray:
    """w^2: a unit's sum is its squared L2 norm. Li et al. 2017, "Pruning Filters for Efficient ConvNets"."""
    return np.square(weight)


@_criterion("weights")
def normalized(weight: np.ndarray) -> np.ndarray:
    """|w| / max|w| of the tensor: layers with large weights don't crowd the others out."""
    return np.abs(weight) / max(float(np.abs(weight).max(initial=0)), TINY)


@_criterion("weights")
def lamp(weight: np.ndarray) -> np.ndarray:
    """w^2 / sum of v^2 over all v of the tensor with |v| >= |w|. Lee et al. 2021, arXiv:2010.07611, eq. 4.

    The distortion that a layer suffers if everything below w is gone already. Of equals the later count as larger.
    """
    squares = np.square(weight, dtype=np.float64).ravel()
    order = np.argsort(squares, kind="stable")
    not_below = np.cumsum(squares[order][::-1])[::-1]
    scores = np.empty_like(squares)
    scores[order] = squares[order] / np.maximum(not_below, TINY)
    return scores.reshape(weight.shape)


@_criterion("units")
def parameter(squares: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """I_p = (1/P) sum_q p_q^2: the mean of a unit's P squared parameters, so that large units aren't favoured."""
    return squares / np.maximum(sizes, 1)


@_criterion("outputs")
def neuron(weight: np.ndarray) -> np.ndarray:
    """I_i = (1/N) sum_j w_ij^2: the mean of the squares of the N weights that lead into neuron i."""
    return np.square(weight).reshape(len(weight), -1).mean(axis=1)


@_criterion("channels")
def connection(incoming: np.ndarray, outgoing: np.ndarray) -> np.ndarray:
    """What runs through channel k: the sum over i and j of w_ik^2 w_kj^2, which is (sum_i w_ik^2)(sum_j w_kj^2).

    `connections` has the same products summed over k instead, once for each pair of neurons two layers apart.
    """
    return incoming * outgoing


def connections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """I_ij = (1/M) sum_k w_ik^2 w_kj^2: how strongly neuron i reaches neuron j through the M neurons between them.

    `first[M,I]` and `second[J,M]` are two consecutive layers' weights, outputs first; the result is [I,J].
    """
    return np.square(first).T @ np.square(second).T / len(first)


@_criterion("outputs")
def fpgm(weight: np.ndarray) -> np.ndarray:
    """sum_j ||F_i - F_j||: filters close to the geometric median can be replaced by others. He et al. 2019, eq. 6.

    "Filter Pruning via Geometric Median", arXiv:1811.00250.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    return np.array([np.linalg.norm(rows - row, axis=1).sum() for row in rows])


@_criterion("weights")
def batchnorm(scale: np.ndarray) -> np.ndarray:
    """|gamma| of the BatchNorm behind a channel. Liu et al. 2017, "Network Slimming", arXiv:1708.06519."""
    return np.abs(scale)


# ---- derivatives -----------------------------------------------------------------------------------------------------


@_criterion("weights")
def gradient(gradient: np.ndarray) -> np.ndarray:
    """|dL/dw|: how fast the loss changes with w. Averaged over batches, so one batch's chance doesn't decide."""
    return np.abs(gradient)


@_criterion("weights")
def sensitivity(gradient: np.ndarray) -> np.ndarray:
    """|dL/dw| / sqrt(sum (dL/dw)^2) over the tensor: a weight's share of its layer's gradient."""
    return np.abs(gradient) / max(float(np.sqrt(np.square(gradient, dtype=np.float64).sum())), TINY)


@_criterion("channels")
def taylor(contribution: np.ndarray) -> np.ndarray:
    """(sum_w w dL/dw)^2: the change of loss to first order when all weights of a channel become 0, squared.

    Molchanov et al. 2019, "Importance Estimation", arXiv:1906.10771, eq. 8 for the weights of a channel together.
    Summed before it is squared: over the many weights of a channel |w dL/dw| adds up to how many they are and how much
    their gradients vary, whatever the channel does.
    """
    return np.square(contribution)


@_criterion("weights")
def hessian(curvature: np.ndarray) -> np.ndarray:
    """h = d2L/dw2: how sharply the loss rises around w. Estimated as in Hutchinson 1990: E[v Hv], v of signs."""
    return curvature


@_criterion("weights")
def obd(weight: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """1/2 h w^2: the rise of loss at a minimum when w becomes 0. LeCun et al. 1990, "Optimal Brain Damage", eq. 5."""
    return 0.5 * curvature * np.square(weight)


@_criterion("weights")
def fisher(weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """1/2 w^2 (dL/dw)^2: `obd` with the empirical Fisher information, E[(dL/dw)^2], in the place of h.

    Theis et al. 2018, arXiv:1801.05787, eq. 7, for single weights. Exact over batches of one sample; over larger ones
    the gradients of a batch are averaged before they are squared, which scales all scores down together.
    """
    return 0.5 * np.square(weight * gradient)


# ---- activations -----------------------------------------------------------------------------------------------------


@_criterion("inputs")
def activation(activation: np.ndarray) -> np.ndarray:
    """mean |a| of each channel where a layer reads it. Molchanov et al. 2017, arXiv:1611.06440, section 2.2."""
    return np.abs(activation).mean(axis=_all_but_channels(activation))


@_criterion("inputs")
def apoz(activation: np.ndarray) -> np.ndarray:
    """1 - APoZ, the share of a channel's activations that aren't 0: who is mostly silent goes. Hu et al. 2016, eq. 1.

    "Network Trimming", arXiv:1607.03250.
    """
    return (activation != 0).mean(axis=_all_but_channels(activation))


def _all_but_channels(activation: np.ndarray) -> tuple[int, ...]:
    return tuple(axis for axis in range(activation.ndim) if axis != 1)


# ---- compressed sensing ----------------------------------------------------------------------------------------------


@_criterion("inputs")
def omp(gram: np.ndarray) -> np.ndarray:
    """What each input adds to what those before it explain of a layer's outputs, as a share of their energy.

    The order is that of orthogonal matching pursuit, whose coefficients are fitted anew with every input: one that the
    others can stand for adds nothing. Pati et al. 1993; for pruning, Luo et al. 2017, "ThiNet", arXiv:1707.06342.
    """
    used, unit, correlation, energy = _normalised(gram)
    scores = np.zeros(len(gram))
    if not len(used):
        return scores
    with warnings.catch_warnings():
        # It ends early, and says so, where the rest adds nothing.
        warnings.simplefilter("ignore", RuntimeWarning)
        path = _linear_model().orthogonal_mp_gram(unit, correlation, n_nonzero_coefs=len(used), return_path=True)
    path = np.asarray(path).reshape(len(used), -1)
    left = energy
    seen = np.zeros(len(used), bool)
    for step in path.T:
        after = energy - 2 * step @ correlation + step @ unit @ step
        new = (step != 0) & ~seen
        scores[used[new]] = max(left - after, 0.0) / energy / max(int(new.sum()), 1)
        seen |= new
        left = min(left, after)
    return scores


@_criterion("inputs")
def lasso(gram: np.ndarray) -> np.ndarray:
    """The penalty, squared and as a share of the outputs' energy, up to which lasso gives an input a coefficient.

    The layer's outputs as a sparse combination of what its inputs give: He et al. 2017, "Channel Pruning", eq. 3,
    arXiv:1707.06168. The whole path is followed by least-angle regression.
    """
    used, unit, correlation, energy = _normalised(gram)
    scores = np.zeros(len(gram))
    if not len(used):
        return scores
    alphas, _, path = _linear_model().lars_path_gram(correlation, unit, n_samples=1, method="lasso")
    entered = [np.flatnonzero(row) for row in path]
    # A coefficient that is there at one knot grew from the one before.
    scores[used] = [np.square(alphas[max(knots[0] - 1, 0)]) / energy if len(knots) else 0.0 for knots in entered]
    return scores


def _normalised(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(inputs that give something, their gram at length 1, its products with the sum of all, the energy of that)."""
    gram = gram.astype(np.float64)
    lengths = np.sqrt(np.maximum(np.diag(gram), 0))
    energy = float(gram.sum())
    used = np.flatnonzero(lengths > 1e-6 * lengths.max(initial=0)) if energy > 0 else np.zeros(0, int)
    unit = gram[np.ix_(used, used)] / np.outer(lengths[used], lengths[used])
    # Inputs that depend on each other leave it singular.
    return used, unit + 1e-9 * np.eye(len(used)), gram.sum(axis=1)[used] / lengths[used], energy


def _linear_model() -> Any:
    try:
        from sklearn import linear_model
    except ModuleNotFoundError as error:
        raise InputError("The criteria omp and lasso need scikit-learn: pip install 'onnxprune[train]'.") from error
    return linear_model


# ---- measured with parts of the network off --------------------------------------------------------------------------


@_criterion("units")
def error_rate(wrong: np.ndarray) -> np.ndarray:
    """The rise of error_rate = (1/|D|) sum 1[f(x) != y] with each unit off, over that of the whole network, at least 0.

    `wrong[0]` is the whole network's share of wrong answers, `wrong[1 + u]` the one without unit u.
    """
    return np.maximum(wrong[1:] - wrong[0], 0)


@_criterion("units")
def structure(magnitude: np.ndarray, curve: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The rise of loss that falls to each unit when its layer loses 10, 20 ... 90% of its units, the smallest first.

    `curve` has for each layer (its units, the loss [n+1] when k/(n+1) of them are off, k from 0 to n). A unit has its
    part of the rise over the step in which it goes off, and what a layer minds stays monotone: a loss that falls on the
    way counts as one that stays. Units that are never off have the rise of the last step, or more.
    """
    scores = np.full(len(magnitude), np.nan)
    for units, loss in curve:
        rises = np.diff(np.maximum.accumulate(loss))
        ranked = units[np.argsort(magnitude[units], kind="stable")]
        bounds = (np.linspace(0, 1, len(loss) + 1) * len(units) + 1e-9).astype(int)
        for step, (start, stop) in enumerate(pairwise(bounds)):
            rise = rises[step] if step < len(rises) else rises.max()
            scores[ranked[start:stop]] = rise / max(stop - start, 1)
    return scores


# ---- chance ----------------------------------------------------------------------------------------------------------


@_criterion("units")
def random(magnitude: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Uniform in [0, 1): the floor that every other criterion must beat."""
    return generator.random(magnitude.shape)


@_criterion("units")
def random_magnitude(magnitude: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """|w| times an exponential variable: at any time u is the next to go with a probability in proportion to 1/|w_u|.

    Exponential variables of rate 1/|w|: the first to ring is u with probability (1/|w_u|) / sum_v (1/|w_v|).
    """
    return magnitude * generator.exponential(size=magnitude.shape)


# ---- names, sums -----------------------------------------------------------------------------------------------------

_TERM = re.compile(r"\s*(?:(?P<weight>[0-9.]+(?:e-?[0-9]+)?)\s*\*\s*)?(?P<name>[A-Za-z_]\w*)\s*")


def find(criterion: "str | Callable | Criterion") -> tuple[tuple[float, Criterion], ...]:
    """The weighted criteria of a name, of a sum such as '0.5*taylor + 0.5*magnitude', or the callable itself.

    A callable gives a score for every weight of a parameter, from (weight, gradient) or whatever its parameters name.
    Raises RecipeError for an unknown name and a sum that can't be read.
    """
    if isinstance(criterion, Criterion):
        return ((1.0, criterion),)
    if callable(criterion):
        return ((1.0, Criterion(getattr(criterion, "__name__", "criterion"), criterion)),)
    return tuple(_term(text, criterion) for text in str(criterion).split("+"))


def _term(text: str, whole: str) -> tuple[float, Criterion]:
    found = _TERM.fullmatch(text)
    try:
        weight = float(found["weight"] or 1) if found else 0.0
    except ValueError:
        weight = 0.0
    if found and found["name"] not in CRITERIA:
        raise RecipeError(f"There is no criterion '{found['name']}'. Choose one of: {', '.join(sorted(CRITERIA))}.")
    if not found or not weight > 0:
        raise RecipeError(
            f"The criterion '{whole}' can't be read. Give a name, or a sum of names with weights above 0 such as "
            "'0.5*taylor + 0.5*magnitude'."
        )
    return weight, CRITERIA[found["name"]]


def ranks(scores: np.ndarray) -> np.ndarray:
    """The share of scores below each, plus half of those that equal it: from just above 0 to just below 1."""
    below = np.searchsorted(np.sort(scores), scores, side="left")
    not_above = np.searchsorted(np.sort(scores), scores, side="right")
    return (below + not_above) / (2 * max(len(scores), 1))


def combine(parts: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """The weighted sum of the ranks of several scores of the same units; a single score stays what it is."""
    if len(parts) == 1:
        return parts[0][1]
    total = sum(weight for weight, _ in parts)
    return sum(weight / total * ranks(scores) for weight, scores in parts)


def require_finite(scores: Mapping[str, np.ndarray]) -> None:
    """Raises InputError where a score isn't a number, naming the parameter."""
    for name, array in scores.items():
        if not np.isfinite(array).all():
            raise InputError(f"The saliency of '{name}' isn't a number everywhere. Did the loss explode?")
