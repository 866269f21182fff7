"""A graph whose parts don't fit together ends in a sentence that names the node, not in an exception of NumPy."""

import contextlib
from collections.abc import Iterator

import onnx_ir as ir

from onnxprune.errors import ModelError, OnnxPruneError

#: What NumPy and Python raise where shapes, axes or counts don't fit each other.
_MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextlib.contextmanager
def fits_together(node: ir.Node) -> Iterator[None]:
    """What doesn't fit while `node` is looked at raises ModelError: its name, what was found, the cause chained."""
    try:
        yield
    except OnnxPruneError:
        raise
    except MemoryError as error:
        raise ModelError(f"{node.op_type} '{node.name}' gives more elements than fit into memory.") from error
    except _MISFITS as error:
        shapes = ", ".join(f"'{v.name}' {v.shape or '?'}" for v in node.inputs if v is not None)
        raise ModelError(
            f"{node.op_type} '{node.name}' has operands that don't fit together: {shapes} ({error}). "
            "If onnx.checker takes the model, please report it."
        ) from error
