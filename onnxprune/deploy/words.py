"""Figures as words, for pages that people read."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

DASH = "–"


def plural(count: int, what: str) -> str:
    """ "1 step", "2 steps"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def signed(figures: str) -> str:
    """Figures with true minus signs, as wide as the plus beside them."""
    return figures.replace("-", "\N{MINUS SIGN}")


def count_in_words(count: float) -> str:
    """A large number with three digits: "41.2 M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,.0f}"


def size_in_words(size_bytes: float) -> str:
    """A size in the unit that leaves one to three digits before the point: "1.7 MB"."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= size:
            return f"{size_bytes / size:.3g} {unit}"
    return f"{size_bytes:,.0f} B"


def time_in_words(time_ms: float) -> str:
    """A latency with three digits: "0.513 ms", "24.2 µs"."""
    if time_ms < 0.1:
        return f"{time_ms * 1000:.3g} µs"
    return f"{time_ms:.3g} ms" if time_ms < 1000 else f"{time_ms:,.0f} ms"


def duration_in_words(seconds: float) -> str:
    """ "3 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def moment_in_words(created: str) -> str:
    """An ISO 8601 time as "23 November 2026, 05:00 UTC"; anything else as it is."""
    try:
        moment = datetime.fromisoformat(created).astimezone(UTC)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def time_cell(time_ms: float | None) -> str:
    """A table's cell for a time in ms, a dash where there is none."""
    return DASH if time_ms is None else f"{time_ms:.3f}" if time_ms < 10 else f"{time_ms:,.1f}"


def number_cell(value: float | None) -> str:
    """A table's cell for a number, a dash where there is none."""
    return DASH if value is None else f"{value:.4g}"


def count_cell(value: int | None) -> str:
    """A table's cell for a count, a dash where there is none."""
    return DASH if value is None else f"{value:,}"


def anything_in_words(value: Any) -> str:
    """A JSON value as words, whatever it is made of."""
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {anything_in_words(item)}".replace("_", " ") for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(anything_in_words(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
