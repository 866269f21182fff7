"""Cutting arrays down to what a mask keeps."""

import numpy as np
import pytest

from onnxprune.graph.compact import kept_along, shape_after, take

ARRAY = np.arange(2 * 3 * 4).reshape(2, 3, 4)
ROWS = np.array([[1, 0, 1], [0, 1, 1]], bool)  # each row keeps two of three, its own choice


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.ones((1, 1, 1), bool), ARRAY),
        (np.array([True, False, True]).reshape(1, 3, 1), ARRAY[:, [0, 2]]),
        (np.outer([True, False], [True, False, True, True]).reshape(2, 1, 4), ARRAY[:1][:, :, [0, 2, 3]]),
        (ROWS.reshape(2, 3, 1), np.stack([ARRAY[0, [0, 2]], ARRAY[1, [1, 2]]])),
    ],
    ids=["nothing goes", "one axis", "two axes", "a choice in each row"],
)
def test_take(mask, expected):
    assert np.array_equal(take(ARRAY, mask), expected)
    assert shape_after(mask, ARRAY.shape) == expected.shape


def test_a_row_may_go_whole_and_the_others_keep_their_choice():
    mask = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]], bool)
    array = np.arange(9).reshape(3, 3)
    assert take(array, mask).tolist() == [[0, 2], [7, 8]]


def test_a_grid_on_axes_that_are_apart():
    mask = ROWS.reshape(2, 1, 3)
    array = np.arange(2 * 5 * 3).reshape(2, 5, 3)
    expected = np.stack([array[0][:, [0, 2]], array[1][:, [1, 2]]])
    assert np.array_equal(take(array, mask), expected)


def test_what_is_no_box_is_refused():
    with pytest.raises(ValueError, match="row 1 keeps 1 places where row 0 keeps 2"):
        shape_after(np.array([[1, 1], [1, 0]], bool), (2, 2))


def test_a_place_may_stand_for_a_run():
    assert shape_after(np.array([[True, False, True]]), (2, 300)) == (2, 200)
    assert shape_after(ROWS, (2, 3 * 50)) == (2, 2 * 50)


def test_kept_along():
    assert kept_along(ROWS, 0, 2).tolist() == [True, True]
    assert kept_along(np.ones((1, 3), bool), 0, 5).tolist() == [True] * 5
