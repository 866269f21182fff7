"""The oracle: the function of the network with its units zeroed, and nothing removed.

Every weight that would be deleted is multiplied by zero where it is read; normalisations over an axis that would shrink
take their statistics over what is kept, by mask tensors. Shares no code with `remove`, which must give the same
function.
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxprune.errors import InputError
from onnxprune.graph.model import Model
from onnxprune.graph.names import free_name, value_names
from onnxprune.graph.units import Channels, Unit

#: Operands, by operator, whose zero gives no number. Where a deleted slice holds 0 there it counts as 1.
DIVISORS = {"Acosh": 0, "BatchNormalization": 4, "Div": 1, "Log": 0, "Mod": 1, "Reciprocal": 0}

#: Written out where something is deleted: statistics over what is kept, and no 0 divided by 0.
NORMALISATIONS = ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "MeanVarianceNormalization")
#: Added to the variance where no attribute says what; MeanVarianceNormalization adds 1e-9 to its root.
EPSILONS = {"MeanVarianceNormalization": 1e-18}


def mask(model: Model, channels: Channels, units: Iterable[Unit | int]) -> Model:
    """Return `model` with the weights of `units` multiplied by zero. Raises EmptyAxisError as `remove` does."""
    if channels.model is not model:
        raise InputError("These channels were traced from another model. Trace the model you are changing.")
    units = list(units)
    copy = model.ir.clone()
    graph = copy.graph
    deleted = channels.deleted(units)
    twins = dict(zip(model.ir.graph, graph, strict=True))
    for block in channels.dropped(units):
        add = twins[block.add]
        write = _Writer(graph, add)
        nothing = write.constant(np.zeros((), _dtype(add.inputs[block.operand]).numpy()))
        add.replace_input_with(block.operand, write("Mul", add.inputs[block.operand], nothing))
    for node, twin in twins.items():
        if node.op_type in NORMALISATIONS and not node.domain:
            keep = channels.keep_mask(node.inputs[0], deleted)
            if not keep.all():
                before = _before_reshape(channels, node.inputs[0])
                source = None if before is None else np.asarray(channels.keep_mask(before, deleted))
                _restate(graph, twin, np.asarray(keep), channels.trace.shape_of[node.inputs[0]], source)
        if node in channels.trace.moments:
            keep = np.asarray(channels.keep_mask(node.inputs[0], deleted))
            if not keep.all():
                _mean_of_kept(graph, twin, keep, channels.trace.shape_of[node.inputs[0]])
        index = _divisor(node)
        if index is not None:
            keep = channels.keep_mask(node.inputs[index], deleted)
            if not keep.all():
                _divide_by_one(graph, twin, index, np.asarray(keep))
    taken = value_names(graph)
    for name, keep in channels.keep_masks(units).items():
        value = graph.initializers[name]
        dtype = value.const_value.dtype
        mask_name = free_name(f"{name}.mask", taken)
        constant = ir.tensor(keep.astype(np.float32).astype(dtype.numpy()), dtype=dtype, name=mask_name)
        factor = ir.Value(name=mask_name, type=ir.TensorType(dtype), shape=value.shape, const_value=constant)
        graph.register_initializer(factor)
        uses = list(value.uses())
        node = ir.Node("", "Mul", [value, factor], name=f"mask_{name}")
        node.outputs[0].name = free_name(f"{name}.masked", taken)
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        for user, index in uses:
            user.replace_input_with(index, node.outputs[0])
        graph.insert_before(graph[0], node)
    return Model(copy, model.name, dict(model.copies))


def _mean_of_kept(graph: ir.Graph, node: ir.Node, keep: np.ndarray, shape: tuple[int, ...]) -> None:
    """A mean over what `keep` keeps: of the rest nothing is added, and the sum is divided by fewer."""
    write = _Writer(graph, node)
    x, out = node.inputs[0], node.outputs[0]
    dtype = _dtype(x).numpy()
    given = node.attributes["axes"].as_ints() if "axes" in node.attributes else node.inputs[1].const_value.numpy()
    axes = tuple(int(axis) % len(shape) for axis in np.ravel(given))
    fraction = keep.mean(axis=axes, keepdims=True).clip(1e-9)
    if not (node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1):
        fraction = fraction.squeeze(axes)
    readers = list(out.uses())
    node.replace_input_with(0, write("Mul", x, write.constant(keep.astype(dtype))))
    mean = _Writer(graph, node, after=True)("Div", out, write.constant(fraction.astype(dtype)))
    for reader, index in readers:
        reader.replace_input_with(index, mean)


def _divisor(node: ir.Node) -> int | None:
    """Which operand must not be 0."""
    if node.op_type == "Pow" and not node.domain:
        exponent = node.inputs[1].const_value
        return 0 if exponent is not None and exponent.size == 1 and exponent.numpy().ravel()[0] < 0 else None
    return DIVISORS.get(node.op_type) if not node.domain else None


def _divide_by_one(graph: ir.Graph, node: ir.Node, index: int, keep: np.ndarray) -> None:
    """Add 1 to operand `index` where it is 0 and `keep` doesn't keep it."""
    write = _Writer(graph, node)
    x = node.inputs[index]
    dtype = _dtype(x)
    number = x if dtype.is_floating_point() else write("Cast", x, to=int(ir.DataType.FLOAT))
    kind = dtype.numpy() if dtype.is_floating_point() else np.float32
    # tanh|x| lies between 0 and 1, and is 0 for 0 alone: rounded up and taken from 1, it says where x is 0.
    zero = write("Sub", write.constant(np.ones((), kind)), write("Ceil", write("Tanh", write("Abs", number))))
    more = write("Mul", zero, write.constant((~keep).astype(kind)))
    if number is not x:
        more = write("Cast", more, to=int(dtype))
    node.replace_input_with(index, write("Add", x, more))


def _dtype(value: ir.Value) -> ir.DataType:
    """The type of a float or whole number; files needn't say it of what is computed."""
    while value.dtype is None:
        node = value.producer()
        if node is None:
            return ir.DataType.FLOAT
        if node.op_type == "Cast":
            return ir.DataType(node.attributes["to"].as_int())
        value = node.inputs[1 if node.op_type in ("CastLike", "Where") else 0]
    return value.dtype


def _before_reshape(channels: Channels, x: ir.Value) -> ir.Value | None:
    """What was reshaped into x along symbolic axes, so that only at run time is known where x keeps what."""
    producer = x.producer()
    if producer is None or producer.op_type != "Reshape":
        return None
    rank = len(channels.trace.shape_of[x])
    return producer.inputs[0] if any(channels.trace.is_dynamic(x, axis) for axis in range(1, rank)) else None


def _restate(
    graph: ir.Graph, node: ir.Node, keep: np.ndarray, shape: tuple[int, ...], source: np.ndarray | None = None
) -> None:
    """Write a normalisation out, with statistics over what `keep` keeps: bool, broadcastable to x's `shape`.

    `source` says what is kept of the tensor that was reshaped into x.
    """
    write = _Writer(graph, node)
    x = node.inputs[0]
    rank = len(shape)
    scale_shape: tuple[int, ...] | None = None
    if node.op_type == "LayerNormalization":
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        axes = list(range(axis % rank, rank))
    elif node.op_type == "InstanceNormalization":
        axes = list(range(2, rank))
        scale_shape = (1, -1) + (1,) * (rank - 2)
    elif node.op_type == "MeanVarianceNormalization":
        axes = list(node.attributes["axes"].as_ints()) if "axes" in node.attributes else [0, 2, 3]
    else:
        # [N, C, *S] as [N, groups, channels in the group, positions]
        groups = node.attributes["num_groups"].as_int()
        original = write("Shape", x)
        x = write("Reshape", x, write.constant(np.array([0, groups, shape[1] // groups, -1])))
        keep = keep.reshape(1, groups, -1, 1)
        axes = [2, 3]
        scale_shape = (1, -1) + (1,) * (rank - 2)
    epsilon = (
        node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else EPSILONS.get(node.op_type, 1e-5)
    )
    dtype = _dtype(node.inputs[0]).numpy()
    # The mean over all places is that over the kept ones times the fraction kept.
    if source is None:
        kept = write.constant(keep.astype(dtype))
        fraction = write.constant(keep.mean(axis=tuple(axes), keepdims=True).clip(1e-9).astype(dtype))
    else:
        whole, target = node.inputs[0].producer().inputs
        kept = write("Reshape", write("Expand", write.constant(source.astype(dtype)), write("Shape", whole)), target)
        fraction = write("Max", write.mean(kept, axes), write.constant(np.array(1e-9, dtype)))
    mean = write("Div", write.mean(write("Mul", x, kept), axes), fraction)
    centred = write("Mul", write("Sub", x, mean), kept)
    variance = write("Div", write.mean(write("Mul", centred, centred), axes), fraction)
    deviation = write("Sqrt", write("Add", variance, write.constant(np.array(epsilon, dtype))))
    y = write("Div", centred, deviation)
    if node.op_type == "GroupNormalization":
        y = write("Reshape", y, original)
    for operator, operand in zip(("Mul", "Add"), node.inputs[1:], strict=False):
        if operand is not None:
            column = (
                operand if scale_shape is None else write("Reshape", operand, write.constant(np.array(scale_shape)))
            )
            y = write(operator, y, column)
    out, last = node.outputs[0], y
    is_output = out.is_graph_output()
    out.replace_all_uses_with(last, replace_graph_outputs=is_output)
    if is_output:
        last.name, out.name = out.name, f"{out.name}.replaced"
    graph.remove(node, safe=True)


class _Writer:
    """Writes nodes before one node of a graph, or a node behind it."""

    def __init__(self, graph: ir.Graph, beside: ir.Node, *, after: bool = False):
        self.graph, self.beside, self.count = graph, beside, 0
        self.insert = graph.insert_after if after else graph.insert_before
        self.prefix = f"{beside.name}.{'kept' if after else 'restated'}"
        self.version = graph.opset_imports.get("", 1)

    def __call__(self, operator: str, *operands: ir.Value, **attributes: int | list[int]) -> ir.Value:
        self.count += 1
        name = f"{self.prefix}{self.count}"
        listed = [ir.AttrInt64s(k, v) if isinstance(v, list) else ir.AttrInt64(k, v) for k, v in attributes.items()]
        node = ir.Node("", operator, operands, listed, name=name)
        node.outputs[0].name = name
        self.insert(self.beside, node)
        return node.outputs[0]

    def constant(self, array: np.ndarray) -> ir.Value:
        self.count += 1
        name = f"{self.prefix}{self.count}"
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def mean(self, x: ir.Value, axes: list[int]) -> ir.Value:
        if self.version < 18:
            return self("ReduceMean", x, axes=axes, keepdims=1)
        return self("ReduceMean", x, self.constant(np.array(axes)), keepdims=1)
