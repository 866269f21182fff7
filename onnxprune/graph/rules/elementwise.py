"""Operators that compute each element on its own: their operands' labels are tied place by place."""

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
    "Where",
    "Xor",
]


@rule("", *UNARY)
def same(op: Op) -> Facets:
    return op.inputs[0].facets


@rule("", "CastLike", "Dropout")
def same_as_first(op: Op) -> list[Facets]:
    return [op.inputs[0].facets] * len(op.outputs)


@rule("", *NARY)
def broadcast(op: Op) -> Facets:
    rank = len(op.outputs[0].shape)
    return op.meet([align(tensor, rank) for tensor in op.inputs if tensor is not None])


def align(tensor: Tensor, rank: int) -> Tensor:
    """View a tensor with leading axes of size 1 up to `rank`, as broadcasting does."""
    lead = (1,) * (rank - len(tensor.shape))
    return tensor.view(lead + tensor.shape, tuple(f.reshape(lead + f.shape) for f in tensor.facets))


def column(tensor: Tensor, rank: int) -> Tensor:
    """View a vector [C] as a column beside x[N,C,*S]."""
    size = tensor.shape[0]
    shape = tuple(size if axis == 1 else 1 for axis in range(rank))
    return tensor.view(shape, tuple(f.reshape((1, -1) + (1,) * (rank - 2)) for f in tensor.facets))
