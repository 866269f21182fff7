"""Tensors of which every element is known: the branch that computes them goes, and their readers get the constant.

A known-zero operand of an Add goes with its Add; so whole dead blocks of a residual network disappear, and a gate that
doesn't depend on the input becomes a plain scale.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxprune.graph.exact.forward import Facts
from onnxprune.graph.exact.known import Known
from onnxprune.graph.exact.rewrite import fits, new_initializer
from onnxprune.graph.exact.step import WIDENED
from onnxprune.graph.model import Model
from onnxprune.graph.remove import skip, twins
from onnxprune.graph.trace import Trace

#: Operators that broadcast: a constant of size 1 along an axis stands for one that is the same along it.
BROADCASTS = frozenset("Add Sub Mul Div Max Min Pow PRelu Where Sum Mean".split())
#: The operand that changes nothing, and the places it may be at.
NEUTRAL = {"Add": (0.0, (0, 1)), "Sub": (0.0, (1,)), "Mul": (1.0, (0, 1)), "Div": (1.0, (1,))}


def replace_constants(trace: Trace, facts: Facts) -> Model | None:
    """The model without the branches that compute constants; None where there is none, or nothing would be gained."""
    for new_constants in (True, False):
        smaller = _replaced(trace, facts, new_constants)
        if smaller is None or _elements(smaller) <= _elements(trace.model):
            return smaller
    return None


def _replaced(trace: Trace, facts: Facts, new_constants: bool) -> Model | None:
    model = trace.model
    copy = model.ir.clone()
    twin = twins(model.ir, copy)
    varying = _varying(model.ir)
    changed = False
    for node in model.ir.graph:
        if node.domain or node.op_type not in BROADCASTS or node.outputs[0] not in varying:
            continue
        if node.outputs[0] in facts.known and facts.known[node.outputs[0]].is_all_known:
            continue  # its readers get the constant
        other = twin[node.outputs[0]].producer()
        for index, value in enumerate(node.inputs):
            found = facts.known.get(value) if value is not None else None
            if value not in varying or found is None or not found.is_all_known:
                continue
            if not _keeps_shape(trace, node, index, found):
                continue
            if _is_neutral(node, index, found):
                skip(other, 1 - index)
                changed = True
                break
            dtype = value.dtype or _dtype_beside(node) or _dtype_computed(model.ir, found)
            if new_constants and dtype is not None and fits(dtype, found.value.astype(np.float64)):
                constant = found.compressed().value.astype(dtype.numpy())
                other.replace_input_with(index, new_initializer(copy.graph, f"{value.name}.constant", constant, dtype))
                changed = True
    if not changed:
        return None
    RemoveUnusedNodesPass()(copy)
    kept = {name: original for name, original in model.copies.items() if name in copy.graph.initializers}
    return Model(copy, model.name, kept)


def _varying(model: ir.Model) -> set[ir.Value]:
    """Values that nodes compute from inputs of the graph: what initializers alone give is left to constant folding."""
    found = {value for value in model.graph.inputs if not value.is_initializer()}
    inputs = set(found)
    for node in model.graph:
        if any(value in found for value in node.inputs) or node.domain:
            found.update(node.outputs)
    return found - inputs


def _keeps_shape(trace: Trace, node: ir.Node, index: int, found: Known) -> bool:
    """Whether the result keeps its shape where operand `index` shrinks to what is known of it, or is left out."""
    others = [v for i, v in enumerate(node.inputs) if i != index and v is not None]
    small = found.compressed().shape if not _is_neutral(node, index, found) else ()
    for shapes in (trace.shape_of, trace.other_shape_of):
        if any(v not in shapes for v in [*others, node.outputs[0]]):
            return False
        if np.broadcast_shapes(small, *[shapes[v] for v in others]) != tuple(shapes[node.outputs[0]]):
            return False
    return True


def _dtype_beside(node: ir.Node) -> ir.DataType | None:
    """The type of an operand that the file says nothing of: that of the others, but for a condition."""
    given = [v.dtype for v in [*node.outputs, *node.inputs[1 if node.op_type == "Where" else 0 :]] if v is not None]
    return next((dtype for dtype in given if dtype is not None), None)


def _dtype_computed(model: ir.Model, found: Known) -> ir.DataType | None:
    """The type that a constant was computed in, where no halves are about, which would be computed as float32."""
    tables = [*model.graph.inputs, *model.graph.initializers.values()]
    return None if any(v.dtype in WIDENED for v in tables) else ir.DataType.from_numpy(found.value.dtype)


def _is_neutral(node: ir.Node, index: int, found: Known) -> bool:
    number, places = NEUTRAL.get(node.op_type, (None, ()))
    return index in places and len(node.inputs) == 2 and found.holds(number)


def _elements(model: Model) -> int:
    found: Mapping[str, ir.Value] = model.ir.graph.initializers
    return sum(v.const_value.size for n, v in found.items() if n not in model.copies and v.const_value is not None)
