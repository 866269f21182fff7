"""Delete units: slice tensors where the labels say, and mend the constants that mention a shrunken axis."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxprune.errors import InputError
from onnxprune.graph import shapes
from onnxprune.graph.compact import kept_in_a_row, shape_after, take
from onnxprune.graph.model import Model, free_name
from onnxprune.graph.rules import MENDS, Change, Mended
from onnxprune.graph.units import Channels, Unit

#: A sliced tensor up to this many elements is kept once computed; larger ones are sliced again when they are read.
_CACHED_ELEMENTS = 2**20


def remove(model: Model, channels: Channels, units: Iterable[Unit | int]) -> Model:
    """Return `model` without `units`; the function is that of `mask(model, channels, units)`.

    Raises EmptyAxisError, naming the axis, where nothing would be left of one. Tensors are sliced when they are read.
    """
    check_belongs(model, channels)
    units = list(units)
    deleted = channels.deleted(units)
    masks, after = _shapes_after(channels, deleted)
    copy = model.ir.clone()
    twin = twins(model.ir, copy)
    for value, mask in masks.items():
        _reshape_value(twin[value], channels, value, after[value])
        if value.const_value is not None:
            twin[value].const_value = _sliced(value, mask, after[value])
            if twin[value] in copy.graph.inputs:  # a default that callers could replace, but not by its old shape
                copy.graph.inputs.remove(twin[value])
    if masks:
        _mend(model, channels, copy, twin, masks, after)
    for block in channels.dropped(units):
        _skip(copy.graph, twin[block.add.outputs[0]].producer(), 1 - block.operand)
    kept = {name: original for name, original in model.copies.items() if name in copy.graph.initializers}
    merge_copies(copy, kept)
    RemoveUnusedNodesPass()(copy)
    left = {name: original for name, original in kept.items() if name in copy.graph.initializers}
    return Model(copy, model.name, left)


def check_belongs(model: Model, channels: Channels) -> None:
    if channels.model is not model:
        raise InputError("These channels were traced from another model. Trace the model you are changing.")


def twins(original: ir.Model, copy: ir.Model) -> dict[ir.Value, ir.Value]:
    """{value: its counterpart in the clone}."""
    pairs = dict(zip(original.graph.inputs, copy.graph.inputs, strict=True))
    for name, value in original.graph.initializers.items():
        pairs[value] = copy.graph.initializers[name]
    for node, other in zip(original.graph, copy.graph, strict=True):
        pairs.update(zip(node.outputs, other.outputs, strict=True))
    return pairs


def _shapes_after(channels: Channels, deleted: np.ndarray):
    """Masks of the tensors that shrink, and the shape of every tensor afterwards, under the trace's probe."""
    masks: dict[ir.Value, np.ndarray] = {}
    after = dict(channels.trace.shape_of)
    for value, facets in channels.trace.facets.items():
        if facets:
            mask = channels.keep_mask(value, deleted)
            if not mask.all():
                masks[value] = mask
                try:
                    after[value] = shape_after(mask, after[value])
                except ValueError as error:
                    raise AssertionError(f"Units leave '{value.name}' ragged: {error}.") from error
    return masks, after


def _reshape_value(value: ir.Value, channels: Channels, before: ir.Value, shape: tuple[int, ...]) -> None:
    if value.shape is None:
        return
    old = channels.trace.shape_of[before]
    dims: list[int | ir.SymbolicDim] = []
    for axis, dim in enumerate(value.shape):
        if shape[axis] == old[axis]:
            dims.append(dim)
        else:
            dims.append(ir.SymbolicDim(None) if channels.trace.is_dynamic(before, axis) else shape[axis])
    value.shape = ir.Shape(dims)


def _sliced(value: ir.Value, mask: np.ndarray, shape: tuple[int, ...]) -> ir.LazyTensor:
    tensor = value.const_value

    def cut() -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(take(tensor.numpy(), mask)), dtype=tensor.dtype, name=value.name)

    small = int(np.prod(shape)) <= _CACHED_ELEMENTS
    return ir.LazyTensor(cut, dtype=tensor.dtype, shape=ir.Shape(shape), cache=small, name=value.name)


def _mend(model: Model, channels: Channels, copy: ir.Model, twin, masks, after) -> None:
    """Recompute constants that mention a changed axis; shape arithmetic that adapts by itself is left alone."""
    trace = channels.trace
    values: dict[ir.Value, np.ndarray] = {}
    if any((node.domain, node.op_type) in MENDS for node in model.ir.graph):
        values = shapes.evaluate(copy, {twin[v]: shape for v, shape in after.items() if v in twin})
    resized = {v for v, array in trace.values.items() if not np.array_equal(values.get(twin[v]), array)}
    for node, other in zip(model.ir.graph, list(copy.graph), strict=True):
        function = MENDS.get((node.domain, node.op_type))
        if function is None or not any(v in masks or v in resized for v in [*node.inputs, *node.outputs]):
            continue
        change = Change(
            node=node,
            version=node.version or model.ir.graph.opset_imports.get(node.domain, 1),
            before=[None if v is None else trace.shape_of.get(v) for v in node.inputs],
            after=[None if v is None else after.get(v) for v in node.inputs],
            outputs_before=[trace.shape_of[v] for v in node.outputs],
            outputs_after=[after[v] for v in node.outputs],
            kept=lambda v, axis: (
                kept_in_a_row(masks[v], axis, trace.shape_of[v][axis])
                if v in masks
                else np.ones(trace.shape_of[v][axis], bool)
            ),
            mask=lambda v: masks[v] if v in masks else np.ones((1,) * len(trace.shape_of[v]), bool),
            value=lambda i, other=other: _value(other, i, values),
            dynamic=trace.is_dynamic,
        )
        mended = function(change)
        if mended is not None:
            _apply(copy.graph, other, mended)


def _value(node: ir.Node, index: int, values: Mapping[ir.Value, np.ndarray]) -> np.ndarray | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else values.get(value)


def _apply(graph: ir.Graph, node: ir.Node, mended: Mended) -> None:
    for name, value in mended.attributes.items():
        if value is None:
            node.attributes.pop(name, None)
        elif isinstance(value, int):
            node.attributes[name] = ir.AttrInt64(name, value)
        elif isinstance(value, float):
            node.attributes[name] = ir.AttrFloat32(name, value)
        else:
            node.attributes[name] = ir.AttrInt64s(name, list(value))
    for axis, places in mended.picked.items():
        _pick(graph, node, axis, places)
    for index, factor in mended.multiply.items():
        _multiply(graph, node, index, factor)
    if mended.scale != 1.0:
        _scale_output(graph, node, mended.scale)
    for index, changes in mended.places.items():
        _write_places(graph, node, index, changes)
    for index, array in mended.inputs.items():
        if len(node.inputs) <= index:
            node.resize_inputs(index + 1)
        old = node.inputs[index]
        if old is not None and old.const_value is not None and np.array_equal(old.const_value.numpy(), array):
            continue
        dtype = np.int64 if old is None or old.dtype is None else old.dtype.numpy()
        node.replace_input_with(index, _constant(graph, f"{node.name}.input{index}", np.asarray(array, dtype)))


def _pick(graph: ir.Graph, node: ir.Node, axis: int, places: np.ndarray) -> None:
    """Let the node read no more than these places of its first input."""
    source = node.inputs[0]
    name = free_name(f"{node.name}.picked", graph)
    operands = [source, _constant(graph, f"{node.name}.places", np.asarray(places, np.int64))]
    gather = ir.Node("", "Gather", operands, [ir.AttrInt64("axis", axis)], name=name)
    gather.outputs[0].name, gather.outputs[0].type = name, source.type
    graph.insert_before(node, gather)
    node.replace_input_with(0, gather.outputs[0])


def _write_places(graph: ir.Graph, node: ir.Node, index: int, changes: Mapping[int, int | Fraction]) -> None:
    """Give elements of a one-dimensional input other values: in its constant, or by arithmetic before the node."""
    old = node.inputs[index]
    if old.const_value is not None and not old.is_graph_input():
        array = np.array(old.const_value.numpy())
        for position, value in changes.items():
            array[position] = array[position] * value if isinstance(value, Fraction) else value
        node.replace_input_with(index, _constant(graph, f"{node.name}.input{index}", array))
        return
    size = max(changes) + 1 if old.shape is None else old.shape[0]
    dtype = (old.dtype or ir.DataType.INT64).numpy()
    factors = {position: value for position, value in changes.items() if isinstance(value, Fraction)}
    written = {position: value for position, value in changes.items() if position not in factors}

    def vector(values: Mapping[int, int], other: int, dtype: np.dtype = dtype) -> ir.Value:
        array = np.full(size, other, dtype)
        array[list(values)] = list(values.values())
        return _constant(graph, f"{node.name}.sizes", array)

    new = old
    if factors:
        new = _insert(graph, node, "Mul", new, vector({p: f.numerator for p, f in factors.items()}, 1))
        new = _insert(graph, node, "Div", new, vector({p: f.denominator for p, f in factors.items()}, 1))
    if written:
        flags = vector(dict.fromkeys(written, True), False, np.dtype(bool))
        new = _insert(graph, node, "Where", flags, vector(written, 0), new)
    node.replace_input_with(index, new)


def _insert(graph: ir.Graph, before: ir.Node, operator: str, *operands: ir.Value) -> ir.Value:
    """What a new node in front of `before` gives; type and shape are those of the last computed operand."""
    like = next(v for v in reversed(operands) if v.const_value is None)
    name = free_name(f"{before.name}.{operator.lower()}", graph)
    node = ir.Node("", operator, operands, name=name)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, like.type, like.shape
    graph.insert_before(before, node)
    return node.outputs[0]


def _constant(graph: ir.Graph, wanted: str, array: np.ndarray) -> ir.Value:
    """A new initializer."""
    name = free_name(wanted, graph)
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def _multiply(graph: ir.Graph, node: ir.Node, index: int, factor: float) -> None:
    """Give the node its own copy of a weight, times `factor`."""
    old = node.inputs[index]
    tensor = old.const_value
    name = free_name(f"{old.name}.scaled", graph) if len(old.uses()) > 1 else old.name
    array = (tensor.numpy().astype(np.float64) * factor).astype(tensor.dtype.numpy())
    scaled = ir.tensor(array, dtype=tensor.dtype, name=name)
    if name == old.name:
        old.const_value = scaled
        return
    node.replace_input_with(index, _constant(graph, name, array))


def _scale_output(graph: ir.Graph, node: ir.Node, factor: float) -> None:
    """Multiply what the node gives; its readers, and a graph output's name, follow."""
    out = node.outputs[0]
    name = free_name(f"{node.name}.scale", graph)
    value = _constant(graph, name, np.array(factor, (out.dtype or ir.DataType.FLOAT).numpy()))
    scaled = ir.Node("", "Mul", [out, value], name=name)
    scaled.outputs[0].type, scaled.outputs[0].shape = out.type, out.shape
    is_output = out.is_graph_output()
    out.replace_all_uses_with(scaled.outputs[0], replace_graph_outputs=is_output)
    scaled.replace_input_with(0, out)
    scaled.outputs[0].name, out.name = (out.name, f"{out.name}.kept") if is_output else (f"{out.name}.scaled", out.name)
    graph.insert_after(node, scaled)


def _skip(graph: ir.Graph, add: ir.Node, kept: int) -> None:
    """What read the sum reads the operand that is kept; a graph output keeps its name."""
    out, value = add.outputs[0], add.inputs[kept]
    if out.is_graph_output():
        add.op_type = "Identity"
        add.replace_input_with(0, value)
        add.resize_inputs(1)
    else:
        out.replace_all_uses_with(value)


def merge_copies(model: ir.Model, copies: Mapping[str, str]) -> None:
    """Give back what un-sharing took: copies that still hold the same become one initializer again."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, original in copies.items():
        groups[original].append(name)
    initializers = model.graph.initializers
    for original, names in groups.items():
        seen: dict[tuple, ir.Value] = {}
        for name in [original, *names]:
            value = initializers.get(name)
            if value is None:
                continue
            array = value.const_value.numpy()
            first = seen.setdefault((array.shape, array.tobytes()), value)
            if first is not value:
                value.replace_all_uses_with(first)
                del initializers[name]
