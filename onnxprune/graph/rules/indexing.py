"""Operators that pick or overwrite places that are told by indices.

Constant indices pick from the labels what they pick from the data, and are written anew once places are gone. Computed
ones may point anywhere: the axis that they point into stays as it is.
"""

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.graph.compact import take
from onnxprune.graph.labels import facet as labelled
from onnxprune.graph.labels import ghost_of, spans, unrolled
from onnxprune.graph.labels import reshape as reshaped
from onnxprune.graph.rules.elementwise import total
from onnxprune.graph.rules.layout import settle
from onnxprune.graph.rules.registry import Change, Combine, Facets, Mended, Op, Tensor, mend, rule
from onnxprune.graph.rules.slicing import alike

COMPUTED = "looks up places that are computed"


@rule("", "Gather")
def gather(op: Op) -> Facets:
    """Constant indices pick labels; computed ones leave the axis that they point into pinned."""
    x, indices = op.inputs[0], op.inputs[1]
    axis = op.axis(0)
    rank = len(indices.shape)
    facets = []
    for found in x.facets:
        if found.shape[axis] == 1:
            facets.append(found.reshape(found.shape[:axis] + (1,) * rank + found.shape[axis + 1 :]))
        elif indices.data is None:
            op.pin([found], COMPUTED)
        else:
            alike(op, found, axis)
            facets.append(np.asanyarray(np.take(found, indices.data, axis)))
    for found in indices.facets:
        facets.append(found.reshape((1,) * axis + found.shape + (1,) * (len(x.shape) - axis - 1)))
    op.ledger.kind(_last_axis_labels(x), "embedding")
    return settle(op, facets)


def _last_axis_labels(x: Tensor) -> np.ndarray:
    found = [f.ravel() for f in x.facing(len(x.shape) - 1)] if x.shape else []
    return np.concatenate(found) if found and len(x.shape) == 2 else np.empty(0, np.int64)


@mend("", "Gather")
def gather_indices(change: Change) -> Mended | None:
    """Indices point to where their places are now; those of deleted places go."""
    axis = change.attr("axis", 0) % len(change.before[0])
    indices = change.value(1)
    if change.before[0][axis] == change.after[0][axis] or indices is None:
        return None
    return Mended({1: _moved(indices, change.kept(change.node.inputs[0], axis))})


def _moved(indices: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Indices of places that are kept, by their new numbers."""
    at = indices.astype(np.int64) % len(kept)
    return take((np.cumsum(kept) - 1)[at], kept[at])


@rule("", "GatherND")
def gather_nd(op: Op) -> Facets:
    """Constant indices into the first axis pick labels; axes that computed indices point into stay as they are."""
    data, indices = op.inputs[0], op.inputs[1]
    batch, depth = op.attr("batch_dims", 0), indices.shape[-1]
    inner = range(batch, batch + depth)
    middle = len(indices.shape) - 1 - batch
    tail = data.shape[batch + depth :]
    op.pin([f for f in indices.facets if f.shape[-1] > 1], "reads it as places")
    picked, rest = [], []
    for found in data.facets:
        if not set(spans(found)) & set(inner):
            rest.append(found.reshape(found.shape[:batch] + (1,) * middle + found.shape[batch + depth :]))
        elif indices.data is None or depth != 1 or batch:
            op.pin([found], COMPUTED)
        else:
            picked.append(np.take(found, indices.data[..., 0], 0))
    placed = [f.reshape(f.shape[:-1] + (1,) * len(tail)) for f in indices.facets if f.shape[-1] == 1]
    views = [
        data.view(data.shape[:batch] + (1,) * middle + tail, tuple(rest)),
        indices.view(indices.shape[:-1] + (1,) * len(tail), tuple(placed)),
    ]
    return settle(op, [*picked, *op.meet(views, _first)])


@mend("", "GatherND")
def gather_nd_indices(change: Change) -> Mended | None:
    """As for Gather, where the indices are numbers of places on the first axis."""
    indices = change.value(1)
    if indices is None or indices.shape[-1] != 1 or change.attr("batch_dims", 0):
        return None
    if change.before[0][0] == change.after[0][0]:
        return None
    return Mended({1: _moved(indices[..., 0], change.kept(change.node.inputs[0], 0))[..., None]})


@rule("", "GatherElements")
def gather_elements(op: Op) -> Facets:
    """out[i][j] = x[index[i][j]][j]: labels along the other axes are those of x and of the indices.

    Constant indices are cut like the output, and pick labels along the axis that they point into.
    """
    x, indices = op.inputs[0], op.inputs[1]
    axis = op.axis(0)
    rest = _common(op, x, indices.shape, axis, "reads a part of the axis")
    along = [f for f in rest if f.shape[axis] > 1]
    across = tuple(f for f in rest if f.shape[axis] == 1)
    if indices.data is None:
        op.pin(along, COMPUTED)
        shape = tuple(1 if a == axis else size for a, size in enumerate(indices.shape))
        return op.meet([x.view(shape, across), indices], _first)
    op.pin([f for f in along if spans(f) != (axis,)], "picks places of each row")
    picked = [f.ravel()[indices.data] for f in along if spans(f) == (axis,)]
    return settle(op, [*picked, *across])


@mend("", "GatherElements")
def gather_elements_indices(change: Change) -> Mended | None:
    """The indices are cut like the output, and point to where their places are now."""
    axis = change.attr("axis", 0) % len(change.before[0])
    indices = change.value(1)
    mask = change.mask(change.node.outputs[0])
    kept = change.kept(change.node.inputs[0], axis)
    if indices is None or (mask.all() and kept.all()):
        return None
    at = indices.astype(np.int64) % len(kept)
    return Mended({1: take((np.cumsum(kept) - 1)[at], np.broadcast_to(mask, indices.shape))})


def _common(op: Op, x: Tensor, shape: tuple[int, ...], axis: int, reason: str) -> Facets:
    """The facets of `x` that speak of nothing but axes that are as long in `shape`; `axis` may differ."""
    same = {a for a, size in enumerate(shape) if a == axis or x.shape[a] == size}
    op.pin([f for f in x.facets if not set(spans(f)) <= same], reason)
    return tuple(f for f in x.facets if set(spans(f)) <= same)


def _first(held: Sequence[float | None]) -> float | None:
    return held[0]


def _both(held: Sequence[float | None]) -> float | None:
    return held[0] if len(set(held)) == 1 else None


def _written(op: Op) -> Combine:
    """What a deleted slice holds after values were written, or added, into it."""
    reduction = op.attr("reduction", "none")
    return _both if reduction == "none" else total if reduction == "add" else _zeros


def _zeros(held: Sequence[float | None]) -> float | None:
    return 0.0 if all(h == 0.0 for h in held) else None


@rule("", "ScatterElements", "Scatter")
def scatter_elements(op: Op) -> Facets:
    """y[index[i][j]][j] = update[i][j]: the axis that is written into stays, the other axes meet; indices are cut."""
    x, indices, updates = op.inputs
    axis = op.axis(0)
    views = []
    for tensor in (x, updates, *([] if indices.data is not None else [indices])):
        shared = _common(op, tensor, x.shape, axis, "writes a part of the axis")
        op.pin([f for f in shared if f.shape[axis] > 1], "writes to places on the axis")
        shape = tuple(1 if a == axis else size for a, size in enumerate(x.shape))
        views.append(tensor.view(shape, tuple(f for f in shared if f.shape[axis] == 1)))
    return op.meet(views, _written(op))


@mend("", "ScatterElements", "Scatter")
def scatter_elements_indices(change: Change) -> Mended | None:
    indices = change.value(1)
    mask = change.mask(change.node.inputs[2])
    if indices is None or mask.all():
        return None
    return Mended({1: take(indices, np.broadcast_to(mask, indices.shape))})


@rule("", "ScatterND", shape_inputs=(1,))
def scatter_nd(op: Op) -> Facets:
    """Writes slices to indices of the first axes; the axes behind them meet the updates'.

    Constant indices into the first axis alone tie what they name to the slices that are written there.
    """
    data, indices, updates = op.inputs
    depth = indices.shape[-1] if indices.shape else 0
    lead = len(updates.shape) - (len(data.shape) - depth)
    named = _written_places(op, depth, lead)
    into = [f for f in data.facets if any(a < depth for a in spans(f))]
    of = [f for f in updates.facets if any(a < lead for a in spans(f))]
    result = []
    if named is not None and all(spans(f) == (0,) for f in [*into, *of]) and len(of) <= 1:
        for found in into:
            if of:
                op.tie(found.ravel()[named], of[0].ravel())
            else:
                op.pin([found.ravel()[named]], "writes slices there that can't go")
            result.append(labelled(found, _written(op)([ghost_of(found), ghost_of(of[0]) if of else None])))
        of = [] if into else of
    else:
        op.pin(into, "is overwritten at places on the axis")
    op.pin(of, "is written to places on the axis")
    rest = tuple(f for f in data.facets if all(a >= depth for a in spans(f)))
    written = tuple(f for f in updates.facets if all(a >= lead for a in spans(f)))
    tail = data.shape[depth:]
    flat = [
        data.view(tail, tuple(f.reshape(f.shape[depth:]) for f in rest)),
        updates.view(tail, tuple(f.reshape(f.shape[lead:]) for f in written)),
    ]
    return (*result, *(f.reshape((1,) * depth + f.shape) for f in op.meet(flat, _written(op))))


def _written_places(op: Op, depth: int, lead: int) -> np.ndarray | None:
    """The places of the first axis that constant indices name, each once; None otherwise."""
    indices = op.inputs[1].data
    if indices is None or depth != 1 or lead != 1:
        return None
    places = indices.ravel() % op.inputs[0].shape[0]
    return places if len(np.unique(places)) == len(places) else None


@mend("", "ScatterND")
def scatter_nd_indices(change: Change) -> Mended | None:
    """Indices point to where their places are now; those of deleted places go, with their updates."""
    indices = change.value(1)
    if indices is None or change.before[0][0] == change.after[0][0]:
        return None
    return Mended({1: _moved(indices[:, 0], change.kept(change.node.inputs[0], 0))[:, None]})


@rule("", "Compress")
def compress(op: Op) -> Facets:
    """A constant condition picks labels; a computed one leaves the axis as it is."""
    x, condition = op.inputs
    flat, places = op.attr("axis") is None, (math.prod(x.shape),)
    axis = 0 if flat else op.axis()
    facets = []
    for found in x.facets:
        laid = unrolled(reshaped(found, x.shape, places), places) if flat else found
        if laid.shape[axis] == 1:
            facets.append(laid)
        elif condition.data is None:
            op.pin([laid], "picks places that are computed")
        else:
            alike(op, laid, axis)
            facets.append(laid.take(np.flatnonzero(condition.data), axis))
    return settle(op, facets)


@mend("", "Compress")
def compress_condition(change: Change) -> Mended | None:
    """The condition loses what its axis loses."""
    condition, axis = change.value(1), change.attr("axis")
    x = change.node.inputs[0]
    if condition is None:
        return None
    if axis is None:
        kept = np.broadcast_to(change.mask(x), change.before[0]).ravel()
    else:
        kept = change.kept(x, axis % len(change.before[0]))
    return None if kept.all() else Mended({1: condition[kept[: len(condition)]]})


@rule("", "ReverseSequence")
def reverse_sequence(op: Op) -> Facets:
    """Turns each sequence around as far as it goes; batch and time stay as they are."""
    x, lengths = op.inputs
    axes = {op.attr("batch_axis", 1), op.attr("time_axis", 0)}
    op.pin(lengths.facets, "reads it as lengths")
    op.pin([f for f in x.facets if set(spans(f)) & axes], "turns sequences around")
    return tuple(f for f in x.facets if not set(spans(f)) & axes)
