"""From what was measured and what was asked to verdicts, each with a sentence where it isn't plain."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from onnxprune.runtime.equivalence import Equivalence
from onnxprune.runtime.latency import LatencyComparison
from onnxprune.runtime.results import (
    AccuracyRow,
    Gate,
    GateVerdict,
    describe_setting,
    format_difference,
    in_points,
    is_share,
)
from onnxprune.runtime.statistics import samples_needed


def decide_gates(
    equivalence: Equivalence | None,
    accuracy: Iterable[AccuracyRow],
    latency: Iterable[LatencyComparison],
    *,
    asked: Collection[str],
    min_speedup: float | None,
) -> tuple[Gate, ...]:
    """One gate for each thing asked for. Providers that aren't in `asked` get none: they never change a verdict."""
    gates = [] if equivalence is None else [equivalence_gate(equivalence)]
    refusals: dict[str, str] = {}
    for row in accuracy:
        if row.provider not in asked:
            continue
        if row.verdict == "refused":
            refusals.setdefault(row.provider, row.reason)
        elif row.verdict != "measured":
            gates.append(accuracy_gate(row))
    for comparison in latency:
        if comparison.provider not in asked:
            continue
        if comparison.refused:
            refusals.setdefault(comparison.provider, comparison.refused)
        elif min_speedup is not None:
            gates.append(speedup_gate(comparison, min_speedup))
    gates += [Gate(f"provider {name}", "a measurement", "none", "refused", why) for name, why in refusals.items()]
    return tuple(gates)


def equivalence_gate(found: Equivalence) -> Gate:
    """Is the error within the tolerance?"""
    asked = f"error of at most {found.tolerance:.2g} of the range"
    measured = f"{found.error_over_range:.1e}"
    return Gate(
        "equivalence", asked, measured, "passed" if found.passed else "failed", "" if found.passed else found.worst
    )


def accuracy_gate(row: AccuracyRow) -> Gate:
    """Is the candidate no worse than the margin allows? Takes a row that has a margin and was measured."""
    margin = in_points(row.margin) if is_share(row) else f"{row.margin:g}"
    reason = ""
    if row.verdict == "inconclusive":
        reason = (
            f"{row.samples:,} samples can't settle a margin of {margin}. "
            f"Give {_how_many(row)} of them, or a wider margin."
        )
    return Gate(
        f"{row.metric}, {row.provider}", f"no worse by more than {margin}", format_difference(row), row.verdict, reason
    )


def _how_many(row: AccuracyRow) -> str:
    """How many samples the margin needs at the discordance that was found, were nothing lost."""
    discordant = (row.only_reference_right or 0) + (row.only_candidate_right or 0)
    if not row.margin or row.only_reference_right is None:
        return "more"
    if discordant:
        needed = samples_needed(row.margin, discordant / row.samples)
    else:  # the score interval of no discordant sample among n is +- z^2 / (n + z^2)
        needed = math.ceil(1.96**2 * (1 / row.margin - 1))
    return f"about {needed:,}" if needed > row.samples else "more"


def speedup_gate(comparison: LatencyComparison, min_speedup: float) -> Gate:
    """Is the last model at least `min_speedup` times as fast as the reference? All of the interval has to say so."""
    ratio = comparison.ratios[-1]
    bound = 1 / min_speedup
    verdict: GateVerdict = "passed" if ratio.high <= bound else "failed" if ratio.low > bound else "inconclusive"
    reason = ""
    if verdict == "inconclusive":
        reason = f"The interval holds the bound. Measure longer than {comparison.seconds:.0f} s."
    return Gate(
        f"speed-up, {describe_setting(comparison)}",
        f"at least {min_speedup:g}x",
        f"{1 / ratio.ratio:.2f}x [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]",
        verdict,
        reason,
    )
