"""The parts that charts are drawn from: text, what is said when something is pointed at, the picture around it all."""

import math
from collections.abc import Iterable

from markupsafe import Markup, escape

WIDTH = 960


def picture(parts: Iterable[str], height: float, title: str, description: str) -> Markup:
    """An image with a title and a description; the id ties them to it and differs from chart to chart."""
    key = key_of(title)
    head = (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="{key}-title {key}-description">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-description">{escape(description)}</desc>'
    )
    return Markup(head + "".join(parts) + "</svg>")


def key_of(words: str) -> str:
    """An id made of words, which differ from chart to chart."""
    return "chart-" + "".join(c if c.isalnum() else "-" for c in words.lower())


def hover(words: str) -> str:
    return f"<title>{escape(words)}</title>"


def text_at(x: float, y: float, words: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def text_width(words: str, per_letter: float = 7.6) -> float:
    return len(words) * per_letter


def shorten(words: str, width: float, per_letter: float = 7.6) -> str:
    """The words, cut in the middle where they are wider than `width`: both ends of a layer's name tell something."""
    room = int(width / per_letter)
    if len(words) <= room:
        return words
    return words[: (room - 1) // 2] + "…" + words[len(words) - room // 2 :]


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside the range: about `count` of them, at least two."""
    power = 10.0 ** math.ceil(math.log10((high - low) / count))
    for step in (power, power / 2, power / 5, power / 10, power / 20):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 >= max(2, 0.6 * count):
            break
    return [round(k * step, 12) for k in range(first, last + 1)]
