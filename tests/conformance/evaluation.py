"""Run a case's model: on ONNX Runtime where it can, on onnx's reference implementation where it can't."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

Feed = dict[str, np.ndarray]

#: ONNX Runtime 1.31 opens nothing newer.
NEWEST_OPSET = 26
HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
#: A stranger's integers are positions in tables of at least this length.
POSITIONS = 10


def feeds(model: onnx.ModelProto, seed: int = 0) -> Iterator[Feed]:
    """Random, border and large inputs, for two batches and two values of every dynamic size; flags both ways."""
    rng = np.random.default_rng(seed)
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
    for batch, size, flag in ((1, 8, True), (3, 11, False)):
        for kind in ("random", "border", "large"):
            yield {value.name: _array(rng, value, kind, batch, size, flag) for value in inputs}


def _array(rng: np.random.Generator, value: onnx.ValueInfoProto, kind: str, batch: int, size: int, flag: bool):
    tensor = value.type.tensor_type
    shape = tuple(
        dim.dim_value or (batch if axis == 0 or dim.dim_param == "N" else size)
        for axis, dim in enumerate(tensor.shape.dim)
    )
    if tensor.elem_type == TensorProto.BOOL:
        return np.full(shape, flag)
    if tensor.elem_type == TensorProto.INT64:
        return rng.integers(0, POSITIONS, shape)
    array = rng.normal(size=shape)
    if kind == "border":
        array[(slice(None), slice(None), *(slice(1, -1),) * (len(shape) - 2))] = 0
    return np.asarray(array * (10 if kind == "large" else 1), np.float32)


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with float32 in place of float16 and bfloat16: what rounding hides comes to light."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graphs = [wide.graph]
    while graphs:
        graph = graphs.pop()
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type in HALF:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for tensor in graph.initializer:
            _widen_tensor(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                if attribute.HasField("t"):
                    _widen_tensor(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALF:
                    attribute.i = TensorProto.FLOAT
    return wide


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in HALF:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def runner(model: onnx.ModelProto, *, optimized: bool = False):
    """A function from a feed to the outputs by name, for a widened model."""
    names = [output.name for output in model.graph.output]
    if opset(model) > NEWEST_OPSET:
        evaluator = ReferenceEvaluator(model)
        return lambda feed: dict(zip(names, evaluator.run(None, feed), strict=True))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model asks for."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def error_over_range(original: onnx.ModelProto, smaller: onnx.ModelProto) -> float:
    """Largest difference over all feeds and outputs, over the range of that output."""
    run, run_smaller = runner(widen(original)), runner(widen(smaller))
    worst = 0.0
    for feed in feeds(original):
        expected, found = run(feed), run_smaller(feed)
        if list(expected) != list(found):
            raise AssertionError(f"outputs are {list(found)}, not {list(expected)}")
        for name, array in expected.items():
            if array.shape != found[name].shape:
                raise AssertionError(f"output '{name}' is {found[name].shape}, not {array.shape}")
            if not (array.size and np.isfinite(array).all()):
                raise AssertionError(f"output '{name}' has nothing to compare")
            difference = np.abs(array.astype(np.float64) - found[name].astype(np.float64)).max()
            worst = max(worst, float(difference / max(np.ptp(array.astype(np.float64)), 1e-6)))
    return worst


def interface(model: onnx.ModelProto) -> list[tuple[str, int, tuple]]:
    """What callers see: names, element types and dimensions of inputs and outputs. A weight isn't an input."""
    given = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in [*model.graph.input, *model.graph.output] if value.name not in given]
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in values
    ]
