"""Residual blocks: an Add whose one operand is a branch that starts where the other comes from.

Without the branch the Add gives what skips it. The branch is every node whose results end in that operand alone.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxprune.graph.rules.elementwise import NARY, UNARY

_NORMALISATIONS = [f"{kind}Normalization" for kind in ("Batch", "Group", "Instance", "Layer", "RMS")]
#: What may stand between the stream and a branch.
_IN_PLACE = frozenset([*UNARY, *NARY, *_NORMALISATIONS])


@dataclass(frozen=True, eq=False)
class Block:
    """`add` sums what the `branch` nodes give, its input `operand`, and what skips them, its other input."""

    add: ir.Node
    operand: int
    branch: tuple[ir.Node, ...]

    @property
    def skip(self) -> ir.Value:
        return self.add.inputs[1 - self.operand]

    def weights(self) -> Iterator[ir.Value]:
        """The initializers that nothing but the branch reads."""
        inside = set(self.branch)
        for value in dict.fromkeys(v for node in self.branch for v in node.inputs if v is not None):
            is_ours = value.is_initializer() and not value.is_graph_output()
            if is_ours and all(user in inside for user, _ in value.uses()):
                yield value


def find(graph: ir.Graph, shape_of: Mapping[ir.Value, tuple[int, ...]]) -> list[Block]:
    """Every residual block of the graph, in order."""
    order = {node: number for number, node in enumerate(graph)}
    found = []
    for node in graph:
        if node.op_type == "Add" and not node.domain:
            shapes = {shape_of.get(value) for value in [*node.inputs, *node.outputs]}
            if len(shapes) == 1 and None not in shapes:
                found += [block for block in (_block(node, i, order) for i in (1, 0)) if block][:1]
    return found


def _block(add: ir.Node, operand: int, order: Mapping[ir.Node, int]) -> Block | None:
    """The block whose branch ends in this operand; None where the other one doesn't skip it."""
    branch = _ending_in(add.inputs[operand], order)
    reads = {value for node in branch for value in node.inputs if value is not None and not value.is_initializer()}
    stream = set(_stream(add.inputs[1 - operand]))
    return Block(add, operand, branch) if any(_origin(value) in stream for value in reads) else None


def _ending_in(value: ir.Value, order: Mapping[ir.Node, int]) -> tuple[ir.Node, ...]:
    """The nodes whose results are used for this value and for nothing else, in graph order."""
    inside: set[ir.Node] = set()
    end = value.producer()
    if end not in order or len(value.uses()) != 1:
        return ()
    waiting = [-order[end]]
    nodes = {order[end]: end}
    while waiting:
        node = nodes.pop(-heapq.heappop(waiting))  # the last one first, so that its readers have been decided
        readers = {reader for out in node.outputs for reader, _ in out.uses()}
        if (node is end or readers <= inside) and not any(out.is_graph_output() for out in node.outputs):
            inside.add(node)
            for producer in {v.producer() for v in node.inputs if v is not None} & order.keys():
                if producer not in inside and order[producer] not in nodes:
                    nodes[order[producer]] = producer
                    heapq.heappush(waiting, -order[producer])
    return tuple(sorted(inside, key=order.__getitem__))


def _stream(value: ir.Value) -> Iterator[ir.Value]:
    """A value, and the sums that it continues: of parallel branches the second reads what the first skips too."""
    yield _origin(value)
    producer = value.producer()
    if producer is not None and producer.op_type == "Add":
        for operand in producer.inputs:
            if len(operand.uses()) > 1:
                yield from _stream(operand)


def _origin(value: ir.Value) -> ir.Value:
    """Back through normalisations and activations, which parallel branches may share."""
    while (producer := value.producer()) is not None and producer.op_type in _IN_PLACE:
        computed = [v for v in producer.inputs if v is not None and not v.is_initializer()]
        if len(computed) != 1:
            break
        value = computed[0]
    return value
