"""The report's sections that say why the times are what they are, and where everything ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.deploy.evidence_section import setting, which
from onnxprune.deploy.words import DASH, plural, time_cell

if TYPE_CHECKING:
    from onnxprune.runtime.diagnosis import Diagnosis, OperatorTime
    from onnxprune.runtime.latency import LatencyComparison
    from onnxprune.runtime.results import AccuracyRow

SHOWN_OPERATORS = 12


def speed_section(
    findings: Sequence[str], diagnoses: Sequence[Diagnosis] = (), operators: Sequence[OperatorTime] = ()
) -> dict[str, Any] | None:
    """What the optimised graphs say, and the operators whose time changed most; None where nothing is known."""
    if not findings and not diagnoses and not operators:
        return None
    shown = operators[:SHOWN_OPERATORS]
    return {
        "findings": list(findings),
        "layout": _layout(*diagnoses) if len(diagnoses) == 2 else [],
        "operators": [
            (row.name, row.operator, time_cell(row.reference_ms), time_cell(row.candidate_ms)) for row in shown
        ],
        "left_out": plural(len(operators) - len(shown), "more operator") if len(operators) > len(shown) else "",
    }


def _layout(before: Diagnosis, after: Diagnosis) -> list[tuple[str, str, str]]:
    rows = (
        ("convolutions", "convolutions"),
        ("of these in the blocked layout", "blocked"),
        ("nodes that change between layouts", "reorders"),
        ("weights below the smallest normal number", "subnormal_weights"),
    )
    return [(words, f"{getattr(before, name):,}", f"{getattr(after, name):,}") for words, name in rows]


def proof_section(comparisons: Iterable[LatencyComparison], accuracy: Iterable[AccuracyRow]) -> list[tuple[str, ...]]:
    """One row for each model in each setting: where its nodes ran, by ONNX Runtime's own record."""
    rows = []
    for comparison in comparisons:
        for arm in comparison.arms:
            rows.append(
                (
                    f"latency, {setting(comparison)}",
                    which(arm.name),
                    _nodes(arm.nodes_per_provider),
                    DASH if arm.copies is None else str(arm.copies),
                    ", ".join(file.rsplit("/", 1)[-1] for file in arm.libraries) or DASH,
                    comparison.device or DASH,
                    ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in comparison.settings.items())
                    or DASH,
                    _loads(comparison),
                )
            )
    for row in accuracy:
        for name, nodes in ({} if row.condition else row.nodes_per_provider).items():
            rows.append((f"{row.metric}, {row.provider.upper()}", which(name), _nodes(nodes), *[DASH] * 5))
    return rows


def _nodes(nodes: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} on {name.removesuffix('ExecutionProvider')}" for name, count in nodes.items())


def _loads(comparison: LatencyComparison) -> str:
    loads = (comparison.load_before, comparison.load_after)
    return DASH if None in loads else f"{loads[0]:g}, {loads[1]:g}"
