"""Strips, maps and small curves: cells and marks stand where their indices say, and darker is more."""

import re

import numpy as np
import pytest

from onnxprune.deploy.maps import (
    CELLS,
    Curve,
    Map,
    Scale,
    Strip,
    curve_chart,
    heat_strip,
    map_chart,
    strip_chart,
)
from onnxprune.deploy.units_section import units_section


def rectangles(picture, style):
    """(x, y, width, height) of what one class draws."""
    found = re.findall(rf'<path class="{style}" d="([^"]*)"', picture)
    return [
        tuple(map(float, r)) for d in found for r in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-[\d.]+z", d)
    ]


@pytest.mark.parametrize(
    "value, level", [(0.0, 0), (1.0, 0), (3.0, 1), (9.0, 3), (50.0, 6), (100.0, 7), (1e9, 7)], ids=str
)
def test_a_scale_is_logarithmic_and_ends_at_its_ends(value, level):
    assert Scale(1.0, 100.0).level(value) == level


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [2.0, 2.0], [np.nan, 1.0]], ids=str)
def test_a_scale_of_almost_nothing(values):
    scale = Scale.of(np.array(values))
    assert all(0 <= scale.level(v) <= 7 for v in (0.0, 1.0, 2.0, 5.0))


def test_cells_of_a_strip_stand_in_order_and_marks_below_them():
    strip = Strip("a", ["left", "left", "out0", "left"], [2, 3], "3 of 4", "told")
    picture = strip_chart([strip], "t", [4])
    (first, last), (gone,), (marks,) = (rectangles(picture, style) for style in ("left", "out0", "gone"))
    assert first[2] == pytest.approx(2 * last[2]) and gone[0] == pytest.approx(first[0] + first[2])
    assert last[0] == pytest.approx(gone[0] + gone[2])
    assert (marks[0], marks[2]) == (gone[0], pytest.approx(2 * gone[2])) and marks[1] > first[1] + first[3]
    assert "3 of 4" in picture and "<title>told</title>" in picture


def test_long_strips_show_means_of_neighbours():
    values = np.repeat(np.geomspace(1e-3, 1.0, CELLS), 5)
    strip = heat_strip("a", values.tolist(), [])
    assert len(strip.styles) == CELLS
    levels = [int(style.removeprefix("heat")) for style in strip.styles]
    assert levels == sorted(levels) and (levels[0], levels[-1]) == (0, 7)


def test_a_map_has_its_rows_from_top_to_bottom():
    picture = map_chart([Map("a → b", "outputs: 2", "inputs: 3", [[1, 1], [1, 1], [1, 100]])], "t")
    (most,) = rectangles(picture, "heat7")
    others = rectangles(picture, "heat0")
    assert most[0] > min(x for x, *_ in others) and most[1] == max(y for _, y, *_ in others)


def test_curves_share_one_scale_and_say_what_went():
    curves = [Curve("a", [0, 0.5, 0.9], [1.0, 2.0, 3.0], 0.5), Curve("b", [0, 0.5, 0.9], [1.0, 1.0, 1.0], None)]
    picture = curve_chart(curves, "t", "loss")
    points = [tuple(map(float, p)) for p in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', picture)]
    heights = [y for _, y in points]
    assert heights[0] == heights[3] == heights[5] and heights[0] - heights[1] == pytest.approx(heights[1] - heights[2])
    (went,) = re.findall(r'class="went" x1="([\d.]+)"', picture)
    assert float(went) == points[1][0] and "50% went in the end" in picture
    assert "a: loss 3 with 90% off" in picture


UNITS = [
    {
        "group": "a.weight",
        "kind": "channel",
        "count": 4,
        "index": [0, 1, 2, 3],
        "steps": [{"step": k, "score": [1.0] * 4, "rank": [1, 2, 3, 4], "cut": [k], "back": []} for k in range(2)],
        "cut": {"0": [0]},
        "kept": {"rounding": [1], "rolled back": [2], "score": [3]},
        "back": [2],
    },
    {
        "group": "b.weight",
        "kind": "head",
        "count": 2,
        "index": [0, 8],
        "steps": [],
        "cut": {},
        "back": [],
        "kept": {"keep": [0, 1]},
    },
]


def test_every_unit_is_drawn_by_what_became_of_it():
    fates = units_section({"units": UNITS, "steps": [{}, {}]})["fates"]
    assert [len(rectangles(fates["chart"], style)) for style in ("out0", "ruled", "left", "gone")] == [1, 1, 1, 1]
    assert "3 of 4" in fates["chart"]
    assert "the width that the target runs fast, a step that took them was undone" in fates["caption"]
    assert fates["notes"] == ["Never to choose from: 2 heads of b.weight, because the recipe keeps them."]


def test_a_history_without_units_has_no_section():
    assert units_section({"epochs": [], "steps": [], "widths": []}) is None
