"""A graph's nodes as the layers that a person thinks of.

A layer starts where weights are multiplied, where branches meet, and at a normalisation; whatever only moves or
computes elements is part of the layer that it follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxprune.drawing.families import Families, Stripe
from onnxprune.drawing.modules import layer_name, module_of
from onnxprune.graph.rules.elementwise import NARY, UNARY
from onnxprune.graph.units import Channels

#: Operators that compute each element on its own, or move elements, whatever constants they read.
LIGHT = frozenset(NARY) | frozenset(UNARY) | {"Concat", "Reshape", "Transpose", "Expand", "BatchNormalization"}
CONTRACTS = frozenset(("MatMul", "Einsum", "Gemm"))
SIGNS = {"Add": "+", "Sum": "+", "Mul": "×", "Sub": "−", "Div": "÷"}


@dataclass(eq=False)
class Layer:
    """One box of the drawing.

    `name` is the layer's path or the node's name, `module` what it lies in, `kind` "layer", "merge", "input" or
    "output"; `takes` and `gives` are the families that it reads and makes, `readers` the edges out of it: {layer: the
    tensors that it reads}.
    """

    index: int
    kind: str
    operator: str
    name: str
    module: str
    detail: str = ""
    nodes: list[ir.Node] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    takes: Stripe | None = None
    gives: Stripe | None = None
    readers: dict["Layer", list[ir.Value]] = field(default_factory=dict)

    @property
    def sign(self) -> str:
        """The sign of a meeting of branches that is drawn as a circle; empty for a box."""
        return SIGNS.get(self.operator, "") if self.kind == "merge" else ""


def find(channels: Channels, families: Families) -> list[Layer]:
    """The layers of a model, in graph order, with the edges between them."""
    return _Finder(channels, families).run()


class _Finder:
    def __init__(self, channels: Channels, families: Families):
        self.channels = channels
        self.families = families
        self.graph = channels.model.ir.graph
        self.weights = {name for name, _ in channels.parameters()} | set(channels.model.copies)
        self.layers: list[Layer] = []
        self.home: dict[ir.Value, Layer] = {}  # tensors that follow from the inputs -> the layer that made them
        self.concats: dict[tuple, ir.Value] = {}  # (axis, inputs) -> the result
        self.constant: dict[ir.Value, tuple[str, ...]] = {}  # tensors made of initializers alone -> their weights

    def run(self) -> list[Layer]:
        for value in self.graph.initializers.values():
            self.constant[value] = (value.name or "",) if value.name in self.weights else ()
        for value in self.graph.inputs:
            if value not in self.constant:
                self.home[value] = self._new("input", "", value.name or "", "")
                self.home[value].gives = self.families.stripe(value)
        for node in self.graph:
            self._place(node)
        for value in self.graph.outputs:
            layer = self._new("output", "", value.name or "", "")
            layer.takes = self.families.stripe(value)
            self._link(value, layer)
        return self._reached()

    def _reached(self) -> list[Layer]:
        """Without inputs that only shapes are taken from."""
        kept = [layer for layer in self.layers if layer.kind != "input" or layer.readers]
        for index, layer in enumerate(kept):
            layer.index = index
        return kept

    def _new(self, kind: str, operator: str, name: str, module: str) -> Layer:
        self.layers.append(Layer(len(self.layers), kind, operator, name, module))
        return self.layers[-1]

    def _place(self, node: ir.Node) -> None:
        if node.outputs and all(out in self.channels.trace.values for out in node.outputs):
            return  # shape arithmetic
        inputs = self._joined(node)
        data = [value for value in inputs if value in self.home]
        weights = [name for value in inputs for name in self.constant.get(value, ())]
        if not data and all(value in self.constant or value in self.channels.trace.values for value in inputs):
            for out in node.outputs:
                self.constant[out] = tuple(weights)
            return
        layer = self._layer_of(node, data, weights)
        layer.nodes.append(node)
        layer.weights += [name for name in weights if name not in layer.weights]
        for value in data:
            self._link(value, layer)
        for out in node.outputs:
            self.home[out] = layer
        if layer.takes is None and data:
            layer.takes = self.families.stripe(data[0])
        if layer.gives is None or layer.operator == "Attention":
            layer.gives = self.families.stripe(node.outputs[0])

    def _joined(self, node: ir.Node) -> list[ir.Value]:
        """What a node reads. A Concat that begins with all of an earlier one is told to read that one's result."""
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type == "Concat":
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
            self.concats[axis, *inputs] = node.outputs[0]
            for end in range(len(inputs) - 1, 1, -1):
                earlier = self.concats.get((axis, *inputs[:end]))
                if earlier is not None:
                    return [earlier, *inputs[end:]]
        return inputs

    def _link(self, value: ir.Value, layer: Layer) -> None:
        source = self.home.get(value)
        if source is not None and source is not layer:
            read = source.readers.setdefault(layer, [])
            if value not in read:
                read.append(value)

    def _layer_of(self, node: ir.Node, data: list[ir.Value], weights: list[str]) -> Layer:
        """The layer that a node goes into, a new one where it starts one."""
        homes = list(dict.fromkeys(self.home[value] for value in data))
        operator = node.op_type
        if not homes:
            return self._named(node, weights)
        last = max(homes, key=lambda layer: layer.index)
        multiplies = bool(weights) and operator not in LIGHT and self._has_matrix(node)
        if multiplies or self._normalises(node, last, data):
            layer = self._named(node, weights)
            layer.detail = _detail(node, self.channels.trace.shape_of)
            return layer
        if operator in CONTRACTS and len(data) > 1:
            # scores times values belong to the attention that the scores began
            before = [self.home[v] for v in data if self._is_attention(self.home[v]) and len(v.uses()) == 1]
            return before[0] if before else self._contraction(node, last)
        if len(homes) > 1 and self._meet(node, data):
            return self._merge(node, last)
        if operator == "Concat" and len(data) > 1 and self._widens(node, data):
            return self._merge(node, last)
        labelled = [self.home[value] for value in data if self.channels.facets(value)]
        return max(labelled or homes, key=lambda layer: layer.index)

    def _named(self, node: ir.Node, weights: list[str]) -> Layer:
        name = layer_name(self.channels.model, node, weights)
        return self._new("layer", node.op_type, name, name.rpartition(".")[0])

    def _merge(self, node: ir.Node, last: Layer) -> Layer:
        """Where branches meet; if nobody noted in which module, then in that of the last branch."""
        module = module_of(node)
        return self._new("merge", node.op_type, node.name or "", last.module if module is None else module)

    def _contraction(self, node: ir.Node, last: Layer) -> Layer:
        """A product of two tensors that both come from the inputs."""
        layer = self._named(node, [])
        if layer.name == node.name:  # nobody noted in which module: then in that of the last branch
            layer.module = last.module
        layer.detail = "product"
        if any(reader.op_type == "Softmax" for reader in _behind(node, 10)):
            layer.detail, layer.operator = "attention", "Attention"
        return layer

    def _is_attention(self, layer: Layer) -> bool:
        return layer.operator == "Attention" and any(node.op_type == "Softmax" for node in layer.nodes)

    def _has_matrix(self, node: ir.Node) -> bool:
        """Whether it reads a weight of more than one axis; a vector is a bias or a scale."""
        return any(
            sum(size > 1 for size in self.channels.trace.shape_of.get(value, ())) > 1 or _is_kernel(node, value)
            for value in node.inputs
            if value is not None and value in self.constant and self.constant[value]
        )

    def _normalises(self, node: ir.Node, last: Layer, data: list[ir.Value]) -> bool:
        """BatchNorm goes with the convolution that it alone follows; other normalisations are layers."""
        if node.op_type == "BatchNormalization":
            return last.operator not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(data[0].uses()) > 1
        return "Normalization" in node.op_type

    def _meet(self, node: ir.Node, data: list[ir.Value]) -> bool:
        """Whether branches meet here; a mask that nothing could shrink is not a branch."""
        labelled = [value for value in data if self.channels.facets(value)]
        return len({self.home[value] for value in labelled}) > 1 or (not labelled and len(data) > 1)

    def _widens(self, node: ir.Node, data: list[ir.Value]) -> bool:
        return self.families.stripe(node.outputs[0]).size > max(self.families.stripe(v).size for v in data)


def _is_kernel(node: ir.Node, value: ir.Value) -> bool:
    return node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) > 1 and node.inputs[1] is value


def _behind(node: ir.Node, steps: int) -> Iterator[ir.Node]:
    """The nodes at most `steps` behind this one along its only readers."""
    for _ in range(steps):
        readers = [reader for out in node.outputs for reader, _ in out.uses()]
        if len(set(readers)) != 1:
            return
        node = readers[0]
        yield node


def _detail(node: ir.Node, shape_of) -> str:
    """What kind of layer it is, in few signs: 3×3 /2."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return {"Gemm": "linear", "MatMul": "linear", "Gather": "embedding"}.get(
            node.op_type, node.op_type.replace("Normalization", "Norm")
        )
    shape = shape_of.get(node.inputs[1], ())
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    strides = node.attributes["strides"].as_ints() if "strides" in node.attributes else ()
    words = ["×".join(map(str, shape[2:])) or "1"]
    if groups > 1:
        words.append("depthwise" if shape[1] == 1 and groups == shape[0] else f"{groups} groups")
    if any(stride > 1 for stride in strides):
        words.append(f"/{max(strides)}" if node.op_type == "Conv" else f"×{max(strides)}")
    if node.op_type == "ConvTranspose":
        words.append("transposed")
    return " ".join(words)
