"""Operators that interpolate between the positions of an image; channels stay apart."""

from collections.abc import Callable, Sequence

from onnxprune.graph.labels import spans
from onnxprune.graph.rules.contraction import add_bias, contract
from onnxprune.graph.rules.layout import corrections
from onnxprune.graph.rules.reduction import only_zero
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, mend, rule

#: Ways to map coordinates under which an axis that keeps its size is copied place by place, whatever the mode.
COPYING = frozenset(("align_corners", "asymmetric", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"))


@rule("", "Resize", shape_inputs=(3,), reshapes=True)
@rule("", "Upsample")
def resize(op: Op) -> Facets:
    """Axes that are copied place by place (scale 1) keep their labels; sizes that name them are written anew."""
    x = op.inputs[0]
    copied = _copied(op)
    resized = [a for a in range(len(x.shape)) if not copied(a)]
    return only_zero(op.collapse(x.facets, resized, "interpolates along the axis"))


def _copied(op: Op) -> Callable[[int], bool]:
    """Whether an axis is copied place by place."""
    x, out = op.inputs[0], op.outputs[0]
    rank = len(x.shape)
    axes = [a % rank for a in op.attr("axes") or range(rank)]
    scales, sizes = _scales(op), op.input(3)
    told = sizes is not None and sizes.shape != (0,) and sizes.elements
    if op.node.op_type == "Upsample" or op.version < 11:
        copies = True
    else:
        mapping = op.attr("coordinate_transformation_mode", "half_pixel")
        floored = op.attr("mode", "nearest") == "nearest" and "floor" in op.attr("nearest_mode", "round_prefer_floor")
        copies = mapping in COPYING or (mapping == "tf_half_pixel_for_nn" and floored)
        copies = copies and op.attr("keep_aspect_ratio_policy", "stretch") == "stretch"

    def is_copied(axis: int) -> bool:
        if axis not in axes:
            return True
        if not copies or x.shape[axis] != out.shape[axis] or op.is_dynamic_input(0, axis) or op.is_dynamic(0, axis):
            return False
        return bool(told) or (scales is not None and scales[axes.index(axis)] == 1.0)

    return is_copied


def _scales(op: Op) -> Sequence[float] | None:
    if op.attr("scales") is not None:
        return op.attr("scales")
    found = op.constant(1 if op.node.op_type == "Upsample" or op.version < 11 else 2)
    return None if found is None or not found.size else found.tolist()


@mend("", "Resize")
def resize_sizes(change: Change) -> Mended | None:
    """Target sizes name every axis, the channels' too."""
    sizes = change.value(3) if change.version >= 11 else None
    if sizes is None or not len(sizes):
        return None
    after, out = change.outputs_after[0], change.node.outputs[0]
    axes = [a % len(after) for a in change.attr("axes") or range(len(after))]
    told = [-1 if change.dynamic(out, a) else after[a] for a in axes]
    places = corrections(sizes.tolist(), [after[a] for a in axes], told)
    return Mended(places={3: places}) if places else None


@rule("", "GridSample")
def grid_sample(op: Op) -> Facets:
    """x[N,C,*S], grid[N,*S',r] -> y[N,C,*S']: each channel by itself; what the grid is computed from stays."""
    op.pin(op.inputs[1].facets, "reads it as coordinates")
    return only_zero(_channels(op, "samples positions"))


@rule("", "MaxRoiPool", "RoiAlign")
def regions(op: Op) -> Facets:
    """x[N,C,H,W], regions[R,4] -> y[R,C,h,w]: each channel by itself; what regions are computed from stays."""
    op.pin([f for t in op.inputs[1:] for f in t.facets], "reads it as regions")
    return only_zero(_channels(op, "pools regions"))


def _channels(op: Op, reason: str) -> Facets:
    """The facets of the channels; those of the batch and the positions are pinned."""
    facets = op.inputs[0].facets
    op.pin([f for f in facets if spans(f) != (1,)], reason)
    return tuple(f for f in facets if spans(f) == (1,))


@rule("", "CenterCropPad", shape_inputs=(1,))
def center_crop_pad(op: Op) -> Facets:
    """Crops or pads axes around their middle, which stay; the others go on."""
    rank = len(op.inputs[0].shape)
    axes = {a % rank for a in op.attr("axes") or range(rank)}
    op.pin([f for f in op.inputs[0].facets if set(spans(f)) & axes], "crops or pads around the middle of the axis")
    return only_zero(tuple(f for f in op.inputs[0].facets if not set(spans(f)) & axes))


@rule("", "DeformConv")
def deformable_convolution(op: Op) -> Facets:
    """A convolution that reads displaced positions: as Conv; with several groups or groups of offsets it pins."""
    x, w, offset = op.inputs[:3]
    mask = op.input(4)
    op.pin([*offset.facets, *(mask.facets if mask is not None else ())], "reads it as displacements")
    if op.attr("group", 1) != 1 or op.attr("offset_group", 1) != 1:
        op.pin([*x.facets, *w.facets, *(f for t in op.inputs[3:4] if t for f in t.facets)], "computes groups")
        return ()
    views = []
    for tensor in (x, w):
        facets = op.collapse(tensor.facets, range(2, len(tensor.shape)), "displaces positions")
        views.append(tensor.view(tensor.shape, facets))
    return add_bias(op, contract(op, [(views[0], "ncuv"), (views[1], "ocef")], "nokl"), op.input(3))
