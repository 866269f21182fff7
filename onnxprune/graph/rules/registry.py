"""How an operator tells what its tensors' axes have to do with each other.

A rule is a function of one `Op`. It returns the facets of each output and writes ties into the ledger. A mend, next
to it, tells what a constant input (a Reshape's target, a Split's sizes) must be once axes have shrunk.

    @rule("", "Relu", "Sigmoid")
    def same(op):
        return op.inputs[0].facets
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np
import onnx_ir as ir

from onnxprune.graph.labels import Facet, Ledger, distinct_rows, facet, ghost_of, longer_axes, matched, spans, unrolled

Facets = tuple[Facet, ...]
#: From what a deleted slice holds in each operand (None: unknown) to what it holds in the result.
Combine = Callable[[Sequence[float | None]], float | None]


@dataclass(frozen=True, eq=False)
class Tensor:
    """What a rule sees of an operand. `data` is its value where that is a small constant or shape arithmetic.

    `elements` lists the elements of a one-dimensional value, None for those that depend on a symbolic size.
    """

    name: str
    shape: tuple[int, ...]
    facets: Facets = ()
    data: np.ndarray | None = None
    elements: Sequence[int | None] | None = None

    def facing(self, axis: int) -> Facets:
        """The facets that speak about `axis`."""
        return tuple([f for f in self.facets if f.shape[axis] > 1])

    def view(self, shape: tuple[int, ...], facets: Facets) -> "Tensor":
        return Tensor(self.name, shape, facets, self.data, self.elements)

    def unrolled(self) -> "Tensor":
        """The same with a label for every place of the axes that facets speak about."""
        facets = tuple(unrolled(f, self.shape) for f in self.facets)
        return self if all(a is b for a, b in zip(facets, self.facets, strict=True)) else self.view(self.shape, facets)


@dataclass(eq=False)
class Op:
    """One node, its operands and results, and the ledger to write in.

    `is_moment` says that the node takes the mean or the variance of a normalisation that is written out.
    """

    node: ir.Node
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    version: int
    ledger: Ledger
    dynamic: Callable[[ir.Value, int], bool]
    is_moment: bool = False

    @property
    def where(self) -> str:
        """The node as messages name it."""
        return f"{self.node.op_type} '{self.node.name}'"

    def input(self, index: int) -> Tensor | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def attr(self, name: str, default=None):
        return attribute(self.node, name, default)

    def constant(self, index: int) -> np.ndarray | None:
        """An input's value where that is an initializer, whatever its type and size."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        fixed = value is not None and value.is_initializer() and not value.is_graph_input()
        return value.const_value.numpy() if fixed else None

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
        for found in facets:
            self.ledger.pin(found, f"{self.where} {reason}")

    def collapse(self, facets: Facets, axes: Sequence[int], reason: str) -> Facets:
        """Facets that speak about `axes` no more: what differs along them is tied; who speaks only of them, pinned."""
        axes = tuple(axes)
        kept = []
        for found in facets:
            speaks = [a for a in axes if found.shape[a] > 1]
            if not speaks:
                kept.append(found)
                continue
            first = found
            for axis in speaks:
                first = first.take([0], axis)
            if spans(first):
                self.tie(found, first)
                kept.append(first)
            else:
                self.pin([found], reason)
        return tuple(kept)

    def rows(self, grid: Facet, summed: Sequence[int]) -> Facet:
        """New labels for the rows that are left of a grid when the axes `summed` are added up; equal rows share one."""
        free = [axis for axis in spans(grid) if axis not in summed]
        shape = [size if axis in free else 1 for axis, size in enumerate(grid.shape)]
        members = np.asarray(np.moveaxis(grid, free, range(len(free))).reshape(int(np.prod(shape)), -1))
        first, inverse = distinct_rows(members)
        fresh = self.ledger.fresh(len(first))
        names = fresh[inverse].reshape(shape)
        self.ledger.row(fresh, members[first])
        self.ledger.kind(names, "head")
        return facet(names, 0.0 if ghost_of(grid) == 0.0 else None)

    def meet(self, operands: Sequence[Tensor], ghost: Combine | None = None) -> Facets:
        """Tie operands elementwise; they are aligned to one rank, and only a true size 1 broadcasts.

        A labelled axis that meets an axis of size n > 1 nobody speaks about is pinned. A facet that meets a finer one
        through an axis of true size 1 (heads, and the dimensions in each head) names its rows. Returns the facets of
        the result; `ghost` gives what a deleted slice of it holds, from what it holds in each operand.
        """
        spans_of = [[spans(found) for found in operand.facets] for operand in operands]
        longer = [longer_axes(operand.shape) for operand in operands]
        named: set[int] = set()  # facets that name the rows of a finer one, which speaks for them from here on
        for i, a in enumerate(operands):
            for found, axes in zip(a.facets, spans_of[i], strict=True):
                for j, b in enumerate(operands):
                    if i == j or not _meet(longer[j], axes):
                        continue
                    partners = [g for g, of_g in zip(b.facets, spans_of[j], strict=True) if _meet(of_g, axes)]
                    if not partners:
                        self.pin([found], f"meets '{b.name}', whose axis can't shrink")
                    elif i < j:
                        named |= {id(self._join(found, a, partner, b)) for partner in partners}
        result: list[Facet] = []
        taken: set[tuple[int, ...]] = set()
        for i, operand in enumerate(operands):
            here = []
            for found, axes in zip(operand.facets, spans_of[i], strict=True):
                if axes not in taken and id(found) not in named:
                    held = [ghost_of(found) if i == j else _held(axes, b, spans_of[j]) for j, b in enumerate(operands)]
                    result.append(facet(found, ghost(held) if ghost else None))
                    here.append(axes)
            taken.update(here)
        return tuple(result)

    def _join(self, a: Facet, of_a: Tensor, b: Facet, of_b: Tensor) -> Facet | None:
        """Tie two facets that share an axis, or let the coarser name the rows of the finer; then return the coarser."""
        if len(spans(a)) > len(spans(b)):
            a, of_a, b, of_b = b, of_b, a, of_a
        named = a
        if a.shape != b.shape:
            a, b = matched([a, b])
        coarse, fine = spans(a), spans(b)
        rest = [x for x in fine if x not in coarse]
        if rest and set(coarse) < set(fine) and all(of_a.shape[x] == 1 for x in rest):
            members = np.moveaxis(
                b.reshape([b.shape[x] for x in fine]), [fine.index(x) for x in coarse], range(len(coarse))
            )
            self.ledger.row(a.ravel(), members.reshape(a.size, -1))
            return named
        self.tie(a, b)
        return None


@lru_cache(maxsize=2**14)
def _meet(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two facets, by the axes that they speak about, share one."""
    return not set(a).isdisjoint(b)


def _held(axes: tuple[int, ...], other: Tensor, spans_of: Sequence[tuple[int, ...]]) -> float | None:
    """What `other` holds where slices along these axes are deleted; `spans_of` are the axes of its facets."""
    for partner, of_partner in zip(other.facets, spans_of, strict=True):
        if _meet(of_partner, axes):
            return ghost_of(partner)
    return float(other.data.ravel()[0]) if other.data is not None and other.data.size == 1 else None


@dataclass(frozen=True, eq=False)
class Change:
    """What deletion did around one node, for its mend: shapes before and after, and which places were kept.

    `kept(value, axis)` is bool [size]; `mask(value)` says it of every element, broadcastable to the shape before.
    `is_same_size(value, value, axis)` says that two sizes, symbolic or not, are always the same before. `is_moment` is
    that of `Op`.
    """

    node: ir.Node
    version: int
    before: Sequence[tuple[int, ...] | None]
    after: Sequence[tuple[int, ...] | None]
    outputs_before: Sequence[tuple[int, ...]]
    outputs_after: Sequence[tuple[int, ...]]
    kept: Callable[[ir.Value, int], np.ndarray]
    mask: Callable[[ir.Value], np.ndarray]
    value: Callable[[int], np.ndarray | None]
    dynamic: Callable[[ir.Value, int], bool]
    is_same_size: Callable[[ir.Value, ir.Value, int], bool]
    is_moment: bool = False

    def attr(self, name: str, default=None):
        return attribute(self.node, name, default)


@dataclass(frozen=True)
class Mended:
    """New constants for inputs {index: array}, new attributes {name: value, None to drop}, and factors.

    Of inputs that are computed, `places` gives single elements {index: {position: value}}; an element that depends on
    a symbolic size is multiplied by a Fraction. `multiply` gives factors for inputs that are weights {index: factor},
    `scale` one for the first output. `picked` gives the places of an axis that a Gather picks for the first input
    before the node reads it {axis: places}.
    """

    inputs: Mapping[int, np.ndarray] = field(default_factory=dict)
    places: Mapping[int, Mapping[int, int | Fraction]] = field(default_factory=dict)
    attributes: Mapping[str, object] = field(default_factory=dict)
    multiply: Mapping[int, float] = field(default_factory=dict)
    scale: float = 1.0
    picked: Mapping[int, np.ndarray] = field(default_factory=dict)


Rule = Callable[[Op], "Facets | list[Facets] | None"]
Mend = Callable[[Change], Mended | None]
WeightLabels = Callable[[Ledger, ir.Node, tuple[int, ...]], "Facets | None"]

RULES: dict[tuple[str, str], Rule] = {}
MENDS: dict[tuple[str, str], Mend] = {}
#: Inputs that hold a shape, not data: shape arithmetic may flow into them. {(domain, operator): input indices}
SHAPE_INPUTS: dict[tuple[str, str], tuple[int, ...]] = {}
#: Inputs of which only the type is read. {(domain, operator): input indices}
TYPE_INPUTS: dict[tuple[str, str], tuple[int, ...]] = {}
#: Operators that may be told a shape by sizes of the very tensor they shape: what shrinks, shrinks in both.
ADAPTS: set[tuple[str, str]] = set()
#: Operators whose mend makes any shape right that they are told, whatever sizes it was computed from.
RESHAPES: set[tuple[str, str]] = set()
#: Operators whose rules take labels that stand for runs of places; the others see one label a place.
RUNS: set[tuple[str, str]] = set()
#: Why operators without a rule pin what they read, as a sentence's end. {(domain, operator): reason}
REASONS: dict[tuple[str, str], str] = {}
#: What deletion through an operator's rule is: "exact" where nothing is said.
EXACTNESS: dict[tuple[str, str], str] = {}
#: How initializers are labelled that an operator reads in a way of its own. {(domain, operator): (operand, function)}
WEIGHT_LABELS: dict[tuple[str, str], tuple[int, WeightLabels]] = {}


def rule(
    domain: str,
    *operators: str,
    shape_inputs: tuple[int, ...] = (),
    type_inputs: tuple[int, ...] = (),
    adapts: bool = False,
    reshapes: bool = False,
    runs: bool = False,
    exactness: str = "exact",
) -> Callable[[Rule], Rule]:
    """Register a rule for `operators` of `domain` ("" is ONNX's own).

    The function takes an `Op` and returns the facets of its only output, a list with those of each output, or None
    where no output axis may shrink. `shape_inputs` are the inputs that hold sizes or positions rather than data;
    `type_inputs` are those of which only the type is read. `adapts` says that shapes may follow the first operand's own
    size, `reshapes` that the operator's mend corrects them. `runs` says that the function takes facets with fewer
    labels than places on an axis, each of which stands for a run of places, and may return such.
    `exactness` is "restated" where deletion changes the statistics that the operator takes.
    """

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[domain, operator] = function
            EXACTNESS[domain, operator] = exactness
            if shape_inputs:
                SHAPE_INPUTS[domain, operator] = shape_inputs
            if type_inputs:
                TYPE_INPUTS[domain, operator] = type_inputs
            if adapts:
                ADAPTS.add((domain, operator))
            if reshapes:
                RESHAPES.add((domain, operator))
            if runs:
                RUNS.add((domain, operator))
        return function

    return register


def pins(domain: str, *operators: str, why: str) -> None:
    """Say of `operators` without a rule why whatever they read stays: `why` follows their name, as in "sorts them"."""
    for operator in operators:
        REASONS[domain, operator] = why


def mend(domain: str, *operators: str) -> Callable[[Mend], Mend]:
    """Register what constants of `operators` become when the axes around them have shrunk."""

    def register(function: Mend) -> Mend:
        for operator in operators:
            MENDS[domain, operator] = function
        return function

    return register


def weight_labels(domain: str, *operators: str, operand: int) -> Callable[[WeightLabels], WeightLabels]:
    """Register the facets of an initializer that `operators` alone read at `operand`; None leaves the usual ones."""

    def register(function: WeightLabels) -> WeightLabels:
        for operator in operators:
            WEIGHT_LABELS[domain, operator] = (operand, function)
        return function

    return register


def attribute(node: ir.Node, name: str, default=None):
    """An attribute's Python value, or `default`; byte strings come as text."""
    found = node.attributes.data.get(name)  # far faster than the mapping around it
    if found is None:
        return default
    value = found.value
    return value.decode() if isinstance(value, bytes) else value
