"""Outputs recorded apart are compared as if both models had run here; timings from elsewhere find their model."""

import json

import numpy as np
import pytest

from onnxprune.errors import DataError
from onnxprune.runtime.comparing import compare_recordings
from onnxprune.runtime.data import Dataset
from onnxprune.runtime.elsewhere import compare_elsewhere
from onnxprune.runtime.recording import Recording, record


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    return Dataset({"image": generator.standard_normal((40, 3, 12, 12)).astype(np.float32)}, np.arange(40) % 5, "d")


FIGURES = {"params": 1, "macs": 1, "size_bytes": 1, "nodes": 1, "sha256": "00", "file": "net.onnx"}


def recorded(path, data, **changes):
    import dataclasses

    return dataclasses.replace(record(path, data), model=FIGURES, **changes)


def test_there_and_back(net_path, data, tmp_path):
    found = recorded(net_path, data)
    found.save(tmp_path / "outputs.npz")
    again = Recording.load(tmp_path / "outputs.npz")
    np.testing.assert_array_equal(again.outputs["logits"], found.outputs["logits"])
    assert (again.samples, again.data_sha256, again.nodes_per_provider) == (40, data.sha256, found.nodes_per_provider)
    for content in (b"nothing", b""):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(DataError, match="isn't a recording"):
            Recording.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="isn't a recording"):
        Recording.load(tmp_path / "other.npz")


def test_comparing(net_path, wide_path, data):
    same = compare_recordings(recorded(net_path, data), recorded(net_path, data), tolerance=1e-6)
    assert same.passed and same.equivalence.comparisons == 1 and same.latency == ()
    other = compare_recordings(recorded(net_path, data), recorded(wide_path, data), dataset=data, max_drop=0.01)
    (row,) = other.accuracy
    assert row.provider == "cpu" and row.samples == 40 and row.nodes_per_provider["reference"]
    assert other.agreement[0].equivalence.error_over_range > 0.01
    assert compare_recordings(recorded(net_path, data), recorded(wide_path, data), tolerance=1e-5).exit_code == 1


def test_other_samples_are_refused(net_path, data):
    other = Dataset({"image": data.inputs["image"] + 1}, data.targets)
    with pytest.raises(DataError, match="different samples"):
        compare_recordings(recorded(net_path, data), recorded(net_path, other))
    with pytest.raises(DataError, match="isn't what was recorded on"):
        compare_recordings(recorded(net_path, data), recorded(net_path, data), dataset=other)


def timings(sha256, median_ms, seed=0, **changes):
    generator = np.random.default_rng(seed)
    sessions = [
        {"session_ms": 1.0, "first_run_ms": 1.0, "runs_ms": list(median_ms * generator.lognormal(0, 0.01, 50))}
        for _ in range(8)
    ]
    values = {
        "format": "onnxprune-benchmark",
        "format_version": 1,
        "model_sha256": sha256,
        "provider": "cpu",
        "threads": 1,
        "shapes": {"image": [1, 3, 12, 12]},
        "samples": 400,
        "median_ms": median_ms,
        "p90_ms": median_ms,
        "p99_ms": median_ms,
        "first_run_ms": 1.0,
        "session_ms": 1.0,
        "sessions": sessions,
        "device": {"processor": "a small one", "cores": 4, "system": "Linux"},
        "nodes_per_provider": {"CPUExecutionProvider": 3},
    }
    return {**values, **changes}


@pytest.fixture
def files(tmp_path):
    def write(*found):
        paths = [tmp_path / f"{k}.json" for k in range(len(found))]
        for path, values in zip(paths, found, strict=True):
            path.write_text(json.dumps(values))
        return paths

    return write


def test_timings_of_both_give_a_verdict_about_that_device(files):
    (found,) = compare_elsewhere(files(timings("aa", 4.0), timings("bb", 2.0, 1)), ("aa", "bb"))
    assert found.ratios[0].verdict == "faster" and found.ratios[0].ratio == pytest.approx(0.5, rel=0.02)
    assert found.device == "a small one, 4 cores, Linux" and found.batch == 1 and found.refused is None


def test_timings_of_one_give_a_row_without_a_ratio(files):
    (found,) = compare_elsewhere(files(timings("bb", 2.0)), ("aa", "bb"))
    assert found.ratios == () and found.refused.startswith(
        "Only the candidate was timed there. Package the reference too"
    )


@pytest.mark.parametrize(
    "found, words",
    [
        ([timings("cc", 1.0)], "timings of another model"),
        ([timings("aa", 1.0), timings("aa", 1.0)], "another file holds too"),
        ([timings("aa", 1.0), timings("bb", 1.0, device={"processor": "another"})], "different devices"),
        ([{"format": "x"}], "isn't what a package's run.py .*it has no 'format_version'"),
        ([timings("aa", 1.0, sessions=[])], "isn't what a package's run.py"),
    ],
)
def test_timings_that_do_not_belong_together(files, found, words):
    with pytest.raises(DataError, match=words):
        compare_elsewhere(files(*found), ("aa", "bb"))
