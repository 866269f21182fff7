"""What goes of every tensor of a graph, and the table of operators through which flags flow.

An operator has a flow (what goes of its outputs, from what goes of its inputs) and, where it mentions sizes or places,
a mend (what it is told afterwards). Both are functions of the node and of `Tensors`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.deploy.cutting.flags import Flags, compact, sizes_left
from onnxprune.errors import ModelError

Flow = Callable[[gs.Node, "Tensors"], Sequence[Flags | None]]
Mend = Callable[[gs.Node, "Tensors"], None]
FLOWS: dict[str, Flow] = {}
MENDS: dict[str, Mend] = {}
#: Operators of whose inputs only so many may lose anything.
OPERANDS: dict[str, int] = {}
#: Operators that are told by an input what shape to make, which is written anew or follows: {operator: input}.
TOLD_A_SHAPE = {"Reshape": 1, "Expand": 1, "Resize": 3}


def flow(*operators: str, operands: int = 99) -> Callable[[Flow], Flow]:
    """Register how flags flow through `operators`, of which only the first `operands` inputs may lose anything."""

    def register(function: Flow) -> Flow:
        FLOWS.update(dict.fromkeys(operators, function))
        OPERANDS.update(dict.fromkeys(operators, operands))
        return function

    return register


def mend(*operators: str) -> Callable[[Mend], Mend]:
    """Register what `operators` are told once tensors around them are cut."""

    def register(function: Mend) -> Mend:
        MENDS.update(dict.fromkeys(operators, function))
        return function

    return register


@dataclass
class Tensors:
    """What goes of every tensor, and shapes under two probes, which tell fixed sizes from symbolic ones.

    `values` are those of sizes and of what is computed from sizes alone, under the first probe and under the second.
    `moments` names the means that are taken over what is kept: those of a normalisation that was written out.
    """

    graph: gs.Graph
    goes: dict[str, Flags]
    shapes: Mapping[str, tuple[int, ...]]
    others: Mapping[str, tuple[int, ...]]
    values: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]] = ({}, {})
    moments: Collection[str] = frozenset()
    #: Tensors that are computed from sizes that change; of a list of sizes, which of them do.
    measured: dict[str, np.ndarray | None] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        return self.graph.opset

    # ---- what goes --------------------------------------------------------------------------------------------------

    def flow(self, node: gs.Node) -> None:
        """Find what goes of the node's outputs. Raises ModelError where that isn't known."""
        inside = {name for body in node.subgraphs(recursive=True) for name in body.tensors()}
        if inside & (self.goes.keys() | self.measured.keys()):
            raise refusal(node, "reads in a body what shrinks")
        names = [tensor.name for tensor in node.inputs]
        self._measure(node, names)
        if not any(name in self.goes for name in names):
            return
        rule = FLOWS.get(node.op)
        if rule is None or node.domain not in (None, "", "ai.onnx"):
            raise refusal(node, "does to an axis that shrinks")
        if any(name in self.goes for name in names[OPERANDS[node.op] :]):
            raise refusal(node, "reads as a whole")
        given = [tensor.name for tensor in [*node.inputs, *node.outputs] if tensor.name]
        if not all(name in self.shapes for name in given):
            raise refusal(node, "does to sizes that can't be inferred")
        for tensor, flags in zip(node.outputs, rule(node, self), strict=False):
            if flags is not None and flags.any():
                self.goes[tensor.name] = compact(flags)

    def _measure(self, node: gs.Node, names: Sequence[str]) -> None:
        """Follow what is computed from sizes that change. Only an operator that is told a shape may be told by it."""
        if node.op in ("Shape", "Size"):
            return
        if node.op == "Gather" and (listed := self.measured.get(names[0])) is not None:
            picked = self.known(node, 1)
            if picked is not None and not listed[picked].any():
                return
        told = TOLD_A_SHAPE.get(node.op)
        if any(name in self.measured for index, name in enumerate(names) if index != told):
            given = {tensor.name for tensor in node.outputs}
            if not given <= self.values[0].keys():
                raise refusal(node, "computes from a size that changes")
            self.measured |= dict.fromkeys(given)

    def flags(self, tensor: gs.Tensor) -> Flags:
        """Flags of the tensor's rank; all False where nothing goes."""
        found = self.goes.get(tensor.name)
        return np.zeros((1,) * len(self.shapes[tensor.name]), bool) if found is None else found

    def along(self, tensor: gs.Tensor, *axes: int) -> Flags:
        """The flags, of full size along `axes`."""
        flags, shape = self.flags(tensor), self.shapes[tensor.name]
        return np.broadcast_to(flags, [n if axis in axes else flags.shape[axis] for axis, n in enumerate(shape)])

    def whole(self, tensor: gs.Tensor) -> Flags:
        """The flags, of the tensor's shape."""
        return np.broadcast_to(self.flags(tensor), self.shapes[tensor.name])

    # ---- sizes ------------------------------------------------------------------------------------------------------

    def left(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """The shape that is left of the tensor."""
        return sizes_left(self.flags(tensor), self.shapes[tensor.name])

    def changes(self, name: str) -> dict[int, int]:
        """{axis: new size} of the axes that shrink."""
        shape = self.shapes[name]
        left = sizes_left(self.goes[name], shape) if name in self.goes else shape
        return {axis: left[axis] for axis in range(len(shape)) if left[axis] != shape[axis]}

    def left_under(self, number: int, name: str) -> tuple[int, ...] | None:
        """The shape that is left of a tensor under the first (0) or second (1) probe; None where that isn't known."""
        before, shape = self.shapes[name], (self.shapes, self.others)[number].get(name)
        left = sizes_left(self.goes[name], before) if name in self.goes else before
        return None if shape is None else tuple(n * m // old for n, m, old in zip(shape, left, before, strict=True))

    def ratio(self, tensor: gs.Tensor, axis: int, other: gs.Tensor, place: int) -> Fraction | None:
        """How many times the size of another axis, which is symbolic, an axis is in the end; None if that varies."""
        if not self.is_symbolic(other.name, place):
            return None
        pairs = [(self.left_under(number, tensor.name), self.left_under(number, other.name)) for number in (0, 1)]
        if any(sizes is None or others is None for sizes, others in pairs):
            return None
        found = {Fraction(sizes[axis], others[place]) for sizes, others in pairs}
        return found.pop() if len(found) == 1 else None

    def is_symbolic(self, name: str, axis: int) -> bool:
        """Whether the size of a tensor's axis depends on the graph's inputs, for all that is known."""
        other = self.others.get(name)
        return other is None or self.shapes[name][axis] != other[axis]

    def known(self, node: gs.Node, index: int) -> np.ndarray | None:
        """The values of an input of the node, where they don't depend on the graph's inputs; else None."""
        tensor = operand(node, index)
        if tensor is None or isinstance(tensor, gs.Constant):
            return None if tensor is None else tensor.values
        first, second = (values.get(tensor.name) for values in self.values)
        return first if first is not None and second is not None and np.array_equal(first, second) else None

    def elements(self, node: gs.Node, index: int) -> list[int | None] | None:
        """The elements of a list of whole numbers; None for each that depends on the graph's inputs."""
        known = self.known(node, index)
        if known is not None:
            return known.tolist()
        first, second = (values.get(node.inputs[index].name) for values in self.values)
        if first is None or second is None or first.ndim != 1 or first.shape != second.shape:
            return None
        return [a if a == b else None for a, b in zip(first.tolist(), second.tolist(), strict=True)]

    # ---- what nodes are told ----------------------------------------------------------------------------------------

    def is_touched(self, node: gs.Node) -> bool:
        """Whether anything around the node changes."""
        told = TOLD_A_SHAPE.get(node.op)
        if told is not None and node.inputs[told:] and node.inputs[told].name in self.measured:
            return True
        return any(tensor.name in self.goes for tensor in [*node.inputs, *node.outputs])

    def write(self, node: gs.Node, index: int, values: Iterable[int]) -> None:
        """Give the node a constant of its own, in its input's type, unless it reads just these values already."""
        old = operand(node, index)
        dtype = np.dtype(np.int64 if old is None or old.dtype is None else old.dtype)
        bounds = np.iinfo(dtype) if dtype.kind in "iu" else None
        array = np.array(values)
        array = (array if bounds is None else array.clip(bounds.min, bounds.max)).astype(dtype)
        if not (isinstance(old, gs.Constant) and np.array_equal(old.values, array)):
            self.replace(node, index, self.constant(f"{node.name}.sizes{index}", array))

    def replace(self, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Let the node read `tensor` as its input `index`."""
        while len(node.inputs) <= index:
            node.inputs.append(gs.Variable.empty())
        node.inputs[index] = tensor

    def constant(self, wanted: str, array: np.ndarray) -> gs.Constant:
        """A new constant."""
        return gs.Constant(self.free(wanted), np.asarray(array))

    def compute(self, operator: str, wanted: str, *operands: gs.Tensor, **attributes: object) -> gs.Variable:
        """What a new node gives."""
        name = self.free(wanted)
        out = gs.Variable(name)
        self.graph.nodes.append(gs.Node(operator, name, attributes, list(operands), [out]))
        return out

    def scale_output(self, node: gs.Node, factor: float) -> None:
        """Multiply what the node gives; its readers find the product under the old name."""
        out = node.outputs[0]
        try:
            dtype = np.dtype(out.dtype)
        except TypeError as error:
            raise refusal(node, f"gives as type {out.dtype}") from error
        if dtype.kind != "f":
            raise refusal(node, f"gives as type {dtype}")
        given = gs.Variable(self.free(f"{out.name}.kept"), dtype)
        node.outputs[0] = given
        name = self.free(f"{node.name}.scale")
        scale = gs.Constant(name, np.array(factor, dtype))
        self.graph.nodes.append(gs.Node("Mul", name, inputs=[given, scale], outputs=[out]))

    def free(self, wanted: str) -> str:
        """`wanted`, or with a number behind it where a tensor has that name already."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}.{number}"
        self._taken.add(name)
        return name

    @cached_property
    def _taken(self) -> set[str]:
        bodies = [body for node in self.graph.nodes for body in node.subgraphs(recursive=True)]
        return {name for graph in [self.graph, *bodies] for name in graph.tensors()}


def refusal(node: gs.Node, what: str) -> ModelError:
    """What to raise where the node does something that can't be followed."""
    return ModelError(
        f"What {node.op} '{node.name}' {what} isn't known to the onnx-graphsurgeon backend. "
        "Remove these units with the backend onnx-ir."
    )


def operand(node: gs.Node, index: int) -> gs.Tensor | None:
    """An input of the node; None where it is left out."""
    tensor = node.inputs[index] if index < len(node.inputs) else None
    return None if tensor is None or not tensor.name else tensor


def whole_slices(node: gs.Node, flags: Flags, axes: Iterable[int]) -> Flags:
    """The flags, of size 1 along `axes`. Raises ModelError where only some of the places along them go."""
    axes = tuple(axes)
    gone = flags.all(axis=axes, keepdims=True)
    if (flags.any(axis=axes, keepdims=True) != gone).any():
        raise refusal(node, f"does to axes {list(axes)}, of which only some places go,")
    return gone


def check_agrees(node: gs.Node, result: Flags, flags: Flags, shape: Sequence[int]) -> None:
    """Raise ModelError unless an operand of `shape`, broadcast where its size is 1, loses just what `result` does."""
    broadcast = tuple(axis for axis, size in enumerate(shape) if size == 1)
    if (result.all(axis=broadcast, keepdims=True) != flags).any():
        raise refusal(node, "makes of operands that don't shrink alike")
