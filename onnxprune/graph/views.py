"""Reading a flattened tensor place by place in its own order only reshapes it.

torch's exporter writes `as_strided` as a Gather by computed positions, and leaves it behind means of a whole image.
Where the positions come out as 0, 1, 2 ... under both probes of the symbolic sizes, a Reshape says the same.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.graph import shapes
from onnxprune.graph.names import free_name
from onnxprune.graph.values import evaluate

#: Positions above this many elements aren't computed.
_MAX_POSITIONS = 2**22


def restore_reshapes(model: ir.Model) -> None:
    """Replace such Gathers by Reshapes, in place."""
    suspects = [node for node in model.graph if _reads_flat(node)]
    if not suspects:
        return
    prober = shapes.Prober(model)
    for number in range(2):
        shape_of = prober.probe(number).shape_of
        values = evaluate(model, shape_of, _MAX_POSITIONS)
        suspects = [node for node in suspects if _in_order(node, shape_of, values)]
    for node in suspects:
        dims = [dim if isinstance(dim, int) else -1 for dim in node.outputs[0].shape]
        if dims.count(-1) <= 1:
            name = free_name(f"{node.name}.shape", model.graph)
            target = ir.tensor(np.array(dims, np.int64), name=name)
            value = ir.Value(name=target.name, type=ir.TensorType(target.dtype), shape=target.shape, const_value=target)
            model.graph.register_initializer(value)
            node.op_type = "Reshape"
            node.attributes.clear()
            node.replace_input_with(1, value)


def _reads_flat(node: ir.Node) -> bool:
    if node.op_type != "Gather" or node.domain or node.inputs[1].is_initializer() or node.outputs[0].shape is None:
        return False
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    flat = node.inputs[0].producer()
    if axis != 0 or flat is None or flat.op_type != "Reshape":
        return False
    target = flat.inputs[1].const_value
    return target is not None and target.size == 1


def _in_order(
    node: ir.Node, shape_of: Mapping[ir.Value, tuple[int, ...]], values: Mapping[ir.Value, np.ndarray]
) -> bool:
    positions, flat = values.get(node.inputs[1]), shape_of.get(node.inputs[0])
    if positions is None or flat != (positions.size,):
        return False
    return np.array_equal(positions.ravel(), np.arange(positions.size))
