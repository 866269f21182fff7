"""The oracle: the function of the network with its units zeroed, and nothing removed.

Every weight that would be deleted is multiplied by zero where it is read. Shares no code with `remove`, which must
give the same function.
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxprune.errors import InputError
from onnxprune.graph.model import Model
from onnxprune.graph.units import Channels, Unit

#: Operands by which something is divided, or whose zero is not harmless: they keep their values.
DIVISORS = {
    ("BatchNormalization", 4),
    ("Div", 1),
    ("Mod", 1),
    ("Pow", 0),
    ("Pow", 1),
    ("Sqrt", 0),
    ("Reciprocal", 0),
    ("Log", 0),
}


def mask(model: Model, channels: Channels, units: Iterable[Unit | int]) -> Model:
    """Return `model` with the weights of `units` multiplied by zero. Raises EmptyAxisError as `remove` does."""
    if channels.model is not model:
        raise InputError("These channels were traced from another model. Trace the model you are changing.")
    copy = model.ir.clone()
    graph = copy.graph
    for name, keep in channels.keep_masks(list(units)).items():
        value = graph.initializers[name]
        dtype = value.const_value.dtype
        constant = ir.tensor(keep.astype(np.float32).astype(dtype.numpy()), dtype=dtype, name=f"{name}.mask")
        factor = ir.Value(name=f"{name}.mask", type=ir.TensorType(dtype), shape=value.shape, const_value=constant)
        graph.register_initializer(factor)
        uses = list(value.uses())
        node = ir.Node("", "Mul", [value, factor], name=f"mask_{name}")
        node.outputs[0].name = f"{name}.masked"
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        for user, index in uses:
            if (user.op_type, index) not in DIVISORS:
                user.replace_input_with(index, node.outputs[0])
        graph.insert_before(graph[0], node)
    return Model(copy, model.name, dict(model.copies))
