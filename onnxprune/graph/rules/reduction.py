"""Pooling, reductions and softmax. What a reduced axis holds is mixed, so labels along it are pinned."""

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.labels import facet, ghost_of, spans
from onnxprune.graph.rules.elementwise import unknown
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, mend, rule

REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]


#: Reductions to which a place that holds 0 adds nothing.
ADDS_ZERO = frozenset("ReduceL1 ReduceL2 ReduceMean ReduceSum ReduceSumSquare".split())
#: Reductions of nothing but zeros that give 0.
ZERO_TO_ZERO = ADDS_ZERO | {"ReduceMax", "ReduceMin", "ReduceProd"}


def only_zero(facets: Facets) -> Facets:
    """Of the ghosts only 0 is left: windows that overlap a border, and sums, change any other constant."""
    return tuple(f if ghost_of(f) == 0.0 else facet(f, None) for f in facets)


@rule("", "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(op: Op) -> list[Facets]:
    """Each channel by itself: x[N,C,*S] -> y[N,C,*S']. Read positions in the whole tensor (MaxPool's second) pin."""
    x = op.inputs[0]
    positions = op.node.outputs[1:]
    if any(value.uses() or value.is_graph_output() for value in positions):
        op.pin(x.facets, "gives positions in the whole tensor")
        return [()] * len(op.outputs)
    facets = only_zero(op.collapse(x.facets, range(2, len(x.shape)), "slides a window over the axis"))
    return [facets, *[unknown(facets)] * len(positions)]


@rule("", *REDUCTIONS, shape_inputs=(1,))
def reduce(op: Op) -> Facets | None:
    """Sums, means and norms over labelled axes are exact where deleted places hold 0; the others pin those axes.

    The mean and variance of a normalisation that is written out are restated.
    """
    x = op.inputs[0]
    rank = len(x.shape)
    axes = _axes(op, rank)
    if axes is None:
        op.pin(x.facets, "reduces over axes that are computed")
        return None
    operator = op.node.op_type
    touched = [f for f in x.facets if set(spans(f)) & set(axes)]
    if op.is_moment:
        added = [f for f in touched if not any(op.is_dynamic_input(0, a) for a in spans(f))]
    else:
        added = [f for f in touched if operator in ADDS_ZERO and ghost_of(f) == 0.0]
    for found in added:
        (op.ledger.restate if op.is_moment else op.ledger.sum)(found)
    rest = tuple(f for f in x.facets if not any(f is a for a in added))
    facets = op.collapse(rest, axes, "mixes the places of the axis")
    facets += tuple(op.rows(f, axes) for f in added if not set(spans(f)) <= set(axes))
    facets = only_zero(facets) if operator in ZERO_TO_ZERO and not op.is_moment else unknown(facets)
    if op.attr("keepdims", 1):
        return facets
    kept = [a for a in range(rank) if a not in axes]
    return tuple(f.reshape([f.shape[a] for a in kept]) for f in facets)


@mend("", "ReduceMean")
def mean_over_all(change: Change) -> Mended | None:
    """The mean was over all places, the deleted ones being 0: the mean over those kept, times kept over all."""
    if change.is_moment:
        return None
    before, after = change.before[0], change.after[0]
    axes = _mean_axes(change, len(before))
    changed = [a for a in axes if before[a] != after[a]]
    factor = float(np.prod([after[a] / before[a] for a in changed]))
    return Mended(scale=factor) if changed and factor != 1.0 else None


def _mean_axes(change: Change, rank: int) -> tuple[int, ...]:
    given = change.attr("axes")
    if given is None and change.value(1) is not None:
        given = change.value(1).tolist()
    if not given:
        return () if change.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(a % rank for a in given)


def _axes(op: Op, rank: int) -> tuple[int, ...] | None:
    given = op.attr("axes")
    second = op.input(1)
    if given is None and second is not None:
        if second.data is None:
            return None
        given = second.data.tolist()
    if not given:
        return () if op.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(a % rank for a in given)


@rule("", "ArgMax", "ArgMin")
def arg_reduce(op: Op) -> Facets:
    """Gives positions on one axis, which stays; labels along the others go on."""
    x = op.inputs[0]
    axis = op.axis()
    facets = unknown(op.collapse(x.facets, [axis], "gives positions on the axis"))
    if op.attr("keepdims", 1):
        return facets
    return tuple(f.reshape(f.shape[:axis] + f.shape[axis + 1 :]) for f in facets)


@rule("", "Softmax", "LogSoftmax", "Hardmax")
def softmax(op: Op) -> Facets:
    """Mixes the places of one axis, which stays (before opset 13 all axes behind it too); the others go on."""
    rank = len(op.inputs[0].shape)
    return unknown(_apart(op, range(op.axis(1), rank) if op.version < 13 else [op.axis(-1)]))


@rule("", "TopK")
def top_k(op: Op) -> list[Facets]:
    """Sorts the places of one axis, which stays; the others go on, for values and positions alike."""
    return [unknown(_apart(op, [op.axis(-1)]))] * len(op.outputs)


@rule("", "CumProd", "CumSum")
def cumulate(op: Op) -> Facets:
    """Adds up, or multiplies, along one axis, which stays; the others go on."""
    rank = len(op.inputs[0].shape)
    position = op.inputs[1].data
    facets = _apart(op, range(rank) if position is None else [int(position.ravel()[0]) % rank])
    return only_zero(facets) if op.node.op_type == "CumSum" else unknown(facets)


def _apart(op: Op, axes: Sequence[int]) -> Facets:
    """The facets that don't speak of `axes`, whose places are mixed."""
    touched = [f for f in op.inputs[0].facets if set(spans(f)) & set(axes)]
    op.pin(touched, "mixes the places of the axis")
    return tuple(f for f in op.inputs[0].facets if not set(spans(f)) & set(axes))


@rule("", "LpNormalization")
def lp_normalization(op: Op) -> Facets:
    """Divides by the norm over one axis: exact where deleted places hold 0, pinned elsewhere."""
    x, axis = op.inputs[0], op.axis(-1)
    touched = [f for f in x.facets if f.shape[axis] > 1]
    for found in touched:
        op.ledger.sum(found)
    op.pin([f for f in touched if ghost_of(f) != 0.0], "takes the norm of the axis")
    return only_zero(x.facets)


@rule("", "MeanVarianceNormalization")
def mean_variance_normalization(op: Op) -> Facets:
    """Statistics over the batch and the positions, each channel by itself; axes that they are taken over stay."""
    return unknown(_apart(op, op.attr("axes") or [0, 2, 3]))


@rule("", "Det")
def determinant(op: Op) -> Facets:
    """Mixes the last two axes, which stay; the others go on."""
    rank = len(op.inputs[0].shape)
    return tuple(f.reshape(f.shape[:-2]) for f in unknown(_apart(op, [rank - 2, rank - 1])))


@rule("", "LRN")
def local_response(op: Op) -> Facets:
    """Each channel beside its neighbours in the order they have: none can go."""
    return _apart(op, [1])


@rule("", "Trilu")
def triangle(op: Op) -> Facets:
    """Zeroes a triangle of the last two axes, whose places must stay where they are."""
    rank = len(op.inputs[0].shape)
    return only_zero(_apart(op, [rank - 2, rank - 1]))
