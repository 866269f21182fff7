"""Known values through normalisations, pooling and reductions."""

import numpy as np

from onnxprune.graph.exact.known import Known, pair
from onnxprune.graph.exact.step import Step, knows


def _column(found: Known | None, rank: int) -> Known | None:
    """A vector [C] as a column beside x[N,C,*S]."""
    return None if found is None else found.both(lambda a: a.reshape((1, -1) + (1,) * (rank - 2)))


@knows("BatchNormalization")
def batch_normalization(step: Step) -> Known | list[Known | None] | None:
    """Scale 0 leaves the shift; a known value is scaled and shifted by the recorded mean and variance."""
    if step.attr("training_mode", 0) or (step.version < 14 and len(step.node.outputs) > 1):  # it trains
        return None
    if any(len(step.shape(i)) != 1 for i in range(1, 5)):
        return None
    columns = [_column(step.known(i), step.rank) for i in range(1, 5)]
    if any(c is None or not c.is_all_known for c in columns):
        return None
    scale, shift, mean, variance = (c.value for c in columns)
    x = step.operand()
    factor = scale / np.sqrt(variance + np.asarray(step.attr("epsilon", 1e-5), variance.dtype))
    flat = scale == 0
    found = pair(np.where(flat, shift, (x.value - mean) * factor + shift).astype(x.value.dtype), flat | x.is_known)
    return [found] + [None] * (len(step.node.outputs) - 1)


@knows("InstanceNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization")
def own_statistics(step: Step) -> Known | list[Known | None] | None:
    """Where the scale is 0 the shift is left. So it is where all that the statistics are over is 0.

    Another constant would leave the shift too, but for the rounding of its mean, which 1/sqrt(epsilon) makes large.
    """
    rank, operator = step.rank, step.operator
    if operator == "GroupNormalization" and step.version < 21:
        return None
    per_channel = operator in ("InstanceNormalization", "GroupNormalization")

    def parameter(index: int) -> Known:
        found = step.operand(index, rank if not per_channel else None)
        return _column(found, rank) if per_channel else found

    scale = parameter(1)
    shift = parameter(2) if step.has(2) else pair(np.zeros((1,) * rank, scale.value.dtype))
    if operator in ("InstanceNormalization", "GroupNormalization"):
        over = tuple(range(2, rank))
    else:
        over = tuple(range(step.attr("axis", -1) % rank, rank))
    is_zero = step.operand().is_zero
    if operator == "GroupNormalization":
        over = tuple(range(1, rank))  # all groups: a stricter condition than one
    empty = is_zero if operator == "RMSNormalization" else is_zero.all(axis=over, keepdims=True)
    left = empty | scale.is_zero
    found = pair(np.where(left, shift.value, 1), left & shift.is_known)
    return [found] + [None] * (len(step.node.outputs) - 1)


@knows("LRN", "LpNormalization", "MeanVarianceNormalization")
def zero_stays(step: Step) -> Known | None:
    """Each value divided by something above 0."""
    if step.operator == "MeanVarianceNormalization" or step.known(0) is None:
        return None
    return step.operand().where(step.operand().is_zero)


@knows("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(step: Step) -> Known | list[Known | None] | None:
    """A channel that is the same everywhere stays so, unless the zeros of a border are averaged in."""
    if step.known(0) is None:
        return None
    x = step.operand().same_along(tuple(range(2, step.rank)))
    averages_border = step.operator == "AveragePool" and (is_padded(step) or step.attr("ceil_mode", 0))
    if step.operator.endswith("LpPool") or (averages_border and step.attr("count_include_pad", 0)):
        x = x.where(x.is_zero)
    return [x] + [None] * (len(step.node.outputs) - 1)


def is_padded(step: Step) -> bool:
    """Whether a window may reach beyond the border."""
    if step.attr("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return True
    return step.attr("auto_pad", "NOTSET") == "NOTSET" and any(step.attr("pads") or ())


#: As many equal values are added up one by one.
MAX_ADDED = 2**20

#: From the elements along axes to one: NumPy's function, and whether n equal elements give that element again.
REDUCTIONS = {
    "ReduceL1": (lambda x, a: np.abs(x).sum(axis=a, keepdims=True), False),
    "ReduceL2": (lambda x, a: np.sqrt((x * x).sum(axis=a, keepdims=True)), False),
    "ReduceMax": (lambda x, a: x.max(axis=a, keepdims=True), True),
    "ReduceMean": (lambda x, a: x.mean(axis=a, keepdims=True, dtype=x.dtype), True),
    "ReduceMin": (lambda x, a: x.min(axis=a, keepdims=True), True),
    "ReduceSum": (lambda x, a: x.sum(axis=a, keepdims=True, dtype=x.dtype), False),
    "ReduceSumSquare": (lambda x, a: (x * x).sum(axis=a, keepdims=True, dtype=x.dtype), False),
}


@knows(*REDUCTIONS)
def reduction(step: Step) -> Known | None:
    """Known where all places along the axes are; sums of equal values only where their number is fixed, or of 0."""
    if step.known(0) is None:
        return None
    rank, x = step.rank, step.operand()
    axes = reduced_axes(step)
    if axes is None:
        return None
    if x.value.dtype.kind != "f":
        return None
    function, is_steady = REDUCTIONS[step.operator]
    growing = [a for a in axes if x.shape[a] == 1 and step.shape(0)[a] != 1]
    if growing and not is_steady:
        full = tuple(step.shape(0)[a] if a in growing else n for a, n in enumerate(x.shape))
        if all(step.is_fixed(0, a) for a in growing) and np.prod(full, dtype=object) <= MAX_ADDED:
            x = x.both(lambda a: np.broadcast_to(a, full))
        else:
            x = x.where(x.is_zero)
    found = pair(function(x.value, axes), x.is_known.all(axis=axes, keepdims=True))
    if step.attr("keepdims", 1):
        return found
    return found.both(lambda a: a.reshape([a.shape[i] for i in range(rank) if i not in axes]))


def reduced_axes(step: Step) -> tuple[int, ...] | None:
    """The axes that a reduction sums over; None where they are computed."""
    given = step.attr("axes")
    if given is None and step.has(1):
        given = step.array(1)
        if given is None:
            return None
        given = given.ravel().tolist()
    if not given:
        return () if step.attr("noop_with_empty_axes", 0) else tuple(range(step.rank))
    return tuple(int(a) % step.rank for a in given)
