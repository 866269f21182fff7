"""An independent judge of what can go: bounds of every value, unit by unit, no label followed backwards.

A unit can go if each place that a node sums over with weights other than 0 has equal bounds, all over the place: 0, or
a constant that nothing pads with 0.
"""

import numpy as np
import onnx
import onnxruntime as ort

from onnxprune.graph.model import Model, to_proto
from onnxprune.graph.units import Channels

RISING = frozenset(
    "Relu Sigmoid Tanh Softplus GlobalAveragePool Reshape Transpose Flatten Gather Concat Split Max".split()
)
WIDE = 1e6
SUMS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def bounds(model: Model, batch: int = 1, size: int = 8) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{value: its smallest and its largest element-wise value} for inputs as large as WIDE."""
    proto = to_proto(model)
    found = {}
    for value in model.ir.graph.inputs:
        shape = [d if isinstance(d, int) else (batch if a == 0 else size) for a, d in enumerate(value.shape)]
        found[value.name] = np.full(shape, -WIDE, np.float32), np.full(shape, WIDE, np.float32)
    for name, value in model.ir.graph.initializers.items():
        found[name] = (value.const_value.numpy(),) * 2
    for node in proto.graph.node:
        low, high = _node(node, proto.opset_import[0].version, [found[name] for name in node.input if name])
        found.update((name, (a, b)) for name, a, b in zip(node.output, low, high, strict=True))
    return found


def _node(node, opset: int, operands):
    def run(*arrays):
        return _run(node, opset, arrays)

    lows, highs = [a for a, _ in operands], [b for _, b in operands]
    if all(np.array_equal(a, b) for a, b in operands):
        same = run(*lows)
        return _widened(node, same, same)
    if node.op_type in RISING or node.op_type == "Add":
        return run(*lows), run(*highs)
    if node.op_type == "Sub":
        return run(lows[0], highs[1]), run(highs[0], lows[1])
    if node.op_type == "Mul":
        products = [run(a, b)[0] for a in operands[0] for b in operands[1]]
        return [np.minimum.reduce(products)], [np.maximum.reduce(products)]
    if node.op_type in (*SUMS, "BatchNormalization"):
        if node.op_type == "BatchNormalization":
            ends = [run(x, *lows[1:])[0] for x in operands[0]]
            return [np.minimum(*ends)], [np.maximum(*ends)]
        weight, bias = lows[1], lows[2:]
        rising, falling = np.maximum(weight, 0), np.minimum(weight, 0)
        nothing = [np.zeros_like(b) for b in bias]
        low = run(lows[0], rising, *bias)[0] + run(highs[0], falling, *nothing)[0]
        high = run(highs[0], rising, *bias)[0] + run(lows[0], falling, *nothing)[0]
        return _widened(node, [low], [high])
    same = [np.array_equal(a, b) for a, b in operands]
    ends = [run(*lows)[0], run(*highs)[0]]
    low, high = np.minimum(*ends), np.maximum(*ends)
    assert len(same) == 1, node.op_type  # HardSwish and Cos rise and fall: certain only where nothing varies
    moves = lows[0] != highs[0]
    return [np.where(moves, -WIDE, low).astype(np.float32)], [np.where(moves, WIDE, high).astype(np.float32)]


def _widened(node, lows, highs):
    """A constant read through zero padding isn't the same at the border: not one number to fold."""
    if node.op_type != "Conv":
        return lows, highs
    (low,), (high,) = lows, highs
    varies = np.ptp(low, axis=(2, 3), keepdims=True) > 1e-6 * np.abs(low).max()
    return [np.where(varies, low - 1, low)], [np.where(varies, high + 1, high)]


def _run(node, opset: int, arrays) -> list[np.ndarray]:
    """One node on ONNX Runtime."""
    names = [name for name in node.input if name]
    info = onnx.helper.make_tensor_value_info
    inputs = [
        info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in dict(zip(names, arrays, strict=True)).items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = onnx.helper.make_graph([node], "one", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, arrays, strict=True)))


def removable(channels: Channels) -> list[int]:
    """Units that can go, none so that an axis would be empty."""
    found = bounds(channels.model)
    needed = np.zeros(channels.count, bool)
    for node in channels.model.ir.graph:
        if node.op_type in SUMS:
            _mark(channels, node, found, needed)
    deleted = np.zeros(channels.count, bool)
    chosen = []
    for unit in channels.units:
        members = list(unit.channels)
        if not needed[members].any():
            deleted[members] = True
            if channels.emptied(deleted) is None:
                chosen.append(unit.index)
            else:
                deleted[:] = channels.deleted(chosen)
    return chosen


def _mark(channels: Channels, node, found, needed: np.ndarray) -> None:
    low, high = found[node.inputs[0].name]
    weight = node.inputs[1].const_value.numpy()
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    padded = "pads" in node.attributes and any(node.attributes["pads"].as_ints())
    columns = np.moveaxis(low, 1, 0).reshape(low.shape[1], -1), np.moveaxis(high, 1, 0).reshape(low.shape[1], -1)
    constant = (columns[0] == columns[1]).all(axis=1) & np.isclose(columns[0], columns[0][:, :1], rtol=1e-6).all(axis=1)
    fine = constant & ((columns[0] == 0).all(axis=1) | (not padded))
    if node.op_type == "Conv":
        read = np.concatenate([w.any(axis=tuple(a for a in range(w.ndim) if a != 1)) for w in np.split(weight, group)])
    elif node.op_type == "ConvTranspose":
        read = weight.any(axis=tuple(range(1, weight.ndim)))
    else:
        read = weight.any(axis=1)
    if group == low.shape[1] == len(weight) and group > 1:
        return  # channel by channel: it goes on
    for facet in channels.facets(node.inputs[0]):
        if facet.ndim > 1 and facet.shape[1] > 1:
            needed[channels.channel[facet].ravel()[read & ~fine]] = True
