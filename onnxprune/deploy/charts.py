"""SVG charts for the report: bars, lines over epochs, intervals. No script and no library.

Colours come from the page's style sheet (`class` attributes), so that a chart follows the light or the dark theme.
Every chart has a title and a description for those who don't see it, and every mark says its figure when pointed at.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from onnxprune.deploy.svg import WIDTH, hover, key_of, picture, round_ticks, shorten, text_at, text_width

LOG_FROM = 5.0  # a logarithmic axis pays once the largest value is this many times the smallest


@dataclass(frozen=True)
class Line:
    """One line of a panel: a legend entry, the style sheet's class, and (x, y) points in order."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]
    steps: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot of `line_chart`. `kind` is "number", "log" or "percent" and decides scale and tick labels."""

    title: str
    lines: Sequence[Line]
    kind: str = "number"
    height: int = 170


@dataclass(frozen=True)
class Mark:
    """A vertical mark through all panels: a pruning step. `style` is "kept" or "undone"."""

    x: float
    style: str
    text: str


@dataclass(frozen=True)
class Band:
    """A named stretch of the x axis: a phase of the training."""

    start: float
    end: float
    name: str


@dataclass(frozen=True)
class Interval:
    """One row of `interval_chart`: a value between two bounds, and words to the right of it."""

    label: str
    value: float
    low: float
    high: float
    verdict: str
    text: str
    limits: Sequence[tuple[float, str]] = field(default=())


def bar_chart(rows: Sequence[tuple[str, float, float]], title: str, unit: str) -> Markup:
    """Rows (label, before, after) as pairs of bars that share one scale: what is left inside what there was."""
    label_width = min(360, max((text_width(label) for label, _, _ in rows), default=0) + 12)
    left, right, pitch = label_width, 150, 24
    scale = (WIDTH - left - right) / max([before for _, before, _ in rows] + [1])
    parts = []
    for index, (label, before, after) in enumerate(rows):
        y = index * pitch + 4
        parts += [
            text_at(left - 12, y + 12, shorten(label, left - 12), "label mono end"),
            f"<g>{hover(f'{label}: {_number(before)} {unit} before, {_number(after)} after')}",
            f'<rect class="before" x="{left}" y="{y}" width="{before * scale:.1f}" height="16" rx="2"/>',
            f'<rect class="after" x="{left}" y="{y}" width="{after * scale:.1f}" height="16" rx="2"/></g>',
        ]
        words = f"{_number(before)} → {_number(after)}" if before != after else f"{_number(before)}, all kept"
        parts.append(text_at(left + before * scale + 8, y + 12, words, "value"))
    description = f"{len(rows)} rows; {unit} before and after for each. The same figures are in the table below."
    return picture(parts, len(rows) * pitch + 8, title, description)


def interval_chart(
    rows: Sequence[Interval], title: str, reference: float, kind: str, start: float | None = None
) -> Markup:
    """Values with their intervals against a reference line; `kind` is "ratio" or "points" and labels the axis."""
    left, right, pitch, top = min(max([250.0, *(text_width(row.label) + 24 for row in rows)]), 400.0), 300, 40, 8
    bounds = [reference, *(x for row in rows for x in (row.low, row.high, *(limit for limit, _ in row.limits)))]
    low, high = min(bounds), max(bounds)
    margin = 0.08 * (high - low or 1.0)
    low, high = (low - margin if start is None else start), high + margin
    ticks = round_ticks(low, high, 6)

    def place(x: float) -> float:
        return left + (x - low) / (high - low) * (WIDTH - left - right)

    bottom = top + len(rows) * pitch
    parts = []
    for tick in ticks:
        label = f"{tick * 100:+.4g}" if kind == "points" and tick else f"{tick:.4g}"
        parts.append(_vertical(place(tick), top, bottom, "grid"))
        parts.append(text_at(place(tick), bottom + 16, label, "tick middle"))
    parts.append(_vertical(place(reference), top, bottom, "reference"))
    for index, row in enumerate(rows):
        y = top + index * pitch + pitch / 2
        parts.append(text_at(left - 14, y + 4, shorten(row.label, left - 20, 7.2), "label end"))
        for limit, name in row.limits:
            parts.append(f"<g>{hover(name)}{_vertical(place(limit), y - 15, y + 15, 'limit')}</g>")
        style = verdict_style(row.verdict)
        parts += [
            f'<g class="{style}">{hover(f"{row.label}: {row.text}")}',
            f'<line class="whisker" x1="{place(row.low):.1f}" x2="{place(row.high):.1f}" y1="{y}" y2="{y}"/>',
            *(_vertical(place(x), y - 6, y + 6, "whisker") for x in (row.low, row.high)),
            f'<circle class="dot" cx="{place(row.value):.1f}" cy="{y}" r="5"/></g>',
            text_at(WIDTH - right + 16, y + 4, shorten(row.text, right - 16, 7.0), "value"),
        ]
    description = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return picture(parts, bottom + 24, title, description)


def line_chart(
    panels: Sequence[Panel], title: str, x_label: str, marks: Sequence[Mark], bands: Sequence[Band]
) -> Markup:
    """Panels above each other over one x axis, with bands named at the top and marks through all of them."""
    left, right, top = 64, 150, 26
    xs = [x for panel in panels for line in panel.lines for x, _ in line.points]
    xs += [mark.x for mark in marks] + [edge for band in bands for edge in (band.start, band.end)]
    low, high = min(xs), max(xs)
    high = high if high > low else low + 1

    def place(x: float) -> float:
        return left + (x - low) / (high - low) * (WIDTH - left - right)

    bottom = top + sum(panel.height for panel in panels)
    parts = []
    for index, band in enumerate(bands):
        x, width = place(band.start), place(band.end) - place(band.start)
        style = "band" if index % 2 == 0 else "band other"
        parts.append(f'<rect class="{style}" x="{x:.1f}" y="4" width="{width:.1f}" height="{bottom - 4}"/>')
        if width > text_width(band.name, 7.2):
            parts.append(text_at(x + width / 2, 18, band.name, "tick middle"))
    y = top
    for panel in panels:
        parts += _panel(panel, place, left, y, y + panel.height - 24)
        y += panel.height
    for mark in marks:
        x = place(mark.x)
        parts.append(f'<g class="mark {mark.style}">{hover(mark.text)}')
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom - 24}"/>')
        parts.append(_cross(x, bottom - 24) if mark.style == "undone" else _arrow(x, bottom - 24))
        parts.append("</g>")
    for tick in round_ticks(low, high, 10):
        if tick == int(tick):
            parts.append(text_at(place(tick), bottom, f"{tick:g}", "tick middle"))
    parts.append(text_at(WIDTH - right + 12, bottom, x_label, "tick"))
    description = " ".join(f"{panel.title}: {_in_words(panel)}." for panel in panels if panel.lines)
    undone = sum(mark.style == "undone" for mark in marks)
    description += f" {len(marks)} pruning steps, {undone} of them rolled back." if marks else ""
    return picture(parts, bottom + 8, title, description)


def verdict_style(verdict: str) -> str:
    """The style sheet's class for a verdict: good, bad, unsure, refused or plain."""
    return {
        "passed": "good",
        "faster": "good",
        "kept": "good",
        "failed": "bad",
        "slower": "bad",
        "rolled back": "bad",
        "inconclusive": "unsure",
        "refused": "refused",
    }.get(verdict, "plain")


def _panel(panel: Panel, place: Callable[[float], float], left: float, top: float, bottom: float) -> list[str]:
    values = [y for line in panel.lines for _, y in line.points]
    is_log = panel.kind == "log" and min(values) > 0 and max(values) > LOG_FROM * min(values)
    low, high = _range("number" if panel.kind == "log" and not is_log else panel.kind, values)
    ticks = _log_ticks(low, high) if is_log else round_ticks(low, high, 4)

    def height(y: float) -> float:
        share = math.log(y / low) / math.log(high / low) if is_log else (y - low) / (high - low)
        return bottom - 6 - share * (bottom - top - 30)

    clip = f"{key_of(panel.title)}-clip"
    box = f'<rect x="{left - 4}" y="{top + 20:.1f}" width="{WIDTH - 142 - left}" height="{bottom - top - 18:.1f}"/>'
    parts = [text_at(left, top + 12, panel.title, "label strong"), f'<clipPath id="{clip}">{box}</clipPath>']
    for tick in ticks:
        y = height(tick)
        label = f"{tick * 100:.4g}%" if panel.kind == "percent" else f"{tick:.4g}"
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - 150}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text_at(left - 8, y + 4, label, "tick end"))
    ends = []
    parts.append(f'<g clip-path="url(#{clip})">')
    for line in panel.lines:
        points = [(place(x), height(y)) for x, y in line.points]
        parts.append(f'<path class="line {line.style}" d="{_path(points, line.steps)}"/>')
        for (x, y), (at, value) in zip(points, line.points, strict=True):
            words = hover(f"{line.name}, {at:g}: {_figure(value, panel.kind)}")
            parts.append(f'<circle class="point {line.style}" cx="{x:.1f}" cy="{y:.1f}" r="2.5">{words}</circle>')
        ends.append((points[-1][1], line))
    parts.append("</g>")
    for y, line in _spread(ends, 15):
        parts.append(text_at(WIDTH - 150 + 12, y + 4, line.name, f"value {line.style}"))
    return parts


def _range(kind: str, values: Sequence[float]) -> tuple[float, float]:
    """The values that a panel shows. Percentages zoom to the later values: a network starts from almost nothing."""
    low, high = min(values), max(values)
    if kind == "percent":
        settled = min(values[len(values) // 4 :])
        if high - settled < 0.2 * (high - low):
            low = settled
        spread = max(high - low, 1e-3)
        return low - 0.1 * spread, min(high + 0.1 * spread, max(high, 1.0))
    if kind == "log":
        return low / 1.15, high * 1.15
    spread = high - low or abs(high) or 1.0
    return min(low, 0.0) if low < 0.5 * high else low - 0.1 * spread, high + 0.05 * spread


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 100 else (1, 3) if high / low < 2000 else (1,)
    return [f * 10.0**k for k in decades for f in factors if low <= f * 10.0**k <= high]


def _spread(ends: Iterable[tuple[float, Line]], gap: float) -> list[tuple[float, Line]]:
    """Move the names at the lines' ends apart until they don't overlap."""
    placed: list[tuple[float, Line]] = []
    for y, line in sorted(ends, key=lambda end: end[0]):
        placed.append((max(y, placed[-1][0] + gap) if placed else y, line))
    return placed


def _path(points: Sequence[tuple[float, float]], steps: bool) -> str:
    words = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for x, y in points[1:]:
        words.append(f"H{x:.1f}V{y:.1f}" if steps else f"L{x:.1f} {y:.1f}")
    return "".join(words)


def _in_words(panel: Panel) -> str:
    ends = [(line.name, line.points[0][1], line.points[-1][1]) for line in panel.lines]
    return ", ".join(f"{n} from {_figure(a, panel.kind)} to {_figure(b, panel.kind)}" for n, a, b in ends)


def _figure(value: float, kind: str) -> str:
    return f"{value * 100:.2f}%" if kind == "percent" else f"{value:.4g}"


def _vertical(x: float, top: float, bottom: float, style: str) -> str:
    return f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def _arrow(x: float, y: float) -> str:
    return f'<path class="sign" d="M{x - 5:.1f} {y - 7:.1f}h10l-5 8z"/>'


def _cross(x: float, y: float) -> str:
    return f'<path class="sign" d="M{x - 4:.1f} {y - 7:.1f}l8 8m0 -8l-8 8"/>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"
