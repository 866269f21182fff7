"""The report's sections about how the model came to be: what was removed, and the training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from onnxprune.deploy.charts import Band, Line, Mark, Panel, bar_chart, line_chart
from onnxprune.deploy.words import DASH, duration_in_words, number_cell, plural

PHASES = {"dense": "training", "prune": "pruning", "finetune": "fine-tuning", "quantize": "in int8"}


def widths_section(widths: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Bars of each group's width before and after; None where there are no widths."""
    if not widths:
        return None
    rows = [(str(row["group"]), row["before"], row["after"]) for row in widths]
    before, after = sum(row[1] for row in rows), sum(row[2] for row in rows)
    whole = sum(row[1] == row[2] for row in rows)
    kinds = {str(row["kind"]) for row in widths}
    unit = f"{kinds.pop()}s" if len(kinds) == 1 else "units"
    summary = f"{before - after:,} of {before:,} {unit} are gone, {after / before:.0%} are left."
    if whole:
        summary += f" {whole} of {plural(len(rows), 'group')} kept all of theirs."
    legend = Markup('<span class="key after"></span>left <span class="key before"></span>before')
    return {
        "summary": summary,
        "caption": Markup("Each row is a group of layers that must keep the same width. {}").format(legend),
        "chart": bar_chart(rows, "Widths before and after", unit),
        "rows": [
            (
                row["group"],
                row["kind"],
                f"{row['before']:,}",
                f"{row['after']:,}",
                f"{row['after'] / row['before']:.0%}",
            )
            for row in widths
        ],
    }


def training_section(epochs: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Curves over the epochs with the pruning steps; None where there are no epochs.

    An epoch's figures stand at its end (epoch 0 at x = 1), a pruning step at the start of the epoch that it precedes.
    """
    if not epochs:
        return None
    loss = {"train_loss": ("training", "second"), "validation_loss": ("validation", "first")}
    metric = _lines(epochs, {"validation_metric": ("metric", "first")})
    kept = [step for step in steps if step["decision"] == "kept"]
    panels = [
        Panel("Loss", _lines(epochs, loss), "log"),
        Panel("Validation metric", metric, "percent" if _are_shares(metric) else "number"),
        Panel("Left of the dense network", _costs(kept, len(epochs)), "percent", height=150),
    ]
    marks = [Mark(s["epoch"], "kept" if s["decision"] == "kept" else "undone", _step_in_words(s)) for s in steps]
    undone = len(steps) - len(kept)
    summary = f"{plural(len(epochs), 'epoch')} in {duration_in_words(sum(e.get('seconds') or 0.0 for e in epochs))}"
    caption = "No pruning step was taken."
    if steps:
        summary += f", {plural(len(steps), 'pruning step')}, "
        summary += f"of which the guard rolled back {undone}" if undone else "none rolled back"
        caption = "Dotted lines are pruning steps; a dashed line with a cross is a step that the guard rolled back."
    panels = [panel for panel in panels if panel.lines]
    return {
        "summary": f"{summary}.",
        "caption": caption,
        "chart": line_chart(panels, "Training and pruning", "epochs", marks, _bands(epochs)) if panels else None,
        "undone": undone,
        "steps": [_step_row(step) for step in steps],
        "epochs": [_epoch_row(epoch) for epoch in epochs],
    }


def _lines(epochs: Sequence[Mapping[str, Any]], wanted: Mapping[str, tuple[str, str]]) -> list[Line]:
    lines = []
    for key, (name, style) in wanted.items():
        points = [(index + 1, epoch[key]) for index, epoch in enumerate(epochs) if _is_number(epoch.get(key))]
        if points:
            lines.append(Line(name, style, points))
    return lines


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _are_shares(lines: Sequence[Line]) -> bool:
    return all(0.0 <= y <= 1.0 for line in lines for _, y in line.points)


def _costs(kept: Sequence[Mapping[str, Any]], end: int) -> list[Line]:
    lines = []
    for key, name, style in (("macs", "MACs", "first"), ("params", "parameters", "second")):
        points = [(step["epoch"], step["cost"][key]) for step in kept if key in step["cost"]]
        if points:
            lines.append(Line(name, style, [(0, 1.0), *points, (end, points[-1][1])], steps=True))
    return lines


def _bands(epochs: Sequence[Mapping[str, Any]]) -> list[Band]:
    bands: list[Band] = []
    for index, epoch in enumerate(epochs):
        name = PHASES.get(epoch["phase"], epoch["phase"])
        if bands and bands[-1].name == name:
            bands[-1] = Band(bands[-1].start, index + 1, name)
        else:
            bands.append(Band(index, index + 1, name))
    return bands


def _step_in_words(step: Mapping[str, Any]) -> str:
    left = ", ".join(f"{name} {share:.0%}" for name, share in step["cost"].items())
    return f"pruning step {step['step']}: {left} left, {step['decision']}. {step.get('reason') or ''}".strip()


def _step_row(step: Mapping[str, Any]) -> tuple[Any, ...]:
    cost = (f"{step['cost'][key]:.1%}" if key in step["cost"] else DASH for key in ("params", "macs", "bytes"))
    reason = step.get("reason") or ""
    return (step["step"], step["epoch"], *cost, number_cell(step.get("metric")), step["decision"], reason)


def _epoch_row(epoch: Mapping[str, Any]) -> tuple[Any, ...]:
    keys = ("train_loss", "validation_loss", "validation_metric", "learning_rate", "seconds")
    return (epoch["epoch"], epoch["phase"], *(number_cell(epoch.get(key)) for key in keys))
