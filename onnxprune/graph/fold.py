"""Fold shape arithmetic: the small integer computations that exporters leave between a shape and its use.

torch's exporter, unoptimised, writes a missing bias as Shape -> Expand -> CastLike -> Expand of zeros. Such chains are
evaluated here, so that tracing meets a plain initializer. Parameters are never
folded into each other: they keep their names.
"""

from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnxprune.graph.arithmetic import compute
from onnxprune.graph.bounds import is_bounded

#: Operators that compute shapes. All are pure; none reads the values of a large tensor.
SHAPE_OPERATORS = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "Cast",
        "CastLike",
        "Ceil",
        "Concat",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Expand",
        "Floor",
        "Gather",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pad",
        "Range",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "ScatterElements",
        "ScatterND",
        "Shape",
        "Sign",
        "Size",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)

#: Results above this many elements stay computed: shapes are small.
MAX_SHAPE_ELEMENTS = 4096
#: Zero tensors that stand for a missing bias may be as long as a layer is wide.
MAX_FOLDED_ELEMENTS = 2**20


def evaluate_node(node: ir.Node, inputs: list[np.ndarray | None]) -> list[np.ndarray] | None:
    """Compute one node; None where onnx's reference implementation has none or refuses, or where the result is large.

    The node means what its operator meant in the opset of its graph: `Unsqueeze` had its axes as an attribute once.
    """
    if not is_bounded(node, inputs):
        return None
    direct = compute(node, inputs)
    if direct is not None:
        return [direct]
    proto = ir.serde.serialize_node(node)
    feeds = {}
    for index, array in enumerate(inputs):
        if array is not None:
            proto.input[index] = f"i{index}"
            feeds[f"i{index}"] = array
    try:
        with np.errstate(all="ignore"):
            results = _evaluator(proto, node.version or _opset(node)).run(None, feeds)
    except (ValueError, TypeError, IndexError, KeyError, RuntimeError, NotImplementedError, ArithmeticError):
        return None
    arrays = [np.asarray(result) for result in results]
    return None if any(array.dtype.kind in "OUS" for array in arrays) else arrays


def _opset(node: ir.Node) -> int | None:
    return None if node.graph is None else node.graph.opset_imports.get(node.domain)


def _evaluator(proto: onnx.NodeProto, version: int | None) -> ReferenceEvaluator:
    if version is None or proto.domain or _means_the_same_today(proto.op_type, version):
        return ReferenceEvaluator(proto)
    graph = onnx.GraphProto(name="one", node=[proto])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in proto.input if name)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in proto.output if name)
    return ReferenceEvaluator(graph, opsets={"": version})


@lru_cache(maxsize=1024)
def _means_the_same_today(operator: str, version: int) -> bool:
    """Whether the operator's definition in opset `version` is the one of the newest opset."""
    try:
        then = onnx.defs.get_schema(operator, version).since_version
        return then == onnx.defs.get_schema(operator).since_version
    except onnx.defs.SchemaError:
        return True


def fold_shape_arithmetic(model: ir.Model) -> None:
    """Replace shape computations over constants by initializers, in place."""
    graph = model.graph
    for node in list(graph):
        if node.domain or node.op_type not in SHAPE_OPERATORS or any(a.type.name == "GRAPH" for a in _attributes(node)):
            continue
        if node.op_type == "CastLike":
            _cast_like_to_cast(node)
        results = _fold(node)
        if results is None or any(r.size > MAX_FOLDED_ELEMENTS for r in results):
            continue
        if any(out.is_graph_output() for out in node.outputs):
            continue
        for out, array in zip(node.outputs, results, strict=True):
            become_initializer(graph, out, array)
        graph.remove(node, safe=True)
    for node in graph:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and not node.domain:
            _drop_zero_bias(node)


def _drop_zero_bias(node: ir.Node) -> None:
    """A bias that was computed to be all zeros stands for none."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and "folded" in bias.meta and not bias.const_value.numpy().any():
        node.replace_input_with(2, None)
        node.resize_inputs(2)


def _attributes(node: ir.Node):
    return node.attributes.values()


def _cast_like_to_cast(node: ir.Node) -> None:
    """CastLike reads only the type of its second input; Cast says so, and can be folded."""
    target = node.inputs[1]
    if target is None or target.dtype is None:
        return
    node.op_type = "Cast"
    node.attributes["to"] = ir.AttrInt64("to", int(target.dtype))
    node.replace_input_with(1, None)
    node.resize_inputs(1)


def _fold(node: ir.Node) -> list[np.ndarray] | None:
    if node.op_type == "Shape":
        return _static_shape(node)
    inputs: list[np.ndarray | None] = []
    for value in node.inputs:
        if value is None:
            inputs.append(None)
            continue
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or not value.is_initializer():
            return None
        is_parameter = tensor.dtype.is_floating_point() and tensor.size > 1 and "folded" not in value.meta
        if is_parameter or tensor.size > MAX_FOLDED_ELEMENTS or tensor.dtype == ir.DataType.STRING:
            return None
        inputs.append(tensor.numpy())
    return evaluate_node(node, inputs) if inputs else None


def _static_shape(node: ir.Node) -> list[np.ndarray] | None:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else None
    dims = list(value.shape)[start:end]
    # Only the shape of an initializer is certain: an activation's axis may shrink when channels go.
    if not value.is_initializer() or not all(isinstance(d, int) for d in dims):
        return None
    return [np.array(dims, np.int64)]


def become_initializer(graph: ir.Graph, out: ir.Value, array: np.ndarray) -> None:
    """Let readers of `out`, which keeps its producer, read an initializer of its name instead."""
    tensor = ir.tensor(np.asarray(array, order="C"), name=out.name)
    value = ir.Value(name=out.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    value.meta["folded"] = True
    out.replace_all_uses_with(value)
    out.name = f"{out.name}.folded"
    graph.register_initializer(value)
