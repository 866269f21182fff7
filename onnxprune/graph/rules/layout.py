"""Operators that move data move labels, by the very same NumPy call.

Each mend says what the constants of such an operator become when the axes around it have shrunk.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from onnxprune.graph.labels import PINNED, Facet, compress, ghost_of, reshape, spans
from onnxprune.graph.labels import facet as labelled
from onnxprune.graph.rules.reduction import only_zero
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, Tensor, mend, rule


def settle(op: Op, facets: Sequence[Facet]) -> Facets:
    """Compress facets after a move. One that speaks of no axis any more holds the tensor's last slice: it stays."""
    kept = []
    for facet in facets:
        facet = compress(facet)
        if spans(facet):
            kept.append(facet)
        else:
            op.pin([facet], "leaves a single slice")
    return tuple(kept)


@rule("", "Transpose")
def transpose(op: Op) -> Facets:
    order = op.attr("perm") or list(range(len(op.inputs[0].shape)))[::-1]
    return tuple(np.transpose(f, order) for f in op.inputs[0].facets)


@rule("", "Flatten", "Squeeze", "Unsqueeze", shape_inputs=(1,))
@rule("", "Reshape", shape_inputs=(1,), reshapes=True)
def reshape_like(op: Op) -> Facets:
    x, out = op.inputs[0], op.outputs[0]
    return settle(op, [reshape(f, x.shape, out.shape) for f in x.facets])


@mend("", "Squeeze")
def squeeze_axes(change: Change) -> Mended | None:
    """Without axes every size of 1 would go, one that shrank to 1 too: the axes are named."""
    if change.attr("axes") is not None or (len(change.node.inputs) > 1 and change.node.inputs[1] is not None):
        return None
    axes = [axis for axis, size in enumerate(change.before[0]) if size == 1]
    if change.version < 13:
        return Mended(attributes={"axes": axes})
    return Mended({1: np.array(axes, np.int64)})


@mend("", "Reshape")
def reshape_target(change: Change) -> Mended | None:
    """Sizes that changed are written anew; symbolic ones become 0 (same as the input's), -1, or stay computed."""
    before, after = change.outputs_before[0], change.outputs_after[0]
    target = change.value(1)
    if target is None:
        return None
    if _resolves_to(target.tolist(), change.after[0], after, change.attr("allowzero", 0)):
        return None
    new = []
    x_before = change.before[0]
    for axis, size in enumerate(after):
        if change.dynamic(change.node.outputs[0], axis):
            same = axis < len(x_before) and x_before[axis] == before[axis]
            new.append(0 if same and change.dynamic(change.node.inputs[0], axis) else -1)
        else:
            new.append(size)
    if new.count(-1) > 1:
        return Mended(places={1: _corrections(target.tolist(), after, new)})
    return Mended({1: np.array(new, np.int64)}, attributes={"allowzero": None})


def _corrections(target: Sequence[int], wanted: Sequence[int], new: Sequence[int]) -> dict[int, int | Fraction]:
    """Elements of a computed target that came out wrong: {position: size}, or {position: factor} for symbolic ones."""
    return {
        axis: Fraction(size, found) if told == -1 else size
        for axis, (found, size, told) in enumerate(zip(target, wanted, new, strict=True))
        if found not in (-1, size)
    }


def _resolves_to(target: list[int], shape: tuple[int, ...], wanted: tuple[int, ...], allow_zero: int) -> bool:
    sizes = [shape[i] if t == 0 and not allow_zero else t for i, t in enumerate(target)]
    if -1 in sizes:
        rest = int(np.prod([s for s in sizes if s != -1]))
        total = int(np.prod(shape))
        if rest == 0 or total % rest:
            return False
        sizes[sizes.index(-1)] = total // rest
    return tuple(sizes) == tuple(wanted)


@rule("", "Concat")
def concat(op: Op) -> Facets:
    axis = op.axis(1, len(op.outputs[0].shape))
    tensors = [t for t in op.inputs if t is not None]
    along = op.outputs[0].shape[axis]
    across = [
        t.view((*t.shape[:axis], along, *t.shape[axis + 1 :]), tuple(f for f in t.facets if f.shape[axis] == 1))
        for t in tensors
    ]
    result = list(op.meet(across))
    for number in range(max(len(t.facing(axis)) for t in tensors)):
        parts = [t.facing(axis)[number] if number < len(t.facing(axis)) else None for t in tensors]
        shape = np.broadcast_shapes(
            *[tuple(1 if a == axis else s for a, s in enumerate(p.shape)) for p in parts if p is not None]
        )
        pieces = []
        for tensor, part in zip(tensors, parts, strict=True):
            size = (*shape[:axis], tensor.shape[axis], *shape[axis + 1 :])
            pieces.append(np.broadcast_to(np.array(PINNED) if part is None else part, size))
        ghosts = {ghost_of(p) for p in parts if p is not None}
        result.append(labelled(np.concatenate(pieces, axis), ghosts.pop() if len(ghosts) == 1 else None))
    return settle(op, result)


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


@rule("", "Pad", shape_inputs=(1, 3))
def pad(op: Op) -> Facets | None:
    x = op.inputs[0]
    rank = len(x.shape)
    pads = np.zeros((2, rank), np.int64)
    given = op.attr("pads") or op.attr("paddings")
    axes = list(range(rank))
    if given is None:
        if op.inputs[1].data is None or (op.input(3) is not None and op.inputs[3].data is None):
            op.pin(x.facets, "pads by computed amounts")
            return None
        given = op.inputs[1].data
        axes = axes if op.input(3) is None else [int(a) % rank for a in op.inputs[3].data]
    pads[:, axes] = np.asarray(given).reshape(2, -1)
    mode = op.attr("mode", "constant")
    facets = []
    for facet in x.facets:
        padded = [a for a in spans(facet) if pads[:, a].any()]
        if padded and (mode != "constant" or (pads[:, padded] < 0).any()):
            op.pin([facet], "pads the axis with what it holds")
            continue
        widths = [tuple(pads[:, a]) if a in padded else (0, 0) for a in range(rank)]
        # Constant padding along other axes puts its own value where a deleted slice held the ghost.
        ghost = ghost_of(facet) if mode != "constant" or _pad_value(op) == ghost_of(facet) else None
        facets.append(labelled(np.pad(facet, widths, constant_values=PINNED), ghost))
    return settle(op, facets)


def _pad_value(op: Op) -> float | None:
    if op.version < 11:
        return float(op.attr("value", 0.0))
    value = op.input(2)
    if value is None:
        return 0.0
    return None if value.data is None else float(value.data.ravel()[0])


@rule("", "Tile", shape_inputs=(1,))
def tile(op: Op) -> Facets | None:
    x = op.inputs[0]
    repeats = op.inputs[1].data
    if repeats is None:
        op.pin(x.facets, "repeats by computed counts")
        return None
    counts = [int(r) for r in repeats]
    times = [[c if s > 1 else 1 for c, s in zip(counts, f.shape, strict=True)] for f in x.facets]
    return settle(op, [labelled(np.tile(f, t), ghost_of(f)) for f, t in zip(x.facets, times, strict=True)])


@rule("", "Expand", shape_inputs=(1,), reshapes=True)
def expand(op: Op) -> Facets:
    """Labelled axes keep their size; the axes that Expand creates can't shrink."""
    x, out = op.inputs[0], op.outputs[0]
    lead = (1,) * (len(out.shape) - len(x.shape))
    return tuple(f.reshape(lead + f.shape) for f in x.facets)


@mend("", "Expand")
def expand_target(change: Change) -> Mended | None:
    """A size of 1 leaves an axis as it is: every axis that shrank asks for 1. One that Expand makes keeps its size."""
    after, wanted, target = change.after[0], change.outputs_after[0], change.value(1)
    if target is None:
        return None
    lead = len(wanted) - len(target)
    new = [-1 if change.dynamic(change.node.outputs[0], lead + a) else wanted[lead + a] for a in range(len(target))]
    own = (1,) * (len(wanted) - len(after)) + tuple(after)
    places = {
        position: value if own[lead + position] == 1 else 1
        for position, value in _corrections(target.tolist(), wanted[lead:], new).items()
        if target[position] != 1
    }
    return Mended(places={1: places}) if places else None


@rule("", "DepthToSpace")
def depth_to_space(op: Op) -> Facets:
    """x[N,b*b*C,H,W] -> y[N,C,b*H,b*W]; each output channel needs all its b*b inputs, which are tied."""
    c = op.inputs[0].shape[1]
    b = op.attr("blocksize")
    op.pin([f for f in op.inputs[0].facets if spans(f) != (1,)], "moves blocks between axes")
    facets = []
    for facet in op.inputs[0].facets:
        if spans(facet) == (1,):
            dcr = op.attr("mode", "DCR") == "DCR"
            grid = facet.reshape((b * b, c // (b * b)) if dcr else (c // (b * b), b * b))
            channels = grid if dcr else grid.T
            op.tie(channels, channels[:1])
            facets.append(channels[0].reshape(1, -1, 1, 1))
    return settle(op, facets)


@rule("", "SpaceToDepth")
def space_to_depth(op: Op) -> Facets:
    """x[N,C,b*H,b*W] -> y[N,b*b*C,H,W]: each input channel appears b*b times."""
    b = op.attr("blocksize")
    op.pin([f for f in op.inputs[0].facets if spans(f) != (1,)], "moves blocks between axes")
    facets = [f for f in op.inputs[0].facets if spans(f) == (1,)]
    return settle(op, [labelled(np.tile(f, (1, b * b, 1, 1)), ghost_of(f)) for f in facets])


@rule("", "Resize", shape_inputs=(1, 2, 3), adapts=True)
@rule("", "Upsample", shape_inputs=(1,))
def resize(op: Op) -> Facets:
    x, out = op.inputs[0], op.outputs[0]
    sizes = op.input(3)
    if sizes is not None and sizes.shape != (0,) and (sizes.data is None or op.attr("axes") is not None):
        op.pin(x.facets, "resizes to computed sizes, or to sizes of chosen axes")
        return ()
    axes = [a for a in range(len(x.shape)) if x.shape[a] != out.shape[a] or op.is_dynamic_input(0, a)]
    return only_zero(op.collapse(x.facets, axes, "interpolates along the axis"))


@mend("", "Resize")
def resize_sizes(change: Change) -> Mended | None:
    """Target sizes name every axis, the channels' too."""
    if change.version < 11 or len(change.node.inputs) < 4 or change.attr("axes") is not None:
        return None
    sizes = change.value(3)
    if sizes is None or tuple(sizes) == tuple(change.outputs_after[0]):
        return None
    if any(change.dynamic(change.node.outputs[0], a) for a in range(len(sizes))):
        return None
    return Mended({3: np.array(change.outputs_after[0], np.int64)})


@rule("", "Shape", "Size")
def shape_of(op: Op) -> None:
    """Sizes, not data. Where they flow into anything but a shape, tracing pins the axes that were measured."""


@rule("", "ConstantOfShape", "Range", "OneHot", "RandomNormalLike", "RandomUniformLike", "EyeLike")
def creates(op: Op) -> None:
    """Creates a tensor whose axes can't shrink."""
    op.pin([f for t in op.inputs if t is not None for f in t.facets], "reads values as sizes or positions")


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


@rule("", "Col2Im", shape_inputs=(1, 2))
def col2im(op: Op) -> Facets:
    """x[N,C*k,L] -> y[N,C,*S]: each output channel needs all the k places of its block, which are tied."""
    x, out = op.inputs[0], op.outputs[0]
    op.pin([f for f in x.facets if spans(f) != (1,)], "adds up blocks")
    facets = []
    for found in x.facets:
        if spans(found) == (1,):
            grid = found.reshape(out.shape[1], -1)
            op.tie(grid, grid[:, :1])
            facets.append(grid[:, 0].reshape((1, -1) + (1,) * (len(out.shape) - 2)))
    return settle(op, facets)
