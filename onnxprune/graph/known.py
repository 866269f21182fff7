"""What is known of every value, and which channels nobody reads.

Forward: each tensor has a pair (value, is_known), broadcastable like a facet. An output element is known only if every
input element it depends on is; zero times anything is zero, since values are assumed finite. Backward: a channel whose
every reader weighs it with zero, or that is known to be zero, adds nothing, whatever else it holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph.fold import evaluate_node
from onnxprune.graph.labels import Ledger
from onnxprune.graph.rules import RULES, Op, Tensor, elementwise
from onnxprune.graph.rules.contraction import WEIGHED
from onnxprune.graph.rules.registry import attribute
from onnxprune.graph.trace import Trace
from onnxprune.graph.units import Channels

ELEMENTWISE = frozenset(elementwise.UNARY + elementwise.NARY)
#: Operators that only move elements, so that what is known moves with them.
LAYOUT = frozenset("Concat Flatten Reshape Slice Squeeze Transpose Unsqueeze".split())
#: Pooling and reductions over positions that give a constant back as it is.
STEADY = frozenset("GlobalAveragePool GlobalMaxPool MaxPool ReduceMax ReduceMean ReduceMin".split())
#: Those that give zero back for zero.
ZERO_TO_ZERO = STEADY | frozenset("AveragePool GlobalLpPool LpPool ReduceL1 ReduceL2 ReduceSum ReduceSumSquare".split())


@dataclass(frozen=True, eq=False)
class Known:
    """`value` where `is_known`, both broadcastable to the tensor's shape. Where not known, `value` is 1."""

    value: np.ndarray
    is_known: np.ndarray

    @property
    def is_zero(self) -> np.ndarray:
        return self.is_known & (self.value == 0)


def forward(trace: Trace) -> dict[ir.Value, Known]:
    """What is known of every tensor of the traced graph; tensors of which nothing is known are absent."""
    known: dict[ir.Value, Known] = {}
    graph = trace.model.ir.graph
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING and not value.is_graph_input():
            known[value] = _pair(tensor.numpy(), True)
    for node in graph:
        if node.domain or not node.outputs:
            continue
        found = _node(trace, node, [known.get(v) if v is not None else None for v in node.inputs])
        if found is not None and found.is_known.any():
            known[node.outputs[0]] = found
    return known


def _pair(value: np.ndarray, is_known: np.ndarray | bool) -> Known:
    value, is_known = np.broadcast_arrays(value, is_known)
    return Known(np.where(is_known, value, np.ones((), value.dtype)), is_known)


def _node(trace: Trace, node: ir.Node, inputs: list[Known | None]) -> Known | None:
    operator = node.op_type
    if operator in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return _contraction(trace, node, inputs)
    if operator == "BatchNormalization":
        return _batch_normalization(trace, node, inputs)
    if operator == "Mul":
        return _mul(trace, node, inputs)
    if operator in ELEMENTWISE:
        return _elementwise(node, inputs)
    if operator in ("CastLike", "Dropout"):
        return None if inputs[0] is None else _pair(inputs[0].value, inputs[0].is_zero)
    if operator in ZERO_TO_ZERO:
        return _over_positions(trace, node, inputs[0])
    if operator == "Pad":
        return _pad(trace, node, inputs)
    if operator in LAYOUT:
        return _layout(trace, node, inputs)
    return None


def _elementwise(node: ir.Node, inputs: list[Known | None]) -> Known | None:
    present = [k for v, k in zip(node.inputs, inputs, strict=True) if v is not None]
    if any(k is None for k in present):
        return None
    with np.errstate(all="ignore"):
        result = evaluate_node(node, [None if k is None else k.value for k in inputs])
    if result is None:
        return None
    is_known = np.broadcast_to(
        np.logical_and.reduce(np.broadcast_arrays(*[k.is_known for k in present])), result[0].shape
    )
    if result[0].dtype.kind == "f":
        is_known = is_known & np.isfinite(result[0])
    return _pair(result[0], is_known)


def _mul(trace: Trace, node: ir.Node, inputs: list[Known | None]) -> Known | None:
    """Zero times anything is zero."""
    a, b = inputs
    if a is not None and b is not None:
        product = np.multiply(a.value, b.value)
        zero = np.broadcast_to(a.is_zero, product.shape) | b.is_zero
        return _pair(np.where(zero, np.zeros((), product.dtype), product), zero | (a.is_known & b.is_known))
    one = a or b
    if one is None or node.outputs[0] not in trace.shape_of:
        return None
    rank = len(trace.shape_of[node.outputs[0]])
    shape = (1,) * (rank - one.value.ndim) + one.value.shape
    return _pair(np.zeros(shape, one.value.dtype), one.is_zero.reshape(shape))


def _batch_normalization(trace: Trace, node: ir.Node, inputs: list[Known | None]) -> Known | None:
    if any(k is None or not k.is_known.all() for k in inputs[1:5]) or attribute(node, "training_mode", 0):
        return None
    scale, shift, mean, variance = (k.value for k in inputs[1:5])
    if node.inputs[0] not in trace.shape_of or any(k.value.ndim != 1 for k in inputs[1:5]):
        return None
    rank = len(trace.shape_of[node.inputs[0]])
    column = (1, -1) + (1,) * (rank - 2)
    factor = scale / np.sqrt(variance + np.asarray(attribute(node, "epsilon", 1e-5), variance.dtype))
    x = inputs[0] or _pair(np.ones((1,) * rank, scale.dtype), False)
    flat = (scale == 0).reshape(column)
    result = np.where(
        flat, shift.reshape(column), (x.value - mean.reshape(column)) * factor.reshape(column) + shift.reshape(column)
    )
    return _pair(result, flat | x.is_known)


def _over_positions(trace: Trace, node: ir.Node, x: Known | None) -> Known | None:
    """A channel that is the same everywhere stays so under pooling and under reductions over positions."""
    before, after = trace.shape_of.get(node.inputs[0]), trace.shape_of.get(node.outputs[0])
    if x is None or before is None or after is None or len(before) != len(after):
        return None
    value, is_known = (np.broadcast_to(a, (1,) * (len(before) - a.ndim) + a.shape) for a in (x.value, x.is_known))
    if any(size > 1 and before[a] != after[a] for a, size in enumerate(value.shape)):
        return None
    windows = node.op_type in ("MaxPool", "AveragePool", "LpPool")
    if any(value.shape[a] > 1 for a in range(2, len(before))) and windows:
        return None
    if node.op_type not in STEADY:
        is_known = is_known & (value == 0)
    return _pair(value, is_known)


def _pad(trace: Trace, node: ir.Node, inputs: list[Known | None]) -> Known | None:
    """Constant padding with 0 around zeros; other modes repeat what is there. Along padded axes nothing may vary."""
    x = inputs[0]
    before, after = trace.shape_of.get(node.inputs[0]), trace.shape_of.get(node.outputs[0])
    if x is None or before is None or after is None:
        return None
    value, is_known = (a.reshape((1,) * (len(before) - a.ndim) + a.shape) for a in (x.value, x.is_known))
    if any(value.shape[a] > 1 and before[a] != after[a] for a in range(len(before))):
        return None
    if attribute(node, "mode", "constant") == "constant":
        given = inputs[2] if len(inputs) > 2 and node.inputs[2] is not None else None
        if (len(inputs) > 2 and node.inputs[2] is not None and given is None) or attribute(node, "value", 0.0) != 0.0:
            return None
        if given is not None and (given.value != 0).any():
            return None
        is_known = is_known & (value == 0)
    return _pair(value, is_known)


def _layout(trace: Trace, node: ir.Node, inputs: list[Known | None]) -> Known | None:
    """Move the numbers of known places by the operator's own rule; number 0 is what the operator filled in."""
    numbered: list[Tensor | None] = []
    values: list[np.ndarray] = []
    flags: list[np.ndarray] = [np.zeros(1, bool)]
    count = 1
    operands = len(inputs) if node.op_type == "Concat" else 1
    for index, value in enumerate(node.inputs):
        if value is None:
            numbered.append(None)
            continue
        shape = trace.shape_of.get(value)
        pair = inputs[index]
        if index >= operands or pair is None or shape is None:
            numbered.append(Tensor(value.name or "", shape or (), (), trace.values.get(value)))
            continue
        compact = np.arange(count, count + pair.value.size).reshape(
            (1,) * (len(shape) - pair.value.ndim) + pair.value.shape
        )
        if node.op_type == "Concat":
            axis = attribute(node, "axis", 1) % len(shape)
            if any(size > 1 for a, size in enumerate(compact.shape) if a != axis):
                return None
            compact = np.broadcast_to(compact, tuple(shape[a] if a == axis else 1 for a in range(len(shape))))
        numbered.append(Tensor(value.name or "", shape, (compact,), None))
        values.append(pair.value.ravel())
        flags.append(pair.is_known.ravel())
        count += pair.value.size
    if any(out not in trace.shape_of for out in node.outputs) or count == 1:
        return None
    outputs = [Tensor(out.name or "", trace.shape_of[out]) for out in node.outputs]
    version = node.version or trace.model.ir.graph.opset_imports.get("", 1)
    op = Op(node, numbered, outputs, version, Ledger(), trace.is_dynamic)
    moved = RULES["", node.op_type](op)
    facets = moved[0] if isinstance(moved, list) else moved
    if not facets or len(facets) != 1 or len(node.outputs) != 1:
        return None
    known_values = np.concatenate([np.ones(1, values[0].dtype), *values])
    return _pair(known_values[np.asarray(facets[0])], np.concatenate(flags)[np.asarray(facets[0])])


@dataclass(frozen=True, eq=False)
class Reading:
    """How a node reads the channels it sums over, group by group.

    `weighs[g, o, i]`: whether input i of group g has any weight other than zero for output o; `is_zero[g, i]`: whether
    that input is known to be zero.
    """

    node: ir.Node
    weighs: np.ndarray
    is_zero: np.ndarray
    bias: np.ndarray | None

    def reads(self) -> np.ndarray:
        """[g, o, i]: whether the input adds to the output."""
        return self.weighs & ~self.is_zero[:, None, :]


def reading(trace: Trace, node: ir.Node, inputs: list[Known | None]) -> Reading | None:
    """How a contraction with known weights reads its first input; None for any other node."""
    if node.op_type not in WEIGHED or node.domain or len(node.inputs) < 2 or node.outputs[0] not in trace.shape_of:
        return None
    w = inputs[1]
    shape = trace.shape_of.get(node.inputs[1])
    x_shape = trace.shape_of.get(node.inputs[0])
    if w is None or shape is None or x_shape is None or not w.is_known.all():
        return None
    weight = np.broadcast_to(w.value, shape) != 0
    group, axis = 1, 1
    if node.op_type == "Conv":
        group = attribute(node, "group", 1)
        weighs = weight.any(axis=tuple(range(2, weight.ndim))).reshape(group, shape[0] // group, shape[1])
    elif node.op_type == "ConvTranspose":
        group = attribute(node, "group", 1)
        flat = weight.any(axis=tuple(range(2, weight.ndim))).reshape(group, shape[0] // group, shape[1])
        weighs = flat.transpose(0, 2, 1)
    elif node.op_type == "Gemm":
        weighs = (weight if attribute(node, "transB", 0) else weight.T)[None]
        axis = 0 if attribute(node, "transA", 0) else 1
    elif weight.ndim == 2:
        weighs, axis = weight.T[None], len(x_shape) - 1
    else:
        return None
    zero = np.zeros(x_shape[axis], bool) if inputs[0] is None else _along(inputs[0].is_zero, axis, x_shape)
    bias = inputs[2] if len(inputs) > 2 and node.inputs[2] is not None else None
    vector = None
    outputs = weighs.shape[0] * weighs.shape[1]
    row = bias is not None and bias.value.size == outputs and bias.value.shape[-1:] == (outputs,)
    if bias is not None and bias.is_known.all() and (row or bias.value.size == 1):
        vector = np.broadcast_to(bias.value.ravel(), (outputs,))
    return Reading(node, weighs, zero.reshape(group, -1), vector)


def _along(flags: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """Where all places of `axis` are flagged."""
    flags = flags.reshape((1,) * (len(shape) - flags.ndim) + flags.shape)
    flat = flags.all(axis=tuple(a for a in range(len(shape)) if a != axis))
    return np.broadcast_to(flat, (shape[axis],))


def _contraction(trace: Trace, node: ir.Node, inputs: list[Known | None]) -> Known | None:
    """An output that no input reaches is its bias."""
    found = reading(trace, node, inputs)
    if found is None:
        return None
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    if has_bias and (found.bias is None or (node.op_type == "Gemm" and attribute(node, "beta", 1.0) != 1.0)):
        return None
    unreached = ~found.reads().any(axis=2).ravel()
    dtype = inputs[1].value.dtype
    bias = np.zeros(unreached.size, dtype) if found.bias is None else found.bias
    rank = len(trace.shape_of[node.outputs[0]])
    axis = 1 if node.op_type.startswith("Conv") else rank - 1
    shape = tuple(-1 if a == axis else 1 for a in range(rank))
    return _pair(bias.reshape(shape), unreached.reshape(shape))


def alive(channels: Channels, known: Mapping[ir.Value, Known]) -> tuple[np.ndarray, dict[int, str]]:
    """Which channels matter: bool [channels], and {channel: the first node that reads it}.

    A channel is alive if it is pinned, or if a node sums it, with a weight other than zero and a value not known to be
    zero, into a channel that is alive itself.
    """
    trace, channel = channels.trace, channels.channel
    lives = np.zeros(channels.count, bool)
    lives[list(channels.pin_reasons)] = True
    for labels in trace.ledger.restated:  # other statistics are another function
        lives[channel[labels]] = True
    for labels in trace.ledger.summed:
        lives[channel[labels]] = True
    readers: dict[int, str] = {}
    table = []
    for node in trace.model.ir.graph:
        inputs = [known.get(v) if v is not None else None for v in node.inputs]
        found = reading(trace, node, inputs)
        if found is None:
            if node.op_type in WEIGHED:
                for value in node.inputs[:2]:
                    for facet in trace.facets.get(value, ()):
                        lives[channel[facet]] = True
            continue
        groups, outputs, places = found.weighs.shape
        axis = _input_axis(trace, node)
        into = _channels_on(channels, node.inputs[0], axis, groups * places)
        out_axis = 1 if node.op_type.startswith("Conv") else len(trace.shape_of[node.outputs[0]]) - 1
        out = _channels_on(channels, node.outputs[0], out_axis, groups * outputs)
        if into is not None:
            table.append((node, found.reads(), into.reshape(groups, places), out))
        else:
            for facet in channels.facets(node.inputs[0]):
                if facet.shape[axis] > 1:
                    lives[channel[facet]] = True
    changed = True
    while changed:
        changed = False
        for node, reads, into, out in reversed(table):
            matters = np.ones(reads.shape[:2], bool) if out is None else lives[out].reshape(reads.shape[:2])
            read = (reads & matters[:, :, None]).any(axis=1)
            new = np.unique(into[read])
            new = new[~lives[new]]
            if new.size:
                changed = True
                lives[new] = True
                for c in new.tolist():
                    readers.setdefault(c, f"{node.op_type} '{node.name}'")
    return lives, readers


def _input_axis(trace: Trace, node: ir.Node) -> int:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transA", 0) else 1
    return 1 if node.op_type.startswith("Conv") else len(trace.shape_of[node.inputs[0]]) - 1


def _channels_on(channels: Channels, value: ir.Value, axis: int, size: int) -> np.ndarray | None:
    """The channel of each place on an axis that one facet alone names; None where none or several do."""
    facing = [f for f in channels.facets(value) if f.shape[axis] > 1]
    if len(facing) == 1 and facing[0].size == size == facing[0].shape[axis]:
        return channels.channel[facing[0]].ravel()
    return None
