"""What a network costs: parameters, multiply-adds, bytes, nodes."""

from dataclasses import asdict, dataclass

import numpy as np
import onnx_ir as ir
from onnx.shape_inference import InferenceError

from onnxprune.graph import shapes
from onnxprune.graph.model import Model
from onnxprune.graph.writing import pieces

#: A dynamic axis that isn't the batch has no size of its own; it is counted at the first of these that fits.
DYNAMIC_SIZES = (64, 224, 256, 512)


@dataclass(frozen=True)
class Cost:
    """Weights, in floats or quantised; multiply-adds for one sample; bytes of the file; nodes."""

    params: int
    macs: int
    size_bytes: int
    nodes: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def count(model: Model) -> Cost:
    """Count `model` at batch 1; other dynamic axes count as the first of DYNAMIC_SIZES that shape inference accepts.

    MACs are those of Conv, ConvTranspose, Gemm and MatMul, as is usual. Copies that un-sharing made count once.
    """
    graph = model.ir.graph
    stored = [node for node in graph if not node.domain and node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    quantized = {node.inputs[0] for node in stored if node.op_type == "DequantizeLinear"}
    grids = {value for node in stored for value in node.inputs[1:]}
    params = sum(
        v.const_value.size
        for name, v in graph.initializers.items()
        if name not in model.copies
        and v.const_value is not None
        and (v in quantized or (v.const_value.dtype.is_floating_point() and v not in grids))
    )
    shape_of = sample_shapes(model)
    macs = sum(node_macs(node, shape_of) for node in graph)
    return Cost(params, macs, sum(map(len, pieces(model.ir))), graph.num_nodes())


def sample_shapes(model: Model) -> dict[ir.Value, tuple[int, ...]]:
    """Shapes for one sample: {value: sizes}."""
    names = shapes.symbols(model.ir)
    batch = {
        str(v.shape[0].value or f"{v.name}:0")
        for v in model.ir.graph.inputs
        if v.shape is not None and len(v.shape) and isinstance(v.shape[0], ir.SymbolicDim)
    }
    for size in DYNAMIC_SIZES:
        try:
            return dict(shapes.infer(model.ir, {name: 1 if name in batch else size for name in names}).shape_of)
        except InferenceError:
            continue
    return dict(shapes.probe(model.ir).shape_of)


def node_macs(node: ir.Node, shape_of) -> int:
    """Multiply-adds of one node; 0 for operators that don't contract."""
    if node.domain or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    x, w, y = (shape_of.get(v) for v in (node.inputs[0], node.inputs[1], node.outputs[0]))
    if x is None or w is None or y is None:
        return 0
    if node.op_type == "Conv":
        return int(np.prod(y)) * int(np.prod(w[1:]))
    if node.op_type == "ConvTranspose":
        return int(np.prod(x)) * int(np.prod(w[1:]))
    contracted = x[0] if node.op_type == "Gemm" and _flag(node, "transA") else x[-1]
    return int(np.prod(y)) * int(contracted)


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].as_int())
