"""Random weights for ONNX files, scaled layer by layer so that activations stay in range."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

SEED = 0
SPREAD = 0.2
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Operators whose operands are weights where they are stored and of more than one element.
READERS = (*LAYERS, "BatchNormalization", "Mul", "Add")
#: Operators between a stored weight and its reader.
MOVERS = ("Identity", "Reshape", "Transpose", "Unsqueeze")
SCALE, VARIANCE = 1, 4


def randomise(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy with every weight drawn at random, and every layer scaled to outputs of deviation 1 on `feeds`."""
    filled = onnx.ModelProto()
    filled.CopyFrom(proto)
    _store_what_is_made(filled)
    stored = dict(_stored(filled.graph))
    origin = _origins(filled.graph, stored)
    roles = {
        origin.get(name): (node.op_type, index)
        for node in filled.graph.node
        if node.op_type not in MOVERS
        for index, name in enumerate(node.input)
    }
    generator = np.random.default_rng(SEED)
    for name, tensor in sorted(stored.items()):
        array = numpy_helper.to_array(tensor)
        operator, operand = roles.get(name, ("", 0))
        if operator in READERS and array.dtype == np.float32 and array.size > 1:
            _write(tensor, _drawn(generator, array, operator, operand))
    _scale(filled, stored, origin, feeds)
    return filled


def _origins(graph: onnx.GraphProto, stored: Mapping[str, onnx.TensorProto]) -> dict[str, str]:
    """{value: the stored tensor that it is, perhaps moved}."""
    origin = {name: name for name in stored}
    for node in graph.node:
        if node.op_type in MOVERS and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
    return origin


def _store_what_is_made(proto: onnx.ModelProto) -> None:
    """Replace weights that ConstantOfShape makes by initializers, listed as inputs too as in files of IR version 3."""
    graph = proto.graph
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "ConstantOfShape" and n.input[0] in sizes}
    if not made:
        return
    gone = set(made.values())
    for field, stays in (
        ("node", lambda node: node.output[0] not in made),
        ("initializer", lambda tensor: tensor.name not in gone),
        ("input", lambda value: value.name not in gone),
    ):
        kept = [entry for entry in getattr(graph, field) if stays(entry)]
        del getattr(graph, field)[:]
        getattr(graph, field).extend(kept)
    for name, size in made.items():
        graph.initializer.append(numpy_helper.from_array(np.zeros(sizes[size], np.float32), name))
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes[size].tolist()))


def _stored(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """(name, tensor) of initializers and of Constant nodes."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node.output[0], node.attribute[0].t


def _write(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), tensor.name))


def _drawn(generator: np.random.Generator, array: np.ndarray, operator: str, operand: int) -> np.ndarray:
    if operator == "BatchNormalization" and operand in (SCALE, VARIANCE):
        return generator.uniform(0.5, 1.5, array.shape)
    if operator in LAYERS and array.ndim > 1:
        return generator.normal(size=array.shape)  # scaled below
    if np.ptp(array):
        return generator.normal(array.mean(), max(array.std(), SPREAD / 2), array.shape)
    return generator.normal(array.flat[0], SPREAD, array.shape)


def _scale(
    proto: onnx.ModelProto,
    stored: Mapping[str, onnx.TensorProto],
    origin: Mapping[str, str],
    feeds: Mapping[str, np.ndarray],
) -> None:
    values = {name: numpy_helper.to_array(tensor) for name, tensor in stored.items()} | dict(feeds)
    for node in proto.graph.node:
        outputs = _run(node, values, proto)
        weights = [n for n in node.input if n in origin and values[n].dtype == np.float32 and values[n].size > 1]
        if node.op_type in LAYERS and weights:
            deviation = _deviation(outputs[0])
            for name in weights:
                values[name] = values[name] / deviation
                tensor = stored[origin[name]]
                _write(tensor, numpy_helper.to_array(tensor) / deviation)
            outputs = _run(node, values, proto)
        values.update(zip(node.output, outputs, strict=True))


def _deviation(output: np.ndarray) -> np.float32:
    """By how much samples differ; but no less than half the deviation of all elements, or a quarter of their size."""
    among = (output - output.mean(0)).std() if len(output) > 1 else output.std()
    return max(among, output.std() / 2, np.sqrt(np.square(output).mean()) / 4) or np.float32(1)


def _run(node: onnx.NodeProto, values: Mapping[str, np.ndarray], proto: onnx.ModelProto) -> list[np.ndarray]:
    """The outputs of one node alone."""
    given = {name: values[name] for name in node.input if name}
    types = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    inputs = [onnx.helper.make_tensor_value_info(n, types[n], a.shape) for n, a in given.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=max(proto.ir_version, 4))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = iter(session.run(None, given))
    return [next(found) if name else np.empty(0) for name in node.output]
