"""The report's section about single units: when each went, who mattered, and what each layer minds."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from markupsafe import Markup

from onnxprune.deploy.maps import (
    LEVELS,
    Curve,
    Map,
    Strip,
    curve_chart,
    heat_legend,
    heat_strip,
    map_chart,
    strip_chart,
)
from onnxprune.deploy.words import plural

#: More rows, maps or curves than these are left out of the page; history.json has all of them.
MOST_ROWS, MOST_MAPS, MOST_CURVES = 40, 16, 30
#: Why units weren't among those to choose from.
NEVER = {
    "keep": "the recipe keeps them",
    "restated": "without them a normalisation would have other statistics than it is trained with",
    "overlap": "they lie within units of another kind",
}
RULES = {
    "rounding": "the width that the target runs fast",
    "min_width": "min_width",
    "retention": "retention",
    "rolled back": "a step that took them was undone",
}

Chart = dict[str, Any]


def units_section(history: Mapping[str, Any]) -> Chart | None:
    """Charts of what belongs to units and layers; None where the history has nothing of the kind."""
    importance = history.get("importance") or {}
    found = {
        "fates": _fates(history.get("units") or [], len(history.get("steps") or [])),
        "neurons": _neurons(importance.get("neurons") or []),
        "parameters": _parameters(importance.get("parameters") or [], history.get("units") or []),
        "connections": _connections(importance.get("connections") or []),
        "curves": _curves(history.get("sensitivity") or [], history.get("widths") or []),
    }
    return found if any(found.values()) else None


def _fates(entries: Sequence[Mapping[str, Any]], steps: int) -> Chart | None:
    """Each unit by index: left, left because of a rule, or the step that took it."""
    planned = [entry for entry in entries if entry["steps"]]
    if not planned:
        return None
    steps = max([steps, *(len(entry["steps"]) for entry in planned)])
    strips, rules = [], set()
    for entry in planned:
        styles = ["left"] * entry["count"]
        for step, units in entry["cut"].items():
            for unit in units:
                styles[unit] = f"out{int(step) * LEVELS // max(steps, 1)}"
        for rule in [rule for rule in entry["kept"] if rule != "score"]:
            rules.add(rule)
            for unit in entry["kept"][rule]:
                styles[unit] = "ruled"
        left = sum(map(len, entry["kept"].values()))
        told = ", ".join(f"{len(u)} by step {s}" for s, u in entry["cut"].items()) or "none"
        words = f"{left} of {entry['count']}"
        strips.append(
            Strip(entry["group"], styles, entry["back"], words, f"{entry['group']}: {words} left; gone: {told}")
        )
    early_late = Markup("").join(
        Markup('<span class="key joined out{}"></span>').format(k)
        for k in sorted({step * LEVELS // max(steps, 1) for step in range(steps)})
    )
    legend = [
        _key("left", "left"),
        Markup('<span class="together">{} gone, first to last step</span>').format(early_late),
    ]
    if rules:
        reasons = ", ".join(RULES[rule] for rule in RULES if rule in rules)
        legend.insert(1, _key("ruled", f"left because of {reasons}"))
    if any(strip.marked for strip in strips):
        legend.append(_key("gone", "came back at least once"))
    shown = strips[:MOST_ROWS]
    return {
        "caption": Markup("Each row is a group of layers of one width, each cell a unit by its index. {}").format(
            Markup(" ").join(legend)
        ),
        "chart": strip_chart(shown, "When each unit went", [len(s.styles) for s in shown]),
        "notes": [*_never_chosen(entries), *_left_out(len(strips) - len(shown), "group")],
    }


def _never_chosen(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    for reason, words in NEVER.items():
        names = [entry for entry in entries if reason in entry["kept"]]
        if names:
            count = plural(sum(len(entry["kept"][reason]) for entry in names), f"{names[0]['kind']}")
            count = count if len({e["kind"] for e in names}) == 1 else plural(sum(e["count"] for e in names), "unit")
            where = ", ".join(entry["group"] for entry in names[:4]) + (", …" if len(names) > 4 else "")
            notes.append(f"Never to choose from: {count} of {where}, because {words}.")
    return notes


def _left_out(count: int, what: str) -> list[str]:
    return [f"{plural(count, what)} more in history.json."] if count > 0 else []


def _neurons(rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    if not rows:
        return None
    shown = rows[:MOST_ROWS]
    strips = [heat_strip(row["layer"], row["values"], row.get("gone", ())) for row in shown]
    caption = Markup(
        "Neuron importance I<sub>i</sub>: the mean of the squares of the weights that lead into each output of a "
        "layer, by its index, before pruning; colours within each layer. {} {}"
    ).format(heat_legend(), _key("gone", "gone in the end"))
    return {
        "caption": caption,
        "chart": strip_chart(strips, "Neuron importance", [len(row["values"]) for row in shown]),
        "notes": _left_out(len(rows) - len(shown), "layer"),
    }


def _parameters(rows: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> Chart | None:
    if not rows:
        return None
    gone = {(e["group"], e["kind"]): sorted(chain.from_iterable(e["cut"].values())) for e in entries}
    shown = rows[:MOST_ROWS]
    strips = [heat_strip(row["group"], row["values"], gone.get((row["group"], row["kind"]), ())) for row in shown]
    caption = Markup(
        "Parameter importance I<sub>p</sub>: the mean of the squares of all the weights that go with a unit, in "
        'whatever layer, before pruning; colours within each row. {} <span class="key gone"></span>gone in the end'
    ).format(heat_legend())
    return {
        "caption": caption,
        "chart": strip_chart(strips, "Parameter importance", [len(row["values"]) for row in shown]),
        "notes": _left_out(len(rows) - len(shown), "group"),
    }


def _connections(rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    if not rows:
        return None
    shown = rows[:MOST_MAPS]
    maps = [
        Map(
            f"{_layer(row['from'])} → {_layer(row['to'])}",
            f"outputs of {_layer(row['to'])}: {row['outputs']:,}",
            f"inputs of {_layer(row['from'])}: {row['inputs']:,}",
            row["values"],
        )
        for row in shown
    ]
    caption = Markup(
        "Connection importance I<sub>ij</sub>: how strongly input i of a layer reaches output j of the next through "
        "the neurons between, the mean of the products of squared weights, before pruning. Rows are inputs, columns "
        "outputs, by index; colours within each map. {}"
    ).format(heat_legend())
    return {
        "caption": caption,
        "chart": map_chart(maps, "Connection importance"),
        "notes": _left_out(len(rows) - len(shown), "pair of layers"),
    }


def _curves(rows: Sequence[Mapping[str, Any]], widths: Sequence[Mapping[str, Any]]) -> Chart | None:
    rows = [row for row in rows if all(value is not None for value in row["losses"])]
    if not rows:
        return None
    gone = {(w["group"], w["kind"]): 1 - w["after"] / w["before"] for w in widths}
    shown = sorted(rows, key=lambda row: row["losses"][0] - max(row["losses"]))[:MOST_CURVES]
    curves = [Curve(row["group"], row["shares"], row["losses"], gone.get((row["group"], row["kind"]))) for row in shown]
    caption = Markup(
        "Sensitivity: the loss on training samples when one group of layers alone loses 0 to 90% of its units, those "
        "with the smallest weights first, without any training after it; all on one scale, those that mind most first. "
        "{}"
    ).format(_key("went", "the share that went in the end"))
    return {
        "caption": caption,
        "chart": curve_chart(curves, "Sensitivity of each group of layers", "loss"),
        "notes": _left_out(len(rows) - len(shown), "group"),
    }


def _key(style: str, words: str) -> Markup:
    return Markup('<span class="together"><span class="key {}"></span>{}</span>').format(style, words)


def _layer(name: str) -> str:
    return name.removesuffix(".weight")
