"""Packages: what is in them, and that building one leaves nothing half there."""

import copy
import errno
import hashlib
import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.deploy import package
from onnxprune.deploy.package import build_package, verify_package
from onnxprune.errors import DataError, ModelError, OutputError

FILES = {"model.onnx", "run.py", "sample.npz", "README.md", "validation.json", "recipe.yaml"}


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_manifest_lists_every_file_with_its_hash(built):
    manifest = json.loads((built / "manifest.json").read_text())
    found = {name: data for name, data in folder_bytes(built).items() if name != "manifest.json"}
    assert set(found) == FILES
    assert manifest["files"] == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)} for name, data in found.items()
    }


def test_manifest_describes_the_model(built):
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["model"] == {
        "file": "model.onnx",
        "name": "small",
        "ir_version": 10,
        "opset": {"": 18},
        "inputs": [{"name": "image", "type": "float32", "shape": ["N", 3, 8, 8]}],
        "outputs": [{"name": "logits", "type": "float32", "shape": ["N", 5]}],
        "licence": "MIT",
    }
    assert manifest["verdict"] == "passed"


def test_model_is_shipped_byte_for_byte(built, network_path):
    assert (built / "model.onnx").read_bytes() == network_path.read_bytes()


def test_sample_holds_inputs_and_the_outputs_that_belong_to_them(built, network, images):
    with np.load(built / "sample.npz") as sample:
        assert set(sample.files) == {"input:image", "output:logits"}
        np.testing.assert_array_equal(sample["input:image"], images[:4])
        (expected,) = onnx.reference.ReferenceEvaluator(network).run(None, {"image": images[:4]})
        np.testing.assert_allclose(sample["output:logits"], expected, rtol=1e-4, atol=1e-5)


def test_readme_says_what_was_measured(built):
    words = (built / "README.md").read_text()
    assert "| parameters | 701,234 | 121,234 | 17.3% |" in words
    assert "| input | `image` | float32 | N x 3 x 8 x 8 |" in words
    assert "Licence of the model: MIT" in words


def test_a_model_alone_is_enough(network_path, tmp_path):
    built = build_package(network_path, tmp_path / "p")
    assert set(built.files) == FILES - {"validation.json", "recipe.yaml"}
    assert verify_package(built.path).passed
    assert hashlib.sha256((tmp_path / "p" / "manifest.json").read_bytes()).hexdigest() == built.sha256
    assert built.size_bytes == sum(p.stat().st_size for p in built.path.iterdir() if p.name != "manifest.json")
    assert built.sha256 in str(built)
    assert json.loads(json.dumps(built.as_dict()))["files"] == built.files


def test_external_data_travels_along(network, tmp_path):
    (tmp_path / "in").mkdir()
    onnx.save(
        copy.deepcopy(network),
        tmp_path / "in" / "big.onnx",
        save_as_external_data=True,
        location="big.onnx.data",
        size_threshold=0,
    )
    out = tmp_path / "out"
    assert "big.onnx.data" in build_package(tmp_path / "in" / "big.onnx", out).files
    assert verify_package(out).passed
    (tmp_path / "in" / "big.onnx.data").unlink()
    assert onnx.load(out / "model.onnx").graph.initializer[0].raw_data == network.graph.initializer[0].raw_data


def test_external_data_must_not_take_a_name_of_the_package(network, tmp_path):
    onnx.save(
        copy.deepcopy(network),
        tmp_path / "big.onnx",
        save_as_external_data=True,
        location="manifest.json",
        size_threshold=0,
    )
    with pytest.raises(ModelError, match=r"manifest\.json"):
        build_package(tmp_path / "big.onnx", tmp_path / "out")


def test_validation_of_another_file_is_refused(network_path, validation, replaced, tmp_path):
    other = replaced(validation, candidate=replaced(validation.candidate, sha256="00" * 32))
    with pytest.raises(DataError, match="another file"):
        build_package(network_path, tmp_path / "out", validation=other)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "example",
    [
        np.zeros((2, 3, 8, 9), np.float32),
        np.zeros((2, 3, 8), np.float32),
        np.zeros((0, 3, 8, 8), np.float32),
        np.zeros((2, 3, 8, 8), np.complex64),
        {},
        {"image": np.zeros((2, 3, 8, 8), np.float32)[:, :1]},
    ],
    ids=["size", "rank", "empty", "type", "none", "channels"],
)
def test_example_that_does_not_fit(network_path, tmp_path, example):
    with pytest.raises(DataError, match="image"):
        build_package(network_path, tmp_path / "out", example=example)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("elem_type", [TensorProto.BFLOAT16, TensorProto.STRING])
def test_types_that_numpy_does_not_have(tmp_path, elem_type):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", elem_type, [2])],
        [helper.make_tensor_value_info("y", elem_type, [2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="'x'"):
        build_package(tmp_path / "m.onnx", tmp_path / "out")


def test_model_that_does_not_run_is_not_packaged(network, tmp_path):
    broken = onnx.ModelProto()
    broken.CopyFrom(network)
    broken.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(broken, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="NoSuchOperator"):
        build_package(tmp_path / "m.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- where it goes ----


@pytest.fixture
def in_process(monkeypatch):
    """The sample's answers without a child process: these tests are about files."""
    monkeypatch.setattr(package, "run_in_child", lambda function, *args, memory_mb, timeout_s: function(*args))


def test_a_package_replaces_a_package_whole(in_process, network_path, validation, tmp_path):
    out = tmp_path / "deep" / "package"
    build_package(network_path, out, validation=validation)
    build_package(network_path, out, recipe="name: second\n")
    assert verify_package(out).passed
    assert {path.name for path in out.iterdir()} == FILES - {"validation.json"} | {"manifest.json"}
    assert [path.name for path in out.parent.iterdir()] == ["package"]


def test_an_empty_folder_is_a_place(in_process, network_path, tmp_path):
    (tmp_path / "out").mkdir()
    build_package(network_path, tmp_path / "out")
    assert verify_package(tmp_path / "out").passed


def other_folder(out):
    out.mkdir()
    (out / "thesis.txt").write_text("three years of work")


def other_manifest(out):
    out.mkdir()
    (out / "manifest.json").write_text('{"name": "a browser extension", "files": {}}')


def a_file(out):
    out.write_text("a file")


def a_link(out):
    (out.parent / "elsewhere").mkdir()
    out.symlink_to(out.parent / "elsewhere")


@pytest.mark.parametrize("occupy", [other_folder, other_manifest, a_file, a_link])
def test_what_is_not_a_package_is_never_overwritten(network_path, tmp_path, occupy):
    out = tmp_path / "out"
    occupy(out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="out"):
        build_package(network_path, out)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("step", ["_write_sample", "_write_manifest", "_readme"])
def test_a_full_disk_leaves_the_old_package(in_process, network_path, tmp_path, monkeypatch, step):
    out = tmp_path / "out"
    build_package(network_path, out)
    before = folder_bytes(out)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(package, step, full)
    with pytest.raises(OutputError, match="No space left on device"):
        build_package(network_path, out, recipe="name: new\n")
    assert folder_bytes(out) == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_failing_rename_puts_the_old_package_back(in_process, network_path, tmp_path, monkeypatch):
    out = tmp_path / "out"
    build_package(network_path, out)
    before, rename = folder_bytes(out), os.rename

    def refuse_new(source, target):
        if os.fspath(source).endswith("new"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_new)
    with pytest.raises(OutputError, match="Permission denied"):
        build_package(network_path, out)
    assert folder_bytes(out) == before
    assert list(tmp_path.iterdir()) == [out]
