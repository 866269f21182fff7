"""Load, check and save ONNX models.

A `Model` is a normalised, read-only `onnx_ir.Model`: functions inlined, Constant nodes lifted to initializers, integer
shape arithmetic folded, and one copy per use of every initializer that may be shared by accident. Two layers whose
scales happen to be all ones often share one initializer; deleting a channel of one must not touch the other.
"""

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from google.protobuf.message import Error as MessageError
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    RemoveUnusedNodesPass,
)

from onnxprune.errors import ModelError, OutputError
from onnxprune.graph import writing
from onnxprune.graph.files import output_errors, read_file, write_atomically
from onnxprune.graph.fold import fold_shape_arithmetic
from onnxprune.graph.limits import Limits, current_limits
from onnxprune.graph.names import free_name, value_names
from onnxprune.graph.refusals import check
from onnxprune.graph.standardisation import fold_standardised_weights
from onnxprune.graph.tensors import check_external, check_finite
from onnxprune.graph.views import restore_reshapes

logging.getLogger("onnx_ir").setLevel(logging.ERROR)

#: A file above this size can't be one protobuf message; its tensors belong in a sibling file (2 GiB less a margin).
SINGLE_FILE_LIMIT_BYTES = 2**31 - 2**20
#: A message takes its size in memory several times over; above this one a file is written piece by piece.
ONE_MESSAGE_BYTES = 2**28

OLDEST_IR = 4


@dataclass(frozen=True, eq=False)
class Model:
    """A normalised ONNX model. Never modified: every operation returns a new one.

    `ir` is the graph, to be read only. `copies` names the initializers that un-sharing made: {copy: original}.
    """

    ir: ir.Model
    name: str = "model"
    copies: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        graph = self.ir.graph
        weights = sum(v.const_value.size for v in graph.initializers.values() if v.const_value is not None)
        return f"Model({self.name!r}, {graph.num_nodes()} nodes, {weights:,} elements in initializers)"


def load(source: Any, *, unshare: bool = True, limits: Limits | None = None) -> Model:
    """Read a model from a path, bytes, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`.

    `unshare=False` keeps a module's parameters as they are: those that are used several times are shared on purpose,
    and those that are standardised each time are trained. The source is never modified. Raises ModelError, naming the
    place, for a missing file, a file that isn't ONNX, everything that `refusals.check` refuses, and what is beyond
    `limits` (default: those in force).
    """
    if isinstance(source, Model):
        return source
    limits = limits or current_limits()
    name, base_dir, where = "model", None, "the model"
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        name, base_dir, where = path.stem, str(path.parent), f"'{path}'"
        source = read_file(path, limits.file_bytes)
    if isinstance(source, bytes | bytearray):
        source = _parse(bytes(source), where)
    if type(source).__module__.startswith("onnx_graphsurgeon"):
        import onnx_graphsurgeon

        source = onnx_graphsurgeon.export_onnx(source)
    elif isinstance(source, onnx.ModelProto):
        given, source = source, onnx.ModelProto()
        source.CopyFrom(given)  # tensors read from a message write to it when they are renamed
    if isinstance(source, onnx.ModelProto):
        check_external(check(source, where, limits), base_dir, where)
        source = _from_proto(source, base_dir or "", where)
    elif isinstance(source, ir.Model):
        source = source.clone()
    else:
        raise ModelError(f"A {type(source).__name__} can't be read as a model. Give a path, bytes or an ONNX model.")
    model = normalise(source, name, where=where, unshare=unshare)
    if limits.finite:
        check_finite(model.ir.graph, where)
    return model


def normalise(model: ir.Model, name: str = "model", *, where: str = "the model", unshare: bool = True) -> Model:
    """Bring `model`, which is changed in place, into the form that tracing expects."""
    try:
        InlinePass()(model)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        LiftSubgraphInitializersToMainGraphPass()(model)
        model.graph.sort()
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"The graph of {where} is broken: {error}. Check it with onnx.checker.") from error
    _let_initializers_be(model)
    _use_one_name_for_onnx(model)
    _name_everything(model.graph)
    fold_shape_arithmetic(model)
    restore_reshapes(model)
    if unshare:
        fold_standardised_weights(model)
    RemoveUnusedNodesPass()(model)
    return Model(model, name, _unshare(model.graph) if unshare else {})


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as an `onnx.ModelProto`, every tensor inside."""
    return writing.to_proto(model.ir)


def to_bytes(model: Model) -> bytes:
    """The model as the bytes of an .onnx file. Raises OutputError above 2 GiB; save to a path then."""
    try:
        return to_proto(model).SerializeToString(deterministic=True)
    except (ValueError, MessageError) as error:
        raise OutputError(
            f"Model '{model.name}' is too large for one message ({error}). Save it to a path instead."
        ) from error


def save(model: Model, path: str | os.PathLike) -> None:
    """Write the model to `path`; the file is complete or absent, never half there.

    A model above 2 GiB keeps its tensors in `<path>.data` beside it. Raises OutputError for an unwritable folder or a
    full disk.
    """
    path = Path(path)
    size_bytes = sum(v.const_value.nbytes for v in model.ir.graph.initializers.values() if v.const_value is not None)
    if size_bytes < SINGLE_FILE_LIMIT_BYTES:
        write_atomically(path, to_bytes(model) if size_bytes < ONE_MESSAGE_BYTES else writing.pieces(model.ir))
        return
    with output_errors(path), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        data = f"{path.name}.data"
        ir.save(model.ir, Path(folder) / path.name, external_data=data)
        os.replace(Path(folder) / data, path.parent / data)
        os.replace(Path(folder) / path.name, path)


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(data)
    except (DecodeError, ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"{where} is not an ONNX file ({error}). Export the network to ONNX first.") from error


def _from_proto(proto: onnx.ModelProto, base_dir: str, where: str) -> ir.Model:
    try:
        model = ir.from_proto(proto)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(f"{where} can't be understood: {error}. Check it with onnx.checker.") from error
    ir.external_data.set_base_dir(model.graph, base_dir)
    return model


def _let_initializers_be(model: ir.Model) -> None:
    """Before version 4 every initializer had to be listed as an input; since then that says that callers may set it."""
    if (model.ir_version or 0) < OLDEST_IR:
        for value in [value for value in model.graph.inputs if value.is_initializer()]:
            model.graph.inputs.remove(value)
        model.ir_version = OLDEST_IR


def _use_one_name_for_onnx(model: ir.Model) -> None:
    """ONNX's own operators go by "" and by "ai.onnx": from here on by ""."""
    for domain in ("ai.onnx",):
        version = model.graph.opset_imports.pop(domain, None)
        if version is not None:
            model.graph.opset_imports.setdefault("", version)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == "ai.onnx":
            node.domain = ""


def _name_everything(graph: ir.Graph) -> None:
    """Give every node a unique name, since messages and reports point at nodes by name."""
    given = [node.name for node in graph if node.name]
    taken: set[str] = set()
    for index, node in enumerate(graph):
        if not node.name or node.name in taken:
            node.name = free_name(f"{node.op_type}_{index}", taken.union(given))
        taken.add(node.name)


def _unshare(graph: ir.Graph) -> dict[str, str]:
    """One copy per use of each float initializer that is one-dimensional or constant; return {copy: original}.

    Exporters and optimisers merge equal initializers, which would tie layers that have nothing to do with each other.
    """
    copies: dict[str, str] = {}
    taken = value_names(graph)
    for name, value in list(graph.initializers.items()):
        uses = value.uses()
        if len(uses) < 2 or value in graph.inputs or value.is_graph_output():
            continue
        if any(node.graph is not graph for node, _ in uses) or not _may_be_shared_by_accident(value.const_value):
            continue
        for number, (node, index) in enumerate(uses[1:], 1):
            copy_name = free_name(f"{name}.copy{number}", taken)
            taken.add(copy_name)
            copy = ir.Value(name=copy_name, type=value.type, shape=value.shape)
            copy.const_value = renamed(value.const_value, copy_name)
            copy.meta.update(value.meta)
            graph.initializers[copy_name] = copy
            node.replace_input_with(index, copy)
            copies[copy_name] = name
    return copies


def renamed(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """The same data under another name; the tensor itself, which others hold too, keeps its own."""
    return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=tensor.shape, cache=True, name=name)


def _may_be_shared_by_accident(tensor: ir.TensorProtocol | None) -> bool:
    if tensor is None or not tensor.dtype.is_floating_point() or tensor.size < 2:
        return False
    if len(tensor.shape) == 1:
        return True
    array = tensor.numpy()
    return bool((array == array.flat[0]).all())
