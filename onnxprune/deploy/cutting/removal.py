"""Deletion: flags flow from the initializers, initializers are cut, and what mentions a size is written anew."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import onnx_ir as ir

from onnxprune.deploy.bridge import close_graph, merge_copies, open_graph, quiet
from onnxprune.deploy.cutting import computing, moving  # noqa: F401  importing them registers their operators
from onnxprune.deploy.cutting.flags import compact, cut
from onnxprune.deploy.cutting.tensors import MENDS, Tensors
from onnxprune.errors import InputError, ModelError
from onnxprune.graph import shapes
from onnxprune.graph.model import Model
from onnxprune.graph.units import Channels, Unit

FILLING = ("Expand", "ConstantOfShape")


def remove(model: Model, channels: Channels, units: Iterable[Unit | int]) -> Model:
    """Return `model` without `units`: the same function as `graph.remove.remove` gives, found in another way.

    Raises EmptyAxisError where nothing would be left of an axis, InputError for channels of another model, ModelError
    for a graph that onnx-graphsurgeon can't take and for operators through which it can't be followed what goes.
    """
    if channels.model is not model:
        raise InputError("These channels were traced from another model. Trace the model you are changing.")
    units = list(units)
    sums = {block.add.name: 1 - block.operand for block in channels.dropped(units)}
    moments = [node.name for node in channels.trace.moments]
    return delete(model, channels.keep_masks(units) | _filled(channels, units), sums, moments)


def _filled(channels: Channels, units: Sequence[Unit | int]) -> dict[str, np.ndarray]:
    """{name: which elements stay} of tensors that hold one number everywhere, which no initializer tells about."""
    deleted = channels.deleted(units)
    made = [node.outputs[0] for node in channels.model.ir.graph if node.op_type in FILLING and not node.domain]
    masks = {value.name: channels.keep_mask(value, deleted) for value in made if value in channels.trace.shape_of}
    return {name: mask for name, mask in masks.items() if not mask.all()}


def delete(
    model: Model, keep_masks: Mapping[str, np.ndarray], sums: Mapping[str, int], moments: Collection[str] = ()
) -> Model:
    """Return `model` without the elements of tensors for which a mask is False, and what follows from them.

    The tensors are initializers and what is filled with a number. `sums` names nodes of which a single operand is left:
    {Add: operand}; `moments` those that take a normalisation's statistics over what is kept.
    """
    prober = shapes.Prober(model.ir)
    probes = [prober.probe(number) for number in (0, 1)]
    values = [prober.evaluate(found.shape_of) for found in probes]
    goes = {name: compact(~keep) for name, keep in keep_masks.items()}
    opened = open_graph(model, defaults_vary=False)
    graph = opened.graph
    with quiet():
        sizes = [_by_name(found.shape_of) for found in probes]
        tensors = Tensors(graph, goes, *sizes, tuple(map(_by_name, values)), moments)
        for node in graph.nodes:
            tensors.flow(node)
        for node in list(graph.nodes):
            if node.op in MENDS and tensors.is_touched(node):
                MENDS[node.op](node, tensors)
        for name, tensor in graph.tensors().items():
            if isinstance(tensor, gs.Constant) and name in goes:
                tensor.values = cut(tensor.values, goes[name])
        for node in list(graph.nodes):
            if node.name in sums:
                _skip(graph, node, sums[node.name])
        opened.resized = {
            name: {a: None if tensors.is_symbolic(name, a) else size for a, size in tensors.changes(name).items()}
            for name in goes
        }
        merge_copies(opened)
        graph.cleanup(recurse_subgraphs=False).toposort(recurse_subgraphs=False)
    result = close_graph(opened)
    for number, found in enumerate(probes):
        _check(result, _by_name(shapes.infer(result.ir, found.sizes, strict=False).shape_of), tensors, number)
    return result


def _skip(graph: gs.Graph, node: gs.Node, kept: int) -> None:
    """Of a sum only the operand `kept` is left, for what reads the sum; a graph output keeps its name."""
    out, value = node.outputs[0], node.inputs[kept]
    for reader in list(out.outputs):
        reader.inputs = [value if tensor is out else tensor for tensor in reader.inputs]
    node.outputs = []
    if any(out is output for output in graph.outputs):
        graph.nodes.append(gs.Node("Identity", node.name, inputs=[value], outputs=[out]))


def _by_name(found: Mapping[ir.Value, Any]) -> dict[str, Any]:
    return {value.name: what for value, what in found.items()}


def _check(model: Model, found: Mapping[str, tuple[int, ...]], tensors: Tensors, number: int) -> None:
    """What is left must have the sizes that were meant: under symbolic sizes, where they are computed, too."""
    for node in model.ir.graph:
        for value in node.outputs:
            if value.name in tensors.shapes:
                expected, sizes = tensors.left_under(number, value.name), found.get(value.name)
                if expected is not None and sizes != expected:
                    raise ModelError(
                        f"'{value.name}' of {node.op_type} '{node.name}' came out as {sizes} instead of {expected}. "
                        "Remove these units with the backend onnx-ir."
                    )
