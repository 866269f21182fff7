"""How large a result would be, before it is computed: one node of a small file can ask for terabytes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxprune.graph.labels import labels_after, spans

if TYPE_CHECKING:
    from onnxprune.graph.rules.registry import Op

#: Up to this many elements a result is computed whatever its operands are; beyond, at most this many times as many.
ALWAYS_ELEMENTS = 2**22
TIMES_OPERANDS = 4
#: Labels of one tensor. The widest networks have vocabularies of a quarter of a million.
MOST_LABELS = 2**21
#: Operators that may repeat labels: all others hand on as many as they are given.
SPREADING = frozenset("Concat DepthToSpace Flatten Gather Pad Reshape Resize SpaceToDepth Tile Upsample".split())


def is_bounded(node: ir.Node, inputs: Sequence[np.ndarray | None]) -> bool:
    """Whether a node's results stay in proportion to what goes in."""
    given = sum(array.size for array in inputs if array is not None)
    try:
        return _elements(node, inputs, given) <= max(ALWAYS_ELEMENTS, TIMES_OPERANDS * given)
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError):
        return False  # operands that mean nothing


def labels_are_bounded(op: "Op", runs: bool) -> bool:
    """Whether a node's rule would see, and its outputs carry, no more labels than can be followed.

    `runs` says that the rule takes a label for each run of places, not for each place.
    """
    tensors = [tensor for tensor in op.inputs if tensor is not None and tensor.shape is not None]
    if not runs:
        for tensor in tensors:
            for facet in tensor.facets:
                places = math.prod(tensor.shape[axis] for axis in spans(facet))
                if places > max(facet.size, MOST_LABELS):
                    return False
    if op.node.op_type not in SPREADING or not op.outputs:
        return True
    out = op.outputs[0].shape
    for tensor in tensors if op.node.op_type == "Concat" else tensors[:1]:
        for facet in tensor.facets:
            if runs and 0 not in tensor.shape:
                spread = labels_after(facet.shape, tensor.shape, out)
            else:
                times = math.prod(out) / max(math.prod(tensor.shape), 1)
                spread = max([math.prod(tensor.shape[axis] for axis in spans(facet)) * times, *out])
            if spread > MOST_LABELS:
                return False
    return True


def _elements(node: ir.Node, inputs: Sequence[np.ndarray | None], given: int) -> int:
    """Elements of the largest result; exact where a number in an operand decides it, else as NumPy broadcasts."""
    operator = node.op_type
    if operator == "ConstantOfShape":
        return _product(inputs[0])
    if operator == "Range":
        start, limit, delta = (_number(array) for array in inputs[:3])
        return max(0, math.ceil((limit - start) / delta))
    if operator == "Expand":
        return math.prod(np.broadcast_shapes(inputs[0].shape, _sizes(inputs[1])))
    if operator == "Tile":
        return inputs[0].size * _product(inputs[1])
    if operator == "Pad":
        pads = node.attributes["pads"].as_ints() if "pads" in node.attributes else _sizes(inputs[1])
        return math.prod(size + 2 * max(0, *pads) for size in inputs[0].shape)
    if operator == "OneHot":
        return inputs[0].size * _product(inputs[1])
    if operator in ("Gather", "Concat", "Reshape", "ScatterND", "ScatterElements", "Split", "Slice"):
        return given if operator != "Gather" else _gathered(node, inputs)
    try:
        return math.prod(np.broadcast_shapes(*(array.shape for array in inputs if array is not None)))
    except ValueError:
        return given  # operands that don't broadcast: one of them is no tensor of the result's kind


def _gathered(node: ir.Node, inputs: Sequence[np.ndarray | None]) -> int:
    data, indices = inputs[:2]
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    return data.size // max(data.shape[axis], 1) * indices.size


def _sizes(array: np.ndarray) -> tuple[int, ...]:
    return tuple(int(size) for size in array.ravel())


def _product(array: np.ndarray) -> int:
    sizes = _sizes(array)
    if any(size < 0 for size in sizes):
        raise ValueError("a negative size")
    return math.prod(sizes)


def _number(array: np.ndarray) -> float | int:
    number = array.ravel()[0].item()
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError("no number")
    return number
