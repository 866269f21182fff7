"""SVG charts of what belongs to single units: strips with a cell for each, square maps, and small curves side by side.

Like `charts`: no script, colours from the page's style sheet, a title on what can be pointed at.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from onnxprune.deploy.svg import WIDTH, hover, picture, round_ticks, shorten, text_at

#: Steps from the least to the most that cells are coloured in.
LEVELS = 8
LABEL, RIGHT = 230, 190
#: A strip has at most so many cells; longer ones show means of neighbours.
CELLS = 128
MAPS_A_ROW, CURVES_A_ROW = 4, 3


@dataclass(frozen=True)
class Strip:
    """One row of cells, by index: the style sheet's class of each, and which are marked below; words to the right."""

    label: str
    styles: Sequence[str]
    marked: Sequence[int]
    words: str
    told: str


@dataclass(frozen=True)
class Scale:
    """A logarithmic scale of LEVELS colours between two values; what lies outside has the colour of that end."""

    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Scale":
        """From the fifth to the last hundredth of what is above 0, so that a few outliers don't take all colours."""
        above = values[np.isfinite(values) & (values > 0)]
        if not above.size:
            return cls(1.0, 1.0)
        low, high = np.quantile(above, (0.05, 0.99))
        return cls(float(low), float(max(high, low)))

    def level(self, value: float) -> int:
        """From 0, the least, to LEVELS - 1."""
        if not value > self.low or self.high <= self.low:
            return 0 if not value > self.low else LEVELS - 1
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return min(int(share * LEVELS), LEVELS - 1)

    def __str__(self) -> str:
        return f"{self.low:.1e} to {self.high:.1e}"


def heat_legend() -> Markup:
    """The colours from the least to the most, for a caption."""
    keys = Markup("").join(Markup('<span class="key joined heat{}"></span>').format(n) for n in range(LEVELS))
    return Markup('<span class="together">least {} most</span>').format(keys)


def heat_strip(label: str, values: Sequence[float | None], marked: Sequence[int]) -> Strip:
    """A strip of values on a scale of its own, which is said to its right; of many the means of neighbours."""
    array = np.array([np.nan if v is None else v for v in values], float)
    scale = Scale.of(array)
    edges = np.linspace(0, len(array), min(len(array), CELLS) + 1).astype(int)
    cells = [array[a:b] for a, b in pairwise(edges)]
    means = [float(cell[np.isfinite(cell)].mean()) if np.isfinite(cell).any() else 0.0 for cell in cells]
    seen = array[np.isfinite(array)]
    told = f"{label}: {len(array):,} values from {seen.min(initial=np.inf):.2e} to {seen.max(initial=0):.2e}"
    return Strip(label, [f"heat{scale.level(v)}" for v in means], marked, f"{len(array):,}: {scale}", told)


def strip_chart(strips: Sequence[Strip], name: str, counts: Sequence[int]) -> Markup:
    """Rows of cells, long ones over the whole width; `counts` say how many indices a row has."""
    pitch, height, across = 26, 14, WIDTH - LABEL - RIGHT
    parts = []
    for row, (strip, count) in enumerate(zip(strips, counts, strict=True)):
        y = row * pitch + 4
        cell = min(across / max(len(strip.styles), 1), 28.0)
        parts.append(text_at(LABEL - 12, y + 11, shorten(strip.label, LABEL - 16), "label mono end"))
        parts.append(f"<g>{hover(strip.told)}{_cells([strip.styles], LABEL, y, cell, height)}")
        parts.append(_marks(strip.marked, LABEL, y + height + 2, cell * len(strip.styles) / max(count, 1)) + "</g>")
        parts.append(text_at(LABEL + cell * len(strip.styles) + 8, y + 11, strip.words, "value"))
    description = "; ".join(strip.told for strip in strips)
    return picture(parts, len(strips) * pitch + 6, name, description)


@dataclass(frozen=True)
class Map:
    """A matrix of values, rows from top to bottom, with what stands above it and along its sides."""

    name: str
    across: str
    down: str
    values: Sequence[Sequence[float | None]]


def map_chart(maps: Sequence[Map], name: str) -> Markup:
    """Square heat maps side by side, each on a scale of its own, which stands below it."""
    pitch, side, top, block = WIDTH / MAPS_A_ROW, 180, 42, 264
    parts = []
    for number, one in enumerate(maps):
        x, y = number % MAPS_A_ROW * pitch + 22, number // MAPS_A_ROW * block + top
        scale = Scale.of(np.array([v or 0.0 for row in one.values for v in row]))
        rows = [[f"heat{scale.level(v or 0.0)}" for v in row] for row in one.values]
        parts.append(text_at(x, y - 22, shorten(one.name, pitch - 30), "label mono strong"))
        parts.append(text_at(x, y - 6, shorten(one.across, pitch - 30, 6.6), "tick"))
        parts.append(f'<g transform="rotate(-90 {x - 8:.1f} {y + side:.1f})">')
        parts.append(text_at(x - 8, y + side, shorten(one.down, side, 6.6), "tick") + "</g>")
        wide, high = side / len(rows[0]), side / len(rows)
        parts.append(f"<g>{hover(f'{one.name}: {one.across}, {one.down}')}{_cells(rows, x, y, wide, high)}</g>")
        parts.append(text_at(x, y + side + 16, str(scale), "tick"))
    height = -(-len(maps) // MAPS_A_ROW) * block - 16
    return picture(parts, height, name, "; ".join(f"{m.name}: {m.across}, {m.down}" for m in maps))


@dataclass(frozen=True)
class Curve:
    """Values over shares, and the share that went in the end."""

    name: str
    shares: Sequence[float]
    values: Sequence[float]
    gone: float | None


def curve_chart(curves: Sequence[Curve], name: str, what: str) -> Markup:
    """Small curves side by side on one scale."""
    pitch, wide, high, left, block = WIDTH / CURVES_A_ROW, WIDTH / CURVES_A_ROW - 84, 110, 48, 176
    low = min(min(c.values) for c in curves)
    top = max(max(c.values) for c in curves)
    top = top if top > low else low + 1.0
    parts = []
    for number, curve in enumerate(curves):
        x0, y0 = number % CURVES_A_ROW * pitch + left, number // CURVES_A_ROW * block + 28

        def place(share: float, value: float, x0: float = x0, y0: float = y0) -> tuple[float, float]:
            return x0 + share * wide, y0 + high - (value - low) / (top - low) * high

        parts.append(text_at(x0, y0 - 12, shorten(curve.name, wide), "label mono"))
        for tick in round_ticks(low, top, 3):
            y = place(0, tick)[1]
            parts.append(f'<line class="grid" x1="{x0:.1f}" x2="{x0 + wide:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(text_at(x0 - 6, y + 4, f"{tick:.4g}", "tick end"))
        for share in (0.0, 0.5, 0.9):
            parts.append(text_at(place(share, low)[0], y0 + high + 16, f"{share:.0%}", "tick middle"))
        if curve.gone is not None:
            x = place(curve.gone, low)[0]
            words = hover(f"{curve.gone:.0%} went in the end")
            parts.append(f'<g>{words}<line class="went" x1="{x:.1f}" x2="{x:.1f}" y1="{y0}" y2="{y0 + high}"/></g>')
        points = [place(s, v) for s, v in zip(curve.shares, curve.values, strict=True)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="line first" d="{path}"/>')
        for (x, y), share, value in zip(points, curve.shares, curve.values, strict=True):
            words = hover(f"{curve.name}: {what} {value:.4g} with {share:.0%} off")
            parts.append(f'<circle class="point first" cx="{x:.1f}" cy="{y:.1f}" r="2.5">{words}</circle>')
    height = -(-len(curves) // CURVES_A_ROW) * block - 12
    ends = (f"{c.name}: {what} from {c.values[0]:.4g} to {c.values[-1]:.4g}" for c in curves)
    return picture(parts, height, name, "; ".join(ends))


def _cells(rows: Sequence[Sequence[str]], x: float, y: float, wide: float, high: float) -> str:
    """Cells as one path for each class: neighbours of one class in a row are one rectangle."""
    paths: dict[str, list[str]] = defaultdict(list)
    for down, row in enumerate(rows):
        start = 0
        for index in range(1, len(row) + 1):
            if index == len(row) or row[index] != row[start]:
                width = (index - start) * wide
                paths[row[start]].append(
                    f"M{x + start * wide:.1f} {y + down * high:.1f}h{width:.1f}v{high:.1f}h-{width:.1f}z"
                )
                start = index
    return "".join(f'<path class="{style}" d="{"".join(found)}"/>' for style, found in paths.items())


def _marks(indices: Sequence[int], x: float, y: float, wide: float) -> str:
    """Lines below the cells with these indices, ascending."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1][1] += 1
        else:
            runs.append([index, index + 1])
    path = "".join(f"M{x + a * wide:.1f} {y}h{(b - a) * wide:.1f}v3h-{(b - a) * wide:.1f}z" for a, b in runs)
    return f'<path class="gone" d="{path}"/>' if path else ""
