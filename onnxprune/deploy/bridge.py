"""From a Model to an onnx-graphsurgeon graph and back, without the losses of the way.

graphsurgeon keeps nodes, tensors and attributes, and drops the rest: metadata of the model, the graph, nodes and
values, documentation, attributes of rare types. So `close` starts from what `open` was given and takes from the
graphsurgeon graph only what changed: which nodes there are, in which order, what they read, new constants.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx.shape_inference import InferenceError
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.logger import G_LOGGER
from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from onnxprune.errors import ModelError
from onnxprune.graph.model import Model, to_proto

#: Initializers above this many elements are left out when shapes are inferred: only their shape matters.
_SMALL_ELEMENTS = 1024


@dataclass
class Opened:
    """A graphsurgeon graph that may be changed, and what it was made of."""

    graph: gs.Graph
    proto: onnx.ModelProto
    model: Model
    nodes: dict[int, tuple[gs.Node, dict, onnx.NodeProto]]
    initializers: dict[str, onnx.TensorProto]
    #: New sizes of tensors that shrank: {name: {axis: size, None where it depends on the graph's inputs}}.
    resized: dict[str, dict[int, int | None]] = field(default_factory=dict)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """graphsurgeon without its printing; what it refuses is a ModelError."""
    severity = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL + 1
    try:
        yield
    except (OnnxGraphSurgeonException, UnicodeDecodeError, InferenceError, DecodeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"onnx-graphsurgeon can't take this graph: {reason}. Check the file with onnx.checker."
        ) from error
    finally:
        G_LOGGER.severity = severity


def open_graph(model: Model, *, defaults_vary: bool = True) -> Opened:
    """The model as a graphsurgeon graph whose tensors have their inferred shapes. Raises ModelError.

    An initializer that is also an input (all of them are in old files) is a default: a variable of the graph if
    `defaults_vary`, so that nothing is computed from its value beforehand, else a constant like any other.
    """
    proto = to_proto(model)
    view = onnx.ModelProto()
    view.CopyFrom(proto)
    if defaults_vary:
        inputs = {value.name for value in proto.graph.input}
        _replace(view.graph.initializer, [t for t in proto.graph.initializer if t.name not in inputs])
    _replace(view.graph.value_info, _inferred(proto))
    with quiet():
        graph = gs.import_onnx(view)
    nodes = {
        id(node): (node, dict(node.attrs), original)
        for node, original in zip(graph.nodes, proto.graph.node, strict=True)
    }
    return Opened(graph, proto, model, nodes, {tensor.name: tensor for tensor in proto.graph.initializer})


def close_graph(opened: Opened) -> Model:
    """The graph as a Model: all that didn't change is what `open_graph` was given, metadata included."""
    graph, given = opened.graph, opened.proto
    proto = onnx.ModelProto()
    for part, message in given.ListFields():
        if part.name == "graph":
            continue
        if part.is_repeated:
            getattr(proto, part.name).extend(message)
        elif part.type == part.TYPE_MESSAGE:
            getattr(proto, part.name).CopyFrom(message)
        else:
            setattr(proto, part.name, message)
    new = proto.graph
    new.name, new.doc_string = given.graph.name, given.graph.doc_string
    new.metadata_props.extend(given.graph.metadata_props)
    new.input.extend(_value_info(opened, info) for info in given.graph.input)
    new.output.extend(given.graph.output)
    with quiet():
        new.node.extend(_node(opened, node) for node in graph.nodes)
        new.initializer.extend(_initializer(opened, tensor) for tensor in constants(graph).values())
    # A default that nothing reads any more stays: without it the input would have to be fed.
    missing = {value.name for value in given.graph.input} - {tensor.name for tensor in new.initializer}
    new.initializer.extend(tensor for name, tensor in opened.initializers.items() if name in missing)
    names = {name for node in new.node for name in node.output}
    names |= {tensor.name for tensor in new.initializer if _has_old_shape(opened, tensor)}
    new.value_info.extend(_value_info(opened, info) for info in given.graph.value_info if info.name in names)
    new.quantization_annotation.extend(a for a in given.graph.quantization_annotation if a.tensor_name in names)
    left = {tensor.name for tensor in new.initializer}
    copies = {name: original for name, original in opened.model.copies.items() if name in left}
    return Model(_as_ir(proto), opened.model.name, copies)


def constants(graph: gs.Graph) -> dict[str, gs.Constant]:
    """Every constant that the graph or a body in it reads, by name."""
    found = {name: tensor for name, tensor in graph.tensors().items() if isinstance(tensor, gs.Constant)}
    found |= {tensor.name: tensor for tensor in graph.outputs if isinstance(tensor, gs.Constant)}
    for node in graph.nodes:
        for body in node.subgraphs():
            found |= constants(body)
    return found


def merge_copies(opened: Opened) -> None:
    """Give back what un-sharing took: copies that still hold what another of them holds are read from there."""
    known = constants(opened.graph)
    first: dict[tuple, gs.Constant] = {}
    families = {**opened.model.copies, **{name: name for name in opened.model.copies.values()}}
    for name in sorted(families, key=lambda name: (name in opened.model.copies, name)):
        tensor = known.get(name)
        if tensor is None:
            continue
        array = tensor.values
        kept = first.setdefault((families[name], array.shape, str(array.dtype), array.tobytes()), tensor)
        if kept is not tensor:
            for reader in list(tensor.outputs):
                for index, value in enumerate(reader.inputs):
                    if value is tensor:
                        reader.inputs[index] = kept


def count_elements(model: Model) -> int:
    """Elements of all initializers."""
    return sum(v.const_value.size for v in model.ir.graph.initializers.values() if v.const_value is not None)


def _node(opened: Opened, node: gs.Node) -> onnx.NodeProto:
    """The node's original with what was changed, attribute by attribute; an export where it is new."""
    _, attributes, original = opened.nodes.get(id(node), (None, None, None))
    if original is None:
        return OnnxExporter.export_node(node)
    changed = {k: v for k, v in node.attrs.items() if k not in attributes or not _same(v, attributes[k])}
    gone = attributes.keys() - node.attrs.keys()
    proto = onnx.NodeProto()
    proto.CopyFrom(original)
    _replace(proto.input, [tensor.name for tensor in node.inputs])
    _replace(proto.output, [tensor.name for tensor in node.outputs])
    if changed or gone:
        _replace(proto.attribute, [a for a in original.attribute if a.name not in changed and a.name not in gone])
        proto.attribute.extend(OnnxExporter.export_attributes(changed))
    return proto


def _same(one: object, other: object) -> bool:
    return one is other or (isinstance(one, int | float | str | list) and one == other)


def _initializer(opened: Opened, tensor: gs.Constant) -> onnx.TensorProto:
    original = opened.initializers.get(tensor.name)
    values = tensor._values  # still a lazy reader of the original where nobody looked at or changed the values
    if original is not None and (not isinstance(values, np.ndarray) or _holds(original, values)):
        proto = onnx.TensorProto()
        proto.CopyFrom(original)
    else:
        proto = onnx.numpy_helper.from_array(np.asarray(tensor.values, order="C"), tensor.name)
        proto.doc_string = "" if original is None else original.doc_string
    if original is not None:
        # onnx-ir writes what a tensor and its value say, which is the same thing twice.
        entries = {entry.key: entry for entry in original.metadata_props}
        _replace(proto.metadata_props, entries.values())
    return proto


def _has_old_shape(opened: Opened, tensor: onnx.TensorProto) -> bool:
    original = opened.initializers.get(tensor.name)
    return original is not None and original.dims == tensor.dims


def _holds(tensor: onnx.TensorProto, values: np.ndarray) -> bool:
    array = onnx.numpy_helper.to_array(tensor)
    return array.dtype == values.dtype and array.shape == values.shape and array.tobytes() == values.tobytes()


def _value_info(opened: Opened, info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    sizes = opened.resized.get(info.name)
    if sizes is None:
        return info
    proto = onnx.ValueInfoProto()
    proto.CopyFrom(info)
    for axis, size in sizes.items():
        if axis < len(proto.type.tensor_type.shape.dim):
            dim = proto.type.tensor_type.shape.dim[axis]
            dim.Clear()
            if size is not None:
                dim.dim_value = size
    return proto


def _as_ir(proto: onnx.ModelProto) -> ir.Model:
    try:
        return ir.from_proto(proto)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(f"onnx-graphsurgeon left a graph that can't be read: {error}.") from error


def _inferred(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Types and shapes of intermediate tensors, found anew; what the file recorded, where inference fails."""
    # Before IR version 4 every initializer had to be an input too, and inference still insists.
    small = onnx.ModelProto(ir_version=max(proto.ir_version, 4), opset_import=proto.opset_import)
    small.graph.name = "shapes"
    given = {value.name for value in proto.graph.input}
    small.graph.node.extend(proto.graph.node)
    small.graph.input.extend(proto.graph.input)
    small.graph.output.extend(proto.graph.output)
    for tensor in proto.graph.initializer:
        if int(np.prod(tensor.dims)) <= _SMALL_ELEMENTS:
            small.graph.initializer.append(tensor)
        elif tensor.name not in given:
            small.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        return list(onnx.shape_inference.infer_shapes(small, data_prop=True).graph.value_info)
    except (InferenceError, ValueError, RuntimeError):
        return list(proto.graph.value_info)


def _replace(field, values) -> None:
    del field[:]
    field.extend(values)


def sizes_of(shape: Sequence | None) -> tuple[int, ...] | None:
    """A graphsurgeon shape as numbers; None unless every size is known."""
    if shape is None or not all(isinstance(size, int) and size >= 0 for size in shape):
        return None
    return tuple(shape)
