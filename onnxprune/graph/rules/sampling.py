"""Operators that interpolate between the positions of an image; channels stay apart."""

import numpy as np

from onnxprune.graph.rules.reduction import only_zero
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, mend, rule


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
