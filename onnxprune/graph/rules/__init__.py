"""One operator, one small rule. Importing this package registers them all."""

from onnxprune.graph.rules import (
    contraction,
    creation,
    elementwise,
    indexing,
    layout,
    normalization,
    reduction,
    sampling,
    slicing,
)
from onnxprune.graph.rules.registry import MENDS, RULES, SHAPE_INPUTS, Change, Mended, Op, Tensor, mend, rule

__all__ = [
    "MENDS",
    "RULES",
    "SHAPE_INPUTS",
    "Change",
    "Mended",
    "Op",
    "Tensor",
    "contraction",
    "creation",
    "elementwise",
    "indexing",
    "layout",
    "mend",
    "normalization",
    "reduction",
    "rule",
    "sampling",
    "slicing",
]
