"""Reports: one HTML file that holds everything, loads nothing, and needs no script.

Figures come first and as tables; charts are drawn here as SVG (`charts`). What a run doesn't have (a history, a data
set, a CUDA device) leaves its section out, or says in one sentence why there is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from onnxprune.deploy.charts import verdict_style
from onnxprune.deploy.evidence_section import (
    accuracy_section,
    difference_in_words,
    equivalence_section,
    latency_section,
    measured_ratios,
    score_in_words,
    which,
)
from onnxprune.deploy.history_section import training_section, widths_section
from onnxprune.deploy.speed_section import proof_section, speed_section
from onnxprune.deploy.units_section import units_section
from onnxprune.deploy.words import (
    anything_in_words,
    count_in_words,
    moment_in_words,
    plural,
    size_in_words,
    time_in_words,
)
from onnxprune.graph.files import write_atomically

if TYPE_CHECKING:
    from onnxprune.prune.cost import Cost
    from onnxprune.runtime.equivalence import Equivalence
    from onnxprune.runtime.latency import LatencyComparison
    from onnxprune.runtime.results import Figures, ProviderAgreement, Validation

SIGNS = {"good": "✓", "bad": "✕", "unsure": "?", "refused": "⊘", "plain": "="}
VERDICTS = (
    "passed",
    "failed",
    "faster",
    "slower",
    "same",
    "inconclusive",
    "refused",
    "measured",
    "kept",
    "rolled back",
)
OUTCOMES = {
    "passed": "Everything that was asked for was measured and met.",
    "measured": "Nothing was asked of it: these are figures without a verdict.",
    "failed": "A gate was missed: see below which one.",
    "refused": "Something that was asked for can't be measured on this machine: see below what it lacks.",
    "inconclusive": "The measurements can't settle what was asked: more samples or a longer measurement would.",
}
SPEEDS = {"faster": "faster", "slower": "slower", "same": "the same speed", "inconclusive": "speed not settled"}
PROSE_LETTERS = 32
SHOWN_PLACES = 12


@dataclass(frozen=True)
class Tile:
    """One large figure at the top: "5.1×", what it is, and what it was made of."""

    figure: str
    what: str
    detail: str


def write_report(
    path: str | os.PathLike,
    *,
    validation: Validation,
    history: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    title: str = "Before and after",
) -> None:
    """Write the report of a validation to `path`, with the training's history and the recipe where there are any.

    `history` is what history.json holds: epochs, steps, widths, units, importance and sensitivity; each may be missing.
    Raises OutputError where the file can't be written.
    """
    history = history or {}
    outcome = validation.verdict if validation.gates else "measured"
    page = render(
        "report.html.j2",
        title=title,
        created=moment_in_words(validation.created),
        outcome=outcome,
        outcome_words=OUTCOMES[outcome],
        summary=_summary(validation),
        tiles=_tiles(validation),
        rows=[_verdict_alone(row) for row in validation.rows()],
        gates=[(g.name, g.asked, g.measured, g.verdict, g.reason) for g in validation.gates],
        widths=widths_section(history.get("widths") or []),
        training=training_section(history.get("epochs") or [], history.get("steps") or []),
        units=units_section(history),
        latency=latency_section(validation.latency),
        accuracy=accuracy_section(validation.accuracy),
        equivalence=equivalence_section(validation.equivalence),
        agreement=[_agreement(row) for row in validation.agreement],
        speed=speed_section(validation.findings, validation.diagnoses, validation.operators),
        proof=proof_section(validation.latency, validation.accuracy),
        data=validation.data,
        energy=validation.energy[0].constants if validation.energy else "",
        files=[_file("before", validation.reference), _file("after", validation.candidate)],
        environment=[(key.replace("_", " "), anything_in_words(v)) for key, v in validation.environment.items()],
        recipe=recipe,
    )
    write_atomically(path, page)


def write_bench_report(
    path: str | os.PathLike,
    *,
    comparisons: Sequence[LatencyComparison],
    findings: Sequence[str],
    environment: Mapping[str, Any],
    created: str,
    title: str = "Side by side",
) -> None:
    """Write latency comparisons to `path`: times and ratios, why, and where. Raises OutputError."""
    page = render(
        "bench_report.html.j2",
        title=title,
        created=moment_in_words(created),
        latency=latency_section(comparisons),
        speed=speed_section(findings),
        proof=proof_section(comparisons, ()),
        environment=[(key.replace("_", " "), anything_in_words(v)) for key, v in environment.items()],
    )
    write_atomically(path, page)


def write_shrink_report(
    path: str | os.PathLike,
    *,
    report: Mapping[str, Any],
    before: Cost,
    after: Cost,
    equivalence: Equivalence | None = None,
    title: str = "Exact removal",
) -> None:
    """Write what `shrink` did to `path`: the model's cost before and after, verdicts, and what stayed though dead.

    `report` is what `ShrinkReport.as_dict` gives. Raises OutputError where the file can't be written.
    """
    verdicts = report["verdicts"]
    removed = sum(verdicts.get(word, 0) for word in ("removed", "folded", "merged"))
    page = render(
        "shrink_report.html.j2",
        title=title,
        summary=f"{plural(removed, 'channel')} removed; the function is the same."
        if removed
        else "Nothing is dead: the model stays as it is.",
        tiles=figure_tiles(before, after) if removed else [],
        verdicts=[(verdict, f"{count:,}") for verdict, count in verdicts.items()],
        kept=_kept_dead(report["kept_dead"]),
        notes=_notes(report),
        equivalence=equivalence_section(equivalence),
    )
    write_atomically(path, page)


def _notes(report: Mapping[str, Any]) -> list[str]:
    """On what the result rests, beside the graph."""
    count, below = report.get("subnormals", 0), report.get("zero_below", 0.0)
    notes = [f"{plural(count, 'weight')} smaller than {below:.3g} became 0 first."] if count else []
    return [*notes, "Values inside the network are assumed to be finite."]


def _kept_dead(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One row for all channels of a tensor that stay for the same reason."""
    places: dict[tuple[str, str, str], list[int]] = {}
    for entry in entries:
        places.setdefault((entry["tensor"], entry["node"], entry["reason"]), []).append(entry["index"])
    rows = []
    for (tensor, node, reason), indices in places.items():
        shown = ", ".join(map(str, indices[:SHOWN_PLACES])) + (", …" if len(indices) > SHOWN_PLACES else "")
        rows.append((tensor, f"{len(indices):,}", shown, node, reason))
    return rows


def render(template: str, **context: Any) -> str:
    """Fill one of the page templates; every value is escaped unless it is Markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onnxprune.deploy", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["style"] = verdict_style
    environment.filters["sign"] = lambda words: SIGNS[verdict_style(words)]
    environment.tests["a_verdict"] = lambda cell: cell in VERDICTS
    environment.tests["prose"] = lambda cell: len(str(cell)) > PROSE_LETTERS
    css = resources.files("onnxprune.deploy").joinpath("templates", "report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(css=Markup(css), **context)


def shrunk_tile(
    before: float | None, after: float | None, what: str, less: str, more: str, words: Callable[[float], str]
) -> Tile | None:
    """A tile for a figure that should fall ("5.8×", "fewer parameters"); None where either isn't known or is 0."""
    if not before or not after:
        return None
    ratio = before / after
    detail = f"{words(before)} → {words(after)}"
    if 0.995 < ratio < 1.005:
        return Tile("=", f"same {what}", detail)
    factor, word = (ratio, less) if ratio > 1 else (1 / ratio, more)
    return Tile(f"{factor:.2f}×" if factor < 1.95 else f"{factor:,.1f}×", f"{word} {what}", detail)


def figure_tiles(old: Figures | Cost, new: Figures | Cost) -> list[Tile]:
    """Tiles for what a model is without running it."""
    tiles = [
        shrunk_tile(old.params, new.params, "parameters", "fewer", "more", count_in_words),
        shrunk_tile(old.macs, new.macs, "MACs", "fewer", "more", count_in_words),
        shrunk_tile(old.size_bytes, new.size_bytes, "file", "smaller", "larger", size_in_words),
    ]
    return [tile for tile in tiles if tile is not None]


def _tiles(validation: Validation) -> list[Tile]:
    tiles = figure_tiles(validation.reference, validation.candidate)
    for comparison, arm, ratio in measured_ratios(validation.latency)[:1]:
        before_ms, where = comparison.arms[0].median_ms, f"on {comparison.provider.upper()}"
        factor = 1 / ratio.ratio if ratio.verdict != "slower" else ratio.ratio
        figure = f"{factor:.2f}×" if factor < 1.95 else f"{factor:.1f}×"
        detail = f"{time_in_words(before_ms)} → {time_in_words(arm.median_ms)}"
        tiles.append(Tile("=" if ratio.verdict == "same" else figure, f"{SPEEDS[ratio.verdict]} {where}", detail))
    for row in [row for row in validation.accuracy if row.difference is not None][:1]:
        figure, _, unit = difference_in_words(row, row.difference).partition(" ")
        detail = f"{score_in_words(row, row.reference)} → {score_in_words(row, row.candidate)}"
        tiles.append(Tile(figure, f"{unit} {row.metric}".strip(), f"{detail}, {row.samples:,} samples"))
    return tiles


def _summary(validation: Validation) -> str:
    """What came out, in one or two sentences."""
    old, new = validation.reference, validation.candidate
    shares = [(new.macs, old.macs, "multiply-adds"), (new.params, old.params, "parameters")]
    left = [f"{after / before:.1%} of the {what}" for after, before, what in shares if before]
    sentences = [f"{' and '.join(left)} are left."] if left else []
    for comparison, _, ratio in measured_ratios(validation.latency)[:1]:
        sentences.append(
            f"On {comparison.provider.upper()} at batch {comparison.batch}, an inference takes {ratio.ratio:.1%} of "
            f"the time it took before (95% interval {ratio.low:.1%} to {ratio.high:.1%})."
        )
    return " ".join(sentences)


def _verdict_alone(row: tuple[str, ...]) -> tuple[str, ...]:
    """A row of the headline table without the reason of its verdict, which stands in the section further down."""
    return (*row[:-1], row[-1].partition(":")[0])


def _agreement(row: ProviderAgreement) -> tuple[str, ...]:
    seen = row.equivalence
    snr = "nothing differs" if seen.snr_db is None else f"{seen.snr_db:.0f} dB"
    providers = " against ".join(name.upper() for name in row.providers)
    return (which(row.model), providers, f"{seen.error_over_range:.1e}", snr, f"{seen.agreement:.2%}")


def _file(name: str, figures: Figures) -> tuple[str, str, str, Markup]:
    return (name, figures.file, f"{figures.nodes:,}", Markup("<code>{}</code>").format(figures.sha256))
