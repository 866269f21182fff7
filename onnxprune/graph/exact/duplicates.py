"""Channels that hold the same as another one, whatever the input: filters equal in every weight, and what follows.

Each tensor has at most one axis whose places are numbered; two places of one number hold the same. A tensor without
numbers has no two places known to be equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph.contradictions import fits_together
from onnxprune.graph.exact.forward import Facts
from onnxprune.graph.exact.products import CONVOLUTIONS
from onnxprune.graph.exact.step import Step
from onnxprune.graph.rules import elementwise
from onnxprune.graph.trace import Trace

#: Operators that treat every place of the axis alike, by themselves.
ALIKE = frozenset([*elementwise.UNARY, "CastLike", "Dropout"])
POOLS = frozenset("AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool".split())
NORMS = frozenset(["BatchNormalization", "InstanceNormalization"])


@dataclass(frozen=True, eq=False)
class Alike:
    """`numbers[place]` along `axis`: equal numbers, equal slices."""

    axis: int
    numbers: np.ndarray


def alike(trace: Trace, facts: Facts) -> Mapping[ir.Value, Alike]:
    """The tensors with equal slices."""
    found: dict[ir.Value, Alike] = {}
    for node in trace.model.ir.graph:
        if node.domain or not node.outputs or any(v is not None and v not in trace.shape_of for v in node.inputs):
            continue
        if node.outputs[0] not in trace.shape_of:
            continue
        step = Step(trace, node, [None if v is None else facts.known.get(v) for v in node.inputs])
        with fits_together(node):
            result = _behind(step, found)
        if result is not None and len(np.unique(result.numbers)) < len(result.numbers):
            found[node.outputs[0]] = result
    return found


def _behind(step: Step, found: Mapping[ir.Value, Alike]) -> Alike | None:
    operator, node = step.operator, step.node
    if operator in (*CONVOLUTIONS, "Gemm", "MatMul"):
        return _filters(step, found)
    x = found.get(node.inputs[0]) if node.inputs else None
    if operator in elementwise.NARY:
        return _operands(step, found)
    if x is None:
        return None
    if operator in ALIKE:
        return x
    if operator in POOLS:
        return x if x.axis == 1 and len(node.outputs) == 1 else None
    if operator in NORMS:
        keys = [_vector(step, i) for i in range(1, len(node.inputs))]
        return None if x.axis != 1 or any(k is None for k in keys) else _joined(1, [x.numbers, *keys])
    if operator == "Transpose":
        order = step.attr("perm") or list(range(step.rank))[::-1]
        return Alike(list(order).index(x.axis), x.numbers)
    return None


def _filters(step: Step, found: Mapping[ir.Value, Alike]) -> Alike | None:
    """Outputs with equal weights, equal bias, and inputs that are the same."""
    weight, rank = step.array(1), len(step.out_shape())
    if weight is None or step.operator == "ConvTranspose":
        return None
    if step.operator == "Conv":
        group, axis = step.attr("group", 1), 1
        rows = weight.reshape(len(weight), -1)
        x = found.get(step.node.inputs[0])
        if x is not None and x.axis == 1:
            inputs = np.unique(x.numbers.reshape(group, -1), axis=0, return_inverse=True)[1].ravel()
        else:
            inputs = np.arange(group)
        keys = [np.repeat(inputs, len(weight) // group)]
    elif weight.ndim == 2:
        axis, keys = rank - 1, []
        rows = weight if step.operator == "Gemm" and step.attr("transB", 0) else weight.T
    else:
        return None
    keys.append(_equal_rows(rows))
    if step.has(2):
        bias = step.array(2)
        if bias is None or (bias.ndim > 1 and bias.size != bias.shape[-1]) or bias.size not in (1, len(rows)):
            return None
        if bias.size > 1:
            keys.append(np.unique(bias.ravel(), return_inverse=True)[1])
    return _joined(axis, keys)


def _equal_rows(rows: np.ndarray) -> np.ndarray:
    """A number for each row, the same for rows equal in every element. Sums by random weights find candidates."""
    direction = np.random.default_rng(0).standard_normal(rows.shape[1]).astype(np.float32)
    sums = rows.astype(np.float32, copy=False) @ direction
    order = np.argsort(sums, kind="stable")
    numbers = np.arange(len(rows))
    # Two equal rows may differ in the last bit of their sums: neighbours within a rounding are compared.
    close = np.isclose(sums[order][1:], sums[order][:-1], rtol=1e-4, atol=1e-6)
    for at in np.flatnonzero(close).tolist():
        first, second = order[at], order[at + 1]
        if np.array_equal(rows[first], rows[second]):
            numbers[second] = numbers[first]
    return numbers


def _operands(step: Step, found: Mapping[ir.Value, Alike]) -> Alike | None:
    """Places where every operand is the same."""
    rank = len(step.out_shape())
    numbered = []
    for value in step.node.inputs:
        known = found.get(value) if value is not None else None
        if known is not None:
            numbered.append(known.axis + rank - len(step.trace.shape_of[value]))
    if not numbered or len(set(numbered)) > 1:
        return None
    axis, keys = numbered[0], []
    for index, value in enumerate(step.node.inputs):
        if value is None:
            continue
        shape = step.shape(index)
        own = axis - (rank - len(shape))
        if value in found:
            keys.append(found[value].numbers)
        elif own >= 0 and shape[own] > 1:
            vector = _vector(step, index)
            if vector is None or any(n > 1 for a, n in enumerate(shape) if a != own):
                return None
            keys.append(vector)
    return _joined(axis, keys)


def _vector(step: Step, index: int) -> np.ndarray | None:
    """A number for each element of a constant vector."""
    array = step.array(index)
    return None if array is None else np.unique(array.ravel(), return_inverse=True)[1]


def _joined(axis: int, keys: Sequence[np.ndarray]) -> Alike:
    """Places are alike where all keys are."""
    return Alike(axis, np.unique(np.stack(keys), axis=1, return_inverse=True)[1].ravel())
