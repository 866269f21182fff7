"""Pooling, reductions and softmax. What a reduced axis holds is mixed, so labels along it are pinned."""

import numpy as np

from onnxprune.graph.labels import spans
from onnxprune.graph.rules.registry import Facets, Op, rule

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


@rule("", "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(op: Op) -> list[Facets]:
    """Each channel by itself: x[N,C,*S] -> y[N,C,*S']."""
    x = op.inputs[0]
    if len(op.outputs) > 1:
        op.pin(x.facets, "gives positions in the whole tensor")
        return [()] * len(op.outputs)
    return [op.collapse(x.facets, range(2, len(x.shape)), "slides a window over the axis")]


@rule("", *REDUCTIONS, shape_inputs=(1,))
def reduce(op: Op) -> Facets | None:
    x = op.inputs[0]
    rank = len(x.shape)
    axes = _axes(op, rank)
    if axes is None:
        op.pin(x.facets, "reduces over axes that are computed")
        return None
    facets = op.collapse(x.facets, axes, "mixes the places of the axis")
    if op.attr("keepdims", 1):
        return facets
    kept = [a for a in range(rank) if a not in axes]
    return tuple(f.reshape([f.shape[a] for a in kept]) for f in facets)


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
    facets = op.collapse(x.facets, [axis], "gives positions on the axis")
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
    return [tuple(f for f in x.facets if not set(spans(f)) & set(axes))] * len(op.outputs)
