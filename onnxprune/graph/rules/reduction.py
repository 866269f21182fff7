"""Pooling, reductions and softmax. What a reduced axis holds is mixed, so labels along it are pinned."""

import numpy as np

from onnxprune.graph.labels import facet, ghost_of, spans
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


def unknown(facets: Facets) -> Facets:
    return tuple(facet(f, None) for f in facets)


@rule("", "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(op: Op) -> list[Facets]:
    """Each channel by itself: x[N,C,*S] -> y[N,C,*S']."""
    x = op.inputs[0]
    if len(op.outputs) > 1:
        op.pin(x.facets, "gives positions in the whole tensor")
        return [()] * len(op.outputs)
    return [only_zero(op.collapse(x.facets, range(2, len(x.shape)), "slides a window over the axis"))]


@rule("", *REDUCTIONS, shape_inputs=(1,))
def reduce(op: Op) -> Facets | None:
    x = op.inputs[0]
    rank = len(x.shape)
    axes = _axes(op, rank)
    if axes is None:
        op.pin(x.facets, "reduces over axes that are computed")
        return None
    operator = op.node.op_type
    added = [f for f in x.facets if operator in ADDS_ZERO and ghost_of(f) == 0.0 and set(spans(f)) & set(axes)]
    for found in added:
        op.ledger.sum(found)
    rest = tuple(f for f in x.facets if not any(f is a for a in added))
    facets = op.collapse(rest, axes, "mixes the places of the axis")
    facets += tuple(op.rows(f, axes) for f in added if not set(spans(f)) <= set(axes))
    facets = only_zero(facets) if operator in ZERO_TO_ZERO else unknown(facets)
    if op.attr("keepdims", 1):
        return facets
    kept = [a for a in range(rank) if a not in axes]
    return tuple(f.reshape([f.shape[a] for a in kept]) for f in facets)


@mend("", "ReduceMean")
def mean_over_all(change: Change) -> Mended | None:
    """The mean was over all places, the deleted ones being 0: the mean over those kept, times kept over all."""
    before, after = change.before[0], change.after[0]
    axes = _mean_axes(change, len(before))
    changed = [a for a in axes if before[a] != after[a]]
    factor = float(np.prod([after[a] / before[a] for a in changed]))
    return Mended(scale=factor) if changed and factor != 1.0 else None


def _mean_axes(change: Change, rank: int) -> tuple[int, ...]:
    given = change.attr("axes")
    if given is None and change.value(1) is not None:
        given = change.value(1).tolist()
    return tuple(range(rank)) if not given else tuple(a % rank for a in given)


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
    x = op.inputs[0]
    axis = op.axis()
    facets = unknown(op.collapse(x.facets, [axis], "gives positions on the axis"))
    if op.attr("keepdims", 1):
        return facets
    return tuple(f.reshape(f.shape[:axis] + f.shape[axis + 1 :]) for f in facets)


@rule("", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "CumSum", "TopK")
def along_axis(op: Op) -> list[Facets]:
    """Mixes the places of one axis (before opset 13 Softmax flattens all axes behind it too)."""
    x = op.inputs[0]
    rank = len(x.shape)
    if op.node.op_type == "CumSum":
        position = op.inputs[1].data
        axes = tuple(range(rank)) if position is None else (int(np.ravel(position)[0]) % rank,)
    elif op.node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and op.version < 13:
        axes = tuple(range(op.axis(1), rank))
    else:
        axes = (op.axis(-1),)
    touched = [f for f in x.facets if set(spans(f)) & set(axes)]
    op.pin(touched, "mixes the places of the axis")
    rest = tuple(f for f in x.facets if not set(spans(f)) & set(axes))
    return [only_zero(rest) if op.node.op_type == "CumSum" else unknown(rest)] * len(op.outputs)


@rule("", "LRN")
def local_response(op: Op) -> Facets:
    """Each channel beside its neighbours in the order they have: none can go."""
    x = op.inputs[0]
    op.pin([f for f in x.facets if f.shape[1] > 1], "normalises each channel by its neighbours")
    return tuple(f for f in x.facets if f.shape[1] == 1)


@rule("", "Trilu")
def triangle(op: Op) -> Facets:
    """Zeroes a triangle of the last two axes, whose places must stay where they are."""
    x = op.inputs[0]
    rank = len(x.shape)
    touched = [f for f in x.facets if set(spans(f)) & {rank - 2, rank - 1}]
    op.pin(touched, "zeroes by position on the axis")
    return only_zero(tuple(f for f in x.facets if not any(f is t for t in touched)))
