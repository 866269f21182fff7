"""How an operator tells what its tensors' axes have to do with each other.

A rule is a function of one `Op`. It returns the facets of each output and writes ties into the ledger. A mend, next
to it, tells what a constant input (a Reshape's target, a Split's sizes) must be once axes have shrunk.

    @rule("", "Relu", "Sigmoid")
    def same(op):
        return op.inputs[0].facets
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxprune.graph.labels import Facet, Ledger, spans

Facets = tuple[Facet, ...]


@dataclass(frozen=True, eq=False)
class Tensor:
    """What a rule sees of an operand. `data` is its value where that is a small constant or shape arithmetic."""

    name: str
    shape: tuple[int, ...]
    facets: Facets = ()
    data: np.ndarray | None = None

    def facing(self, axis: int) -> Facets:
        """The facets that speak about `axis`."""
        return tuple(f for f in self.facets if f.shape[axis] > 1)

    def view(self, shape: tuple[int, ...], facets: Facets) -> "Tensor":
        return Tensor(self.name, shape, facets, self.data)


@dataclass(eq=False)
class Op:
    """One node, its operands and results, and the ledger to write in."""

    node: ir.Node
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    version: int
    ledger: Ledger
    dynamic: Callable[[ir.Value, int], bool]

    @property
    def where(self) -> str:
        """The node as messages name it."""
        return f"{self.node.op_type} '{self.node.name}'"

    def input(self, index: int) -> Tensor | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def attr(self, name: str, default=None):
        return attribute(self.node, name, default)

    def axis(self, default: int = 0, rank: int | None = None, name: str = "axis") -> int:
        """The axis attribute, counted from the front."""
        rank = len(self.inputs[0].shape) if rank is None else rank
        return self.attr(name, default) % max(rank, 1)

    def is_dynamic(self, output: int, axis: int) -> bool:
        """Whether this output's size along `axis` depends on a symbolic size."""
        return self.dynamic(self.node.outputs[output], axis)

    def is_dynamic_input(self, index: int, axis: int) -> bool:
        return self.dynamic(self.node.inputs[index], axis)

    def tie(self, a: Facet, b: Facet) -> None:
        self.ledger.tie(a, b)

    def pin(self, facets: Sequence[Facet], reason: str) -> None:
        """These facets' labels stay; `reason` is a sentence's end that names what the node does."""
        for facet in facets:
            self.ledger.pin(facet, f"{self.where} {reason}")

    def collapse(self, facets: Facets, axes: Sequence[int], reason: str) -> Facets:
        """Facets that speak about `axes` no more: what differs along them is tied; who speaks only of them, pinned."""
        axes = tuple(axes)
        kept = []
        for facet in facets:
            speaks = [a for a in axes if facet.shape[a] > 1]
            if not speaks:
                kept.append(facet)
                continue
            first = facet
            for axis in speaks:
                first = first.take([0], axis)
            if spans(first):
                self.tie(facet, first)
                kept.append(first)
            else:
                self.pin([facet], reason)
        return tuple(kept)

    def meet(self, operands: Sequence[Tensor]) -> Facets:
        """Tie operands elementwise; they are aligned to one rank, and only a true size 1 broadcasts.

        A labelled axis that meets an axis of size n > 1 nobody speaks about is pinned. Returns the facets of the
        result.
        """
        for i, a in enumerate(operands):
            for facet in a.facets:
                axes = spans(facet)
                for j, b in enumerate(operands):
                    if i == j or all(b.shape[x] == 1 for x in axes):
                        continue
                    partners = [g for g in b.facets if set(spans(g)) & set(axes)]
                    if not partners:
                        self.pin([facet], f"meets '{b.name}', whose axis can't shrink")
                    elif i < j:
                        for partner in partners:
                            self.tie(facet, partner)
        result: list[Facet] = []
        for operand in operands:
            taken = {spans(f) for f in result}
            result += [f for f in operand.facets if spans(f) not in taken]
        return tuple(result)


@dataclass(frozen=True, eq=False)
class Change:
    """What deletion did around one node, for its mend: shapes before and after, and which places were kept."""

    node: ir.Node
    version: int
    before: Sequence[tuple[int, ...] | None]
    after: Sequence[tuple[int, ...] | None]
    outputs_before: Sequence[tuple[int, ...]]
    outputs_after: Sequence[tuple[int, ...]]
    kept: Callable[[ir.Value, int], np.ndarray]
    value: Callable[[int], np.ndarray | None]
    dynamic: Callable[[ir.Value, int], bool]

    def attr(self, name: str, default=None):
        return attribute(self.node, name, default)


@dataclass(frozen=True)
class Mended:
    """New constants for inputs {index: array} and new attributes {name: value, None to drop}."""

    inputs: Mapping[int, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, object] = field(default_factory=dict)


Rule = Callable[[Op], "Facets | list[Facets] | None"]
Mend = Callable[[Change], Mended | None]

RULES: dict[tuple[str, str], Rule] = {}
MENDS: dict[tuple[str, str], Mend] = {}
#: Inputs that hold a shape, not data: shape arithmetic may flow into them. {(domain, operator): input indices}
SHAPE_INPUTS: dict[tuple[str, str], tuple[int, ...]] = {}


def rule(domain: str, *operators: str, shape_inputs: tuple[int, ...] = ()) -> Callable[[Rule], Rule]:
    """Register a rule for `operators` of `domain` ("" is ONNX's own).

    The function takes an `Op` and returns the facets of its only output, a list with those of each output, or None
    where no output axis may shrink. `shape_inputs` are the inputs that hold sizes or positions rather than data.
    """

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[domain, operator] = function
            if shape_inputs:
                SHAPE_INPUTS[domain, operator] = shape_inputs
        return function

    return register


def mend(domain: str, *operators: str) -> Callable[[Mend], Mend]:
    """Register what constants of `operators` become when the axes around them have shrunk."""

    def register(function: Mend) -> Mend:
        for operator in operators:
            MENDS[domain, operator] = function
        return function

    return register


def attribute(node: ir.Node, name: str, default=None):
    """An attribute's Python value, or `default`; byte strings come as text."""
    found = node.attributes.get(name)
    if found is None:
        return default
    value = found.value
    return value.decode() if isinstance(value, bytes) else value
