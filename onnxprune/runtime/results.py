"""What a validation found: frozen, printable, saved as JSON and read back as it was."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from onnxprune.errors import DataError
from onnxprune.graph.files import write_atomically
from onnxprune.runtime.accuracy import WorstClass
from onnxprune.runtime.diagnosis import Diagnosis, OperatorTime, PlainConv
from onnxprune.runtime.energy import EnergyEstimate
from onnxprune.runtime.equivalence import Equivalence
from onnxprune.runtime.latency import Arm, LatencyComparison, Ratio

SCHEMA_VERSION = 1
GateVerdict = Literal["passed", "failed", "inconclusive", "refused"]
EXIT_CODES: dict[str, int] = {"passed": 0, "failed": 1, "refused": 3, "inconclusive": 4}


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a model is without running it: parameters, multiply-adds at batch 1, bytes, nodes; sha256 of its file."""

    params: int
    macs: int
    size_bytes: int
    nodes: int
    sha256: str
    file: str


@dataclasses.dataclass(frozen=True)
class AccuracyRow:
    """Candidate against reference by one metric on one provider, sample by sample.

    difference is candidate minus reference, [low, high] its 95% interval, margin the drop that is allowed; the figures
    are None where nothing could be measured (verdict `refused`, `reason` says why), the counts of discordant samples
    also where a score is more than right or wrong. verdict `measured`: no margin was asked for. higher_is_better: of
    the metric; for an error rate the margin is how much it may rise. share: scores read as percentages. condition: what
    the inputs were put under, or which other data they are, empty for the data as they are. exact_p: McNemar's exact
    test of the discordant counts. nodes_per_provider: where the nodes of {reference, candidate} ran.
    """

    provider: str
    metric: str
    samples: int
    reference: float | None
    candidate: float | None
    difference: float | None
    low: float | None
    high: float | None
    margin: float | None
    only_reference_right: int | None
    only_candidate_right: int | None
    verdict: Literal["passed", "failed", "inconclusive", "refused", "measured"]
    reason: str = ""
    higher_is_better: bool = True
    share: bool = False
    condition: str = ""
    exact_p: float | None = None
    worst_class: WorstClass | None = None
    nodes_per_provider: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ProviderAgreement:
    """One model's outputs on two providers, on the data set: how far apart, and how often the decision is the same."""

    model: str
    providers: tuple[str, str]
    equivalence: Equivalence


@dataclasses.dataclass(frozen=True)
class DataUsed:
    """The data that accuracy was measured on."""

    name: str
    samples: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Gate:
    """One thing that was asked of the candidate, what was measured, and the verdict."""

    name: str
    asked: str
    measured: str
    verdict: GateVerdict
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Validation:
    """Candidate against reference: figures, equivalence, accuracy, latency, and the gates that decide.

    created is UTC in ISO 8601. agreement: CPU against other providers, model by model. findings: sentences about why
    the candidate is, or isn't, faster; diagnoses: what they were read off, of (reference, candidate); operators: where
    both spend their time. energy: an estimate for one inference of (reference, candidate) from published constants.
    Prints as a table; `as_dict` and `from_dict` are each other's inverse.
    """

    created: str
    reference: Figures
    candidate: Figures
    equivalence: Equivalence | None
    accuracy: tuple[AccuracyRow, ...]
    latency: tuple[LatencyComparison, ...]
    environment: Mapping[str, Any]
    gates: tuple[Gate, ...]
    data: DataUsed | None = None
    agreement: tuple[ProviderAgreement, ...] = ()
    findings: tuple[str, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()
    operators: tuple[OperatorTime, ...] = ()
    energy: tuple[EnergyEstimate, ...] = ()

    @property
    def verdict(self) -> GateVerdict:
        """`failed` if a gate failed, else `refused`, else `inconclusive` if one is, else `passed`."""
        found = {gate.verdict for gate in self.gates}
        return next((verdict for verdict in ("failed", "refused", "inconclusive") if verdict in found), "passed")

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return self.verdict == "passed"

    @property
    def exit_code(self) -> int:
        """What a command that ends with this validation returns: 0 passed, 1 failed, 3 refused, 4 inconclusive."""
        return EXIT_CODES[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; numbers that JSON doesn't have are the strings Infinity, -Infinity and NaN."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"version": SCHEMA_VERSION, "verdict": self.verdict, "exit_code": self.exit_code, **as_plain(fields)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Validation:
        """A validation from what `as_dict` gave. Raises: DataError naming what is missing or from another version."""
        if values.get("version") != SCHEMA_VERSION:
            raise DataError(
                f"The validation has version {values.get('version')}, this program reads version {SCHEMA_VERSION}. "
                "Validate again."
            )
        try:
            equivalence = values["equivalence"]
            return cls(
                created=values["created"],
                reference=_build(Figures, values["reference"]),
                candidate=_build(Figures, values["candidate"]),
                equivalence=None if equivalence is None else _build(Equivalence, equivalence),
                accuracy=tuple(_accuracy(row) for row in values["accuracy"]),
                latency=tuple(_latency(comparison) for comparison in values["latency"]),
                environment=values["environment"],
                gates=tuple(_build(Gate, gate) for gate in values["gates"]),
                data=None if values.get("data") is None else _build(DataUsed, values["data"]),
                agreement=tuple(_agreement(row) for row in values.get("agreement", ())),
                findings=tuple(values.get("findings", ())),
                diagnoses=tuple(_diagnosis(row) for row in values.get("diagnoses", ())),
                operators=tuple(_build(OperatorTime, row) for row in values.get("operators", ())),
                energy=tuple(_build(EnergyEstimate, row) for row in values.get("energy", ())),
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"This is no validation: {error} is missing or unknown. Validate again.") from error

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON. Raises: OutputError."""
        write_atomically(path, json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> Validation:
        """Read what `save` wrote. Raises: DataError."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"'{path}' isn't a readable validation ({error}). Validate again.") from error
        if not isinstance(values, dict):
            raise DataError(f"'{path}' holds a {type(values).__name__}, not a validation. Validate again.")
        return cls.from_dict(values)

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(what, before, after, ratio, verdict) for each figure of the final table."""
        ours, theirs = self.candidate, self.reference
        rows = [
            _figure_row("parameters", theirs.params, ours.params),
            _figure_row("MACs", theirs.macs, ours.macs),
            _figure_row("bytes", theirs.size_bytes, ours.size_bytes),
        ]
        if self.equivalence is not None:
            found = f"{self.equivalence.error_over_range:.1e} of range"
            rows.append(("equivalence", "", found, "", "passed" if self.equivalence.passed else "failed"))
        rows += [_accuracy_row(row) for row in self.accuracy]
        for row in self.agreement:
            seen = row.equivalence
            what = f"{row.model}, {' against '.join(row.providers)}"
            rows.append((what, "", f"{seen.error_over_range:.1e} of range", f"{seen.agreement:.2%} alike", ""))
        rows += [row for comparison in self.latency for row in _latency_rows(comparison)]
        measured = [row for comparison in self.latency for row in _energy_rows(comparison)]
        if self.energy and not measured:
            measured = [_energy_row("energy (estimate)", *(estimate.total_mj for estimate in self.energy))]
        return rows + measured

    def __str__(self) -> str:
        """The table, then every gate that didn't pass, then the verdict."""
        table = [("", "before", "after", "ratio", "verdict"), *self.rows()]
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]).rstrip()
            for row in table
        ]
        for gate in self.gates:
            if gate.verdict != "passed":
                reason = f" ({gate.reason})" if gate.reason else ""
                lines.append(f"{gate.verdict}: {gate.name}: asked {gate.asked}, measured {gate.measured}{reason}")
        return "\n".join([*lines, *self.findings, f"verdict: {self.verdict}"])

    def as_markdown(self) -> str:
        """A summary for a pull request: the verdict, the table, what didn't pass, and why."""

        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        machine = self.environment
        return "\n".join(
            [
                f"### {self.candidate.file} against {self.reference.file}: {self.verdict}",
                "",
                line(("", "before", "after", "ratio", "verdict")),
                "|---|---:|---:|---:|---|",
                *(line(row) for row in self.rows()),
                "",
                *(
                    f"* **{gate.verdict}**: {gate.name}: asked {gate.asked}, measured {gate.measured}"
                    f"{f' ({gate.reason})' if gate.reason else ''}"
                    for gate in self.gates
                ),
                *(f"* {finding}" for finding in self.findings),
                "",
                f"ONNX Runtime {machine.get('onnxruntime', '?')}, {machine.get('processor', 'unknown processor')}, "
                f"{machine.get('cores_available', '?')} cores; {self.created}",
                "",
            ]
        )


def format_difference(row: AccuracyRow) -> str:
    """The difference with its interval: in points where scores are right or wrong, else as it is."""
    if row.difference is None or row.low is None or row.high is None:
        return ""
    if not is_share(row):
        return f"{row.difference:+.4g} [{row.low:+.4g}, {row.high:+.4g}]"
    return f"{row.difference * 100:+.2f} points [{row.low * 100:+.2f}, {row.high * 100:+.2f}]"


def in_points(share: float) -> str:
    """ "1 point", "0.5 points"."""
    return f"{share * 100:g} point{'' if share == 0.01 else 's'}"


def is_share(row: AccuracyRow) -> bool:
    """Whether scores read as percentages and differences as points."""
    return row.share or row.only_reference_right is not None


def describe_setting(comparison: LatencyComparison) -> str:
    """Provider, batch and threads of a comparison, for a row's or a gate's name."""
    threads = (
        "all threads" if comparison.threads == 0 else f"{comparison.threads} thread{'s' * (comparison.threads > 1)}"
    )
    return f"{comparison.provider}, batch {comparison.batch}" + (f", {threads}" if comparison.provider == "cpu" else "")


def _figure_row(what: str, before: int, after: int) -> tuple[str, str, str, str, str]:
    ratio = f"{after / before:.1%}" if before else ""
    return what, f"{before:,}", f"{after:,}", ratio, ""


def _accuracy_row(row: AccuracyRow) -> tuple[str, str, str, str, str]:
    condition = f", {row.condition}" if row.condition else ""
    what = f"{row.metric}, {row.provider}{condition} ({row.samples:,} samples)"
    if row.reference is None or row.candidate is None:
        return what, "", "", "", f"{row.verdict}: {row.reason}"
    style = ".2%" if is_share(row) else ".4g"
    return what, format(row.reference, style), format(row.candidate, style), format_difference(row), row.verdict


def _latency_rows(comparison: LatencyComparison) -> list[tuple[str, str, str, str, str]]:
    what = f"latency {describe_setting(comparison)}"
    if comparison.refused:
        return [(what, "", "", "", f"refused: {comparison.refused}")]
    arms = {arm.name: arm for arm in comparison.arms}
    failed = [(f"{what}: {name}", "", "", "", f"refused: {why}") for name, why in comparison.failures.items()]
    reference = comparison.arms[0]
    return [
        (
            what if len(comparison.ratios) == 1 else f"{what}: {ratio.name}",
            f"{reference.median_ms:.3f} ms",
            f"{arms[ratio.name].median_ms:.3f} ms",
            f"{ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
            ratio.verdict,
        )
        for ratio in comparison.ratios
    ] + failed


def _energy_rows(comparison: LatencyComparison) -> list[tuple[str, str, str, str, str]]:
    """What an inference took by a counter of the machine, where there is one."""
    if len(comparison.arms) != 2 or any(arm.energy_mj is None for arm in comparison.arms):
        return []
    what = f"energy {describe_setting(comparison)} ({comparison.arms[0].energy_source})"
    return [_energy_row(what, *(arm.energy_mj for arm in comparison.arms))]


def _energy_row(what: str, before_mj: float, after_mj: float) -> tuple[str, str, str, str, str]:
    ratio = f"{after_mj / before_mj:.1%}" if before_mj else ""
    return what, f"{before_mj:.4g} mJ", f"{after_mj:.4g} mJ", ratio, ""


def as_plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _build(kind: type, values: Mapping[str, Any]) -> Any:
    """A dataclass of numbers and words from plain values."""
    numbers = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    return kind(
        **{name: numbers.get(value, value) if isinstance(value, str) else value for name, value in values.items()}
    )


def _accuracy(values: Mapping[str, Any]) -> AccuracyRow:
    worst = values.get("worst_class")
    return dataclasses.replace(
        _build(AccuracyRow, {**values, "worst_class": None}),
        worst_class=None if worst is None else _build(WorstClass, worst),
    )


def _agreement(values: Mapping[str, Any]) -> ProviderAgreement:
    return ProviderAgreement(values["model"], tuple(values["providers"]), _build(Equivalence, values["equivalence"]))


def _diagnosis(values: Mapping[str, Any]) -> Diagnosis:
    plain = tuple(PlainConv(**conv) for conv in values["plain"])
    return Diagnosis(**{**values, "plain": plain, "subnormal_tensors": tuple(values["subnormal_tensors"])})


def _latency(values: Mapping[str, Any]) -> LatencyComparison:
    arms = tuple(_build(Arm, {**arm, "libraries": tuple(arm.get("libraries", ()))}) for arm in values["arms"])
    return LatencyComparison(**{**values, "arms": arms, "ratios": tuple(_build(Ratio, r) for r in values["ratios"])})
