"""Walk the graph once, rule by rule, and write down which labels every tensor carries."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph import shapes
from onnxprune.graph.bounds import labels_are_bounded
from onnxprune.graph.contradictions import contradicts, fits_together
from onnxprune.graph.labels import Ledger, facet, spans
from onnxprune.graph.model import Model
from onnxprune.graph.moments import moments
from onnxprune.graph.rules import RULES, SHAPE_INPUTS, TYPE_INPUTS, Op, Tensor
from onnxprune.graph.rules.layout import WIDEST
from onnxprune.graph.rules.registry import ADAPTS, REASONS, RESHAPES, RUNS, WEIGHT_LABELS, Facets
from onnxprune.graph.values import evaluate


@dataclass(frozen=True, eq=False)
class Trace:
    """Facets of every value, and the ledger of ties and pins, under one probe of the symbolic sizes."""

    model: Model
    facets: Mapping[ir.Value, Facets]
    shape_of: Mapping[ir.Value, tuple[int, ...]]
    other_shape_of: Mapping[ir.Value, tuple[int, ...]]
    values: Mapping[ir.Value, np.ndarray]
    other_values: Mapping[ir.Value, np.ndarray]
    ledger: Ledger
    #: The means that a normalisation, written out, takes over what is kept.
    moments: frozenset[ir.Node] = frozenset()

    def static(self, value: ir.Value) -> np.ndarray | None:
        """The value of a small constant or of shape arithmetic that depends on no symbolic size."""
        here, there = self.values.get(value), self.other_values.get(value)
        return here if here is there or (there is not None and np.array_equal(here, there)) else None

    def elements(self, value: ir.Value) -> list[int | None] | None:
        """The elements of one-dimensional shape arithmetic; None for each that depends on a symbolic size."""
        here, there = self.values.get(value), self.other_values.get(value)
        if here is None or there is None or here.ndim != 1 or here.shape != there.shape or here.dtype.kind not in "iu":
            return None
        return [a if a == b else None for a, b in zip(here.tolist(), there.tolist(), strict=True)]

    def is_dynamic(self, value: ir.Value, axis: int) -> bool:
        """Whether the size of `value` along `axis` is symbolic: it differs between two probes, or the file says so."""
        other = self.other_shape_of.get(value)
        if other is None or other[axis] != self.shape_of[value][axis]:
            return True
        dims = value.shape
        if dims is None or len(dims) != len(other):  # the file may say what can't be
            return False
        dim = dims[axis]
        return isinstance(dim, ir.SymbolicDim) and dim.value is not None

    def is_same_size(self, a: ir.Value, b: ir.Value, axis: int) -> bool:
        """Whether two values are as long as each other along `axis`, under both probes."""
        return all(
            value in shapes and axis < len(shapes[value])
            for value in (a, b)
            for shapes in (self.shape_of, self.other_shape_of)
        ) and all(shapes[a][axis] == shapes[b][axis] for shapes in (self.shape_of, self.other_shape_of))


def walk(model: Model) -> Trace:
    """Label every tensor of `model`. Raises ModelError where shapes contradict each other."""
    prober = shapes.Prober(model.ir)
    first = dict(prober.probe(0).shape_of)
    other = prober.probe(1).shape_of if prober.names else first
    for node in model.ir.graph:
        if contradicts(node, first):
            for out in node.outputs:
                first.pop(out, None)
    values = prober.evaluate(first)
    other_values = values if other is first else prober.evaluate(other)
    trace = Trace(model, {}, first, other, values, other_values, Ledger(), moments(model.ir.graph))
    _Walk(trace).run()
    return trace


class _Walk:
    def __init__(self, trace: Trace):
        self.trace = trace
        self.facets: dict[ir.Value, Facets] = trace.facets  # filled here, read-only afterwards
        self.ledger = trace.ledger
        self.flows = np.zeros(0, bool)  # scratch, all False between nodes: labels that a rule ties or passes on
        self.measured: dict[ir.Value, set[ir.Value]] = {}  # shape arithmetic -> the tensors it measured

    def run(self) -> None:
        graph = self.trace.model.ir.graph
        for value in graph.initializers.values():
            self.facets[value] = self._initial(value)
        for number, node in enumerate(graph):
            self.ledger.at = number
            if node.outputs and all(out in self.trace.values for out in node.outputs):
                self._measure(node)
            else:
                self._apply(node)
        self.ledger.at = graph.num_nodes()
        for value in graph.outputs:
            for found in self.facets.get(value, ()):
                self.ledger.pin(found, f"graph output '{value.name}'")
        self._pin_measured()

    def _initial(self, value: ir.Value) -> Facets:
        """Labels of a float initializer: one for every place on every axis longer than 1."""
        tensor = value.const_value
        shape = self.trace.shape_of.get(value)
        if tensor is None or shape is None or not tensor.dtype.is_floating_point() or value.is_graph_output():
            return ()
        uses = value.uses()
        for node, index in uses:
            operand, function = WEIGHT_LABELS.get((node.domain, node.op_type), (None, None))
            if index == operand and len(uses) == 1:
                with fits_together(node):
                    special = function(self.ledger, node, shape)
                if special is not None:
                    return special
        rank, widest = len(shape), WIDEST if "folded" in value.meta else math.inf
        return tuple(
            facet(self.ledger.fresh(size).reshape([size if a == axis else 1 for a in range(rank)]), ghost=0.0)
            for axis, size in enumerate(shape)
            if 1 < size <= widest  # a few bytes can ask for millions of equal numbers
        )

    def _measure(self, node: ir.Node) -> None:
        """Shape arithmetic: remember whose axes were measured, for the case that the result isn't used as a shape."""
        sources: set[ir.Value] = set()
        for value in node.inputs:
            if value is None:
                continue
            if node.op_type in ("Shape", "Size") and self.facets.get(value):
                sources.add(value)
            sources |= self.measured.get(value, set())
        for out in node.outputs:
            self.measured[out] = sources
            self.facets[out] = ()

    def _pin_measured(self) -> None:
        """Sizes of axes that may shrink stay where anything but the shape of that very tensor follows from them."""
        if not any(self.measured.values()):
            return
        graph = self.trace.model.ir.graph
        grown = dict(self.trace.shape_of)
        for value, facets in self.facets.items():
            axes = {axis for found in facets for axis in spans(found)}
            if axes:
                grown[value] = tuple(s + 1 if a in axes else s for a, s in enumerate(grown[value]))
        again = evaluate(self.trace.model.ir, grown)
        varies = {
            v
            for v, sources in self.measured.items()
            if sources and (v not in again or not np.array_equal(again[v], self.trace.values[v]))
        }
        for number, node in enumerate(graph):
            self.ledger.at = number
            key = (node.domain, node.op_type)
            shape_inputs = SHAPE_INPUTS.get(key, ())
            for index, value in enumerate(node.inputs):
                if value in varies and not all(out in self.trace.values for out in node.outputs):
                    if index in shape_inputs and key in RESHAPES:
                        continue
                    own = {node.inputs[0]} if index in shape_inputs and key in ADAPTS else set()
                    self._pin_sources(self.measured[value] - own, f"{node.op_type} '{node.name}' reads")
            for value in {v for a in node.attributes.values() for v in _captured(a, graph)} & varies:
                self._pin_sources(self.measured[value], f"{node.op_type} '{node.name}' captures")
        for value in set(graph.outputs) & varies:
            self._pin_sources(self.measured[value], f"graph output '{value.name}' is")

    def _pin_sources(self, sources: set[ir.Value], what: str) -> None:
        for source in sorted(sources, key=lambda v: v.name or ""):
            for found in self.facets[source]:
                self.ledger.pin(found, f"{what} the size of '{source.name}'")

    def _apply(self, node: ir.Node) -> None:
        key = (node.domain, node.op_type)
        captured = [v for a in node.attributes.data.values() for v in _captured(a, node.graph)]
        inputs = [None if v is None else self._tensor(v) for v in node.inputs]
        outputs = [self._tensor(v) for v in node.outputs]
        version, trace = node.version or self._opset(node), self.trace
        op = Op(node, inputs, outputs, version, self.ledger, trace.is_dynamic, node in trace.moments)
        for value in captured:
            op.pin(self.facets.get(value, ()), "captures it in a subgraph")
        function = RULES.get(key)
        unknown = [t for t in [*inputs, *outputs] if t is not None and t.shape is None]
        if function is None or unknown or captured or not labels_are_bounded(op, key in RUNS):
            reason = "has a shape that can't be inferred" if unknown else "gives an axis too long to follow"
            if function is None:
                reason = REASONS.get(key, REASONS.get((node.domain, "*"), "has no rule"))
            for tensor in inputs:
                if tensor is not None:
                    op.pin(tensor.facets, "captures it in a subgraph" if captured else reason)
            result: list[Facets] = [()] * len(outputs)
        else:
            if key not in RUNS:
                op.inputs = [None if t is None else t.unrolled() for t in op.inputs]
            start = self.ledger.marks()
            with fits_together(node):
                result = _as_list(function(op), len(outputs))
                self._pin_ignored(op, result, self.ledger.mentioned(start))
        with fits_together(node):
            for value, tensor, found in zip(node.outputs, outputs, result, strict=True):
                self.facets[value] = found
                _check(op, tensor, found)

    def _pin_ignored(self, op: Op, result: list[Facets], mentioned: list[np.ndarray]) -> None:
        """An operand whose labels a rule neither ties nor passes on was not understood: it stays."""
        passed = {id(found) for facets in result for found in facets}
        read = [t for i, t in enumerate(op.inputs) if i not in TYPE_INPUTS.get((op.node.domain, op.node.op_type), ())]
        unsure = [f for t in read if t is not None for f in t.facets if id(f) not in passed]
        if not unsure:
            return
        if len(self.flows) < self.ledger.count:
            self.flows = np.resize(self.flows, 2 * self.ledger.count)
        flowing = [*mentioned, *(f.ravel() for facets in result for f in facets)]
        for labels in flowing:
            self.flows[labels] = True
        for found in unsure:
            if not self.flows[found].any():
                op.pin([found], "reads it as a whole")
        for labels in flowing:
            self.flows[labels] = False

    def _tensor(self, value: ir.Value) -> Tensor:
        trace, name = self.trace, value.name or ""
        shape, facets = trace.shape_of.get(value), self.facets.get(value, ())
        if value not in trace.values:  # most: no shape arithmetic
            return Tensor(name, shape, facets)
        return Tensor(name, shape, facets, trace.static(value), trace.elements(value))

    def _opset(self, node: ir.Node) -> int:
        return self.trace.model.ir.graph.opset_imports.get(node.domain, 1)


def _as_list(result: "Facets | list[Facets] | None", count: int) -> list[Facets]:
    if result is None:
        return [()] * count
    if isinstance(result, tuple):
        return [result] + [()] * (count - 1)
    return result


def _captured(found: ir.Attr, graph: ir.Graph | None) -> list[ir.Value]:
    """Values of the main graph that a subgraph reads."""
    if found.type == ir.AttributeType.GRAPH:
        inner = [found.as_graph()]
    elif found.type == ir.AttributeType.GRAPHS:
        inner = list(found.as_graphs())
    else:
        return []
    captured = []
    for subgraph in inner:
        for node in ir.traversal.RecursiveGraphIterator(subgraph):
            captured += [v for v in node.inputs if v is not None and v.graph is graph]
        captured += [v for v in subgraph.outputs if v.graph is graph]
    return captured


def _check(op: Op, tensor: Tensor, facets: Facets) -> None:
    """A facet has its tensor's rank, and size 1, the tensor's or a divisor of it on each axis. Anything else is a bug
    in the rule."""
    runs = (op.node.domain, op.node.op_type) in RUNS
    for found in facets:
        fits = found.ndim == len(tensor.shape) and all(
            f in (1, s) or (runs and s % f == 0) for f, s in zip(found.shape, tensor.shape, strict=True)
        )
        if not fits:
            raise AssertionError(
                f"The rule of {op.where} gave '{tensor.name}' {list(tensor.shape)} a facet of {list(found.shape)}."
            )
