"""Readers take over what deleted channels added: constants into the bias, weights of equal channels into one's.

What changes is worked out on the model as it was, cut to what is kept, and written into the model without the channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph.compact import kept_along, take
from onnxprune.graph.contradictions import fits_together
from onnxprune.graph.exact.products import CONVOLUTIONS
from onnxprune.graph.exact.readings import Reading
from onnxprune.graph.exact.step import WIDENED, holds_weights
from onnxprune.graph.model import Model
from onnxprune.graph.names import all_names, free_name
from onnxprune.graph.units import Channels

#: Halves round coarsely: a sum that its type can't hold this closely, of the largest beside it, isn't written down.
ROUNDING = 2.0**-22


@dataclass(frozen=True, eq=False)
class Edit:
    """For one node, cut to what is kept: `shift` is added to its result, `weight` replaces its operand `index`."""

    node: str
    shift: np.ndarray | None = None
    weight: np.ndarray | None = None
    index: int = 1


def bias_problem(reading: Reading) -> str:
    """Why a constant can't be added to what the node gives; empty where it can."""
    step, node = reading.laid.step, reading.node
    if not reading.laid.is_steady:
        return "reads it through zero padding" if node.op_type == "Conv" else "has windows that overlap unevenly"
    if node.op_type == "MatMul":
        return ""
    if step.has(2) and not _is_own(node.inputs[2]):
        return "has a bias that isn't a plain tensor"
    if node.op_type == "Gemm" and step.attr("beta", 1.0) == 0.0:
        return "ignores its bias"
    return ""


def weight_problem(reading: Reading) -> str:
    """Why weights of one channel can't be added to another's; empty where they can."""
    if reading.axis < 0 or reading.weights is None:
        return "has no constant weights"
    value = reading.node.inputs[reading.laid.factors[reading.weights].index]
    if not _is_own(value) or len(value.uses()) > 1:
        return "has weights that are computed, or that another node reads too"
    others = [n for i, n in enumerate(reading.places) if i != reading.axis and n > 1]
    if others and reading.node.op_type not in CONVOLUTIONS:
        return "has weights of their own for each item of a batch"
    return ""


def _is_own(value: ir.Value) -> bool:
    """Whether this is an initializer that may be replaced."""
    tensor = value.const_value
    is_plain = value.is_initializer() and holds_weights(value) and not value.is_graph_output()
    return is_plain and tensor.dtype.is_floating_point()


def edits(channels: Channels, reads: Sequence[Reading], deleted: np.ndarray) -> tuple[list[Edit], list[Reading]]:
    """What readers of the deleted channels take over; and the readings whose new numbers their type can't hold."""
    found, refused = [], []
    for reading in reads:
        folded, moved = reading.handled(deleted)
        if not folded.any() and not moved.any():
            continue
        with fits_together(reading.node):
            shift = _shift(channels, reading, folded, deleted) if folded.any() else None
            weight = _weight(channels, reading, moved, deleted) if moved.any() else None
        if (folded.any() and shift is None) or (moved.any() and weight is None):
            refused.append(reading)
            continue
        index = 1 if reading.weights is None else reading.laid.factors[reading.weights].index
        found.append(Edit(reading.node.name or "", shift, weight, index))
    return found, refused


def _shift(channels: Channels, reading: Reading, folded: np.ndarray, deleted: np.ndarray) -> np.ndarray | None:
    """What the folded places add to each result that is kept; None where the node's type can't hold the sum."""
    node, step = reading.node, reading.laid.step
    shift = np.asarray(reading.laid.unlay(reading.laid.summed_products(folded)))
    bias = step.operand(2) if step.has(2) else None
    held = np.zeros(1) if bias is None else np.broadcast_to(bias.value, step.shape(2)).astype(np.float64)
    if node.op_type in CONVOLUTIONS and bias is not None:
        held = held.reshape((1, -1) + (1,) * (shift.ndim - 2))
    if not fits(_dtype(node), held + shift):
        return None
    mask = channels.keep_mask(node.outputs[0], deleted)
    for axis, size in enumerate(shift.shape):
        if size > 1 and mask.shape[axis] > 1:
            shift = shift.compress(kept_along(mask, axis, size), axis)
    return shift


def _weight(channels: Channels, reading: Reading, moved: np.ndarray, deleted: np.ndarray) -> np.ndarray | None:
    """The kept weights, with those of the moved places added to the places that stand in for them."""
    node = reading.node
    value = node.inputs[reading.laid.factors[reading.weights].index]
    array = value.const_value.numpy()
    grouped, axis = _by_places(reading, array)
    wide = grouped.astype(np.float64)
    for place in zip(*np.nonzero(moved), strict=True):
        group = place[0] if node.op_type in CONVOLUTIONS else 0
        target = (group, *(slice(None),) * (axis - 1), int(reading.into[place]))
        source = (*target[:-1], int(place[reading.axis]))
        wide[target] += reading.ratio[place] * wide[source]
    result = wide.reshape(array.shape)
    if not fits(value.dtype, result):
        return None
    mask = channels.keep_mask(value, deleted)
    return np.ascontiguousarray(take(result, mask)).astype(array.dtype)


def _by_places(reading: Reading, array: np.ndarray) -> tuple[np.ndarray, int]:
    """Weights with the group in front, and the axis of the places that are summed."""
    node, step = reading.node, reading.laid.step
    if node.op_type in CONVOLUTIONS:
        group = step.attr("group", 1)
        split = array.reshape(group, array.shape[0] // group, *array.shape[1:])
        return split, 1 if node.op_type == "ConvTranspose" else 2
    index = reading.laid.factors[reading.weights].index
    if node.op_type == "Gemm":
        flipped = step.attr("transB" if index else "transA", 0)
        axis = (1 if flipped else 0) if index else (0 if flipped else 1)
    else:
        axis = array.ndim - 1 if index == 0 else max(array.ndim - 2, 0)
    return array[None], axis + 1


def fits(dtype: ir.DataType | None, array: np.ndarray) -> bool:
    """Whether a half holds these numbers closely; other floats do."""
    if dtype not in WIDENED:
        return bool(np.isfinite(array).all())
    with np.errstate(over="ignore"):
        error = np.abs(array.astype(dtype.numpy()).astype(np.float64) - array)
    return bool(np.isfinite(error).all() and (error <= ROUNDING * np.abs(array).max(initial=0.0)).all())


def _dtype(node: ir.Node) -> ir.DataType:
    """The type that the node computes in. Files needn't say it of what is computed; they do of its weights."""
    given = [v.dtype for v in [*node.outputs, *node.inputs] if v is not None and v.dtype is not None]
    return given[0] if given else ir.DataType.FLOAT


# ---- writing --------------------------------------------------------------------------------------------------------


def apply(model: Model, changes: Sequence[Edit]) -> None:
    """Write the edits into `model`, which `remove` has just made and nobody else holds."""
    nodes = {node.name: node for node in model.ir.graph}
    for edit in changes:
        node = nodes.get(edit.node)
        if node is None:
            continue  # nothing reads it any more
        if edit.weight is not None:
            _replace(model.ir.graph, node, edit.index, edit.weight)
        if edit.shift is not None:
            _add_to_result(model.ir.graph, node, edit.shift)


def _add_to_result(graph: ir.Graph, node: ir.Node, shift: np.ndarray) -> None:
    if node.op_type == "MatMul":
        _add_behind(graph, node, _without_leading_ones(shift))
        return
    shift = shift.ravel() if node.op_type in CONVOLUTIONS else _without_leading_ones(shift)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Gemm" and "beta" in node.attributes:
        if bias is None:
            del node.attributes["beta"]
        else:
            shift = shift / node.attributes["beta"].as_float()
    if bias is not None:
        shift = bias.const_value.numpy().astype(np.float64) + shift
    _replace(graph, node, 2, shift, named=f"{node.name}.bias")


def _add_behind(graph: ir.Graph, node: ir.Node, shift: np.ndarray) -> None:
    """Add to what a MatMul gives: into the vector that is added already, or by an Add of its own."""
    out = node.outputs[0]
    uses = list(out.uses())
    if len(uses) == 1 and not out.is_graph_output():
        reader, index = uses[0]
        other = reader.inputs[1 - index] if reader.op_type == "Add" and not reader.domain else None
        if other is not None and _is_own(other) and reader.inputs[0] is not reader.inputs[1]:
            held = other.const_value.numpy()
            if np.broadcast_shapes(held.shape, shift.shape) == held.shape:
                _replace(graph, reader, 1 - index, held.astype(np.float64) + shift)
                return
    dtype = _dtype(node)
    vector = new_initializer(graph, f"{node.name}.bias", shift.astype(dtype.numpy()), dtype)
    add = ir.Node("", "Add", [out, vector], name=free_name(f"{node.name}.add", all_names(graph)))
    add.outputs[0].type, add.outputs[0].shape = out.type, out.shape
    is_output = out.is_graph_output()
    out.replace_all_uses_with(add.outputs[0], replace_graph_outputs=is_output)
    add.replace_input_with(0, out)
    name = out.name
    if is_output:
        out.name = free_name(f"{name}.product", graph)
        add.outputs[0].name = name
    else:
        add.outputs[0].name = free_name(f"{name}.shifted", graph)
    graph.insert_after(node, add)


def _without_leading_ones(array: np.ndarray) -> np.ndarray:
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: np.ndarray, *, named: str = "") -> None:
    """Give the node its own array at `index`, under the old name where nobody else reads the old one."""
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    dtype = _dtype(node) if old is None else old.dtype
    array = array.astype(dtype.numpy())
    if old is not None and len(old.uses()) == 1 and not old.is_graph_output():
        old.const_value = ir.tensor(array, dtype=dtype, name=old.name)
        old.shape = ir.Shape(array.shape)
        if old in graph.inputs:  # a default that callers could replace, but not by its old value
            graph.inputs.remove(old)
        return
    node.replace_input_with(index, new_initializer(graph, named or f"{old.name}.own", array, dtype))


def new_initializer(graph: ir.Graph, wanted: str, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
    name = free_name(wanted, graph)
    tensor = ir.tensor(np.asarray(array, order="C"), dtype=dtype, name=name)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
