"""Values of shape arithmetic: what is computed from sizes and small constants alone."""

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.graph.fold import MAX_SHAPE_ELEMENTS, SHAPE_OPERATORS, evaluate_node


def constants(
    model: ir.Model, shape_of: Mapping[ir.Value, tuple[int, ...]] | None = None
) -> dict[ir.Value, np.ndarray]:
    """Values of small whole-number initializers, and of all that hold one number; shapes, if known, spare asking."""
    values: dict[ir.Value, np.ndarray] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        size = tensor.size if shape_of is None else math.prod(shape_of[value])
        if size <= MAX_SHAPE_ELEMENTS:
            is_whole = not tensor.dtype.is_floating_point() and tensor.dtype != ir.DataType.STRING
            if is_whole or size == 1:
                values[value] = tensor.numpy()
    return values


def evaluate(
    model: ir.Model,
    shape_of: Mapping[ir.Value, tuple[int, ...]],
    limit: int = MAX_SHAPE_ELEMENTS,
    known: Mapping[ir.Value, np.ndarray] | None = None,
) -> dict[ir.Value, np.ndarray]:
    """Values of small constants and of all shape arithmetic, given concrete shapes; none above `limit` elements.

    `known` are values found before, the constants among them.
    """
    values = dict(constants(model) if known is None else known)
    for node in model.graph:
        if node.domain or node.op_type not in SHAPE_OPERATORS or all(out in values for out in node.outputs):
            continue
        for out, array in zip(node.outputs, _evaluate(node, values, shape_of), strict=False):
            if array.size <= limit and (array.dtype.kind in "iub" or array.size == 1):
                values[out] = array
    return values


def _evaluate(node: ir.Node, values: Mapping[ir.Value, np.ndarray], shape_of: Mapping[ir.Value, tuple[int, ...]]):
    if node.op_type in ("Shape", "Size"):
        shape = shape_of.get(node.inputs[0])
        if shape is None:
            return []
        if node.op_type == "Size":
            return [np.array(int(np.prod(shape)), np.int64)]
        start = node.attributes["start"].as_int() if "start" in node.attributes else 0
        end = node.attributes["end"].as_int() if "end" in node.attributes else None
        return [np.array(shape[start:end], np.int64)]
    if not node.inputs or any(value is not None and value not in values for value in node.inputs):
        return []
    return evaluate_node(node, [None if v is None else values[v] for v in node.inputs]) or []
