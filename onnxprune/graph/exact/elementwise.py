"""Known values through operators that compute each element on its own."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from scipy.special import erf, expit

from onnxprune.graph.exact.known import Known, constant, pair
from onnxprune.graph.exact.step import WIDENED, Step, dtype_of, knows
from onnxprune.graph.fold import evaluate_node
from onnxprune.graph.rules import elementwise

#: NumPy's own for the operators that every network has: onnx's reference implementation takes a millisecond a call.
UNARY: dict[str, Callable[[np.ndarray, Step], np.ndarray]] = {
    "Abs": lambda x, s: np.abs(x),
    "Ceil": lambda x, s: np.ceil(x),
    "Cos": lambda x, s: np.cos(x),
    "Elu": lambda x, s: np.where(x < 0, s.attr("alpha", 1.0) * np.expm1(np.minimum(x, 0)), x),
    "Erf": lambda x, s: erf(x),
    "Exp": lambda x, s: np.exp(x),
    "Floor": lambda x, s: np.floor(x),
    "Gelu": lambda x, s: _gelu(x, s.attr("approximate", "none")),
    "HardSigmoid": lambda x, s: np.clip(s.attr("alpha", 0.2) * x + s.attr("beta", 0.5), 0, 1),
    "HardSwish": lambda x, s: x * np.clip(x / 6 + 0.5, 0, 1),
    "Identity": lambda x, s: x,
    "LeakyRelu": lambda x, s: np.where(x < 0, s.attr("alpha", 0.01) * x, x),
    "Log": lambda x, s: np.log(x),
    "Mish": lambda x, s: x * np.tanh(np.logaddexp(0, x)),
    "Neg": lambda x, s: -x,
    "Not": lambda x, s: ~x,
    "Reciprocal": lambda x, s: 1 / x,
    "Relu": lambda x, s: np.maximum(x, 0),
    "Sigmoid": lambda x, s: expit(x),
    "Sign": lambda x, s: np.sign(x),
    "Sin": lambda x, s: np.sin(x),
    "Softplus": lambda x, s: np.logaddexp(0, x),
    "Softsign": lambda x, s: x / (1 + np.abs(x)),
    "Sqrt": lambda x, s: np.sqrt(x),
    "Swish": lambda x, s: x * expit(s.attr("alpha", 1.0) * x),
    "Tanh": lambda x, s: np.tanh(x),
}


def _gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


NARY: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "And": np.logical_and,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Max": lambda *x: np.maximum.reduce(np.broadcast_arrays(*x)),
    "Mean": lambda *x: np.add.reduce(np.broadcast_arrays(*x)) / len(x),
    "Min": lambda *x: np.minimum.reduce(np.broadcast_arrays(*x)),
    "Mul": np.multiply,
    "Or": np.logical_or,
    "PRelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "Sub": np.subtract,
    "Sum": lambda *x: np.add.reduce(np.broadcast_arrays(*x)),
    "Xor": np.logical_xor,
}


#: Operators that jump: what they make of a number that is rounded a little otherwise may be quite another one.
JUMPS = frozenset("Ceil Floor Round Shrink Sign ThresholdedRelu".split())
COMPARISONS = frozenset("Equal Greater GreaterOrEqual Less LessOrEqual Mod".split())
#: So much of a number may differ between what is computed here and by a runtime.
NUDGE = 1e-5
#: Below that a sum that cancels may be 0, or have the other sign.
CANCELS = 1e-6


@knows(*elementwise.UNARY)
def one_operand(step: Step) -> Known | None:
    """A value that is known gives one that is known, unless it lies where the operator jumps."""
    x = step.known(0)
    function = UNARY.get(step.operator)
    if step.operator == "Cast":
        return cast(x, ir.DataType(step.attr("to")))

    def compute(array: np.ndarray) -> np.ndarray | None:
        with np.errstate(all="ignore"):
            result = function(array, step) if function else _reference(step, [array])
        return None if result is None else np.asarray(result, x.value.dtype if function else None)

    result = compute(x.value)
    if result is None:
        return None
    is_known = x.is_known
    if step.operator in JUMPS:
        is_known = is_known & _steady(x.value, compute)
    return pair(result, is_known)


def _steady(x: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Where a function doesn't jump close by."""
    if x.dtype.kind != "f":
        return np.ones(x.shape, bool)
    tiny = (x != 0) & (np.abs(x) < CANCELS)
    others = [x * x.dtype.type(1 + NUDGE), x * x.dtype.type(1 - NUDGE), np.where(tiny, 0, x), np.where(tiny, -x, x)]
    result = compute(x).astype(np.float64)
    return np.logical_and.reduce([np.isclose(compute(o), result, rtol=1e-3, atol=CANCELS) for o in others])


def cast(x: Known, to: ir.DataType) -> Known | None:
    """What an integer can't hold isn't known, nor what a half would round: the proof computes with wider numbers."""
    if to == ir.DataType.STRING or x.value.dtype.kind not in "iubf":
        return None
    target = np.dtype(WIDENED.get(to, to.numpy()))
    if target.kind not in "iubf":
        return None
    is_known = x.is_known
    if target.kind in "iu" and x.value.dtype.kind == "f":
        limits = np.iinfo(target)
        is_known = is_known & (x.value > limits.min) & (x.value < limits.max)
    if to in WIDENED and x.value.dtype.kind == "f":
        with np.errstate(over="ignore"):
            is_known = is_known & (x.value.astype(to.numpy()).astype(x.value.dtype) == x.value)
    with np.errstate(all="ignore"):
        value = np.where(is_known, x.value, 1)
        if target.kind in "iub" and value.dtype.kind == "f":
            is_known = is_known & _steady(value, lambda a: a.astype(target))
        return pair(value.astype(target), is_known)


@knows("CastLike")
def cast_like(step: Step) -> Known | None:
    target = step.node.inputs[1].dtype
    return None if target is None or step.known(0) is None else cast(step.known(0), target)


@knows("Dropout")
def dropout(step: Step) -> list[Known | None] | None:
    """Outside training it gives back what it gets."""
    if step.has(2) and (step.known(2) is None or not step.known(2).holds(False)):
        return None
    return [step.known(0)] + [None] * (len(step.node.outputs) - 1)


@knows(*elementwise.NARY)
def several_operands(step: Step) -> Known | None:
    """Known where every operand is known, but for what one operand decides alone."""
    rank = len(step.out_shape())
    given = [i for i in range(len(step.node.inputs)) if step.has(i)]
    operands = [step.operand(i, rank) for i in given]
    kinds = {k.value.dtype for i, k in zip(given, operands, strict=True) if step.known(i) is not None}
    if len(kinds) == 1 and step.operator != "Where":  # files needn't say the type of what is computed
        dtype = kinds.pop()
        operands = [Known(k.value.astype(dtype, copy=False), k.is_known) for k in operands]
    known_all = np.logical_and.reduce(np.broadcast_arrays(*[k.is_known for k in operands]))
    exception = EXCEPTIONS.get(step.operator)
    decided = exception(operands) if exception else None
    if not known_all.any():
        return decided if decided is not None and decided.is_known.any() else None
    result = _compute(step, given, operands)
    if result is None:
        return decided
    if step.operator in COMPARISONS and operands[0].value.dtype.kind == "f":
        known_all = known_all & _settled(step, given, operands, result)
    found = pair(np.asarray(result), known_all)
    if decided is None:
        return found
    value = np.where(decided.is_known, decided.value.astype(found.value.dtype), found.value)
    return pair(value, decided.is_known | found.is_known)


def _settled(step: Step, given: list[int], operands: list[Known], result: np.ndarray) -> np.ndarray:
    """Where two numbers don't lie so close that rounding decides between them; 0 and 0 are the same."""
    first, second = operands
    nudge = (NUDGE * np.maximum(np.abs(first.value), np.abs(second.value))).astype(first.value.dtype)
    others = [_compute(step, given, [Known(first.value + by, first.is_known), second]) for by in (nudge, -nudge)]
    return np.logical_and.reduce([np.isclose(other, result, rtol=1e-3, atol=CANCELS) for other in others])


def _compute(step: Step, given: list[int], operands: list[Known]) -> np.ndarray | None:
    arrays = [k.value for k in operands]
    dtype = dtype_of(step.node.outputs[0])
    with np.errstate(all="ignore"):
        if step.operator == "Clip":
            return _clip(step, dict(zip(given, arrays, strict=True)))
        if step.operator == "Where":
            return np.where(arrays[0].astype(bool), *arrays[1:])
        if step.operator == "Div" and arrays[0].dtype.kind == "f":
            return np.divide(*arrays)
        if step.operator == "Pow" and all(a.dtype.kind == "f" for a in arrays):
            return np.power(arrays[0], arrays[1].astype(arrays[0].dtype))
        if step.operator in NARY and all(a.dtype == arrays[0].dtype for a in arrays):
            return NARY[step.operator](*arrays)
        full = [None] * len(step.node.inputs)
        for index, array in zip(given, arrays, strict=True):
            full[index] = array
        result = _reference(step, full)
        return None if result is None else result.astype(dtype)


def _clip(step: Step, arrays: dict[int, np.ndarray]) -> np.ndarray:
    x = arrays[0]
    low, high = arrays.get(1, step.attr("min")), arrays.get(2, step.attr("max"))
    x = x if low is None else np.maximum(x, np.asarray(low, x.dtype))
    return x if high is None else np.minimum(x, np.asarray(high, x.dtype))


def _reference(step: Step, arrays: list[np.ndarray | None]) -> np.ndarray | None:
    result = evaluate_node(step.node, arrays)
    return None if result is None else result[0]


# ---- what one operand decides alone ---------------------------------------------------------------------------------


def _zero_times_any(operands: list[Known]) -> Known:
    zero = np.logical_or.reduce(np.broadcast_arrays(*[k.is_zero for k in operands]))
    return pair(np.where(zero, np.zeros((), operands[0].value.dtype), 1), zero)


def _zero_first(operands: list[Known]) -> Known:
    """0 times any slope; values are assumed finite."""
    return pair(np.where(operands[0].is_zero, 0, 1).astype(operands[0].value.dtype), operands[0].is_zero)


def _zero_above(operands: list[Known]) -> Known:
    """0 divided by anything but 0; values are assumed finite."""
    above, below = operands
    zero = above.is_zero & ~below.is_zero
    return pair(np.where(zero, np.zeros((), above.value.dtype), 1), zero)


def _power(operands: list[Known]) -> Known:
    """Anything to the power of 0 is 1."""
    return pair(np.ones((), operands[0].value.dtype), operands[1].is_zero)


def _one_that_decides(deciding: bool) -> Callable[[list[Known]], Known]:
    def decide(operands: list[Known]) -> Known:
        found = np.logical_or.reduce(np.broadcast_arrays(*[k.is_known & (k.value == deciding) for k in operands]))
        return pair(np.full((), deciding), found)

    return decide


def _where(operands: list[Known]) -> Known:
    """Where the condition is known the other choice doesn't matter; where both choices are the same, the condition."""
    condition, a, b = operands
    choice = condition.value.astype(bool)
    first, second = condition.is_known & choice, condition.is_known & ~choice
    same = a.is_known & b.is_known & (a.value == b.value)
    return pair(np.where(second, b.value, a.value), (first & a.is_known) | (second & b.is_known) | same)


EXCEPTIONS: dict[str, Callable[[list[Known]], Known]] = {
    "And": _one_that_decides(False),
    "Div": _zero_above,
    "Mul": _zero_times_any,
    "Or": _one_that_decides(True),
    "PRelu": _zero_first,
    "Pow": _power,
    "Where": _where,
}


@knows("QuantizeLinear", "DequantizeLinear")
def quantization(step: Step) -> Known | None:
    """y = (x - zero point) * scale and back; scale and zero point for the tensor, or for each place on `axis`."""
    rank = step.rank
    given = [i for i in range(len(step.node.inputs)) if step.has(i)]
    if step.attr("block_size", 0) or any(step.known(i) is None for i in given):
        return None
    axis = step.attr("axis", 1) % max(rank, 1)
    operands = {0: step.operand(0)}
    for index in given[1:]:
        found = step.known(index)
        along = tuple(-1 if a == axis else 1 for a in range(rank))
        operands[index] = found.both(lambda a, along=along: a.reshape(along if a.size > 1 else (1,) * rank))
    is_known = np.logical_and.reduce(np.broadcast_arrays(*[k.is_known for k in operands.values()]))
    x, scale = operands[0].value, operands[1].value
    to = dtype_of(step.node.outputs[0])
    zero_point = operands[2].value if 2 in operands else np.zeros((), to if step.operator[0] == "Q" else x.dtype)
    if step.operator == "DequantizeLinear":
        return pair(((x.astype(np.int64) - zero_point.astype(np.int64)) * scale).astype(scale.dtype), is_known)
    if to.kind not in "iu" or to.itemsize > 2:
        return None
    limits = np.iinfo(to)
    with np.errstate(all="ignore"):
        levels = np.rint(x / scale) + zero_point.astype(np.int64)
        is_known = is_known & np.isfinite(levels) & _steady(x / scale, np.rint)
    return pair(np.clip(levels, limits.min, limits.max).astype(to), is_known)


@knows("ConstantOfShape")
def constant_of_shape(step: Step) -> Known | None:
    given = step.node.attributes.get("value")
    array = np.zeros(1, np.float32) if given is None else given.as_tensor().numpy()
    return constant(len(step.out_shape()), array.ravel()[0], array.dtype) if array.dtype.kind in "iubf" else None
