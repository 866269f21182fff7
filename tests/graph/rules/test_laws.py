"""Laws about the registry."""

import runpy
from collections import defaultdict
from functools import cache
from pathlib import Path

import onnx

from onnxprune.graph.rules import MENDS, REASONS, RULES
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
from tests.graph.rules.cases import OLDEST

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
#: Forms that neither ONNX Runtime nor onnx's reference evaluator runs.
NOWHERE = {("GlobalLpPool", 22), ("MaxRoiPool", 22)}
CASES = [case for table in TABLES for case in table.CASES]


@cache
def schemas() -> dict[str, list[onnx.defs.OpSchema]]:
    """ONNX's own operators: every definition in use since the oldest opset."""
    found = defaultdict(list)
    for schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda s: s.since_version):
        if not schema.domain:
            if schema.since_version <= OLDEST:
                found[schema.name].clear()
            found[schema.name].append(schema)
    return found


def test_every_form_of_every_rule_has_cases():
    tried = defaultdict(set)
    for case in CASES:
        for operator in case.operators & schemas().keys():
            for opset in (case.opset, *case.opsets):
                tried[operator].add(max(s.since_version for s in schemas()[operator] if s.since_version <= opset))
    forms = {
        name: {s.since_version for s in found if not s.deprecated and (name, s.since_version) not in NOWHERE}
        for name, found in schemas().items()
    }
    missing = {name: sorted(forms[name] - tried[name]) for domain, name in sorted(RULES) if not domain}
    assert {name: versions for name, versions in missing.items() if versions} == {}


def test_every_operator_has_a_rule_or_a_reason():
    known = {("", name) for name in schemas()}
    ruled = {key for key in RULES if not key[0]}
    reasoned = {key for key in REASONS if not key[0]}
    assert ruled | reasoned == known
    assert not ruled & reasoned
    others = {s.domain for s in onnx.defs.get_all_schemas_with_history() if s.domain}
    assert others == {domain for domain, name in REASONS if name == "*"}
    assert all(key in RULES for key in MENDS)


def test_every_rule_says_what_it_does():
    assert all(function.__doc__ for function in RULES.values())


def test_the_page_of_operators_is_of_this_registry():
    path = Path(__file__).parents[3] / "scripts" / "operators.py"
    page = runpy.run_path(str(path))
    assert page["DOCUMENT"].read_text() == page["document"](), "run python scripts/operators.py"
