"""Between which numbers each value lies, whatever the input: what a ReLU cuts off everywhere is known to be 0.

Bounds hold for the numbers that a runtime computes too: sums are given room for their rounding, none of which changes a
sign that all terms share. A tensor that nothing is known of is absent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph.exact import elementwise, statistics
from onnxprune.graph.exact.known import Known, pair
from onnxprune.graph.exact.step import FORWARD, Step, dtype_of

#: Anything as large as that is no bound.
ENDLESS = 1e300
#: How far a sum of products may be rounded, of the sum of their sizes.
ROUNDING = 1e-5
#: More places than that aren't kept apart.
MAX_PLACES = 2**16

#: Functions that never fall. Of these, CLAMPS give one number over a whole range, exactly.
CLAMPS = frozenset("Clip HardSigmoid HardSwish Max Min Relu".split())
RISING = frozenset("Erf Exp HardSigmoid Identity Relu Sigmoid Softplus Softsign Sqrt Tanh".split())
#: Of these, runtimes approximate some; so much of a result, or of 1, is room for that.
APPROXIMATED = frozenset("Erf Exp Sigmoid Softplus Softsign Tanh".split())
ROOM = 1e-6
#: Functions whose results lie between two numbers.
WITHIN = {"Abs": (0, ENDLESS), "Cos": (-1, 1), "Sin": (-1, 1), "Softmax": (0, 1)}
MOVES = frozenset(
    "Concat DepthToSpace Dropout Expand Flatten Gather Pad Reshape Slice SpaceToDepth Split Squeeze Tile Transpose "
    "Trilu Unsqueeze".split()
)
POOLS = frozenset("AveragePool GlobalAveragePool GlobalMaxPool MaxPool".split())


@dataclass(frozen=True, eq=False)
class Range:
    """`low` and `high`, of one shape that broadcasts to the tensor's; float64."""

    low: np.ndarray
    high: np.ndarray

    def over(self, axes: tuple[int, ...]) -> "Range":
        """Of size 1 along `axes`."""
        axes = tuple(a for a in axes if self.low.shape[a] > 1)
        if not axes:
            return self
        return Range(self.low.min(axis=axes, keepdims=True), self.high.max(axis=axes, keepdims=True))

    def with_0(self) -> "Range":
        return Range(np.minimum(self.low, 0), np.maximum(self.high, 0))

    @property
    def says_something(self) -> bool:
        return bool((self.low > -ENDLESS).any() or (self.high < ENDLESS).any())


Ranges = Mapping[ir.Value, Range]


def ranges_behind(step: Step, ranges: Ranges, results: list[Known | None]) -> list[Range | None]:
    """The ranges of a node's outputs; `results` is what is known of them."""
    found: list[Range | None] = [None] * len(step.node.outputs)
    if step.inputs and all(v is None or _is_float(v) for v in step.node.outputs):
        with np.errstate(all="ignore"):
            found = _behind(step, ranges) or found
    return [
        _settled(step, out, _narrowed(between, result))
        for out, between, result in zip(step.node.outputs, found, [*results, *[None] * len(found)], strict=False)
    ]


def cut_off(step: Step, between: Range | None) -> Known | None:
    """What is known behind an operator that cuts a range off: where nothing but one number is left."""
    if between is None or step.operator not in CLAMPS:
        return None
    same = (between.low == between.high) & (np.abs(between.low) < ENDLESS)
    return pair(np.where(same, between.low, 1).astype(dtype_of(step.node.outputs[0])), same) if same.any() else None


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()


def _narrowed(between: Range | None, result: Known | None) -> Range | None:
    """A range, and what is known besides."""
    if result is None or result.value.dtype.kind != "f":
        return between
    value = result.value.astype(np.float64)
    low, high = np.where(result.is_known, value, -ENDLESS), np.where(result.is_known, value, ENDLESS)
    if between is None:
        return Range(low, high)
    return Range(*np.broadcast_arrays(np.maximum(low, between.low), np.minimum(high, between.high)))


def _settled(step: Step, out: ir.Value, between: Range | None) -> Range | None:
    """Of one size in every run, and no larger than it need be."""
    if between is None or not between.says_something:
        return None
    shape = step.trace.shape_of[out]
    if between.low.ndim != len(shape) or any(n not in (1, s) for n, s in zip(between.low.shape, shape, strict=True)):
        return None
    if any(n > 1 and step.trace.is_dynamic(out, a) for a, n in enumerate(between.low.shape)):
        between = between.over(tuple(range(len(shape))))  # where it comes to may depend on the size
    if between.low.size > MAX_PLACES:
        between = between.over(tuple(a for a in range(len(shape)) if a != 1))
    return between if between.low.size <= MAX_PLACES else None


def _operand(step: Step, index: int, ranges: Ranges) -> Range:
    """The range of an operand: what was found before, and what is known."""
    value = step.node.inputs[index]
    found = _narrowed(ranges.get(value), step.known(index))
    if found is None:
        shape = (1,) * len(step.shape(index))
        found = Range(np.full(shape, -ENDLESS), np.full(shape, ENDLESS))
    return found


def _aligned(between: Range, rank: int) -> Range:
    lead = (1,) * (rank - between.low.ndim)
    return Range(between.low.reshape(lead + between.low.shape), between.high.reshape(lead + between.high.shape))


def _behind(step: Step, ranges: Ranges) -> list[Range | None] | None:
    operator = step.operator
    if operator in ("Conv", "Gemm", "MatMul"):
        return [_products(step, ranges)]
    if operator in MOVES:
        return _moved(step, ranges)
    if operator == "BatchNormalization":
        return [_normalised(step, ranges)]
    if operator in ("Add", "Sub", "Sum", "Mul", "Max", "Min", "Clip"):
        return [_several(step, ranges)]
    x = _operand(step, 0, ranges)
    if operator in POOLS:
        return [_pooled(step, x)]
    if operator in RISING and (operator != "HardSigmoid" or step.attr("alpha", 0.2) >= 0):
        return [_rising(step, x)]
    if operator == "HardSwish":
        return [_hard_swish(x)]
    if operator in WITHIN:
        low, high = WITHIN[operator]
        return [Range(np.full((1,) * step.rank, float(low)), np.full((1,) * step.rank, float(high)))]
    return None


def _rising(step: Step, x: Range) -> Range:
    function = elementwise.UNARY[step.operator]
    if step.operator == "Sqrt":
        x = Range(np.maximum(x.low, 0), np.maximum(x.high, 0))
    low, high, least, most = (
        np.clip(function(np.asarray(a), step), -ENDLESS, ENDLESS) for a in (x.low, x.high, -ENDLESS, ENDLESS)
    )
    if step.operator in APPROXIMATED:
        low = np.maximum(least, low - ROOM * np.maximum(1, np.abs(low)))
        high = np.minimum(most, high + ROOM * np.maximum(1, np.abs(high)))
    return Range(low, high)


def _hard_swish(x: Range) -> Range:
    """0 up to -3, down to -3/8 at -1.5, x from 3 on."""
    low, high = (a * np.clip(a / 6 + 0.5, 0, 1) for a in (x.low, x.high))
    dips = (x.low < 0) & (x.high > -3)
    return Range(np.where(dips, -0.375, low), np.where(x.high <= -3, 0.0, np.maximum(high, np.where(dips, 0, low))))


def _pooled(step: Step, x: Range) -> Range:
    """Between the least and the most of a window; an average may take zeros of a border in."""
    x = x.over(tuple(range(2, step.rank)))
    average = step.operator.endswith("AveragePool")
    if average and step.attr("count_include_pad", 0) and (statistics.is_padded(step) or step.attr("ceil_mode", 0)):
        x = x.with_0()
    return _sum([x]) if average else x


def _moved(step: Step, ranges: Ranges) -> list[Range | None] | None:
    """Each bound moves as a known value would: what is the same for all that may come to a place holds there."""
    sides = []
    for high in (False, True):
        inputs = list(step.inputs)
        for index, value in enumerate(step.node.inputs):
            if value in ranges or (index == 0 and inputs[0] is not None and inputs[0].value.dtype.kind == "f"):
                between = _operand(step, index, ranges)
                bound = between.high if high else between.low
                inputs[index] = pair(bound, np.abs(bound) < ENDLESS)
        found = FORWARD[step.operator](Step(step.trace, step.node, inputs))
        sides.append(found if isinstance(found, list) else [found])
    return [_from_sides(low, high) for low, high in zip(*sides, strict=True)]


def _from_sides(low: Known | None, high: Known | None) -> Range | None:
    given = low or high
    if given is None:
        return None
    ends = []
    for side, end in ((low, -ENDLESS), (high, ENDLESS)):
        known = None if side is None else np.where(side.is_known, side.value.astype(np.float64), end)
        ends.append(np.full((1,) * given.value.ndim, end) if known is None else known)
    return Range(*np.broadcast_arrays(*ends))


def _several(step: Step, ranges: Ranges) -> Range:
    rank = len(step.out_shape())
    x = [_aligned(_operand(step, i, ranges), rank) for i in range(len(step.node.inputs)) if step.has(i)]
    if step.operator in ("Add", "Sum"):
        return _sum(x)
    if step.operator == "Sub":
        return _sum([x[0], Range(-x[1].high, -x[1].low)])
    if step.operator == "Mul":
        corners = [np.clip(a * b, -ENDLESS, ENDLESS) for a in (x[0].low, x[0].high) for b in (x[1].low, x[1].high)]
        return Range(np.minimum.reduce(corners), np.maximum.reduce(corners))
    if step.operator == "Clip":
        return _clipped(step, x[0])
    reduce = np.maximum.reduce if step.operator == "Max" else np.minimum.reduce
    return Range(*(reduce(np.broadcast_arrays(*side)) for side in ([r.low for r in x], [r.high for r in x])))


def _clipped(step: Step, x: Range) -> Range:
    limits = []
    for index, name in ((1, "min"), (2, "max")):
        limit = step.array(index) if step.has(index) else step.attr(name)
        if step.has(index) and limit is None:
            return Range(np.full_like(x.low, -ENDLESS), np.full_like(x.high, ENDLESS))
        limits.append(None if limit is None else float(np.ravel(limit)[0]))
    low, high = limits
    sides = (x.low, x.high)
    sides = sides if low is None else [np.maximum(side, low) for side in sides]
    return Range(*(sides if high is None else [np.minimum(side, high) for side in sides]))


# ---- sums -----------------------------------------------------------------------------------------------------------


def _sum(terms: list[Range]) -> Range:
    """The sum of numbers from these ranges, rounded."""
    above = sum(np.maximum(t.high, 0) for t in terms), sum(np.minimum(t.high, 0) for t in terms)
    below = sum(np.maximum(t.low, 0) for t in terms), sum(np.minimum(t.low, 0) for t in terms)
    return _rounded(below, above)


def _rounded(below: tuple[np.ndarray, np.ndarray], above: tuple[np.ndarray, np.ndarray]) -> Range:
    """From the sums of what is above 0 and of what is below it, on either side."""
    low = below[0] + below[1] - ROUNDING * (below[0] - below[1])
    high = above[0] + above[1] + ROUNDING * (above[0] - above[1])
    return Range(*np.broadcast_arrays(np.clip(low, -ENDLESS, ENDLESS), np.clip(high, -ENDLESS, ENDLESS)))


def _normalised(step: Step, ranges: Ranges) -> Range | None:
    """x times a factor, less the mean times it, plus the shift."""
    columns = [step.known(i) for i in range(1, 5)]
    if (
        step.attr("training_mode", 0)
        or len(step.node.outputs) > 1
        or any(c is None or not c.is_all_known for c in columns)
    ):
        return None
    along = (1, -1) + (1,) * (step.rank - 2)
    if any(len(step.shape(i)) != 1 for i in range(1, 5)):
        return None
    scale, shift, mean, variance = (c.value.astype(np.float64).reshape(along) for c in columns)
    factor = scale / np.sqrt(variance + step.attr("epsilon", 1e-5))
    if not np.isfinite(factor).all():
        return None
    x = _operand(step, 0, ranges)
    ends = np.clip(x.low * factor, -ENDLESS, ENDLESS), np.clip(x.high * factor, -ENDLESS, ENDLESS)
    return _sum([Range(np.minimum(*ends), np.maximum(*ends)), *(Range(c, c) for c in (shift, -mean * factor))])


def _products(step: Step, ranges: Ranges) -> Range | None:
    """w[g, o, i, place] times x[g, i] and the bias[g, o]; None where every result can be anything."""
    laid = _laid(step, ranges)
    if laid is None:
        return None
    x, weight, bias, unlay = laid
    high, low = _finite_rows(x, weight)
    rows = high | low
    if not rows.any():
        return None
    group, row = np.nonzero(rows)
    w = weight[group, row].astype(np.float64)
    rising, falling = np.maximum(w, 0).sum(axis=2), np.minimum(w, 0).sum(axis=2)
    bottom, top = x.low[group], x.high[group]
    b = bias[group, row]

    def total(*pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return sum((a * c).sum(axis=1) for a, c in pairs)

    above = (
        total((rising, np.maximum(top, 0)), (falling, np.minimum(bottom, 0))) + np.maximum(b, 0),
        total((rising, np.minimum(top, 0)), (falling, np.maximum(bottom, 0))) + np.minimum(b, 0),
    )
    below = (
        total((rising, np.maximum(bottom, 0)), (falling, np.minimum(top, 0))) + np.maximum(b, 0),
        total((rising, np.minimum(bottom, 0)), (falling, np.maximum(top, 0))) + np.minimum(b, 0),
    )
    found = _rounded(below, above)
    full = [np.full(rows.shape, end) for end in (-ENDLESS, ENDLESS)]
    full[0][group, row] = np.where(low[group, row], found.low, -ENDLESS)
    full[1][group, row] = np.where(high[group, row], found.high, ENDLESS)
    return Range(*map(unlay, full))


def _finite_rows(x: Range, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[g, o]: which sums have a highest value, and which a lowest."""
    high, low = np.ones(weight.shape[:2], bool), np.ones(weight.shape[:2], bool)
    for ends, rising, falling in ((x.high >= ENDLESS, high, low), (x.low <= -ENDLESS, low, high)):
        if ends.all():
            flat = weight.reshape(*weight.shape[:2], -1)
            rising &= flat.max(axis=2) <= 0
            falling &= flat.min(axis=2) >= 0
        elif ends.any():
            for place in range(weight.shape[3]):  # NumPy is slow over short axes
                read = weight[..., place]
                rising &= ~((read > 0) & ends[:, None]).any(axis=2)
                falling &= ~((read < 0) & ends[:, None]).any(axis=2)
    return high, low


Laid = tuple[Range, np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]


def _laid(step: Step, ranges: Ranges) -> Laid | None:
    """x[g, i], w[g, o, i, place], bias[g, o], and the way back for [g, o]."""
    weight = step.array(1)
    if weight is None or weight.dtype.kind != "f" or step.known(1).value.size < 2:
        return None
    x, rank = _operand(step, 0, ranges), step.rank
    if not x.says_something:
        return None
    if step.operator == "Conv":
        group, channels = step.attr("group", 1), step.shape(0)[1]
        x = x.over((0, *range(2, rank)))
        if statistics.is_padded(step):
            x = x.with_0()
        table = weight.reshape(group, len(weight) // group, weight.shape[1], -1)
        sides = [np.broadcast_to(a.reshape(-1), (channels,)).reshape(group, -1) for a in (x.low, x.high)]
        back = (1, -1) + (1,) * (rank - 2)
    else:
        flipped = step.operator == "Gemm" and step.attr("transB", 0)
        if weight.ndim != 2 or (step.operator == "Gemm" and step.attr("transA", 0)) or rank < 2:
            return None
        x = x.over(tuple(range(rank - 1)))
        table = (weight if flipped else weight.T)[None, :, :, None]
        table = table * step.attr("alpha", 1.0) if step.operator == "Gemm" else table
        sides = [np.broadcast_to(a.reshape(-1), (step.shape(0)[-1],))[None] for a in (x.low, x.high)]
        back = (1,) * (len(step.out_shape()) - 1) + (-1,)
    bias = _bias(step, table.shape[:2])
    return None if bias is None else (Range(*sides), table, bias, lambda a: a.reshape(back))


def _bias(step: Step, shape: tuple[int, int]) -> np.ndarray | None:
    if not step.has(2):
        return np.zeros(shape)
    held = step.known(2)
    if held is None or not held.is_all_known or held.value.size not in (1, shape[0] * shape[1]):
        return None
    if held.value.size > 1 and held.value.shape[-1] != held.value.size:
        return None
    scale = step.attr("beta", 1.0) if step.operator == "Gemm" else 1.0
    return np.broadcast_to(held.value.astype(np.float64).ravel() * scale, (shape[0] * shape[1],)).reshape(shape)
