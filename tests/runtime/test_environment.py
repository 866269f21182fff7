"""What a measurement was taken on is recorded, and packages that clash are noticed."""

import json
from types import SimpleNamespace

import pytest

from onnxprune.runtime import environment as module
from onnxprune.runtime.environment import conflicting_packages, cores_available, environment


def test_environment_is_plain_json():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["cores_available"] == cores_available() >= 1
    assert any(name.startswith("onnxruntime") for name in found["packages"])


@pytest.mark.parametrize(
    "installed, clash",
    [
        (["numpy", "onnxruntime"], False),
        (["onnxruntime_gpu"], False),
        (["onnxruntime-gpu", "onnxruntime-extensions"], False),
        (["onnxruntime", "onnxruntime-gpu"], True),
        (["onnxruntime_gpu", "OnnxRuntime"], True),
    ],
)
def test_packages_that_overwrite_each_other(monkeypatch, installed, clash):
    fakes = [SimpleNamespace(metadata={"Name": name}, version="1.0") for name in installed]
    monkeypatch.setattr(module.importlib.metadata, "distributions", lambda: fakes)
    sentence = conflicting_packages()
    assert (sentence is not None) is clash
    assert (sentence in environment()["notes"]) is clash
    if clash:
        assert "pip uninstall -y onnxruntime onnxruntime-gpu" in sentence
