"""Verification: whatever happens to a package is noticed, and named."""

import json
import os
import shutil

import pytest

from onnxprune.deploy.verify import verify_package
from onnxprune.errors import InputError


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "package")


def rewrite(path, change):
    """Change the manifest as somebody would who wants it to fit."""
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def flip_a_bit(package):
    data = bytearray((package / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (package / "model.onnx").write_bytes(data)


def truncate(package):
    os.truncate(package / "model.onnx", 10)


def link_to_the_same_bytes(package):
    shutil.move(package / "model.onnx", package.parent / "elsewhere.onnx")
    (package / "model.onnx").symlink_to(package.parent / "elsewhere.onnx")


def list_a_file_outside(package):
    shutil.copy(package / "README.md", package.parent / "outside.md")

    def change(manifest):
        manifest["files"]["../outside.md"] = manifest["files"]["README.md"]

    rewrite(package / "manifest.json", change)


def nest_deeply(package):
    (package / "manifest.json").write_text("[" * 100_000)


def replace_manifest_by_a_link(package):
    shutil.move(package / "manifest.json", package.parent / "manifest.json")
    (package / "manifest.json").symlink_to(package.parent / "manifest.json")


def replace_manifest_by_a_folder(package):
    (package / "manifest.json").unlink()
    (package / "manifest.json").mkdir()


TAMPERINGS = {
    "one bit": (flip_a_bit, "model.onnx: was changed"),
    "truncated": (truncate, "model.onnx: has 10 bytes instead of"),
    "no model": (lambda p: (p / "model.onnx").unlink(), "model.onnx: is missing"),
    "no runner": (lambda p: (p / "run.py").unlink(), "run.py: is missing"),
    "more": (lambda p: (p / "more.txt").write_text("x"), "more.txt: isn't in the manifest"),
    "hidden": (lambda p: (p / ".more").write_text("x"), ".more: isn't in the manifest"),
    "folder": (lambda p: (p / "more").mkdir(), "more: isn't in the manifest"),
    "in a folder": (lambda p: ((p / "a").mkdir(), (p / "a" / "b").write_text("")), "a/b: isn't in the manifest"),
    "link": (link_to_the_same_bytes, "model.onnx: is a link"),
    "further link": (lambda p: (p / "more").symlink_to("/etc"), "more: is a link"),
    "pipe": (lambda p: os.mkfifo(p / "pipe"), "pipe: isn't a plain file"),
    "outside": (list_a_file_outside, "../outside.md: is missing"),
    "not json": (lambda p: (p / "manifest.json").write_text("{"), "manifest.json: isn't the manifest"),
    "not text": (lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json: isn't the manifest"),
    "a list": (lambda p: (p / "manifest.json").write_text("[]"), "manifest.json: isn't the manifest"),
    "deep": (nest_deeply, "manifest.json: isn't the manifest"),
    "linked manifest": (replace_manifest_by_a_link, "manifest.json: is a link"),
    "manifest folder": (replace_manifest_by_a_folder, "manifest.json: isn't a file"),
    "files a list": (
        lambda p: rewrite(p / "manifest.json", lambda m: m.update(files=["model.onnx"])),
        "manifest.json: isn't the manifest",
    ),
    "format": (
        lambda p: rewrite(p / "manifest.json", lambda m: m.update(format_version=99)),
        "manifest.json: is of format 'onnxprune-package' version 99",
    ),
    "model unlisted": (
        lambda p: rewrite(p / "manifest.json", lambda m: m["files"].pop("model.onnx")),
        "manifest.json: doesn't list model.onnx",
    ),
}


def test_untouched(copy):
    result = verify_package(copy)
    assert (result.passed, result.exit_code, result.problems, result.files) == (True, 0, (), 6)
    assert result.manifest_sha256 in str(result)


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_noticed_and_named(copy, name):
    tamper, sentence = TAMPERINGS[name]
    tamper(copy)
    result = verify_package(copy)
    assert (result.passed, result.exit_code) == (False, 1)
    assert any(str(problem).startswith(sentence) for problem in result.problems), result
    assert sentence in str(result)
    assert json.loads(json.dumps(result.as_dict()))["passed"] is False


def test_an_unreadable_file_is_a_problem_not_a_crash(copy, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("onnxprune.deploy.verify.sha256_of", lambda p: refuse(p) if p.name == "run.py" else "0")
    assert "run.py: can't be read (Permission denied)" in str(verify_package(copy))


def test_what_is_no_package_at_all(copy, tmp_path):
    (copy / "manifest.json").unlink()
    for path, sentence in [(copy, "no manifest.json"), (copy / "run.py", "isn't a folder"), (tmp_path / "no", "isn't")]:
        with pytest.raises(InputError, match=sentence):
            verify_package(path)
