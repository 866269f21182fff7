"""Operators that compute each element on its own: their operands' labels are tied place by place."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import onnx_ir as ir

from onnxprune.graph.fold import evaluate_node
from onnxprune.graph.labels import facet, ghost_of
from onnxprune.graph.rules.registry import Facets, Op, Tensor, rule

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]

NARY = [
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Clip",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "SwiGLU",
    "Where",
    "Xor",
]


#: Operators that give 0 back for 0, whatever their attributes.
KEEPS_ZERO = frozenset(
    "Abs Asin Asinh Atan Atanh BitShift Cast CastLike Ceil Celu Dropout Elu Erf Floor Gelu HardSwish Identity "
    "LeakyRelu Mish Neg Relu Round Selu Sign Sin Sinh Softsign Sqrt Swish Tan Tanh ThresholdedRelu".split()
)


@rule("", *UNARY, runs=True)
def same(op: Op) -> Facets:
    """Each element by itself: the labels go on."""
    return _through(op, op.inputs[0].facets)


@rule("", "CastLike", type_inputs=(1,))
def cast_like(op: Op) -> Facets:
    """Each element by itself: the labels of the first operand go on; of the second only the type is read."""
    return op.inputs[0].facets


@rule("", "Dropout")
def dropout(op: Op) -> list[Facets]:
    """Each element by itself; its mask has the same labels. In training mode it pins, since it draws numbers."""
    training = op.input(2)
    if training is not None and (training.data is None or training.data.any()):
        op.pin(op.inputs[0].facets, "draws random numbers place by place")
        return [()] * len(op.outputs)
    return [op.inputs[0].facets, *[unknown(op.inputs[0].facets)] * (len(op.outputs) - 1)]


def unknown(facets: Facets) -> Facets:
    """The same labels, and no ghost."""
    return tuple(facet(found, None) for found in facets)


def _through(op: Op, facets: Facets) -> Facets:
    """The same labels, and what the operator makes of the ghost."""
    if op.node.op_type in KEEPS_ZERO and all(ghost_of(f) in (0.0, None) for f in facets):
        return facets
    return tuple(facet(f, evaluated(op, [ghost_of(f)])) for f in facets)


@rule("", *NARY, runs=True)
def broadcast(op: Op) -> Facets:
    """Element by element, broadcast: labels that meet are tied, and an axis that can't shrink pins those it meets."""
    rank = len(op.outputs[0].shape)
    return op.meet(
        [align(tensor, rank) for tensor in op.inputs if tensor is not None], lambda held: evaluated(op, held)
    )


def evaluated(op: Op, held: Sequence[float | None]) -> float | None:
    """What an elementwise operator gives for one number an operand; None where that isn't known. 0 times any is 0."""
    operator = op.node.op_type
    if (operator in ("Mul", "SwiGLU") and 0.0 in held) or (operator == "Div" and held[0] == 0.0):
        return 0.0
    if any(h is None for h in held):
        return None
    types = tuple(
        None if tensor is None else value.dtype if value.dtype else ir.DataType.FLOAT
        for tensor, value in zip(op.inputs, op.node.inputs, strict=True)
    )
    attributes = tuple((a.name, a.type, a.value) for a in op.node.attributes.values())
    return _computed(operator, op.version, attributes, types, tuple(held))


@lru_cache(maxsize=4096)
def _computed(
    operator: str,
    version: int,
    attributes: tuple[tuple[str, ir.AttributeType, object], ...],
    types: tuple[ir.DataType | None, ...],
    held: tuple[float, ...],
) -> float | None:
    """What a node gives for these numbers; None in `types` for an operand that is left out."""
    numbers = iter(held)
    inputs = [None if dtype is None else np.array(next(numbers)).astype(dtype.numpy()) for dtype in types]
    values = [None if array is None else ir.Value(name=f"i{index}") for index, array in enumerate(inputs)]
    node = ir.Node("", operator, values, [ir.Attr(*attribute) for attribute in attributes], version=version)
    node.outputs[0].name = "result"
    with np.errstate(all="ignore"):
        found = evaluate_node(node, inputs)
    number = float(found[0].ravel()[0]) if found and found[0].size == 1 else None
    return number if number is not None and np.isfinite(number) else None


def align(tensor: Tensor, rank: int) -> Tensor:
    """View a tensor with leading axes of size 1 up to `rank`, as broadcasting does."""
    if rank == len(tensor.shape):
        return tensor
    lead = (1,) * (rank - len(tensor.shape))
    return tensor.view(lead + tensor.shape, tuple(f.reshape(lead + f.shape) for f in tensor.facets))


def column(tensor: Tensor, rank: int) -> Tensor:
    """View a vector [C] as a column beside x[N,C,*S]."""
    size = tensor.shape[0]
    shape = tuple(size if axis == 1 else 1 for axis in range(rank))
    return tensor.view(shape, tuple(f.reshape((1, -1) + (1,) * (rank - 2)) for f in tensor.facets))


def product(held: Sequence[float | None]) -> float | None:
    """What a product holds: zero times anything is zero."""
    return 0.0 if 0.0 in held else None


def alike(held: Sequence[float | None]) -> float | None:
    """What all hold, where it is the same."""
    return held[0] if len(set(held)) == 1 else None


def total(held: Sequence[float | None]) -> float | None:
    """What a sum holds."""
    return None if any(h is None for h in held) else float(sum(held))
