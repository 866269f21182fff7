"""Laws about the registry."""

from onnxprune.graph.rules import RULES
from tests.graph.rules import (
    test_attention,
    test_contraction,
    test_creation,
    test_elementwise,
    test_indexing,
    test_layout,
    test_normalization,
    test_reduction,
    test_sampling,
    test_slicing,
)

TABLES = (
    test_attention,
    test_contraction,
    test_creation,
    test_elementwise,
    test_indexing,
    test_layout,
    test_normalization,
    test_reduction,
    test_sampling,
    test_slicing,
)
CASES = [case for table in TABLES for case in table.CASES]


def test_every_rule_has_cases():
    covered = {operator for case in CASES for operator in case.operators}
    without = {
        "Swish",
        "Size",
        "ConstantOfShape",
        "Range",
        "OneHot",
        "RandomNormalLike",
        "RandomUniformLike",
        "EyeLike",
    }
    assert {operator for domain, operator in RULES if not domain} - covered == without
