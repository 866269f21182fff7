"""The wheel alone is enough: built, installed elsewhere, and the quick demo run from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def call(*command: object, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("onnxprune", "models"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", source / "dist", source)
    (built,) = (source / "dist").iterdir()
    return built


def test_the_wheel_holds_the_code_the_models_and_nothing_else(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {f"onnxprune/{path.relative_to(ROOT / 'onnxprune')}" for path in (ROOT / "onnxprune").rglob("*.*")}
    ours |= {f"onnxprune_models/{path.name}" for path in (ROOT / "models").glob("*.py")}
    assert packed == {name for name in ours if "__pycache__" not in name}


@pytest.mark.timeout(900)
def test_the_quick_demo_runs_from_an_empty_folder(wheel, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    call(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", installed, wheel)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    where = "import onnxprune, onnxprune_models as m; print(onnxprune.__file__, m.__file__)"
    for path in call(sys.executable, "-c", where, cwd=empty, env=environment).split():
        assert Path(path).is_relative_to(installed)
    out = call(sys.executable, "-m", "onnxprune", "demo", "--quick", "-o", "run", "--json", cwd=empty, env=environment)
    validation = json.loads(out)["validation"]
    assert validation["verdict"] == "passed"
    assert validation["candidate"]["macs"] <= 0.2 * validation["reference"]["macs"]
    assert validation == json.loads((empty / "run" / "validation.json").read_text())
    assert {path.name for path in empty.iterdir()} == {"run"}
    call(sys.executable, Path("run", "package", "run.py"), "--check", cwd=empty)
