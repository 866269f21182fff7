"""Operators that read sizes, and operators that create tensors of given sizes."""

import numpy as np

from onnxprune.graph.rules.layout import corrections, filled
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, mend, rule


@rule("", "Shape", "Size")
def shape_of(op: Op) -> None:
    """Sizes, not data: axes that were measured stay where their sizes flow into anything but a shape."""


@rule("", "ConstantOfShape", shape_inputs=(0,), reshapes=True)
def constant_of_shape(op: Op) -> Facets:
    """Labels of its own for every axis of a fixed size, since all places hold the same number."""
    held = op.node.attributes["value"].as_tensor().numpy() if "value" in op.node.attributes else np.zeros(1)
    return filled(op, float(held.ravel()[0]), range(len(op.outputs[0].shape)))


@mend("", "ConstantOfShape")
def constant_sizes(change: Change) -> Mended | None:
    """The sizes that are left."""
    target, wanted, out = change.value(0), change.outputs_after[0], change.node.outputs[0]
    if target is None:
        return None
    new = [-1 if change.dynamic(out, axis) else size for axis, size in enumerate(wanted)]
    places = corrections(target.tolist(), wanted, new)
    return Mended(places={0: places}) if places else None


@rule("", "EyeLike", "OneHot", "Range")
def creates(op: Op) -> None:
    """Creates a tensor whose places differ: its axes stay, and what it reads sizes or positions from."""
    op.pin([f for t in op.inputs if t is not None for f in t.facets], "reads values as sizes or positions")
