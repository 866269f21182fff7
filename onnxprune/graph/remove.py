"""Delete units: slice tensors where the labels say, and mend the constants that mention a shrunken axis."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxprune.errors import InputError
from onnxprune.graph.compact import kept_in_a_row, shape_after, take, take_lines
from onnxprune.graph.labels import spans
from onnxprune.graph.mending import Mender
from onnxprune.graph.model import Model
from onnxprune.graph.rules import MENDS, Change
from onnxprune.graph.units import Channels, Unit
from onnxprune.graph.values import evaluate

#: A sliced tensor up to this many elements is kept once computed; larger ones are sliced again when they are read.
_CACHED_ELEMENTS = 2**16


def remove(model: Model, channels: Channels, units: Iterable[Unit | int]) -> Model:
    """Return `model` without `units`; the function is that of `mask(model, channels, units)`.

    Raises EmptyAxisError, naming the axis, where nothing would be left of one, and RaggedError where units that share
    channels don't go together. Tensors are sliced when they are read.
    """
    check_belongs(model, channels)
    units = list(units)
    deleted = channels.deleted(units)
    kept, after = _shapes_after(channels, deleted)
    copy = model.ir.clone()
    twin = twins(model.ir, copy)
    for value, what in kept.items():
        _reshape_value(twin[value], channels, value, after[value])
        if value.const_value is not None:
            twin[value].const_value = _sliced(value, what)
            if twin[value] in copy.graph.inputs:  # a default that callers could replace, but not by its old shape
                copy.graph.inputs.remove(twin[value])
    if kept:
        _mend(model, channels, copy, twin, kept, after)
    for block in channels.dropped(units):
        skip(twin[block.add.outputs[0]].producer(), 1 - block.operand)
    copies = {name: original for name, original in model.copies.items() if name in copy.graph.initializers}
    merge_copies(copy, copies)
    RemoveUnusedNodesPass()(copy)
    left = {name: original for name, original in copies.items() if name in copy.graph.initializers}
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
    """What is kept of the tensors that shrink, and the shape of every tensor afterwards, under the trace's probe."""
    kept: dict[ir.Value, _Kept] = {}
    after = dict(channels.trace.shape_of)
    found: dict[tuple, _Kept] = {}  # by shape and facets: most operators hand on the very facets that they were given
    for value, facets in channels.trace.facets.items():
        if facets:
            key = (after[value], *map(id, facets))
            if key not in found:
                found[key] = _kept(channels, value, deleted)
            if found[key].shape != after[value]:
                kept[value], after[value] = found[key], found[key].shape
    for node in channels.model.ir.graph:
        if node.op_type == "Transpose" and not node.domain and node.outputs[0] in kept and node.inputs[0] in after:
            _check_turned(node, after)
    return kept, after


@dataclass(frozen=True, eq=False)
class _Kept:
    """What is kept of a tensor. Where its axes are cut one by one, `lines` says what of each: bool [size].

    The mask is made when it is called for: together those of a large model take as much as a quarter of its weights.
    """

    shape: tuple[int, ...]
    mask: Callable[[], np.ndarray]
    lines: Mapping[int, np.ndarray] | None

    def take(self, array: np.ndarray) -> np.ndarray:
        return take(array, self.mask()) if self.lines is None else take_lines(array, self.lines)

    def along(self, axis: int, size: int) -> np.ndarray:
        """Which places along `axis` the first row keeps that keeps any: bool [size]."""
        if self.lines is None:
            return kept_in_a_row(self.mask(), axis, size)
        return self.lines.get(axis, np.ones(size, bool))


def _kept(channels: Channels, value: ir.Value, deleted: np.ndarray) -> _Kept:
    before = channels.trace.shape_of[value]
    mask = partial(channels.keep_mask, value, deleted)
    facets = channels.trace.facets[value]
    axes = [spans(facet) for facet in facets]
    if all(len(speaks) == 1 for speaks in axes) and len(set(axes)) == len(axes):
        flags = {speaks[0]: ~deleted[channels.named(facet).ravel()] for facet, speaks in zip(facets, axes, strict=True)}
        shape = list(before)
        for axis, line in flags.items():
            shape[axis] = int(np.count_nonzero(line)) * (shape[axis] // line.size)
        has_runs = any(line.size != before[axis] for axis, line in flags.items())
        return _Kept(tuple(shape), mask, None if has_runs else flags)
    try:
        return _Kept(shape_after(channels.keep_runs(value, deleted), before), mask, None)
    except ValueError as error:
        raise AssertionError(f"Units leave '{value.name}' ragged: {error}.") from error


def _check_turned(node: ir.Node, after) -> None:
    """Rows that keep places of their own can't be turned: whoever offers such units is wrong."""
    before = after[node.inputs[0]]
    order = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(len(before))[::-1]
    if tuple(before[axis] for axis in order) != tuple(after[node.outputs[0]]):
        raise AssertionError(f"Units leave rows that Transpose '{node.name}' can't turn.")


def _reshape_value(value: ir.Value, channels: Channels, before: ir.Value, shape: tuple[int, ...]) -> None:
    if value.shape is None:
        return
    old = channels.trace.shape_of[before]
    if len(value.shape) != len(old):  # the file says what can't be
        value.shape = None
        return
    for axis, size in enumerate(shape):
        if size != old[axis]:
            value.shape[axis] = ir.SymbolicDim(None) if channels.trace.is_dynamic(before, axis) else size


def _sliced(value: ir.Value, kept: _Kept) -> ir.LazyTensor:
    tensor = value.const_value

    def cut() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(kept.take(tensor.numpy())), dtype=tensor.dtype, name=value.name)

    small = math.prod(kept.shape) <= _CACHED_ELEMENTS
    return ir.LazyTensor(cut, dtype=tensor.dtype, shape=ir.Shape(kept.shape), cache=small, name=value.name)


def _mend(model: Model, channels: Channels, copy: ir.Model, twin, kept, after) -> None:
    """Recompute constants that mention a changed axis; shape arithmetic that adapts by itself is left alone."""
    trace = channels.trace
    values: dict[ir.Value, np.ndarray] = {}
    if any((node.domain, node.op_type) in MENDS for node in model.ir.graph):
        constants = {twin[v]: a for v, a in trace.values.items() if v.is_initializer() and v not in kept}
        sizes = {twin[v]: shape for v, shape in after.items() if v in twin}
        values = evaluate(copy, sizes, known=constants)
    mender = Mender(copy.graph, values)
    resized = {v for v, array in trace.values.items() if not np.array_equal(values.get(twin[v]), array)}
    for node, other in zip(model.ir.graph, list(copy.graph), strict=True):
        function = MENDS.get((node.domain, node.op_type))
        if function is None or not any(v in kept or v in resized for v in [*node.inputs, *node.outputs]):
            continue
        change = Change(
            node=node,
            version=node.version or model.ir.graph.opset_imports.get(node.domain, 1),
            before=[None if v is None else trace.shape_of.get(v) for v in node.inputs],
            after=[None if v is None else after.get(v) for v in node.inputs],
            outputs_before=[trace.shape_of[v] for v in node.outputs],
            outputs_after=[after[v] for v in node.outputs],
            kept=lambda v, axis: (
                kept[v].along(axis, trace.shape_of[v][axis]) if v in kept else np.ones(trace.shape_of[v][axis], bool)
            ),
            mask=lambda v: kept[v].mask() if v in kept else np.ones((1,) * len(trace.shape_of[v]), bool),
            value=lambda i, other=other: _value(other, i, values),
            dynamic=trace.is_dynamic,
            is_same_size=trace.is_same_size,
            is_moment=node in trace.moments,
        )
        mended = function(change)
        if mended is not None:
            mender.apply(other, mended)


def _value(node: ir.Node, index: int, values: Mapping[ir.Value, np.ndarray]) -> np.ndarray | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else values.get(value)


def skip(node: ir.Node, kept: int) -> None:
    """What read the result reads the operand that is kept; a graph output keeps its name."""
    out, value = node.outputs[0], node.inputs[kept]
    if out.is_graph_output():
        node.op_type = "Identity"
        node.replace_input_with(0, value)
        node.resize_inputs(1)
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
