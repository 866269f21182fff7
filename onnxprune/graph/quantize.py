"""Write QuantizeLinear and DequantizeLinear around the layers of a graph, so that ONNX Runtime computes them in int8.

    x -> QuantizeLinear -> DequantizeLinear -> Conv -> Relu -> QuantizeLinear -> DequantizeLinear -> ...
                      int8 weight -> DequantizeLinear -^

ONNX Runtime's CPU provider fuses such a Conv to QLinearConv, a Gemm to QGemm, a MatMul to MatMulIntegerToFloat; a Conv
only where its output is quantised too. Weights are symmetric int8, biases int32 at the product of the scales of input
and weight, activations uint8 with a zero point (Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference").
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph.model import Model
from onnxprune.graph.names import free_name, value_names
from onnxprune.graph.origin import calling_module

LAYERS = ("Conv", "Gemm", "MatMul")
#: What is computed in one go with the convolution before it.
CLAMPS = ("Relu", "Clip")
#: The largest value of an activation as stored; the smallest is 0.
TOP = 255
#: A bias must fit into int32, which a weight's scale makes sure of, and no scale is smaller than this.
LARGEST_BIAS, SMALLEST_SCALE = 2.0**30, 2.0**-40


@dataclass(frozen=True)
class Activation:
    """How a tensor is stored: uint8 q stands for scale * (q - zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Layer:
    """What a layer reads, and what it gives, behind the Relu or Clip that alone reads it; None where that isn't
    quantised."""

    input: Activation
    output: Activation | None


def largest(bits: int, reduce_range: bool) -> int:
    """The largest absolute value of a weight as stored.

    Without VNNI, x86 processors add pairs of products uint8 * int8 in 16 bits. 2 * 255 * 127 is too much for those,
    2 * 255 * 63 is not: that is the reduced range.
    """
    return 2 ** (bits - 1 - reduce_range) - 1


def quantize(model: Model, layers: Mapping[str, Layer], *, largest: int = 63, per_channel: bool = True) -> Model:
    """Return `model` with the layers of `layers`, {path of the PyTorch module: how}, in int8.

    A layer that isn't in the graph, or whose weight isn't constant, is left out.
    """
    copy = model.ir.clone()
    writer = _Writer(copy, largest, per_channel)
    found = [(node, layers[path]) for node in copy.graph if (path := calling_module(node)) in layers and is_layer(node)]
    for node, layer in found:
        if layer.output is not None:
            writer.store(_given(node), layer.output)
    for node, layer in found:
        writer.weight(node, layer.input)
        node.replace_input_with(0, writer.read(node.inputs[0], layer.input))
    return Model(copy, model.name, {n: o for n, o in model.copies.items() if n in copy.graph.initializers})


def is_layer(node: ir.Node) -> bool:
    """Whether this is a layer with a constant weight."""
    weight = node.inputs[1] if node.op_type in LAYERS and not node.domain else None
    return weight is not None and weight.const_value is not None and weight.const_value.dtype == ir.DataType.FLOAT


def _given(node: ir.Node) -> ir.Value:
    out = node.outputs[0]
    readers = [reader for reader, _ in out.uses()]
    if len(readers) == 1 and readers[0].op_type in CLAMPS and not readers[0].domain and not out.is_graph_output():
        return readers[0].outputs[0]
    return out


class _Writer:
    def __init__(self, model: ir.Model, largest: int, per_channel: bool):
        self.graph, self.largest, self.per_channel = model.graph, largest, per_channel
        self.taken = value_names(model.graph)
        self.stored: dict[tuple[ir.Value, Activation], ir.Value] = {}  # what was quantised -> as it is read again
        self.again: dict[ir.Value, Activation] = {}  # what is read again -> how it was stored

    def store(self, value: ir.Value, how: Activation) -> None:
        """Everything reads `value` as it was stored."""
        readers = list(value.uses())
        is_output = value.is_graph_output()
        read = self._pair(value, how)
        for reader, index in readers:
            reader.replace_input_with(index, read)
        if is_output:
            number = list(self.graph.outputs).index(value)
            read.type, read.shape = value.type, value.shape
            read.name, value.name = value.name, read.name
            self.graph.outputs[number] = read

    def read(self, value: ir.Value, how: Activation) -> ir.Value:
        """`value` as a layer reads it."""
        if self.again.get(value) == how:
            return value
        return self.stored.get((value, how)) or self._pair(value, how)

    def _pair(self, value: ir.Value, how: Activation) -> ir.Value:
        base = value.name or "value"
        scale = self._constant(f"{base}_scale", np.float32(how.scale))
        zero = self._constant(f"{base}_zero_point", np.uint8(how.zero_point))
        producer = value.producer()
        whole = self._node("QuantizeLinear", [value, scale, zero], f"{base}_quantized", ir.DataType.UINT8, value.shape)
        read = self._node("DequantizeLinear", [whole, scale, zero], f"{base}_dequantized", value.dtype, value.shape)
        nodes = [whole.producer(), read.producer()]
        if producer is None:
            self.graph.insert_before(self.graph[0], nodes)
        else:
            self.graph.insert_after(producer, nodes)
        self.stored[value, how], self.again[read] = read, how
        return read

    def weight(self, node: ir.Node, how: Activation) -> None:
        """Give a layer its weight in int8, and its bias in int32."""
        value = node.inputs[1]
        array = value.const_value.numpy()
        axis = 0 if node.op_type == "Conv" or _flag(node, "transB") else 1
        bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] is not None else None
        held = bias.const_value.numpy() if bias is not None and bias.const_value is not None else None
        scale = weight_scale(array, held, how.scale, self.largest, axis if self.per_channel else None)
        column = scale.reshape([-1 if a == axis and scale.size > 1 else 1 for a in range(array.ndim)])
        whole = np.clip(np.rint(array * (np.float32(1) / column)), -self.largest, self.largest).astype(np.int8)
        node.replace_input_with(1, self._dequantized(node, value, whole, scale, axis))
        if bias is not None and held is not None and held.ndim == 1:
            step = np.broadcast_to(np.float32(how.scale) * scale, held.shape if scale.size > 1 else ())
            whole = np.rint(held.astype(np.float64) / step).astype(np.int32)
            node.replace_input_with(2, self._dequantized(node, bias, whole, np.array(step), 0))
        for old in (value, bias):
            if old is not None and old.is_initializer() and not old.uses() and not old.is_graph_output():
                del self.graph.initializers[old.name]

    def _dequantized(self, node: ir.Node, value: ir.Value, whole: np.ndarray, scale: np.ndarray, axis: int) -> ir.Value:
        name = value.name or "constant"
        inputs = [
            self._constant(f"{name}_quantized", whole),
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero_point", np.zeros(scale.shape, whole.dtype)),
        ]
        read = self._node("DequantizeLinear", inputs, f"{name}_dequantized", value.dtype, value.shape, axis)
        self.graph.insert_before(node, read.producer())
        return read

    def _node(self, operator: str, inputs: list, name: str, dtype, shape, axis: int | None = None) -> ir.Value:
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        node = ir.Node("", operator, inputs, attributes, name=f"{operator}_{name}")
        out = node.outputs[0]
        out.name, out.shape = self._free(name), shape
        out.type = ir.TensorType(dtype or ir.DataType.FLOAT)
        return out

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        name = self._free(name)
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def _free(self, name: str) -> str:
        found = free_name(name, self.taken)
        self.taken.add(found)
        return found


def weight_scale(
    weight: np.ndarray, bias: np.ndarray | None, input_scale: float, largest: int, axis: int | None
) -> np.ndarray:
    """float32 [O], or [] where `axis` is None: what a step of a stored weight is worth, along its axis of outputs.

    Where weights are so small that the bias, in steps of both scales' product, wouldn't fit into int32, it is more.
    """
    others = None if axis is None else tuple(a for a in range(weight.ndim) if a != axis)
    scale = np.abs(weight).max(axis=others) / np.float32(largest)
    if bias is not None:
        needed = np.abs(bias) / np.float32(input_scale * LARGEST_BIAS)
        scale = np.maximum(scale, needed if axis is not None else needed.max())
    return np.maximum(scale, np.float32(SMALLEST_SCALE)).astype(np.float32)


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].as_int())
