"""Operators that move data move labels, by the very same NumPy call.

Each mend says what the constants of such an operator become when the axes around it have shrunk.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from onnxprune.graph.labels import PINNED, Facet, compress, ghost_of, reshape, spans
from onnxprune.graph.labels import facet as labelled
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, mend, rule


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
    moved = [(f, reshape(f, x.shape, out.shape)) for f in x.facets]
    # Labels that stay anyway say nothing more when they are repeated along an axis that others speak about.
    return settle(op, [new for old, new in moved if new.size <= old.size or not op.ledger.is_pinned(old)])


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
    after = change.outputs_after[0]
    target = change.value(1)
    if target is None:
        return None
    if _resolves_to(target.tolist(), change.after[0], after, change.attr("allowzero", 0)):
        return None
    new = []
    for axis, size in enumerate(after):
        if change.dynamic(change.node.outputs[0], axis):
            new.append(0 if change.is_same_size(change.node.inputs[0], change.node.outputs[0], axis) else -1)
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
