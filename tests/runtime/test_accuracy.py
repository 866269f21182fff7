"""Metrics score sample by sample, and two models are compared in pairs."""

import numpy as np
import pytest

from onnxprune.errors import DataError
from onnxprune.runtime.accuracy import Scores, compare_scores, evaluate, find_metric, record_outputs, score_outputs
from onnxprune.runtime.data import Dataset
from onnxprune.runtime.session import SessionSettings, open_session, run_session

LOGITS = np.array([[3, 1, 2, 0, 0, 0], [0, 5, 4, 3, 2, 1], [1, 1, 1, 1, 1, 1], [np.nan, 9, 0, 0, 0, 0]], np.float32)
LABELS = np.array([0, 0, 0, 1])


@pytest.mark.parametrize(
    "name, expected",
    [("top1", [1, 0, 1, 0]), ("error_rate", [0, 1, 0, 1]), ("top5", [1, 0, 0, 0])],
)
def test_built_in_metrics(name, expected):
    """Row 2 ties (argmax takes the first, top5 counts all six as ahead), row 3 isn't finite."""
    data = Dataset({"x": LOGITS}, LABELS)
    assert score_outputs({"logits": LOGITS}, data, name).per_sample.tolist() == expected


def absolute_error(outputs, targets):
    return np.abs(outputs["a"] - targets) + outputs["b"]


absolute_error.higher_is_better = False


def test_a_metric_of_the_users():
    outputs = {"a": np.array([1.0, 2.0]), "b": np.array([0.0, 1.0])}
    data = Dataset({"x": np.zeros(2)}, np.array([1.0, 4.0]))
    for reference in (absolute_error, find_metric(absolute_error)):
        assert score_outputs(outputs, data, reference).per_sample.tolist() == [0.0, 3.0]
    assert not find_metric(absolute_error).higher_is_better
    assert find_metric("math:hypot").name == "math:hypot"


@pytest.mark.parametrize(
    "metric, words", [("best", "Choose top1"), (7, "can't be called"), ("math:pi", "can't be called")]
)
def test_unknown_metrics(metric, words):
    with pytest.raises(DataError, match=words):
        find_metric(metric)


@pytest.mark.parametrize(
    "metric, targets, words",
    [
        ("top1", np.array([0, 1, 2, 9]), "labels from 0 to 9 for 6 classes"),
        ("top1", np.zeros(4), "integer labels"),
        (lambda outputs, targets: outputs, LABELS, r"gave \[4, 6\] for 4 samples"),
        (lambda outputs, targets: outputs[:, 0], LABELS, "1 scores that aren't finite"),
        (lambda outputs, targets: outputs["x"], LABELS, "fails on outputs"),
    ],
)
def test_metrics_that_do_not_fit(metric, targets, words):
    with pytest.raises(DataError, match=words):
        score_outputs({"logits": LOGITS}, Dataset({"x": LOGITS}, targets), metric)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_batches_do_not_change_scores(net_path, batch):
    images = np.random.default_rng(0).standard_normal((10, 3, 12, 12)).astype(np.float32)
    expected = run_session(open_session(net_path), {"image": images})["logits"].argmax(axis=1)
    scores = evaluate(net_path, Dataset({"image": images}, expected), batch=batch)
    assert scores.mean == 1.0
    assert evaluate(net_path, Dataset({"image": images}, (expected + 1) % 5), batch=batch).mean == 0.0


def test_a_static_batch_is_filled_up(networks):
    images = np.random.default_rng(0).standard_normal((10, 3, 12, 12)).astype(np.float32)
    model = networks[0]()
    free = record_outputs(model.SerializeToString(), {"image": images})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    fixed = record_outputs(model.SerializeToString(), {"image": images}, SessionSettings())
    assert fixed["logits"].shape == (10, 5)
    np.testing.assert_allclose(fixed["logits"], free["logits"], rtol=1e-5, atol=1e-5)


def test_an_output_without_samples(networks):
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    net (float[N, 3] x) => (float loss) { loss = ReduceSum <keepdims = 0> (x) }
    """
    with pytest.raises(DataError, match="'loss' has shape"):
        record_outputs(networks[1](text).SerializeToString(), {"x": np.ones((4, 3), np.float32)})


def scores(*values):
    return Scores(np.array(values, float), float(np.mean(values)))


@pytest.mark.parametrize(
    "wrong_before, wrong_after, metric, max_drop, verdict",
    [
        (10, 12, "top1", 0.02, "passed"),
        (10, 60, "top1", 0.02, "failed"),
        (10, 25, "top1", 0.02, "inconclusive"),
        (10, 60, "top1", None, "measured"),
        (10, 60, "error_rate", 0.02, "failed"),
        (60, 10, "error_rate", 0.02, "passed"),
        (60, 10, "top1", 0.0, "passed"),
    ],
)
def test_right_or_wrong(wrong_before, wrong_after, metric, max_drop, verdict):
    """1,000 samples, of which the first are wrong: better models are wrong on fewer of the same."""
    sides = []
    for wrong in (wrong_before, wrong_after):
        hit = np.arange(1000) >= wrong
        sides.append(scores(*(hit if metric == "top1" else ~hit)))
    found = compare_scores(*sides, metric, max_drop)
    assert found.verdict == verdict
    assert found.only_reference_right == max(0, wrong_after - wrong_before)
    assert found.only_candidate_right == max(0, wrong_before - wrong_after)
    assert found.low < found.difference < found.high


def test_scores_of_any_value():
    generator = np.random.default_rng(0)
    before = generator.gamma(2.0, size=400)
    found = compare_scores(scores(*before), scores(*(before + 0.1)), absolute_error, max_drop=0.05)
    assert (found.verdict, found.only_reference_right) == ("failed", None)
    noisy = compare_scores(scores(*before), scores(*(before + generator.normal(0, 0.1, 400))), absolute_error, 0.05)
    assert noisy.verdict == "passed"
