"""The report's sections about what was measured: latency, accuracy, equivalence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.deploy.charts import Interval, interval_chart
from onnxprune.deploy.words import DASH, count_cell, plural, signed, time_cell

if TYPE_CHECKING:
    from onnxprune.runtime.equivalence import Equivalence
    from onnxprune.runtime.latency import Arm, LatencyComparison, Ratio
    from onnxprune.runtime.results import AccuracyRow


_NAMES = {"reference": "before", "candidate": "after"}


@dataclass(frozen=True)
class Refusal:
    """A row without a measurement: what was asked, and the sentence that says why there is none."""

    what: str
    reason: str
    verdict: str = "refused"


def latency_section(comparisons: Sequence[LatencyComparison]) -> dict[str, Any] | None:
    """Ratios as a chart, times as a table, refusals as sentences; None where nothing was asked."""
    if not comparisons:
        return None
    several = any(len(comparison.ratios) > 1 for comparison in comparisons)
    intervals = [
        Interval(
            setting(comparison) + (f", {ratio.name}" if several else ""),
            ratio.ratio,
            ratio.low,
            ratio.high,
            ratio.verdict,
            f"{ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {ratio.verdict}",
        )
        for comparison, _, ratio in measured_ratios(comparisons)
    ]
    refusals = [Refusal(setting(comparison), comparison.refused) for comparison in comparisons if comparison.refused]
    refusals += [
        Refusal(f"{setting(c)}, {name}", why, "failed") for c in comparisons for name, why in c.failures.items()
    ]
    return {
        "chart": interval_chart(intervals, "Latency ratio", 1.0, "ratio", start=0.0) if intervals else None,
        "rows": [_arm_row(comparison, arm) for comparison in comparisons for arm in comparison.arms],
        "refusals": refusals,
    }


def measured_ratios(comparisons: Iterable[LatencyComparison]) -> list[tuple[LatencyComparison, Arm, Ratio]]:
    """(comparison, the arm that the ratio is about, ratio) of everything that was measured."""
    found = []
    for comparison in comparisons:
        arms = {arm.name: arm for arm in comparison.arms}
        found += [(comparison, arms[ratio.name], ratio) for ratio in comparison.ratios]
    return found


def setting(comparison: LatencyComparison) -> str:
    """Provider, batch and threads: "CPU, batch 1, 1 thread"."""
    words = f"{comparison.provider.upper()}, batch {comparison.batch}"
    if comparison.provider != "cpu":
        return words
    return f"{words}, {'all threads' if comparison.threads == 0 else plural(comparison.threads, 'thread')}"


def which(name: str) -> str:
    """A model's name in tables: reference and candidate are called before and after."""
    return _NAMES.get(name, name)


def _arm_row(comparison: LatencyComparison, arm: Arm) -> tuple[str, ...]:
    times = (arm.median_ms, arm.p90_ms, arm.p99_ms, arm.first_run_ms, arm.session_ms)
    return (
        setting(comparison) if arm is comparison.arms[0] else "",
        which(arm.name),
        *map(time_cell, times),
        DASH if arm.peak_memory_mb is None else f"{arm.peak_memory_mb:,.0f} MB",
        f"{arm.samples:,}",
    )


def accuracy_section(rows: Sequence[AccuracyRow]) -> dict[str, Any] | None:
    """Differences as a chart and a table, refusals as sentences; None where no data was given."""
    if not rows:
        return None
    measured = [row for row in rows if row.difference is not None]
    intervals = [
        Interval(
            _name(row),
            row.difference,
            row.low,
            row.high,
            row.verdict,
            f"{difference_in_words(row, row.difference)} ({_bounds(row)}), {row.verdict}",
            [] if row.margin is None else [(_limit(row), f"margin {difference_in_words(row, _limit(row))}")],
        )
        for row in measured
    ]
    kind = "points" if all(is_share(row) for row in measured) else "number"
    return {
        "chart": interval_chart(intervals, "Accuracy difference", 0.0, kind) if intervals else None,
        "axis": "percentage points" if kind == "points" else "units of the metric",
        "has_margin": any(row.margin is not None for row in measured),
        "rows": [_accuracy_cells(row) for row in measured],
        "refusals": [Refusal(_name(row), row.reason, row.verdict) for row in rows if row.difference is None],
    }


def is_share(row: AccuracyRow) -> bool:
    """Whether every sample is either right or wrong, so that scores are percentages and differences points."""
    return row.share or row.only_reference_right is not None


def score_in_words(row: AccuracyRow, score: float) -> str:
    """ "98.10%", or the number where the metric isn't a share."""
    return f"{score:.2%}" if is_share(row) else f"{score:.4g}"


def difference_in_words(row: AccuracyRow, difference: float) -> str:
    """ "-0.20 points", or the number where the metric isn't a share."""
    if not is_share(row):
        return signed(f"{difference:+.4g}")
    points = round(difference * 100, 2)
    return signed(f"{points:+.2f} points") if points else "±0 points"


def _limit(row: AccuracyRow) -> float:
    """The difference that is just small enough: below 0, above it where a lower score is the better one."""
    return -row.margin if row.higher_is_better else row.margin


def _name(row: AccuracyRow) -> str:
    return row.condition or f"{row.provider.upper()}, {row.metric}"


def _bounds(row: AccuracyRow) -> str:
    scale = 100 if is_share(row) else 1
    form = "+.2f" if is_share(row) else "+.3g"
    return signed(f"{row.low * scale:{form}} to {row.high * scale:{form}}")


def _accuracy_cells(row: AccuracyRow) -> tuple[str, ...]:
    return (
        _name(row),
        f"{row.samples:,}",
        score_in_words(row, row.reference),
        score_in_words(row, row.candidate),
        difference_in_words(row, row.difference),
        _bounds(row),
        DASH if row.margin is None else difference_in_words(row, _limit(row)),
        count_cell(row.only_reference_right),
        count_cell(row.only_candidate_right),
        row.verdict,
    )


def equivalence_section(found: Equivalence | None) -> dict[str, Any] | None:
    """What the proof of equivalence found; None where there is none."""
    if found is None:
        return None
    if found.passed:
        summary = "The shipped graph and the network that it stands for compute the same function, up to rounding."
    else:
        summary = f"The shipped graph doesn't compute what the network that it stands for computes: see {found.worst}."
    return {
        "verdict": "passed" if found.passed else "failed",
        "summary": summary,
        "facts": [
            *_error_facts(found),
            ("largest error", f"{found.max_error:.2e}"),
            ("signal to noise", "nothing differs" if found.snr_db is None else f"{found.snr_db:.0f} dB"),
            ("cosine similarity", f"{found.cosine:.9f}"),
            ("same decision", f"{found.agreement:.2%}"),
            ("arrays compared", f"{found.comparisons:,}"),
        ],
    }


def _error_facts(found: Equivalence) -> list[tuple[str, str]]:
    name, limit = "largest error, over the output's range", f"(at most {found.tolerance:.2g})"
    if found.error_in_float64 is None:
        return [(name, f"{found.error_over_range:.2e} {limit}")]
    return [
        (f"{name}, in float64", f"{found.error_in_float64:.2e} {limit}"),
        ("in float32", f"{found.error_over_range:.2e}"),
        ("how far rounding moves the original itself in float32", f"{found.rounding:.2e}"),
    ]
