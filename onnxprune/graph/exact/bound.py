"""How far outputs can move when weights are rounded to 0: a bound, carried from the weights to the outputs.

Every tensor has the largest magnitude of its elements and the largest change; each operator says what it makes of both.
Rows of weights count by the sum of their magnitudes, so that the bound holds for every input of at most the given size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph.model import Model
from onnxprune.graph.rules.registry import attribute


@dataclass(frozen=True)
class Bound:
    """No output changes by more than `change` where no input is larger than `inputs`; None: `obstacle` says why."""

    change: float | None
    inputs: float
    obstacle: str = ""


@dataclass(frozen=True)
class _Size:
    """Largest magnitude, and largest change of an element."""

    magnitude: float
    change: float


#: Operators whose result moves at most this many times as far as the operand, and is at most that much larger.
SLOPES = {
    **dict.fromkeys("Relu LeakyRelu Abs Neg Tanh Identity Clip Erf Softsign HardSigmoid Sin Atan Elu".split(), 1.2),
    **dict.fromkeys("Gelu HardSwish Mish Swish Selu".split(), 1.8),
    **dict.fromkeys("Transpose Reshape Flatten Squeeze Unsqueeze Slice Gather Expand Tile DepthToSpace".split(), 1.0),
    **dict.fromkeys("SpaceToDepth MaxPool AveragePool GlobalAveragePool GlobalMaxPool ReduceMean".split(), 1.0),
    **dict.fromkeys("ReduceMax ReduceMin Split Dropout Pad".split(), 1.0),
}
#: Operators whose result lies between -1 and 1.
WITHIN_ONE = {"Sigmoid": 0.25, "Softmax": 0.5}


def bound(original: Model, changed: Model, inputs: float = 4.0) -> Bound:
    """Compare two models that differ in their weights alone."""
    sizes: dict[ir.Value, _Size] = {value: _Size(inputs, 0.0) for value in original.ir.graph.inputs}
    arrays: dict[ir.Value, tuple[np.ndarray, np.ndarray]] = {}
    for name, value in original.ir.graph.initializers.items():
        if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
            before = value.const_value.numpy().astype(np.float64)
            after = changed.ir.graph.initializers[name].const_value.numpy().astype(np.float64)
            arrays[value] = before, after
            sizes[value] = _Size(_largest(before, after), _largest(before - after))
    for node in original.ir.graph:
        size = _behind(node, [None if v is None else sizes.get(v) for v in node.inputs], arrays)
        if size is None:
            return Bound(None, inputs, f"{node.op_type} '{node.name}' may move further than can be bounded")
        sizes.update(dict.fromkeys(node.outputs, size))
    return Bound(max(sizes[value].change for value in original.ir.graph.outputs), inputs)


def _behind(node: ir.Node, operands: list[_Size | None], arrays: Mapping) -> _Size | None:
    given = [size for value, size in zip(node.inputs, operands, strict=True) if value is not None]
    if node.domain or any(size is None for size in given) or not given:
        return None
    operator, x = node.op_type, given[0]
    if operator in SLOPES:
        slope = max(SLOPES[operator], abs(attribute(node, "alpha", 0.0)))
        return _Size(max(x.magnitude * slope, _set_to(node, given)), x.change * slope)
    if operator in WITHIN_ONE:
        return _Size(1.0, min(1.0, x.change * WITHIN_ONE[operator]))
    if operator in ("Add", "Sub", "Sum"):
        return _Size(sum(s.magnitude for s in given), sum(s.change for s in given))
    if operator in ("Max", "Min", "Concat"):
        return _Size(max(s.magnitude for s in given), max(s.change for s in given))
    if operator == "Mul":
        a, b = given
        return _Size(a.magnitude * b.magnitude, a.magnitude * b.change + a.change * b.magnitude)
    if operator == "BatchNormalization":
        return _normalised(node, x, arrays)
    if operator in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return _summed(node, given, arrays)
    return None


def _set_to(node: ir.Node, given: list[_Size]) -> float:
    """The largest value that the node gives whatever its operand is: a bound, a border, 1/2 of a HardSigmoid."""
    if node.op_type not in ("Clip", "Pad"):
        return 1.0
    attributes = [abs(attribute(node, name, 0.0)) for name in ("min", "max", "value")]  # files before opset 11
    return max([*attributes, *(size.magnitude for size in given[1:])])


def _summed(node: ir.Node, given: list[_Size], arrays: Mapping) -> _Size | None:
    """|Wx - W'x'| is at most |W - W'||x| + |W'||x - x'|, row by row."""
    if node.inputs[1] not in arrays:
        return None
    before, after = arrays[node.inputs[1]]
    if node.op_type == "Conv":
        over = tuple(range(1, before.ndim))
    elif node.op_type == "ConvTranspose":
        over = (0, *range(2, before.ndim))
    elif node.op_type == "Gemm" and attribute(node, "transB", 0):
        over = (1,)
    else:
        over = (max(before.ndim - 2, 0),)
    x, scale = given[0], abs(attribute(node, "alpha", 1.0))
    rows, lost = np.abs(before).sum(axis=over).max(), np.abs(before - after).sum(axis=over).max()
    kept = np.abs(after).sum(axis=over).max()
    bias = given[2] if len(given) > 2 else _Size(0.0, 0.0)
    share = abs(attribute(node, "beta", 1.0))
    magnitude = scale * max(rows, kept) * x.magnitude + share * bias.magnitude
    return _Size(magnitude, scale * (lost * x.magnitude + kept * x.change) + share * bias.change)


def _normalised(node: ir.Node, x: _Size, arrays: Mapping) -> _Size | None:
    if any(value not in arrays for value in node.inputs[1:5]):
        return None
    (s, s1), (t, t1), (m, m1), (v, v1) = (arrays[value] for value in node.inputs[1:5])
    epsilon = attribute(node, "epsilon", 1e-5)
    before, after = s / np.sqrt(v + epsilon), s1 / np.sqrt(v1 + epsilon)
    shift, shifted = t - m * before, t1 - m1 * after
    change = np.abs(before - after) * x.magnitude + np.abs(after) * x.change + np.abs(shift - shifted)
    magnitude = np.maximum(np.abs(before), np.abs(after)) * x.magnitude + np.maximum(np.abs(shift), np.abs(shifted))
    return _Size(float(magnitude.max()), float(change.max()))


def _largest(*arrays: np.ndarray) -> float:
    return max(float(np.abs(array).max(initial=0.0)) for array in arrays)
