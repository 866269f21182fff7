"""Where channels end: the nodes that sum over an axis, and what becomes of each place there.

A channel goes on through operators that work slice by slice; it makes a difference only where a node sums over it. Such
a read makes none if the product is known to be 0, if it is a constant that folds into the node's bias, or if another
place, which holds a known multiple of it, takes over its weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.graph.contradictions import fits_together
from onnxprune.graph.exact.forward import Facts
from onnxprune.graph.exact.products import CONVOLUTIONS, Factor, Products
from onnxprune.graph.exact.statistics import REDUCTIONS, reduced_axes
from onnxprune.graph.exact.step import Step
from onnxprune.graph.labels import Facet, spans
from onnxprune.graph.rules import elementwise
from onnxprune.graph.units import Channels

#: Operators of which each slice of the result needs that slice of the operands alone, as far as labels go on.
BY_SLICE = frozenset(elementwise.UNARY) | frozenset(elementwise.NARY) | frozenset(REDUCTIONS)
BY_SLICE |= frozenset(
    "ArgMax ArgMin AveragePool BatchNormalization CastLike Concat ConstantOfShape CumSum DepthToSpace DequantizeLinear "
    "Dropout Expand Flatten Gather GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization Hardmax "
    "InstanceNormalization LRN LayerNormalization LogSoftmax LpNormalization LpPool MaxPool Pad QuantizeLinear "
    "RMSNormalization Range ReduceLogSum ReduceLogSumExp ReduceProd Reshape Resize Shape Size Slice Softmax "
    "SpaceToDepth Split Squeeze Tile TopK Transpose Trilu Unsqueeze Upsample".split()
)


@dataclass(eq=False)
class Reading:
    """How one node reads the places it sums over.

    `places` is the shape of those places within the joint axes (free axes have size 1), `ends` the channels of each
    facet that ends here, laid out alike; `data` and `weights` are numbers of the factors, None where neither is a
    constant. `folds`: places whose constant goes into the bias; `into`: for each place the one on the summed axis
    that takes over its weights, times `ratio`; its own number where it keeps them.
    """

    laid: Products
    ends: list[np.ndarray]
    out: list[np.ndarray]
    data: int | None
    weights: int | None
    const: np.ndarray
    value: np.ndarray
    folds: np.ndarray
    into: np.ndarray
    ratio: np.ndarray

    @property
    def node(self) -> ir.Node:
        return self.laid.step.node

    @property
    def where(self) -> str:
        return f"{self.node.op_type} '{self.node.name}'"

    @property
    def axis(self) -> int:
        """The joint axis it sums over; -1 where there are several."""
        return self.laid.summed[0] if len(self.laid.summed) == 1 else -1

    @property
    def places(self) -> tuple[int, ...]:
        return self.const.shape

    def needs(self, lives: np.ndarray, *, by_value: bool = True) -> np.ndarray:
        """Where on the joint axes a product is needed for a result that is; `by_value` lets zeros and plans count."""
        adds = self.laid.adds if by_value else self._weighed
        for named in self.out:
            adds = adds & lives[named]
        if by_value and self.folds.any():
            adds = adds & ~self.folds
        return adds

    @property
    def _weighed(self) -> np.ndarray:
        """Where the constant factor, of any value of the other, lets a product be other than 0."""
        a, b = self.laid.factors
        if self.weights is None:
            return np.ones_like(self.laid.adds)
        return np.broadcast_to((a, b)[self.weights].may, self.laid.adds.shape)

    def over_places(self, needs: np.ndarray) -> np.ndarray:
        """Which places are read at all, those that stand in for others among them."""
        read = needs.any(axis=tuple(i for i, n in enumerate(self.places) if n == 1), keepdims=True)
        moved = read & (self.into != self._own)
        if moved.any():
            read = read & ~moved
            index = list(np.nonzero(moved))
            index[self.axis] = self.into[moved]
            read[tuple(index)] = True
        return read

    def channels_of(self) -> list[np.ndarray]:
        """The channels of each place, for every facet that names places alone."""
        return [
            np.broadcast_to(named, self.places)
            for named in self.ends
            if all(n in (1, size) for n, size in zip(named.shape, self.places, strict=True))
        ]

    def handled(self, deleted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the places that go with deleted channels, those that are folded and those that another stands in for."""
        gone = np.zeros(self.places, bool)
        for named in self.channels_of():
            gone = gone | deleted[named]
        if self.data is None or not gone.any():
            return gone & False, gone & False
        read = self.laid.adds.any(axis=tuple(i for i, n in enumerate(self.places) if n == 1), keepdims=True)
        return gone & read & self.folds, gone & read & ~self.folds & (self.into != self._own)

    @property
    def _own(self) -> np.ndarray:
        return np.arange(self.places[self.axis]).reshape([-1 if i == self.axis else 1 for i in range(len(self.places))])


def readings(channels: Channels, facts: Facts) -> list[Reading]:
    """Every node that sums products over an axis on which channels end, in graph order."""
    found = []
    for laid in facts.products.values():
        if laid is not None and laid.adds is not None:
            reading = _reading(channels, laid)
            if reading.ends:
                found.append(reading)
    return found


def _reading(channels: Channels, laid: Products) -> Reading:
    node, summed = laid.step.node, laid.summed
    ends = [
        _compressed(channels.channel[laid_facet])
        for factor in laid.factors
        for laid_facet in _laid(channels, node.inputs[factor.index], factor.lay)
        if _ends(laid, factor, laid_facet)
    ]
    out = [channels.channel[f] for f in _laid(channels, node.outputs[0], laid.lay, node.op_type in CONVOLUTIONS)]
    a, b = laid.factors
    constant = [laid.step.inputs[f.index] is not None and laid.step.inputs[f.index].is_all_known for f in (a, b)]
    data = weights = None
    if all(constant):  # then the data is what the network computes
        constant = [node.inputs[a.index].is_initializer(), not node.inputs[a.index].is_initializer()]
    if constant[0] != constant[1]:
        data, weights = (0, 1) if constant[1] else (1, 0)
    shape = tuple(n if i in summed else 1 for i, n in enumerate(laid.adds.shape))
    const, value = np.zeros((1,) * len(shape), bool), np.ones((1,) * len(shape))
    if data is not None:
        x, w = laid.factors[data], laid.factors[weights]
        kept = [i for i in range(len(shape)) if i in summed or w.may.shape[i] > 1]
        held = x.held.same_along(tuple(i for i in range(len(shape)) if i not in kept))
        shape = held.shape
        const, value = held.is_known & (held.value != 0), held.value
    const, value = np.broadcast_to(const, shape), np.broadcast_to(value, shape)
    axis = summed[0]
    into = np.broadcast_to(
        np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape
    ).copy()
    return Reading(laid, ends, out, data, weights, const, value, np.zeros(shape, bool), into, np.ones(shape))


def _compressed(named: np.ndarray) -> np.ndarray:
    """Of size 1 on every axis along which the names are the same: weights of a group name inputs for each output."""
    for axis, size in enumerate(named.shape):
        first = named.take([0], axis)
        if size > 1 and (named == first).all():
            named = first
    return named


def _ends(laid: Products, factor: Factor, found: np.ndarray) -> bool:
    """Whether labels laid out in the joint axes end here: they tell summed places apart.

    Groups of one input do so along the groups, unless they have one output too, to which the label goes on.
    """
    if any(found.shape[axis] > 1 for axis in laid.summed):
        return True
    if laid.step.operator not in CONVOLUTIONS or factor.index != 0 or found.size == 1:
        return False
    return laid.step.shape(0)[1] != laid.step.out_shape()[1]


def _laid(channels: Channels, value: ir.Value, lay, by_channel: bool = False) -> list[Facet]:
    """The facets of a tensor in the joint axes. A convolution's result is laid out by its channels alone."""
    facets = channels.facets(value)
    if by_channel:
        facets = [f for f in facets if spans(f) == (1,)]
    return [np.asarray(lay(np.asarray(f))) for f in facets]


def lives_in_sums(channels: Channels, facts: Facts, lives: np.ndarray) -> None:
    """Mark what reductions over labelled axes read, unless it is known to be 0 there; mark what isn't understood."""
    trace = channels.trace
    understood = np.zeros(channels.count, bool)
    for node in trace.model.ir.graph:
        if node in facts.products and facts.products[node] is not None and facts.products[node].adds is not None:
            continue
        if node.domain or node.op_type not in BY_SLICE:
            for value in node.inputs:
                for found in channels.facets(value) if value is not None else ():
                    lives[channels.channel[found]] = True
            continue
        with fits_together(node):
            axes = _summed_axes(trace, node, facts)
        if axes is None:
            continue
        known = facts.known.get(node.inputs[0])
        for found in channels.facets(node.inputs[0]):
            if set(spans(found)) & set(axes):
                zero = np.zeros((1,) * found.ndim, bool) if known is None else known.is_zero
                flat = zero.all(axis=tuple(a for a in range(found.ndim) if found.shape[a] == 1), keepdims=True)
                flat = np.broadcast_to(flat, found.shape)
                lives[channels.channel[found][~flat]] = True
                understood[channels.channel[found]] = True
    for labels in trace.ledger.summed:
        named = channels.channel[labels]
        lives[named[~understood[named]]] = True
    for labels in trace.ledger.restated:  # other statistics are another function
        lives[channels.channel[labels]] = True


def _summed_axes(trace, node: ir.Node, facts: Facts) -> Sequence[int] | None:
    if node.inputs and node.inputs[0] in trace.shape_of:
        step = Step(trace, node, [None if v is None else facts.known.get(v) for v in node.inputs])
        if node.op_type in REDUCTIONS:
            return reduced_axes(step) or range(step.rank)
        if node.op_type == "RMSNormalization":
            return range(step.attr("axis", -1) % step.rank, step.rank)
    return None
