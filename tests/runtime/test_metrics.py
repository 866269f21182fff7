"""Metrics against values worked out by hand or by another formula, and a sentence where their library is missing."""

import math

import numpy as np
import pytest

from onnxprune.errors import DataError
from onnxprune.runtime import metrics
from onnxprune.runtime.accuracy import compare_scores, score_outputs, worst_class
from onnxprune.runtime.data import Dataset
from onnxprune.runtime.metrics import CENTS, METRICS, find_metric

LABELS = np.array([0, 0, 1, 1, 1, 2])
DECIDED = np.array([0, 1, 1, 1, 0, 2])
LOGITS = np.eye(3, dtype=np.float32)[DECIDED]


def score(outputs, targets, metric, alphabet=None):
    data = Dataset({"x": np.zeros(len(targets))}, np.asarray(targets), alphabet=alphabet)
    return score_outputs({"y": np.asarray(outputs)}, data, metric)


# Class 0: 1 of 2 found, 1 of 2 right; class 1: 2 of 3 found, 2 of 3 right; class 2: all.
MACRO = (1 / 2 + 2 / 3 + 1) / 3
PIXELS = np.array([[[0, 1], [1, -1]]])
SEEN = np.array([[[0, 1], [0, 1]]])
SOLFA = ("", "a", "b", " ")
TEXT = np.array([[1, 1, 0, 1, 3, 2, 2], [2, 0, 0, 3, 1, 0, 0]])


@pytest.mark.parametrize(
    "name, outputs, targets, expected",
    [
        ("top1", LOGITS, LABELS, 4 / 6),
        ("top2", np.array([[3.0, 2, 1], [3, 2, 1]]), np.array([1, 2]), 0.5),
        ("precision", LOGITS, LABELS, MACRO),
        ("recall", LOGITS, LABELS, MACRO),
        ("f1", LOGITS, LABELS, MACRO),
        # One class: positives ranked first and third of three.
        ("map", np.array([[0.9], [0.5], [0.1]]), np.array([[1], [0], [1]]), (1 + 2 / 3) / 2),
        # Class 0: 1 of 2, class 1: 1 of 2; the fourth pixel doesn't count.
        ("miou", np.eye(2)[SEEN].transpose(0, 3, 1, 2), PIXELS, 0.5),
        ("rmse", np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 0], [3, 4]]), 1.0),
        ("loss", np.array([[0.0, 0.0], [math.log(3), 0.0]]), np.array([0, 0]), (math.log(2) + math.log(4 / 3)) / 2),
        ("cosine", np.array([[1.0, 0], [1, 1]]), np.array([[0.0, 2], [3, 3]]), 0.5),
        # 100 Hz is 3986 cents above 10 Hz; off by 40 and by 60 cents, and an unvoiced frame.
        ("raw_pitch", 100 * 2 ** (np.array([40, 60, 0]) / 1200), np.array([100.0, 100, 0]), 0.5),
    ],
)
def test_values(name, outputs, targets, expected):
    assert score(outputs, targets, name).mean == pytest.approx(expected, abs=1e-6)


def test_crepe_bins_are_read_as_pitch():
    bins = np.zeros((1, 360))
    bins[0, 100] = 1.0
    hertz = 10 * 2 ** (CENTS[100] / 1200)
    assert score(bins, np.array([hertz]), "raw_pitch").mean == 1.0
    assert score(bins, np.array([hertz * 2 ** (60 / 1200)]), "raw_pitch").mean == 0.0


def test_text():
    """Read "aa b" (a blank between the two a) and "b a"; one letter and one word of two each is wrong."""
    pytest.importorskip("jiwer")
    outputs = np.eye(4)[TEXT]
    wanted = np.array(["ab b", "b a"])
    assert score(outputs, wanted, "cer", SOLFA).mean == pytest.approx(1 / 7)
    assert score(outputs, wanted, "wer", SOLFA).mean == pytest.approx(1 / 4)
    # Without an alphabet classes are compared as they are.
    classes = np.array([[1, 1, 3, 2], [2, 3, 1, -1]])
    assert score(outputs, classes, "cer").mean == 0.0
    with pytest.raises(DataError, match="'alphabet'"):
        score(outputs, wanted, "cer")


@pytest.mark.parametrize("name", ["precision", "map", "cer", "raw_pitch"])
def test_a_missing_library_is_named(monkeypatch, name):
    def missing(module):
        raise ImportError(module)

    monkeypatch.setattr(metrics, "import_module", missing)
    outputs = np.eye(3)[[0, 1, 2]] if name != "raw_pitch" else np.ones(3)
    with pytest.raises(DataError, match=r"isn't installed: pip install 'onnxprune\[metrics\]'"):
        score(outputs, np.array([0, 1, 2]) if name != "cer" else np.array([[0], [1], [2]]), name)


@pytest.mark.parametrize(
    "name, outputs, targets, words",
    [
        ("miou", np.zeros((2, 3, 4, 4)), np.zeros((2, 5, 5), int), "mean IoU needs"),
        ("map", np.zeros((2, 3)), np.zeros((2, 4)), "average precision needs"),
        ("rmse", np.zeros((2, 3)), np.zeros((2, 4)), "as many numbers"),
        ("raw_pitch", np.zeros((2, 7)), np.zeros(2), "360 bins"),
    ],
)
def test_what_does_not_fit(name, outputs, targets, words):
    with pytest.raises(DataError, match=words):
        score(outputs, targets, name)


def test_an_aggregated_metric_is_compared_in_pairs():
    """The candidate confuses one class in eight: the interval of F1's difference lies below 0 and holds the truth."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 400)
    before = np.eye(4)[np.where(generator.random(400) < 0.05, (labels + 1) % 4, labels)]
    after = np.eye(4)[np.where(generator.random(400) < 0.125, (labels + 1) % 4, before.argmax(axis=1))]
    pair = [score(outputs, labels, "f1") for outputs in (before, after)]
    found = compare_scores(*pair, "f1", max_drop=0.01)
    assert found.low < found.difference < found.high < 0
    assert (found.verdict, found.only_reference_right) == ("failed", None)
    same = compare_scores(pair[0], pair[0], "f1", max_drop=0.01)
    assert (same.low, same.high, same.verdict) == (0.0, 0.0, "passed")


def test_worst_class():
    labels = np.repeat([0, 1, 2], 20)
    right = [np.ones(60), np.ones(60)]
    right[1][20:26] = 0
    right[1][40:42] = 0
    pair = [score(np.eye(3)[np.where(hit, labels, (labels + 1) % 3)], labels, "top1") for hit in right]
    found = worst_class(*pair, labels, "top1")
    assert (found.label, found.samples, found.reference, found.candidate) == (1, 20, 1.0, 0.7)
    assert worst_class(pair[0], pair[0], labels, "top1") is None


def test_exact_p():
    """Five against none of five discordant samples: 2 / 2**5."""
    pair = [score(np.eye(2)[decided], np.zeros(40, int), "top1") for decided in ([0] * 40, [1] * 5 + [0] * 35)]
    assert compare_scores(*pair).exact_p == pytest.approx(1 / 16)


def test_every_metric_says_which_way_is_better():
    worse_when_higher = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    assert worse_when_higher == {"error_rate", "rmse", "loss", "cer", "wer"}
    assert find_metric("top17").share
