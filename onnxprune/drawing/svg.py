"""The drawing as SVG: one file without scripts, fonts or anything else from outside; the same bytes every time."""

import re
from collections.abc import Iterator, Sequence
from html import escape

from onnxprune.drawing.colours import GREY, tint
from onnxprune.drawing.families import STAYS, Stripe
from onnxprune.drawing.routing import Point

STYLE = """\
text { font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; fill: #1f2733; }
.name { font-size: 12px; font-weight: 600; }
.detail { font-size: 11px; fill: #5b6675; }
.width { font-size: 10.5px; fill: #3c4654; paint-order: stroke; stroke: #fff; stroke-width: 3px; }
.title { font-size: 10.5px; font-weight: 600; fill: #667085; paint-order: stroke; stroke: #fff; stroke-width: 3px; }
.times { font-size: 12px; font-weight: 700; fill: #475467; }
.sign { font-size: 15px; font-weight: 700; fill: #fff; text-anchor: middle; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.head { font-size: 17px; font-weight: 700; }
.box { stroke: #b9c1cc; stroke-width: 1; }
.block { fill: #f6f7f9; stroke: #dfe3e8; stroke-width: 1; }
.edge { fill: none; stroke-width: 2.6; stroke-linejoin: round; }
"""
HATCH = (
    '<pattern id="stays" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="6" height="6" fill="#e3e6ea"/><rect width="2.4" height="6" fill="#9aa3af"/></pattern>'
)
WIDE, NARROW = frozenset("mwMW@%—"), frozenset("ilj.,:;'|! ()[]tfr")
#: Characters that no XML document may hold.
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(words: str) -> str:
    """Text as XML holds it."""
    return escape(FORBIDDEN.sub("\ufffd", words))


def number(value: float) -> str:
    """A coordinate, as short as it is exact to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def label(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{number(x)}" y="{number(y)}" class="{style}">{text(words)}</text>'


def measure(words: str, size: float) -> float:
    """About how wide words are, in a bold sans-serif font of `size`."""
    return size * sum(1.0 if c in WIDE else 0.38 if c in NARROW else 0.76 if c.isupper() else 0.66 for c in words)


def shorten(words: str, width: float, size: float, *, keep: float = 0.5) -> str:
    """Words that fit; of a name that is too long both ends stay, `keep` of it being the front."""
    if measure(words, size) <= width:
        return words
    for room in range(len(words) - 1, 2, -1):
        front = int(room * keep)
        short = f"{words[:front]}…{words[len(words) - (room - front) :]}"
        if measure(short, size) <= width:
            return short
    return "…"


def rectangle(
    x: float, y: float, width: float, height: float, *, radius: float = 0, style: str = "", fill: str = ""
) -> str:
    extra = (f' rx="{number(radius)}"' if radius else "") + (f' class="{style}"' if style else "")
    extra += f' fill="{fill}"' if fill else ""
    return f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"{extra}/>'


def circle(x: float, y: float, radius: float, fill: str) -> str:
    return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" fill="{fill}"/>'


def fill_of(family: int, colours: Sequence[str]) -> str:
    return "url(#stays)" if family == STAYS else colours[family]


def strip(style: str, place: Sequence[float], stripe: Stripe, colours: Sequence[str]) -> Iterator[str]:
    """The families along a tensor's channels side by side in a place (x, y, width, height), by their shares of it."""
    x, y, width, height = place
    for family, size in merged(stripe.runs):
        share = width * size / stripe.size
        yield rectangle(x, y, share, height, style=style, fill=fill_of(family, colours))
        x += share


def merged(runs: Sequence[tuple[int, int]], most: int = 60) -> Sequence[tuple[int, int]]:
    """Runs as they are, or where there are too many to be seen one for each family."""
    if len(runs) <= most:
        return runs
    total: dict[int, int] = {}
    for family, size in runs:
        total[family] = total.get(family, 0) + size
    return sorted(total.items(), key=lambda item: -item[1])


def path(points: Sequence[Point], radius: float = 5) -> str:
    """A line along corners, which are rounded."""
    clean = [points[0]]
    for point in points[1:]:
        if point != clean[-1]:
            clean.append(point)
    words = [f"M{number(clean[0][0])} {number(clean[0][1])}"]
    for before, corner, after in zip(clean, clean[1:], clean[2:], strict=False):
        into, out = _toward(corner, before, radius), _toward(corner, after, radius)
        words.append(f"L{number(into[0])} {number(into[1])}")
        words.append(f"Q{number(corner[0])} {number(corner[1])} {number(out[0])} {number(out[1])}")
    words.append(f"L{number(clean[-1][0])} {number(clean[-1][1])}")
    return "".join(words)


def _toward(start: Point, end: Point, distance: float) -> Point:
    length = abs(end[0] - start[0]) + abs(end[1] - start[1]) or 1.0
    share = min(distance, length / 2) / length
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def edge(points: Sequence[Point], stripe: Stripe, colours: Sequence[str], *, arrow: bool = True) -> Iterator[str]:
    """A line in the colours of what flows along it: dashes side by side where that is several families."""
    way = path(points)
    shades = [colours[family] for family in stripe.families[:5]]
    if any(family == STAYS for family, _ in stripe.runs):
        shades.append(GREY)
    yield f'<path class="edge" d="{way}" stroke="{shades[0]}"/>'
    for place, shade in enumerate(shades[1:], 1):
        dashes = f'stroke-dasharray="7 {7 * (len(shades) - 1)}" stroke-dashoffset="{-7 * place}"'
        yield f'<path class="edge" d="{way}" stroke="{shade}" {dashes}/>'
    if arrow:
        yield _arrow(points, shades[-1])


def _arrow(points: Sequence[Point], shade: str) -> str:
    (x0, y0), (x, y) = points[-2], points[-1]
    if abs(x - x0) > abs(y - y0):
        back = x - 6 if x > x0 else x + 6
        corners = ((x, y), (back, y - 4), (back, y + 4))
    else:
        corners = ((x, y), (x - 4, y - 6), (x + 4, y - 6))
    return f'<polygon points="{" ".join(f"{number(a)},{number(b)}" for a, b in corners)}" fill="{shade}"/>'


def box_fill(stripe: Stripe | None, colours: Sequence[str]) -> str:
    """White with a breath of the colour that most of the channels have."""
    if stripe is None or not stripe.families:
        return "#f1f3f5"
    return tint(colours[stripe.families[0]], 0.13)
