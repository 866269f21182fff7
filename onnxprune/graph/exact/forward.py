"""What is known of every value, from the initializers on.

An output element is known only if every input element it depends on is; the exceptions are listed by operator (0 times
anything, a condition that is known, an exponent of 0, a deciding constant). Values inside the network are assumed
finite.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import onnx_ir as ir

from onnxprune.graph.bounds import is_bounded
from onnxprune.graph.contradictions import fits_together
from onnxprune.graph.exact import elementwise, movement, statistics
from onnxprune.graph.exact.known import Known, pair
from onnxprune.graph.exact.products import CONVOLUTIONS, OPERATORS, Products, products
from onnxprune.graph.exact.ranges import Range, cut_off, ranges_behind
from onnxprune.graph.exact.step import FORWARD, Step, dtype_of, holds_weights, knows
from onnxprune.graph.fold import evaluate_node
from onnxprune.graph.trace import Trace

#: A convolution with more products isn't worked out place by place.
MAX_PRODUCTS = 2**24

__all__ = ["Facts", "elementwise", "forward", "movement", "statistics"]


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of each tensor (absent: nothing), and how each node that sums products reads its operands."""

    known: Mapping[ir.Value, Known]
    products: Mapping[ir.Node, Products] = field(default_factory=dict)


def forward(trace: Trace, nodes: Sequence[ir.Node] | None = None, zero: Collection[str] = ()) -> Facts:
    """What is known of every tensor of the traced graph, or of what `nodes`, in order, give.

    Initializers named in `zero` count as zeros.
    """
    known: dict[ir.Value, Known] = {}
    ranges: dict[ir.Value, Range] = {}
    laid: dict[ir.Node, Products] = {}
    graph = trace.model.ir.graph
    read = graph.initializers.values() if nodes is None else _initializers_of(nodes)
    for value in read:
        if holds_weights(value):
            array = value.const_value.numpy()
            if value.name in zero:
                array = np.zeros_like(array)
            if array.dtype.kind in "iubf" or value.const_value.dtype == ir.DataType.BFLOAT16:
                known[value] = pair(array.astype(dtype_of(value), copy=False))
    for node in graph if nodes is None else nodes:
        if node.domain or any(out not in trace.shape_of for out in node.outputs):
            continue
        if any(value is not None and value not in trace.shape_of for value in node.inputs):
            continue
        step = Step(trace, node, [None if v is None else known.get(v) for v in node.inputs])
        results: list[Known | None] = []
        with fits_together(node):
            if node.op_type in OPERATORS:
                laid[node] = products(step)
                results = [contraction(laid[node])]
            else:
                results = _results(step)
            between = ranges_behind(step, ranges, results)
            results = [_with(a, cut_off(step, b)) for a, b in zip_longest(results, between)]
            ranges.update((out, b) for out, b in zip(node.outputs, between, strict=False) if b is not None)
            for out, result in zip(node.outputs, results, strict=False):
                if result is not None and result.is_known.any() and _is_settled(trace, out, result):
                    known[out] = result
    return Facts(known, laid)


def _initializers_of(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    return list({v: None for node in nodes for v in node.inputs if v is not None and v.is_initializer()})


def _results(step: Step) -> list[Known | None]:
    """What the rule of a node's operator knows of its outputs."""
    rule = FORWARD.get(step.operator)
    if rule is None or (not any(step.inputs) and step.operator != "ConstantOfShape"):
        return []
    arrays = [k.value for k in step.inputs if k is not None]
    if len(arrays) == len(step.node.inputs) and not is_bounded(step.node, arrays):
        return []
    found = rule(step)
    return found if isinstance(found, list) else [found]


def _with(result: Known | None, more: Known | None) -> Known | None:
    """All that is known from one side or the other."""
    if result is None or more is None:
        return more or result
    value = np.where(result.is_known, result.value, more.value.astype(result.value.dtype))
    return pair(value, result.is_known | more.is_known)


def _is_settled(trace: Trace, value: ir.Value, found: Known) -> bool:
    """Whether what is known holds for every size of the symbolic axes, of which one was tried."""
    shape = trace.shape_of[value]
    if len(found.shape) != len(shape) or any(n not in (1, s) for n, s in zip(found.shape, shape, strict=True)):
        raise AssertionError(f"What is known of '{value.name}' has shape {found.shape}, the tensor {shape}.")
    return not any(size > 1 and trace.is_dynamic(value, axis) for axis, size in enumerate(found.shape))


def contraction(laid: Products) -> Known | None:
    """A sum of products whose every product is known, and the bias."""
    total, step = laid.total, laid.step
    total = None if total is None else total.both(laid.unlay)
    total = place_by_place(laid, total)
    if total is None:
        return None
    if not step.has(2):
        return total
    rank = len(step.out_shape())
    beta = step.attr("beta", 1.0) if step.operator == "Gemm" else 1.0
    if step.known(2) is None:
        return None
    bias = (
        step.operand(2, rank)
        if step.operator == "Gemm"
        else step.known(2).both(lambda a: a.reshape((1, -1) + (1,) * (rank - 2)))
    )
    return pair((total.value + beta * bias.value).astype(total.value.dtype), total.is_known & bias.is_known)


def place_by_place(laid: Products, total: Known | None) -> Known | None:
    """`total`, with what a convolution makes of constants beside a border: a value for each place, of the same image.

    That a channel is a constant before an activation may matter: below 0 everywhere, it is 0 behind a Relu.
    """
    step = laid.step
    if step.operator not in CONVOLUTIONS or laid.is_steady or laid.adds is None or step.known(0) is None:
        return total
    x, w, rank = step.operand(0), step.array(1), step.rank
    known = x.is_known.all(axis=(0, *range(2, rank)), keepdims=True)
    out = step.node.outputs[0]
    is_fixed = all(step.is_fixed(0, a) and not step.trace.is_dynamic(out, a) for a in range(2, rank))
    products = math.prod(step.out_shape()[2:]) * math.prod(step.shape(1))
    if w is None or not known.any() or not is_fixed or products > MAX_PRODUCTS:
        return total
    flags = laid.unlay(~(laid.adds & ~laid.factors[0].lay(known)).any(axis=laid.summed, keepdims=True))
    if not flags.any() or (total is not None and not (flags & ~total.is_known).any()):
        return total
    image = np.broadcast_to(np.where(known, x.value, 0).astype(w.dtype), (1, *step.shape(0)[1:]))
    bias = [np.zeros(step.out_shape()[1], w.dtype)] if step.has(2) else []
    found = evaluate_node(step.node, [image, w, *bias])
    if found is None or found[0].shape != (1, *step.out_shape()[1:]):
        return total
    by_place = pair(found[0], flags)
    if total is None:
        return by_place
    value = np.where(total.is_known, total.value, by_place.value)
    return pair(value, total.is_known | by_place.is_known)


@knows("LSTM", "GRU", "RNN")
def recurrent(step: Step) -> list[Known | None] | None:
    """A hidden unit whose candidate is 0 stays at its initial state of 0.

    x[T,N,I], w[d,G*H,I], r[d,G*H,H], b[d,2*G*H]; the candidate is the gate c of LSTM (iofc), h of GRU (zrh).
    """
    hidden = step.attr("hidden_size")
    if step.attr("activations") or hidden is None or step.attr("layout", 0):
        return None
    states = (5, 6) if step.operator == "LSTM" else (5,)
    if any(step.has(i) and (step.known(i) is None or not step.known(i).holds(0)) for i in states):
        return None
    gates, candidate = {"LSTM": (4, 3), "GRU": (3, 2), "RNN": (1, 0)}[step.operator]
    rows = slice(candidate * hidden, (candidate + 1) * hidden)
    parts = [step.known(1), step.known(2), step.known(3) if step.has(3) else None]
    if parts[0] is None or parts[1] is None or (step.has(3) and parts[2] is None):
        return None
    directions = step.shape(1)[0]
    still = np.ones((directions, hidden), bool)
    for index, found in zip((1, 2), parts[:2], strict=True):
        flags = np.broadcast_to(found.is_zero, step.shape(index))
        still &= flags[:, rows].all(axis=2)
    if parts[2] is not None:
        flags = np.broadcast_to(parts[2].is_zero, step.shape(3))
        for half in (0, gates * hidden):
            still &= flags[:, half + rows.start : half + rows.stop]
    dtype = dtype_of(step.node.inputs[0])
    last = pair(np.zeros((directions, 1, hidden), dtype), still[:, None])
    return [last.both(lambda a: a[None]), last, last][: len(step.node.outputs)]
