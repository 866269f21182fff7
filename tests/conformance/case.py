"""One case: a small graph, what is dead in it, what a correct tool can take away, and why.

A case is data. `build` makes the model of it; `elements` counts what a tool left. Nothing here imports onnxprune, so
that other tools can be run on the cases in environments of their own.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

#: Types whose elements are parameters; int64 and bool hold sizes and conditions.
PARAMETER_TYPES = frozenset(
    (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT32,
    )
)
NUMPY_TYPES = {
    "float": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int32": np.dtype(np.int32),
}
_WEIGHT = re.compile(r"(?:(\w+) )?(\w+)\[([\d,]+)\]")
_PLACE = re.compile(r"(\w+)(?:\[([^\]]*)\])?$")


@dataclass(frozen=True)
class Case:
    """A graph and what is dead in it.

    about: FACTS' invariants and other subjects that it covers; body: its nodes as ONNX text; weights: what is filled
    at random, as "w0[8,3,1,1] int8 w1[5,8]" (kernels are called w...); dead: what is written over that, as
    "w0[2] = 0; w9[:,2] = w9[:,3]"; gone: elements that a correct tool takes away, {tensor: count}, negative for one
    that appears, empty where nothing may go; argument: why so many; wrong: what a wrong tool does.

    constants: initializers as ONNX text; functions: model-local functions as ONNX text; may_keep: why everything may be
    kept for now; more: whether a better tool may take even more.
    """

    name: str
    about: str
    body: str
    weights: str
    dead: str
    gone: Mapping[str, int]
    argument: str
    wrong: str
    inputs: str = "float[N,3,8,8] x"
    outputs: str = "float[N,P,Q,R] y"
    constants: str = ""
    functions: str = ""
    opset: int = 17
    ir_version: int = 8
    may_keep: str = ""
    more: bool = False
    recorded_shapes: bool = False
    weights_as_inputs: bool = False
    weights_as_nodes: bool = False
    metadata: Mapping[str, str] = field(default_factory=lambda: {"licence": "as is"})

    @property
    def removable(self) -> int:
        """Elements that a correct tool takes away in all."""
        return sum(self.gone.values())

    @property
    def removable_kernels(self) -> int:
        """Of these, elements of kernels and matrices, which clean-up by other means doesn't blur."""
        return sum(count for name, count in self.gone.items() if name.startswith("w"))

    @property
    def text(self) -> str:
        """The model as ONNX text, but for its random weights."""
        domains = f'"" : {self.opset}' + (', "local" : 1' if self.functions else "")
        header = f"<ir_version: {self.ir_version}, opset_import: [{domains}]>"
        given = f" <{self.constants}>" if self.constants else ""
        return f"{header} graph ({self.inputs}) => ({self.outputs}){given} {{ {self.body} }} {self.functions}"


def arrays(case: Case) -> dict[str, np.ndarray]:
    """The weights of a case, alike everywhere: random, then with the dead structure written into them."""
    found: dict[str, np.ndarray] = {}
    for kind, name, shape_text in _WEIGHT.findall(case.weights):
        shape = tuple(int(size) for size in shape_text.split(","))
        rng = np.random.default_rng(zlib.crc32(f"{case.name}/{name}".encode()))
        dtype = NUMPY_TYPES[kind or "float"]
        if dtype.kind in "iu":
            low = 0 if dtype.kind == "u" else -100
            found[name] = rng.integers(low, 100, shape).astype(dtype)
            continue
        array = rng.normal(size=shape)
        if name.endswith(("var", "scale")):
            array = np.abs(array) + 0.5
        found[name] = array.astype(dtype)
    for statement in filter(None, (part.strip() for part in case.dead.split(";"))):
        target, _, source = (part.strip() for part in statement.partition("="))
        name, index = _place(target)
        if source[0].isalpha():
            other, other_index = _place(source)
            found[name][index] = found[other][other_index]
        else:
            found[name][index] = float(source)
    return found


def _place(text: str) -> tuple[str, tuple]:
    """A tensor and an index: "w9[:,2]", "w1[4:8]", or "w1" for all of it."""
    name, index = _PLACE.match(text).groups()
    parts = []
    for part in index.split(",") if index else ():
        if ":" in part:
            parts.append(slice(*(int(edge) if edge else None for edge in part.split(":"))))
        else:
            parts.append(int(part))
    return name, tuple(parts) or (Ellipsis,)


def build(case: Case) -> onnx.ModelProto:
    """The model of a case."""
    model = onnx.parser.parse_model(case.text)
    graph = model.graph
    for name, array in arrays(case).items():
        tensor = numpy_helper.from_array(array, name)
        if case.weights_as_nodes:
            graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=tensor))
            continue
        graph.initializer.append(tensor)
        if case.weights_as_inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, array.shape))
    for key, value in case.metadata.items():
        model.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    return onnx.shape_inference.infer_shapes(model) if case.recorded_shapes else model


def tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every constant tensor of a model with its name: initializers and Constant nodes, those of subgraphs too."""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        yield from ((tensor.name, tensor) for tensor in graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                if node.op_type == "Constant" and attribute.HasField("t"):
                    yield node.output[0], attribute.t


def elements(model: onnx.ModelProto) -> int:
    """Parameters of a model: elements of its constant tensors. Scalars, such as a bound or a scale, don't count."""
    return sum(
        size
        for _, tensor in tensors(model)
        if tensor.data_type in PARAMETER_TYPES and (size := int(np.prod(tensor.dims))) > 1
    )


def kernels(model: onnx.ModelProto) -> int:
    """Elements of the constant operands of convolutions, products and recurrent operators."""
    graph = model.graph
    sizes = {name: int(np.prod(tensor.dims)) for name, tensor in tensors(model)}
    for node in graph.node:  # a quantised kernel is read through its dequantisation
        if node.op_type in ("DequantizeLinear", "Cast", "Identity", "Transpose") and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
    operands: set[str] = set()
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            operands |= set(node.input[:2])
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            operands |= set(node.input[1:3])
    return sum(sizes.get(name, 0) for name in operands)
