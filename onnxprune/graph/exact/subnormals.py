"""Weights so small that processors slow down a hundredfold over them become 0."""

import numpy as np
import onnx_ir as ir

from onnxprune.graph.model import Model

#: The smallest normal number of float32 and bfloat16.
SMALLEST = 2.0**-126
TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)
#: Operands that are a factor of what the network computes, or the bias beside one. Elsewhere, in a divisor or a bound,
#: under a root or beside what may be 0 there, the least number may be another one than 0.
FACTORS = {
    "BatchNormalization": (1, 2, 3),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "GRU": (1, 2, 3),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "LSTM": (1, 2, 3),
    "MatMul": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
#: Operators that only move the elements of their first operand.
MOVES = frozenset("Concat Expand Flatten Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split())


def flush(model: Model, below: float = SMALLEST) -> tuple[Model, int]:
    """`model` with 0 in place of weights smaller than `below`, and how many those were; `model` itself where none.

    Weights are what the network multiplies with, and biases. float16 is left alone: its subnormal numbers are as exact
    as the others, and outputs change without them.
    """
    small: dict[str, np.ndarray] = {}
    types = TYPES if below <= SMALLEST else (*TYPES, ir.DataType.FLOAT16)
    for name, value in model.ir.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in types or tensor.size < 2 or value.is_graph_input():
            continue
        array = tensor.numpy()
        size = np.abs(array)
        hit = (size < np.asarray(below, size.dtype)) & (array != 0)
        if hit.any() and _is_weight(value):
            small[name] = hit
    if not small:
        return model, 0
    copy = model.ir.clone()
    for name, hit in small.items():
        value = copy.graph.initializers[name]
        array = value.const_value.numpy()
        data = np.where(hit, np.zeros((), array.dtype), array)
        value.const_value = ir.tensor(data, dtype=value.const_value.dtype, name=name)
    return Model(copy, model.name, dict(model.copies)), sum(
        int(hit.sum()) for name, hit in small.items() if name not in model.copies
    )


def _is_weight(value: ir.Value) -> bool:
    """Whether all that becomes of a constant, moved or as it is, is to be multiplied with what varies, or is a bias."""
    waiting, seen = [value], {value}
    while waiting:
        moved = waiting.pop()
        if moved.is_graph_output():
            return False
        for node, index in moved.uses():
            if node.domain:
                return False
            if node.op_type in MOVES:
                more = [out for out in node.outputs if out not in seen]
                seen.update(more)
                waiting += more
            elif index not in FACTORS.get(node.op_type, ()) or all(_is_constant(v) for v in node.inputs):
                return False
    return True


def _is_constant(value: ir.Value | None) -> bool:
    """Whether a value is computed from initializers alone."""
    if value is None or value.is_initializer():
        return True
    node = value.producer()
    return node is not None and all(_is_constant(v) for v in node.inputs)
