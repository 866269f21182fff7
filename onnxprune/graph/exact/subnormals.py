"""Weights so small that processors slow down a hundredfold over them become 0."""

import numpy as np
import onnx_ir as ir

from onnxprune.graph.model import Model

#: The smallest normal number of float32 and bfloat16.
SMALLEST = 2.0**-126
TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)
#: Operands that a 0 would break.
DIVISORS = {"Div": 1, "Log": 0, "Reciprocal": 0, "Mod": 1, "Pow": 0}


def flush(model: Model, below: float = SMALLEST) -> tuple[Model, int]:
    """`model` with 0 in place of weights smaller than `below`, and how many those were; `model` itself where none.

    float16 is left alone: its subnormal numbers are as exact as the others, and outputs change without them.
    """
    small: dict[str, np.ndarray] = {}
    types = TYPES if below <= SMALLEST else (*TYPES, ir.DataType.FLOAT16)
    for name, value in model.ir.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in types or tensor.size < 2 or value.is_graph_input():
            continue
        if any(DIVISORS.get(node.op_type) == index for node, index in value.uses()):
            continue
        array = tensor.numpy()
        size = np.abs(array)
        hit = (size < np.asarray(below, size.dtype)) & (array != 0)
        if hit.any():
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
