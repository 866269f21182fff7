"""What a rule of `forward` sees of one node, and the table of such rules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph.exact.known import Known, unknown
from onnxprune.graph.rules.registry import attribute
from onnxprune.graph.trace import Trace

#: Halves are computed as float32: the proof compares both files with their weights widened alike.
WIDENED = {ir.DataType.FLOAT16: np.float32, ir.DataType.BFLOAT16: np.float32}


@dataclass(frozen=True, eq=False)
class Step:
    """One node with what is known of its operands: None where nothing is, or where there is no operand."""

    trace: Trace
    node: ir.Node
    inputs: Sequence[Known | None]

    @property
    def operator(self) -> str:
        return self.node.op_type

    @property
    def version(self) -> int:
        return self.node.version or self.trace.model.ir.graph.opset_imports.get("", 1)

    def attr(self, name: str, default=None):
        return attribute(self.node, name, default)

    def has(self, index: int) -> bool:
        """Whether the node is given this operand."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def known(self, index: int) -> Known | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def shape(self, index: int) -> tuple[int, ...]:
        return self.trace.shape_of[self.node.inputs[index]]

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        return self.trace.shape_of[self.node.outputs[index]]

    @property
    def rank(self) -> int:
        return len(self.shape(0))

    def operand(self, index: int = 0, rank: int | None = None) -> Known:
        """What is known of an operand, maybe nothing, with leading axes of size 1 up to `rank` (default: its own)."""
        found = self.known(index)
        rank = len(self.shape(index)) if rank is None else rank
        return unknown(rank, dtype_of(self.node.inputs[index])) if found is None else found.aligned(rank)

    def array(self, index: int) -> np.ndarray | None:
        """An operand whose every element is known, whole."""
        found = self.known(index)
        return np.broadcast_to(found.value, self.shape(index)) if found is not None and found.is_all_known else None

    def is_fixed(self, index: int, axis: int) -> bool:
        """Whether an operand's axis has the same size in every run."""
        return not self.trace.is_dynamic(self.node.inputs[index], axis)


def holds_weights(value: ir.Value) -> bool:
    """Whether an initializer always has its value, which callers of the model may replace if it is an input too.

    Files from before version 4 of the format list every initializer as an input: where all matrices are, none is meant.
    """
    if value.const_value is None or value.const_value.dtype == ir.DataType.STRING:
        return False
    if not value.is_graph_input():
        return True
    tables = [
        v for v in value.graph.initializers.values() if v.const_value is not None and len(v.const_value.shape) > 1
    ]
    return all(v.is_graph_input() for v in tables if v.const_value.dtype.is_floating_point())


def dtype_of(value: ir.Value | None) -> np.dtype:
    """The type that a value's elements are computed in."""
    if value is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        return np.dtype(np.float32)
    return np.dtype(WIDENED.get(value.dtype, value.dtype.numpy()))


Result = Known | list[Known | None] | None
Rule = Callable[[Step], Result]
FORWARD: dict[str, Rule] = {}


def knows(*operators: str) -> Callable[[Rule], Rule]:
    """Register what is known behind `operators`: of the only output, or a list with each; None is nothing.

    A rule is called where every shape is found and something is known of an operand.
    """

    def register(function: Rule) -> Rule:
        FORWARD.update(dict.fromkeys(operators, function))
        return function

    return register
