"""Operators that move data move labels, by the very same NumPy call.

Each mend says what the constants of such an operator become when the axes around it have shrunk.
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from onnxprune.graph.labels import PINNED, Facet, compress, ghost_of, reshape, reshape_blocks, spans
from onnxprune.graph.labels import facet as labelled
from onnxprune.graph.rules.elementwise import alike
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, mend, rule

#: A layer is no wider than this; longer axes that an operator fills stay as they are.
WIDEST = 2**16


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


@rule("", "Transpose", runs=True)
def transpose(op: Op) -> Facets:
    """Labels are transposed like the data."""
    order = op.attr("perm") or list(range(len(op.inputs[0].shape)))[::-1]
    return tuple(np.transpose(f, order) for f in op.inputs[0].facets)


@rule("", "Flatten", "Squeeze", "Unsqueeze", shape_inputs=(1,), runs=True)
@rule("", "Reshape", shape_inputs=(1,), reshapes=True, runs=True)
def reshape_like(op: Op) -> Facets:
    """Labels are reshaped like the data; a target that names sizes is written anew."""
    x, out = op.inputs[0], op.outputs[0]
    moved = [(f, reshape(f, x.shape, out.shape)) for f in x.facets]
    scattered = [f for f, new in moved if _is_scattered(op, f, new)]
    op.pin(scattered, "is reshaped across sizes that vary")
    moved = [(f, new) for f, new in moved if not any(f is s for s in scattered)]
    kept = []
    for found, new in moved:
        # Labels that stay anyway say nothing more when they are repeated along an axis that others speak about.
        if _places(new, out.shape) <= _places(found, x.shape) or not op.ledger.is_pinned(found):
            kept.append(new)
    return settle(op, kept)


def _places(facet: Facet, shape: tuple[int, ...]) -> int:
    """How many places the axes have together that a facet speaks about."""
    return math.prod(shape[axis] for axis in spans(facet))


def _is_scattered(op: Op, old: Facet, new: Facet) -> bool:
    """Whether it depends on a symbolic size where a label comes to: on one inside the labelled axis, which is left over
    for an axis outside one that is labelled now."""
    for before, after in reshape_blocks(op.inputs[0].shape, op.outputs[0].shape):
        labelled_axes = [a for a in before if old.shape[a] > 1]
        if not labelled_axes or len(after) < 2:
            continue
        inside = [a for a in before if a > labelled_axes[0] and op.is_dynamic_input(0, a)]
        outside = [a for a in after if op.is_dynamic(0, a)]
        if inside and outside and any(new.shape[a] > 1 and not op.is_dynamic(0, a) for a in after if a > outside[0]):
            return True
    return False


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
        return Mended(places={1: corrections(target.tolist(), after, new)})
    return Mended({1: np.array(new, np.int64)}, attributes={"allowzero": None})


def corrections(target: Sequence[int], wanted: Sequence[int], new: Sequence[int]) -> dict[int, int | Fraction]:
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
    """Labels are joined like the data; those of the other axes meet."""
    axis = op.axis(1, len(op.outputs[0].shape))
    tensors = [t for t in op.inputs if t is not None]
    along = op.outputs[0].shape[axis]
    across = [
        t.view((*t.shape[:axis], along, *t.shape[axis + 1 :]), tuple(f for f in t.facets if f.shape[axis] == 1))
        for t in tensors
    ]
    result = list(op.meet(across, alike))
    for number in range(max(len(t.facing(axis)) for t in tensors)):
        parts = [t.facing(axis)[number] if number < len(t.facing(axis)) else None for t in tensors]
        shape = np.broadcast_shapes(
            *[tuple(1 if a == axis else s for a, s in enumerate(p.shape)) for p in parts if p is not None]
        )
        pieces = []
        for tensor, part in zip(tensors, parts, strict=True):
            size = (*shape[:axis], tensor.shape[axis], *shape[axis + 1 :])
            pieces.append(np.broadcast_to(np.array(PINNED) if part is None else part, size))
        ghost = alike([ghost_of(p) for p in parts if p is not None])
        result.append(labelled(np.concatenate(pieces, axis), ghost))
    return settle(op, result)


@rule("", "Tile", shape_inputs=(1,), reshapes=True)
def tile(op: Op) -> Facets:
    """Labels are repeated like the data; axes that are made of a single place get labels of their own."""
    x, out = op.inputs[0], op.outputs[0]
    facets = []
    for found in x.facets:
        times = [o // i if f > 1 else 1 for f, i, o in zip(found.shape, x.shape, out.shape, strict=True)]
        if any(op.is_dynamic(0, axis) for axis in spans(found)):
            op.pin([found], "repeats the axis by a computed count")
        else:
            facets.append(labelled(np.tile(found, times), ghost_of(found)))
    return (*settle(op, facets), *created(op, x.shape))


@mend("", "Tile")
def tile_counts(change: Change) -> Mended | None:
    """Axes that were made of a single place are made as long as they are now."""
    repeats, out = change.value(1), change.node.outputs[0]
    if repeats is None:
        return None
    wanted = [o // i for i, o in zip(change.after[0], change.outputs_after[0], strict=True)]
    new = [-1 if change.dynamic(out, axis) else count for axis, count in enumerate(wanted)]
    places = corrections(repeats.tolist(), wanted, new)
    return Mended(places={1: places}) if places else None


@rule("", "Expand", shape_inputs=(1,), reshapes=True)
def expand(op: Op) -> Facets:
    """Labels go on; axes that are made of a single place get labels of their own, unless others are labelled."""
    x, out = op.inputs[0], op.outputs[0]
    lead = (1,) * (len(out.shape) - len(x.shape))
    return (*(f.reshape(lead + f.shape) for f in x.facets), *created(op, lead + x.shape))


def created(op: Op, before: tuple[int, ...]) -> Facets:
    """Labels for axes of a fixed size that an operator makes of a single place, all places being alike.

    Beside labels that are there already (heads of keys that are repeated) they would say that either may go.
    """
    x = op.inputs[0]
    if x.facets:
        return ()
    held = float(x.data.ravel()[0]) if x.data is not None and x.data.size == 1 else None
    return filled(op, held, [axis for axis, size in enumerate(before) if size == 1])


def filled(op: Op, held: float | None, axes: Iterable[int]) -> Facets:
    """Labels of their own for those of `axes` that have a fixed size and are no longer than a layer is wide."""
    shape = op.outputs[0].shape
    return tuple(
        labelled(op.ledger.fresh(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))]), held)
        for axis in axes
        if 1 < shape[axis] <= WIDEST and not op.is_dynamic(0, axis)
    )


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
        for position, value in corrections(target.tolist(), wanted[lead:], new).items()
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
