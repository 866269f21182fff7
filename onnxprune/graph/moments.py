"""Normalisation written out: which means are the mean and the variance of one.

Older exporters, and converters from other frameworks, write LayerNorm and GroupNorm as ReduceMean, Sub, Pow or Mul,
ReduceMean, Sqrt, Div. Deleting a place is restated there as in the operator itself: both means are over what is kept.
"""

from collections.abc import Iterator

import onnx_ir as ir


def moments(graph: ir.Graph) -> frozenset[ir.Node]:
    """The ReduceMean nodes that take mean(x) and mean((x - mean(x))^2) over the same axes."""
    found: set[ir.Node] = set()
    for mean in graph:
        axes = _axes(mean) if mean.op_type == "ReduceMean" and not mean.domain else None
        if not axes:
            continue
        centred = [s.outputs[0] for s in _readers(mean.outputs[0], "Sub") if _subtracts(s, mean)]
        squares = [square.outputs[0] for value in centred for square in _squares(value)]
        variances = [v for value in squares for v in _readers(value, "ReduceMean") if _axes(v) == axes]
        if variances and len(centred) == len(mean.outputs[0].uses()) and not mean.outputs[0].is_graph_output():
            found.update([mean, *variances])
    return frozenset(found)


def _readers(value: ir.Value, operator: str) -> Iterator[ir.Node]:
    return (node for node, _ in value.uses() if node.op_type == operator and not node.domain)


def _subtracts(node: ir.Node, mean: ir.Node) -> bool:
    return node.inputs[0] is mean.inputs[0] and node.inputs[1] is mean.outputs[0]


def _squares(value: ir.Value) -> Iterator[ir.Node]:
    for node in {*_readers(value, "Mul"), *_readers(value, "Pow")}:
        exponent = node.inputs[1].const_value if node.op_type == "Pow" else None
        is_power = exponent is not None and exponent.size == 1 and exponent.numpy().ravel()[0] == 2
        if is_power or node.inputs[0] is node.inputs[1]:
            yield node


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes as they are written, the same in the two means of one normalisation; None where none are."""
    if "axes" in node.attributes:
        return tuple(node.attributes["axes"].as_ints())
    given = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = None if given is None else given.const_value
    return None if tensor is None else tuple(tensor.numpy().ravel().tolist())
