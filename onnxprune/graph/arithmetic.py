"""The few operators that nearly all shape arithmetic is made of, by NumPy itself.

onnx's reference implementation takes a millisecond a node; a transformer's shapes take thousands of them. What isn't
here, or has a form that isn't, is left to the reference implementation.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

Arrays = Sequence["np.ndarray | None"]


def compute(node: ir.Node, inputs: Arrays) -> np.ndarray | None:
    """The result of a node, or None where the reference implementation has to say."""
    function = _DIRECT.get(node.op_type)
    if function is None or node.domain or any(array is None for array in inputs):
        return None
    try:
        return function(node, inputs)
    except (ValueError, IndexError, TypeError):
        return None


def _ints(node: ir.Node, name: str) -> list[int] | None:
    found = node.attributes.get(name)
    return None if found is None else list(found.as_ints())


def _int(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def _axes(node: ir.Node, inputs: Arrays) -> list[int] | None:
    given = _ints(node, "axes")
    return given if given is not None or len(inputs) < 2 else inputs[1].ravel().tolist()


def _both(function: Callable) -> Callable[[ir.Node, Arrays], np.ndarray | None]:
    """A binary operator; today's form of it broadcasts, and both operands have one type."""

    def apply(node: ir.Node, inputs: Arrays) -> np.ndarray | None:
        a, b = inputs
        return None if a.dtype != b.dtype or node.attributes else np.asarray(function(a, b))

    return apply


def _divide(node: ir.Node, inputs: Arrays) -> np.ndarray | None:
    a, b = inputs
    if a.dtype != b.dtype or a.dtype.kind not in "iu" or (a < 0).any() or (b <= 0).any():
        return None  # ONNX rounds towards zero
    return np.asarray(a // b)


def _concat(node: ir.Node, inputs: Arrays) -> np.ndarray | None:
    same = len({array.dtype for array in inputs}) == 1 and "axis" in node.attributes
    return np.concatenate(inputs, _int(node, "axis", 0)) if same else None


def _gather(node: ir.Node, inputs: Arrays) -> np.ndarray:
    data, indices = inputs
    return np.asarray(np.take(data, indices, _int(node, "axis", 0)))


def _unsqueeze(node: ir.Node, inputs: Arrays) -> np.ndarray | None:
    axes = _axes(node, inputs)
    return None if axes is None else np.expand_dims(inputs[0], tuple(axes))


def _squeeze(node: ir.Node, inputs: Arrays) -> np.ndarray:
    axes = _axes(node, inputs)
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


def _slice(node: ir.Node, inputs: Arrays) -> np.ndarray | None:
    data, *places = inputs
    if data.ndim != 1 or len(places) < 2 or any(place.size != 1 for place in places):
        return None
    start, end = (int(place.ravel()[0]) for place in places[:2])
    step = int(places[3].ravel()[0]) if len(places) > 3 else 1
    return data[start:end] if step == 1 else None


def _cast(node: ir.Node, inputs: Arrays) -> np.ndarray | None:
    to = np.dtype(ir.DataType(_int(node, "to", 0)).numpy())
    return inputs[0].astype(to) if to.kind in "iufb" and inputs[0].dtype.kind in "iub" else None


def _reshape(node: ir.Node, inputs: Arrays) -> np.ndarray | None:
    data, target = inputs
    return None if (target == 0).any() else data.reshape(target.tolist())


def _where(node: ir.Node, inputs: Arrays) -> np.ndarray | None:
    return np.where(*inputs) if inputs[1].dtype == inputs[2].dtype else None


def _sigmoid(node: ir.Node, inputs: Arrays) -> np.ndarray:
    small = np.exp(-np.abs(inputs[0]))
    return np.where(inputs[0] > 0, 1 / (1 + small), small / (1 + small))


_DIRECT: dict[str, Callable[[ir.Node, Arrays], "np.ndarray | None"]] = {
    "Add": _both(np.add),
    "Sub": _both(np.subtract),
    "Mul": _both(np.multiply),
    "Div": _divide,
    "Equal": _both(np.equal),
    "Less": _both(np.less),
    "Greater": _both(np.greater),
    "Concat": _concat,
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Cast": _cast,
    "Reshape": _reshape,
    "Where": _where,
    "Sigmoid": _sigmoid,
    "Identity": lambda node, inputs: inputs[0],
}
