"""Nodes that sum products over an axis, laid out in one space of axes: what each place adds to each result.

A convolution is `y[g, o] = sum over i of x[g, i] * w[g, o, i]` with g groups; matrix products have a letter an axis.
Both directions read the same layout: forward asks what the sum is known to be, backward which places it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.graph.exact.known import Known, pair
from onnxprune.graph.exact.statistics import is_padded
from onnxprune.graph.exact.step import Step

CONVOLUTIONS = ("Conv", "ConvTranspose")
OPERATORS = (*CONVOLUTIONS, "Gemm", "MatMul")
#: A layout above this many places isn't gone through place by place: every one of them is taken to matter.
MAX_PLACES = 2**28

Lay = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Factor:
    """One of two operands, in the joint axes.

    `lay` brings an array of labels that broadcasts to the tensor into the joint axes. `may`: where it may be other than
    0; `held`: what is known of its sum over the window, for data of every place in it. `index` is the operand's number.
    """

    index: int
    lay: Lay
    may: np.ndarray
    held: Known


@dataclass(frozen=True, eq=False)
class Products:
    """`summed` are the joint axes that the node sums over. `lay` and `unlay` lead from the result's axes and back.

    `is_steady`: whether data that is the same everywhere gives a result that is, which a border of zeros and windows
    that overlap unevenly prevent. `scale` multiplies the sum.
    """

    step: Step
    factors: tuple[Factor, Factor]
    summed: tuple[int, ...]
    lay: Lay
    unlay: Lay
    is_steady: bool
    scale: float = 1.0

    @cached_property
    def adds(self) -> np.ndarray | None:
        """Where a product may be other than 0, over the joint axes; None where there are too many places to say."""
        a, b = (factor.may for factor in self.factors)
        shape = np.broadcast_shapes(a.shape, b.shape)
        return a & b if np.prod(shape, dtype=object) <= MAX_PLACES else None

    @cached_property
    def total(self) -> Known | None:
        """What is known of the sums, bias apart, over the joint axes with size 1 along `summed`."""
        if self.adds is None:
            return None
        a, b = (factor.held for factor in self.factors)
        is_known = ~self.adds
        if self.is_steady and a.is_known.any() and b.is_known.any():
            is_known = is_known | (a.is_known & b.is_known)
        flags = is_known.all(axis=self.summed, keepdims=True)
        if not flags.any():
            return None
        value = self.summed_products(np.ones((1,) * flags.ndim, bool))
        return pair(np.where(flags, value, 1).astype(a.value.dtype), flags)

    def summed_products(self, places: np.ndarray) -> np.ndarray:
        """The sum of the known products at `places`, which broadcast to the joint axes; float64."""
        a, b = (np.where(f.may & f.held.is_known, f.held.value, 0) for f in self.factors)
        small, large = (a, b) if a.size <= b.size else (b, a)
        small = small * places
        if len(self.summed) == 1:  # only where there is anything to add
            axis = self.summed[0]
            others = tuple(i for i in range(small.ndim) if i != axis)
            used = np.flatnonzero((small != 0).any(axis=others))
            small, large = small.take(used, axis), large.take(used, axis)
        product = small.astype(np.float64) * large
        return product.sum(axis=self.summed, keepdims=True) * self.scale


def products(step: Step) -> Products | None:
    """How a node sums products; None for other nodes, and for one that isn't laid out here."""
    if step.operator in CONVOLUTIONS:
        return _convolution(step)
    if step.operator == "Gemm":
        a, b = ("km" if step.attr("transA", 0) else "mk"), ("nk" if step.attr("transB", 0) else "kn")
        return _by_letters(step, (a, b), "mn", float(step.attr("alpha", 1.0)))
    if step.operator == "MatMul":
        ranks = len(step.shape(0)), len(step.shape(1))
        batch = "abcdefgh"[: max(*ranks, 2) - 2]
        left = "k" if ranks[0] == 1 else batch[len(batch) - (ranks[0] - 2) :] + "mk"
        right = "k" if ranks[1] == 1 else batch[len(batch) - (ranks[1] - 2) :] + "kn"
        out = batch + ("m" if "m" in left else "") + ("n" if "n" in right else "")
        return _by_letters(step, (left, right), out)
    return None


def _by_letters(step: Step, operands: tuple[str, str], out: str, scale: float = 1.0) -> Products:
    letters = list(dict.fromkeys("".join(operands)))
    summed = tuple(i for i, letter in enumerate(letters) if letter not in out)
    factors = []
    for index, axes in enumerate(operands):
        shape = step.shape(index)
        sizes = tuple(shape[axes.index(x)] if i in summed else 0 for i, x in enumerate(letters))

        def lay(array: np.ndarray, axes: str = axes) -> np.ndarray:
            order = [axes.index(x) for x in letters if x in axes]
            laid = np.transpose(array, order)
            return laid.reshape([array.shape[axes.index(x)] if x in axes else 1 for x in letters])

        def full(array: np.ndarray, lay=lay, sizes=sizes) -> np.ndarray:
            laid = lay(array)
            return np.broadcast_to(laid, tuple(n or s for n, s in zip(sizes, laid.shape, strict=True)))

        known = step.operand(index)
        factors.append(Factor(index, lay, full(~known.is_zero), known.both(full)))

    def lay_out(array: np.ndarray) -> np.ndarray:
        order = [out.index(x) for x in letters if x in out]
        return np.transpose(array, order).reshape([array.shape[out.index(x)] if x in out else 1 for x in letters])

    def unlay(array: np.ndarray) -> np.ndarray:
        array = array.reshape([s for i, s in enumerate(array.shape) if i not in summed])
        order = [x for x in letters if x in out]
        array = np.transpose(array, [order.index(x) for x in out if x in order])
        return array.reshape((1,) * (len(out) - array.ndim) + array.shape)

    return Products(step, (factors[0], factors[1]), summed, lay_out, unlay, True, scale)


def _convolution(step: Step) -> Products:
    """Joint axes: group, output of the group, input of the group."""
    group, transposed = step.attr("group", 1), step.operator == "ConvTranspose"
    channels, weight_shape, rank = step.shape(0)[1], step.shape(1), step.rank
    windows = tuple(range(2, rank))

    def lay_x(array: np.ndarray) -> np.ndarray:
        line = _first(array, (0, *windows))
        return np.broadcast_to(line, (channels,)).reshape(group, 1, -1)

    def lay_w(array: np.ndarray) -> np.ndarray:
        table = _first(array, windows)
        if group > 1:
            table = np.broadcast_to(table, (weight_shape[0], table.shape[1]))
        table = table.reshape(group, table.shape[0] // group, -1) if group > 1 else table[None]
        return table.swapaxes(1, 2) if transposed else table

    def lay_out(array: np.ndarray) -> np.ndarray:
        line = _first(array, (0, *windows))
        return np.broadcast_to(line, (step.out_shape()[1],)).reshape(group, -1, 1)

    def full(array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array, (*array.shape[:2], channels // group))

    x, w = step.operand(0), step.operand(1)
    over = (0, *windows)
    data = Factor(0, lay_x, lay_x((~x.is_zero).any(axis=over, keepdims=True)), x.same_along(over).both(lay_x))
    kernel = pair(np.ones((1,) * rank, w.value.dtype), False)
    if (data.held.is_known & data.may).any():  # else no window's sum is asked for
        kernel = pair(w.value.sum(axis=windows, keepdims=True), w.is_known.all(axis=windows, keepdims=True))
    weights = Factor(1, lay_w, full(lay_w(_any_in_window(w))), kernel.both(lambda a: full(lay_w(a))))
    is_point = all(s == 1 for s in weight_shape[2:]) and not any(step.attr("output_padding") or ())
    if transposed:
        steady = is_point and all(s == 1 for s in step.attr("strides") or ()) and not is_padded(step)
    else:
        steady = not is_padded(step)
    return Products(step, (data, weights), (2,), lay_out, lambda a: a.reshape((1, -1) + (1,) * (rank - 2)), steady)


def _any_in_window(kernel: Known) -> np.ndarray:
    """Where a window has any weight that may be other than 0. Place by place: NumPy is slow over short axes."""
    flat = kernel.value.reshape(*kernel.shape[:2], -1)
    known = kernel.is_known.reshape(flat.shape)
    found = np.zeros(flat.shape[:2], bool)
    for place in range(flat.shape[2]):
        found |= flat[:, :, place] != 0
    if not kernel.is_all_known:
        found |= ~known.all(axis=2)
    return found.reshape(*kernel.shape[:2], *(1,) * (len(kernel.shape) - 2))


def _first(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Without `axes`, by their first place."""
    return array[tuple(0 if a in axes else slice(None) for a in range(array.ndim))]
