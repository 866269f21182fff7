"""Operators that read sizes, and operators that create tensors of given sizes."""

from onnxprune.graph.rules.registry import Op, rule


@rule("", "Shape", "Size")
def shape_of(op: Op) -> None:
    """Sizes, not data. Where they flow into anything but a shape, tracing pins the axes that were measured."""


@rule("", "ConstantOfShape", "Range", "OneHot", "RandomNormalLike", "RandomUniformLike", "EyeLike")
def creates(op: Op) -> None:
    """Creates a tensor whose axes can't shrink."""
    op.pin([f for t in op.inputs if t is not None for f in t.facets], "reads values as sizes or positions")
