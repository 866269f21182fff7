"""A graph whose parts don't fit together ends in a sentence that names the node, not in an exception of NumPy."""

import math
from collections.abc import Mapping

import onnx_ir as ir

from onnxprune.errors import ModelError, OnnxPruneError
from onnxprune.graph.rules.registry import attribute

#: What NumPy and Python raise where shapes, axes or counts don't fit each other.
_MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class fits_together:  # a class, since a context manager from a generator takes three times as long
    """What doesn't fit while `node` is looked at raises ModelError: its name, what was found, the cause chained."""

    __slots__ = ("_node",)

    def __init__(self, node: ir.Node):
        self._node = node

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, OnnxPruneError):
            return
        node = self._node
        if isinstance(error, MemoryError):
            raise ModelError(f"{node.op_type} '{node.name}' gives more elements than fit into memory.") from error
        if isinstance(error, _MISFITS):
            shapes = ", ".join(f"'{v.name}' {v.shape or '?'}" for v in node.inputs if v is not None)
            raise ModelError(
                f"{node.op_type} '{node.name}' has operands that don't fit together: {shapes} ({error}). "
                "If onnx.checker takes the model, please report it."
            ) from error


#: Operators that keep every element and only move or rename axes.
_KEEPS_ELEMENTS = frozenset("DepthToSpace Flatten Identity Reshape SpaceToDepth Squeeze Transpose Unsqueeze".split())


def contradicts(node: ir.Node, shape_of: Mapping[ir.Value, tuple[int, ...]]) -> bool:
    """Whether the shapes around a node can't all be true: inference that isn't strict hands those on as well."""
    if node.domain or not node.outputs:
        return False
    shapes = [None if value is None else shape_of.get(value) for value in node.inputs]
    if node.op_type in _KEEPS_ELEMENTS:
        after = shape_of.get(node.outputs[0])
        return shapes[0] is not None and after is not None and math.prod(shapes[0]) != math.prod(after)
    if len(shapes) < 2 or shapes[0] is None or shapes[1] is None:
        return False
    x, w = shapes[:2]
    bias = shapes[2] if len(shapes) > 2 else None
    if node.op_type in ("Conv", "ConvTranspose"):
        group = attribute(node, "group", 1)
        if len(x) != len(w) or len(x) < 3 or w[0] % group:
            return True
        if node.op_type == "Conv":
            return x[1] != w[1] * group or bias not in (None, (w[0],))
        return x[1] != w[0] or bias not in (None, (w[1] * group,))
    if node.op_type == "Gemm":
        if len(x) != 2 or len(w) != 2:
            return True
        rows, inner = x[::-1] if attribute(node, "transA", 0) else x
        other, columns = w[::-1] if attribute(node, "transB", 0) else w
        return inner != other or (bias is not None and not _broadcasts_to(bias, (rows, columns)))
    if node.op_type == "MatMul":
        return not x or not w or x[-1] != w[-2 if len(w) > 1 else 0]
    if node.op_type == "BatchNormalization":
        return len(x) < 2 or any(shape is not None and shape != (x[1],) for shape in shapes[1:5])
    return False


def _broadcasts_to(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether a tensor may stand beside one of shape `target` without making it larger."""
    return len(shape) <= len(target) and all(a in (1, b) for a, b in zip(shape[::-1], target[::-1], strict=False))
