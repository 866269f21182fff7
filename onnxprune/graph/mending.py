"""Write into a graph what mends tell: constants, attributes and factors around axes that have shrunk."""

from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxprune.graph.names import all_names, free_name
from onnxprune.graph.rules import Mended


class Mender:
    """Changes nodes of one graph, in place; new values get names that nothing else has.

    `values` are those of its shape arithmetic, as far as they are known.
    """

    def __init__(self, graph: ir.Graph, values: Mapping[ir.Value, np.ndarray]):
        self.graph = graph
        self.values = values

    def apply(self, node: ir.Node, mended: Mended) -> None:
        for name, value in mended.attributes.items():
            if value is None:
                node.attributes.pop(name, None)
            elif isinstance(value, int):
                node.attributes[name] = ir.AttrInt64(name, value)
            elif isinstance(value, float):
                node.attributes[name] = ir.AttrFloat32(name, value)
            else:
                node.attributes[name] = ir.AttrInt64s(name, list(value))
        for axis, places in mended.picked.items():
            self._pick(node, axis, places)
        for index, factor in mended.multiply.items():
            self._multiply(node, index, factor)
        if mended.scale != 1.0:
            self._scale_output(node, mended.scale)
        for index, changes in mended.places.items():
            self._write_places(node, index, changes)
        for index, array in mended.inputs.items():
            if len(node.inputs) <= index:
                node.resize_inputs(index + 1)
            old = node.inputs[index]
            if old is not None and old.const_value is not None and np.array_equal(old.const_value.numpy(), array):
                continue
            dtype = np.int64 if old is None or old.dtype is None else old.dtype.numpy()
            node.replace_input_with(index, self._constant(f"{node.name}.input{index}", np.asarray(array, dtype)))

    def _pick(self, node: ir.Node, axis: int, places: np.ndarray) -> None:
        """Let the node read no more than these places of its first input."""
        source = node.inputs[0]
        name = self._free(f"{node.name}.picked")
        operands = [source, self._constant(f"{node.name}.places", np.asarray(places, np.int64))]
        gather = ir.Node("", "Gather", operands, [ir.AttrInt64("axis", axis)], name=name)
        gather.outputs[0].name, gather.outputs[0].type = name, source.type
        self.graph.insert_before(node, gather)
        node.replace_input_with(0, gather.outputs[0])

    def _write_places(self, node: ir.Node, index: int, changes: Mapping[int, int | Fraction]) -> None:
        """Give elements of a one-dimensional input other values: in its constant, or by arithmetic before the node."""
        old = node.inputs[index]
        if old.const_value is not None and not old.is_graph_input():
            array = np.array(old.const_value.numpy())
            for position, value in changes.items():
                array[position] = array[position] * value if isinstance(value, Fraction) else value
            node.replace_input_with(index, self._constant(f"{node.name}.input{index}", array))
            return
        size = self.values[old].size
        dtype = (old.dtype or ir.DataType.INT64).numpy()
        factors, divisors, added = np.ones(size, dtype), np.ones(size, dtype), np.zeros(size, dtype)
        for position, value in changes.items():
            if isinstance(value, Fraction):
                factors[position], divisors[position] = value.numerator, value.denominator
            else:
                factors[position], added[position] = 0, value
        new = self._insert(node, "Mul", old, self._constant(f"{node.name}.sizes", factors))
        if (divisors != 1).any():
            new = self._insert(node, "Div", new, self._constant(f"{node.name}.sizes", divisors))
        if added.any():
            new = self._insert(node, "Add", new, self._constant(f"{node.name}.sizes", added))
        node.replace_input_with(index, new)

    def _insert(self, before: ir.Node, operator: str, *operands: ir.Value) -> ir.Value:
        """What a new node in front of `before` gives; type and shape are those of the last computed operand."""
        like = next(v for v in reversed(operands) if v.const_value is None)
        name = self._free(f"{before.name}.{operator.lower()}")
        node = ir.Node("", operator, operands, name=name)
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, like.type, like.shape
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def _constant(self, wanted: str, array: np.ndarray) -> ir.Value:
        """A new initializer."""
        name = self._free(wanted)
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def _multiply(self, node: ir.Node, index: int, factor: float) -> None:
        """Give the node its own copy of a weight, times `factor`."""
        old = node.inputs[index]
        tensor = old.const_value
        array = (tensor.numpy().astype(np.float64) * factor).astype(tensor.dtype.numpy())
        if len(old.uses()) > 1:
            node.replace_input_with(index, self._constant(f"{old.name}.scaled", array))
        else:
            old.const_value = ir.tensor(array, dtype=tensor.dtype, name=old.name)

    def _scale_output(self, node: ir.Node, factor: float) -> None:
        """Multiply what the node gives; its readers, and a graph output's name, follow."""
        out = node.outputs[0]
        name = self._free(f"{node.name}.scale")
        value = self._constant(name, np.array(factor, (out.dtype or ir.DataType.FLOAT).numpy()))
        scaled = ir.Node("", "Mul", [out, value], name=name)
        scaled.outputs[0].type, scaled.outputs[0].shape = out.type, out.shape
        is_output = out.is_graph_output()
        out.replace_all_uses_with(scaled.outputs[0], replace_graph_outputs=is_output)
        scaled.replace_input_with(0, out)
        scaled.outputs[0].name, out.name = (
            (out.name, self._free(f"{out.name}.kept")) if is_output else (self._free(f"{out.name}.scaled"), out.name)
        )
        self.graph.insert_after(node, scaled)

    @cached_property
    def _taken(self) -> set[str]:
        return all_names(self.graph)

    def _free(self, wanted: str) -> str:
        name = free_name(wanted, self._taken)
        self._taken.add(name)
        return name
