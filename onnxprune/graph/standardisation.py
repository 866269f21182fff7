"""Weight standardisation: weights that are normalised by their own statistics become the weights they come to.

A layer of this kind computes its weights from parameters alone, each time the network runs. Deleting one input channel
would change the statistics of all the others; what they come to now is what a shipped network computes, and can be cut.
"""

import numpy as np
import onnx_ir as ir

from onnxprune.graph.fold import become_initializer, evaluate_node

#: Operators that take statistics of what they read.
STATISTICS = frozenset(
    ("InstanceNormalization", "LayerNormalization", "LpNormalization", "ReduceL2", "ReduceMean", "ReduceSumSquare")
)


def fold_standardised_weights(model: ir.Model) -> None:
    """Evaluate every computation over parameters alone that takes statistics of them, in place."""
    graph = model.graph
    constant: set[ir.Value] = {v for v in graph.initializers.values() if not v.is_graph_input()}
    standardised: dict[ir.Value, None] = {}  # in graph order: names and their order are the same each time
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        if read and not node.domain and all(value in constant for value in read):
            constant.update(node.outputs)
            if node.op_type in STATISTICS or any(value in standardised for value in read):
                standardised.update(dict.fromkeys(node.outputs))
    values: dict[ir.Value, np.ndarray | None] = {}
    for value in standardised:
        is_read = any(out not in constant for user, _ in value.uses() for out in user.outputs)
        array = _evaluate(value, values) if is_read and not value.is_graph_output() else None
        if array is not None:
            become_initializer(graph, value, array)


def _evaluate(value: ir.Value, values: dict[ir.Value, np.ndarray | None]) -> np.ndarray | None:
    """What the value holds; None where it can't be computed here."""
    waiting = [value]
    while waiting:
        current = waiting[-1]
        node = current.producer()
        if current in values:
            waiting.pop()
        elif node is None:
            values[current] = current.const_value.numpy()
        elif missing := [v for v in node.inputs if v is not None and v not in values]:
            waiting += missing
        else:
            inputs = [None if v is None else values[v] for v in node.inputs]
            is_known = all(array is not None for v, array in zip(node.inputs, inputs, strict=True) if v is not None)
            results = evaluate_node(node, inputs) if is_known else None
            values.update(zip(node.outputs, results or [None] * len(node.outputs), strict=False))
    return values[value]
