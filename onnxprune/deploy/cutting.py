"""A second, independent implementation of deletion, on onnx-graphsurgeon.

It knows of the plan only which elements of which initializers go (`channels.keep_masks`), and finds by itself what
goes of every other tensor (`flags`). Then initializers are cut, and whatever mentions a size is written anew.
"""

from collections.abc import Callable, Iterable

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.deploy.bridge import close_graph, merge_copies, open_graph, quiet
from onnxprune.deploy.flags import (
    Flags,
    Tensors,
    compact,
    constant,
    cut,
    reduced_axes,
    refusal,
    sizes_left,
    slice_places,
)
from onnxprune.errors import InputError
from onnxprune.graph.model import Model
from onnxprune.graph.shapes import probe
from onnxprune.graph.units import Channels, Unit


def remove(model: Model, channels: Channels, units: Iterable[Unit | int]) -> Model:
    """Return `model` without `units`: the same function as `graph.remove.remove` gives, found in another way.

    Raises EmptyAxisError where nothing would be left of an axis, InputError for channels of another model, ModelError
    for a graph that onnx-graphsurgeon can't take.
    """
    if channels.model is not model:
        raise InputError("These channels were traced from another model. Trace the model you are changing.")
    goes = {name: compact(~keep) for name, keep in channels.keep_masks(list(units)).items()}
    opened = open_graph(model, defaults_vary=False)
    graph = opened.graph
    with quiet():
        found = {value.name: shape for value, shape in probe(model.ir, 0).shape_of.items()}
        other = {value.name: shape for value, shape in probe(model.ir, 1).shape_of.items()}
        tensors = Tensors(goes, found, other, graph.opset)
        for node in graph.nodes:
            tensors.flow(node)
        for node in list(graph.nodes):
            if any(tensor.name in goes for tensor in [*node.inputs, *node.outputs]):
                mend = MENDS.get(node.op)
                if mend is not None:
                    mend(node, tensors, graph)
        for name, tensor in graph.tensors().items():
            if isinstance(tensor, gs.Constant) and name in goes:
                tensor.values = cut(tensor.values, goes[name])
        opened.resized = {name: tensors.changes(name) for name in goes}
        merge_copies(opened)
        graph.cleanup(recurse_subgraphs=False).toposort(recurse_subgraphs=False)
    return close_graph(opened)


def _write(node: gs.Node, index: int, values: Iterable[int], graph: gs.Graph) -> None:
    """Give the node a constant of its own, in its input's type, unless it reads just these values already."""
    old = constant(node, index)
    dtype = np.dtype(np.int64 if old is None else old.dtype)
    bounds = np.iinfo(dtype)
    array = np.array(values, np.int64).clip(bounds.min, bounds.max).astype(dtype)
    if old is not None and np.array_equal(old, array):
        return
    name = _free(f"{node.name}.sizes{index}", graph)
    while len(node.inputs) <= index:
        node.inputs.append(gs.Variable.empty())
    node.inputs[index] = gs.Constant(name, array)


def _free(name: str, graph: gs.Graph) -> str:
    taken, found, number = graph.tensors(), name, 1
    while found in taken:
        number += 1
        found = f"{name}.{number}"
    return found


def _scale_output(node: gs.Node, factor: float, graph: gs.Graph) -> None:
    """Multiply what the node gives; its readers find the product under the old name."""
    out = node.outputs[0]
    try:
        dtype = np.dtype(out.dtype)
    except TypeError as error:
        raise refusal(node, f"gives as type {out.dtype}") from error
    if dtype.kind != "f":
        raise refusal(node, f"gives as type {dtype}")
    given = gs.Variable(_free(f"{out.name}.kept", graph), dtype)
    node.outputs[0] = given
    scale = gs.Constant(_free(f"{node.name}.scale", graph), np.array(factor, dtype))
    graph.nodes.append(gs.Node("Mul", f"{node.name}.scale", inputs=[given, scale], outputs=[out]))


def _share_left(node: gs.Node, tensors: Tensors, axes: Iterable[int]) -> float:
    """Which fraction of the places of `axes` stays."""
    before, left = tensors.shapes[node.inputs[0].name], tensors.left(node.inputs[0])
    return float(np.prod([left[axis] / before[axis] for axis in axes]))


def _mend_mean(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    """The mean was over all places, those that go being 0: the mean over those kept, times kept over all."""
    axes = reduced_axes(node, len(tensors.shapes[node.inputs[0].name]))
    share = _share_left(node, tensors, axes)
    if share not in (0.0, 1.0):
        _scale_output(node, share, graph)


def _mend_rms_norm(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    """The mean square is over a share of the places: epsilon over the share, and scale over its square root."""
    rank = len(tensors.shapes[node.inputs[0].name])
    share = _share_left(node, tensors, range(node.attrs.get("axis", -1) % rank, rank))
    if share in (0.0, 1.0):
        return
    node.attrs["epsilon"] = node.attrs.get("epsilon", 1e-5) / share
    scale = node.inputs[1]
    if isinstance(scale, gs.Constant) and len(scale.outputs) == 1:
        values = scale.values
        scale.values = (values.astype(np.float64) / share**0.5).astype(values.dtype)
    else:
        _scale_output(node, share**-0.5, graph)


def _mend_group_norm(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    """Groups that go are counted no more; the others must lose as many channels each."""
    flags, groups = tensors.flags(node.inputs[0]), node.attrs["num_groups"]
    if flags.shape[1] == 1:
        return
    counts = (~flags.reshape(groups, -1)).sum(axis=1)
    left = counts[counts > 0]
    if len(np.unique(left)) > 1:
        raise refusal(node, f"does to groups of {left.tolist()} channels")
    node.attrs["num_groups"] = len(left)


def _mend_conv(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    if node.attrs.get("group", 1) == 1:
        return
    per_group = tensors.left(node.inputs[1])[1]
    counted = node.inputs[0] if node.op == "Conv" else node.outputs[0]
    node.attrs["group"] = tensors.left(counted)[1] // per_group


def _mend_reshape(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    """Sizes that are fixed are written out; of the dynamic ones all but one have to be the input's at that place."""
    source, out = node.inputs[0], node.outputs[0]
    if out.name not in tensors.goes and source.name not in tensors.goes:
        return
    before, left = tensors.shapes[source.name], tensors.left(out)
    target: list[int] = []
    for axis, size in enumerate(left):
        if not tensors.is_dynamic(out, axis):
            target.append(size)
        elif axis < len(before) and tensors.is_dynamic(source, axis) and before[axis] == size:
            target.append(0)
        else:
            target.append(-1)
    if target.count(-1) > 1:
        return  # shape arithmetic that follows the input
    node.attrs.pop("allowzero", None)
    _write(node, 1, target, graph)


def _mend_squeeze(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    """Without axes it would take whichever are of size 1 by now."""
    source = node.inputs[0]
    if "axes" in node.attrs or (len(node.inputs) > 1 and node.inputs[1].name):
        return
    axes = [axis for axis, size in enumerate(tensors.shapes[source.name]) if size == 1]
    if any(tensors.is_dynamic(source, axis) for axis in axes):
        raise refusal(node, "takes of symbolic sizes")
    if graph.opset < 13:
        node.attrs["axes"] = axes
    else:
        _write(node, 1, axes, graph)


def _mend_split(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    axis = node.attrs.get("axis", 0)
    before = [tensors.shapes[tensor.name][axis] for tensor in node.outputs]
    left = [tensors.left(tensor)[axis] for tensor in node.outputs]
    if left == before or tensors.is_dynamic(node.inputs[0], axis):
        return
    if "split" in node.attrs or graph.opset < 13:
        node.attrs["split"] = left
    else:
        node.attrs.pop("num_outputs", None)
        _write(node, 1, left, graph)


def _mend_slice(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    source = node.inputs[0]
    shape, flags = tensors.shapes[source.name], tensors.flags(source)
    places = slice_places(node, shape)
    moved = []
    for axis, place, _ in places:
        start, end, _ = slice(*place).indices(shape[axis])
        if flags.shape[axis] == 1 or shape[axis] == tensors.left(source)[axis]:
            moved.append(place)
        elif (start, end) == (0, shape[axis]):
            moved.append((0, np.iinfo(np.int64).max))
        else:
            moved.append(tuple(_kept_before(flags, axis, stop) for stop in (start, end)))
    starts, ends = [start for start, _ in moved], [end for _, end in moved]
    if "starts" in node.attrs:
        node.attrs["starts"], node.attrs["ends"] = starts, ends
    elif moved:
        _write(node, 1, starts, graph)
        _write(node, 2, ends, graph)


def _kept_before(flags: Flags, axis: int, stop: int) -> int:
    head = flags.take(range(stop), axis)
    return sizes_left(head, head.shape)[axis] if stop else 0


def _mend_gather(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    flags, indices = tensors.flags(node.inputs[0]), constant(node, 1)
    axis = node.attrs.get("axis", 0) % flags.ndim
    if flags.shape[axis] == 1 or indices is None:
        return
    kept = ~flags.all(axis=tuple(a for a in range(flags.ndim) if a != axis))
    places = np.cumsum(kept) - 1
    at = indices.astype(np.int64) % len(kept)
    _write(node, 1, places[at[kept[at]]] if at.ndim else places[at], graph)


def _mend_expand(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    """Axes that the input has ask for 1, which leaves them as they are."""
    source, out = node.inputs[0], node.outputs[0]
    given, left = tensors.shapes[source.name], tensors.left(out)
    if constant(node, 1) is None:
        return  # shape arithmetic that follows the input
    lead = len(left) - len(given)
    _write(node, 1, [1 if a >= lead and given[a - lead] > 1 else size for a, size in enumerate(left)], graph)


def _mend_resize(node: gs.Node, tensors: Tensors, graph: gs.Graph) -> None:
    sizes = constant(node, 3)
    if sizes is None or not len(sizes) or "axes" in node.attrs:
        return
    out = node.outputs[0]
    left, before = tensors.left(out), tensors.shapes[out.name]
    _write(node, 3, [n if n != m else s for n, m, s in zip(left, before, sizes, strict=True)], graph)


MENDS: dict[str, Callable[[gs.Node, Tensors, gs.Graph], None]] = {
    "Conv": _mend_conv,
    "ConvTranspose": _mend_conv,
    "ReduceMean": _mend_mean,
    "RMSNormalization": _mend_rms_norm,
    "GroupNormalization": _mend_group_norm,
    "Reshape": _mend_reshape,
    "Squeeze": _mend_squeeze,
    "Split": _mend_split,
    "Slice": _mend_slice,
    "Gather": _mend_gather,
    "Expand": _mend_expand,
    "Resize": _mend_resize,
}
