"""Operators that pick or overwrite places of an axis: the same places are picked from the labels."""

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.labels import spans
from onnxprune.graph.rules.layout import settle
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, Tensor, mend, rule


def _sections(op: Op, axis: int) -> list[int]:
    return [out.shape[axis] for out in op.outputs]


@rule("", "Split", shape_inputs=(1,))
def split(op: Op) -> list[Facets]:
    axis = op.axis(0)
    ends = np.cumsum(_sections(op, axis))
    result = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        pieces = [f if f.shape[axis] == 1 else np.take(f, range(start, end), axis) for f in op.inputs[0].facets]
        result.append(settle(op, pieces))
    return result


@mend("", "Split")
def split_sizes(change: Change) -> Mended | None:
    axis = change.attr("axis", 0) % len(change.before[0])
    before = [shape[axis] for shape in change.outputs_before]
    sizes = [shape[axis] for shape in change.outputs_after]
    if sizes == before or change.dynamic(change.node.inputs[0], axis):
        return None
    if change.version < 13:
        return Mended(attributes={"split": sizes})
    return Mended({1: np.array(sizes, np.int64)}, attributes={"num_outputs": None})


@rule("", "Slice", shape_inputs=(1, 2, 3, 4))
def slice_(op: Op) -> Facets | None:
    x = op.inputs[0]
    axes, steps = _slice_axes(op)
    if axes is None:
        op.pin(x.facets, "slices at computed places")
        return None
    facets = list(x.facets)
    for position, axis in enumerate(axes):
        touched = [f for f in facets if f.shape[axis] > 1]
        rest = [f for f in facets if f.shape[axis] == 1]
        place = _slice_place(op, position, axis)
        if x.shape[axis] == op.outputs[0].shape[axis] and steps[position] == 1:
            continue
        if place is None or steps[position] != 1:
            op.pin(touched, "slices the axis with a step or at computed places")
            facets = rest
        else:
            facets = rest + [f.take(range(*place), axis) for f in touched]
    return settle(op, facets)


def _slice_axes(op: Op) -> tuple[list[int] | None, list[int]]:
    rank = len(op.inputs[0].shape)
    if op.version < 10:
        starts = op.attr("starts")
        axes = op.attr("axes") or range(len(starts))
        return [a % rank for a in axes], [1] * len(starts)
    starts, axes, steps = op.inputs[1], op.input(3), op.input(4)
    if (axes is not None and axes.data is None) or (steps is not None and steps.data is None):
        return None, []
    count = starts.shape[0]
    return (
        list(range(count)) if axes is None else [int(a) % rank for a in axes.data],
        [1] * count if steps is None else [int(s) for s in steps.data],
    )


def _slice_place(op: Op, position: int, axis: int) -> tuple[int, int] | None:
    """Where the slice begins and ends on this axis; None where that is computed or symbolic."""
    if op.version < 10:
        start, end = op.attr("starts")[position], op.attr("ends")[position]
    elif op.inputs[1].data is None or op.inputs[2].data is None or op.is_dynamic_input(0, axis):
        return None
    else:
        start, end = int(op.inputs[1].data[position]), int(op.inputs[2].data[position])
    return slice(start, end).indices(op.inputs[0].shape[axis])[:2]


@mend("", "Slice")
def slice_places(change: Change) -> Mended | None:
    """Starts and ends move to where their channels are now."""
    old, rank = change.version < 10, len(change.before[0])
    starts, ends = (change.attr("starts"), change.attr("ends")) if old else (change.value(1), change.value(2))
    axes = change.attr("axes") if old else (change.value(3) if len(change.node.inputs) > 3 else None)
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else [int(a) % rank for a in axes]
    new_starts, new_ends = [int(s) for s in starts], [int(e) for e in ends]
    for position, axis in enumerate(axes):
        size = change.before[0][axis]
        if size == change.after[0][axis]:
            continue
        start, end, _ = slice(new_starts[position], new_ends[position]).indices(size)
        if (start, end) == (0, size):
            new_starts[position], new_ends[position] = 0, np.iinfo(np.int64).max
            continue
        kept = change.kept(change.node.inputs[0], axis)
        new_starts[position] = int(kept[:start].sum())
        new_ends[position] = int(kept[:end].sum())
    if old:
        return Mended(attributes={"starts": new_starts, "ends": new_ends})
    return Mended({1: np.array(new_starts, np.int64), 2: np.array(new_ends, np.int64)})


@rule("", "Gather")
def gather(op: Op) -> Facets | None:
    """Constant, one-dimensional indices pick labels; other indices leave the gathered axis pinned."""
    x, indices = op.inputs[0], op.inputs[1]
    axis = op.axis(0)
    known = indices.data if indices.data is not None and indices.data.ndim <= 1 else None
    rank = len(indices.shape)
    facets = []
    for facet in x.facets:
        if facet.shape[axis] == 1:
            shape = facet.shape[:axis] + (1,) * rank + facet.shape[axis + 1 :]
            facets.append(facet.reshape(shape))
        elif known is None:
            op.pin([facet], "looks up places that are computed")
        else:
            facets.append(np.take(facet, known, axis))
    for facet in indices.facets:
        shape = (1,) * axis + facet.shape + (1,) * (len(x.shape) - axis - 1)
        facets.append(facet.reshape(shape))
    op.ledger.kind(_last_axis_labels(x), "embedding")
    return settle(op, facets)


def _last_axis_labels(x: Tensor) -> np.ndarray:
    found = [f.ravel() for f in x.facing(len(x.shape) - 1)] if x.shape else []
    return np.concatenate(found) if found and len(x.shape) == 2 else np.empty(0, np.int64)


@mend("", "Gather")
def gather_indices(change: Change) -> Mended | None:
    """Indices point to where their places are now; those of deleted places go."""
    axis = change.attr("axis", 0) % len(change.before[0])
    size = change.before[0][axis]
    indices = change.value(1)
    if size == change.after[0][axis] or indices is None or indices.ndim > 1:
        return None
    kept = change.kept(change.node.inputs[0], axis)
    place = np.cumsum(kept) - 1
    at = indices.astype(np.int64) % size
    return Mended({1: place[at[kept[at]]] if indices.ndim else place[at]})


@rule("", "ScatterND", shape_inputs=(1,))
def scatter_nd(op: Op) -> Facets:
    """Overwrites slices at indices of the first axes; the axes behind them meet the updates'."""
    data, indices, updates = op.inputs
    depth = indices.shape[-1] if indices.shape else 0
    lead = len(updates.shape) - (len(data.shape) - depth)
    op.pin([f for f in data.facets if any(a < depth for a in spans(f))], "is overwritten at places on the axis")
    op.pin([f for f in updates.facets if any(a < lead for a in spans(f))], "is written to places on the axis")
    rest = tuple(f for f in data.facets if all(a >= depth for a in spans(f)))
    written = tuple(f for f in updates.facets if all(a >= lead for a in spans(f)))
    tail = data.shape[depth:]
    flat = [
        data.view(tail, tuple(f.reshape(f.shape[depth:]) for f in rest)),
        updates.view(tail, tuple(f.reshape(f.shape[lead:]) for f in written)),
    ]
    return tuple(f.reshape((1,) * depth + f.shape) for f in op.meet(flat, _both))


def _both(held: Sequence[float | None]) -> float | None:
    return held[0] if len(set(held)) == 1 else None
