"""Charts: marks stand where their figures say."""

import re

import pytest

from onnxprune.deploy.charts import Band, Interval, Line, Mark, Panel, bar_chart, interval_chart, line_chart


def numbers(pattern, svg):
    return [tuple(map(float, found.groups())) for found in re.finditer(pattern, svg)]


def test_bars_are_proportional():
    svg = bar_chart([("a", 64, 16), ("b", 32, 32)], "t", "channels")
    before = [width for (width,) in numbers(r'class="before"[^>]* width="([\d.]+)"', svg)]
    after = [width for (width,) in numbers(r'class="after"[^>]* width="([\d.]+)"', svg)]
    assert before == [pytest.approx(2 * before[1], abs=0.2), before[1]]
    assert after == [pytest.approx(before[0] / 4, abs=0.2), pytest.approx(before[1], abs=0.2)]
    assert "64 → 16" in svg and "32, all kept" in svg


def test_a_long_name_keeps_both_ends():
    name = "encoder." + "x" * 80 + ".weight"
    svg = bar_chart([(name, 2, 1)], "t", "channels")
    assert re.search(r">encoder\.x+…x+\.weight</text>", svg)
    assert f"<title>{name}" in svg


def test_intervals_stand_in_order_on_one_axis():
    rows = [
        Interval("a", 0.5, 0.4, 0.6, "faster", "half"),
        Interval("b", 1.5, 1.4, 1.6, "slower", "more"),
        Interval("c", 1.0, 0.99, 1.01, "inconclusive", "?", [(0.8, "the limit")]),
    ]
    svg = interval_chart(rows, "t", 1.0, "ratio", start=0.0)
    dots = [x for (x,) in numbers(r'cx="([\d.]+)"', svg)]
    (reference,) = numbers(r'class="reference" x1="([\d.]+)"', svg)
    (limit,) = numbers(r'class="limit" x1="([\d.]+)"', svg)
    assert dots[0] < limit[0] < dots[2] == reference[0] < dots[1]
    whiskers = numbers(r'class="whisker" x1="([\d.]+)" x2="([\d.]+)"', svg)
    assert len(whiskers) == 9 and whiskers[0][0] < dots[0] < whiskers[0][1]
    assert re.findall(r'<g class="(\w+)"', svg) == ["good", "bad", "unsure"]


def test_lines_fall_where_values_fall():
    loss = Line("training", "first", [(1, 16.0), (2, 4.0), (3, 1.0)])
    svg = line_chart([Panel("Loss", [loss], "log")], "t", "epochs", [Mark(2, "undone", "why")], [Band(0, 3, "dense")])
    points = numbers(r'class="point first" cx="([\d.]+)" cy="([\d.]+)"', svg)
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2) and y1 < y2  # quarters are equally far apart on a log scale
    assert f'<line x1="{x2:.1f}"' in svg and "why" in svg and ">dense</text>" in svg


def test_a_percent_panel_shows_the_values_that_differ_late():
    """A network starts from 10%; the axis is about the last few points."""
    values = [0.1, 0.5, 0.97, 0.975, 0.98, 0.978, 0.982, 0.981]
    line = Line("metric", "first", list(enumerate(values)))
    svg = line_chart([Panel("Metric", [line], "percent")], "t", "epochs", [], [])
    labels = [float(label) for label in re.findall(r">([\d.]+)%</text>", svg)]
    assert len(labels) >= 2 and min(labels) > 90 and max(labels) <= 100


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 3e-7, 12345.0, -2.0])
@pytest.mark.parametrize("kind", ["number", "log", "percent"])
def test_a_constant_has_an_axis(value, kind):
    svg = line_chart([Panel("p", [Line("l", "first", [(0, value), (1, value)])], kind)], "t", "x", [], [])
    heights = [y for (y,) in numbers(r' cy="(-?[\d.]+)"', svg)]
    assert len(heights) == 2 and 0 < heights[0] == heights[1] < 200
    assert svg.count('class="tick end"') >= 2
