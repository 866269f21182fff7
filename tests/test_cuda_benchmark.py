"""scripts/benchmarks/cuda.py without a GPU: it refuses by name; played by the CPU its parts work and say so."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxprune.runtime.session import why_refused

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts" / "benchmarks"
sys.path.insert(0, str(SCRIPTS))

import cuda  # noqa: E402
import cuda_parts  # noqa: E402
from cuda_table import page  # noqa: E402

TINY = cuda_parts.Scale(32, 16, 8, (1,), 0.2, 0.2, (16, 18), (1,))
#: What onnxprune's command line and its reports need, and a machine that only measures doesn't have.
ABSENT = ("pydantic", "typer", "rich", "jinja2", "yaml", "torch", "onnx_graphsurgeon", "sklearn", "mlxtend", "PIL")


@pytest.mark.skipif(why_refused("cuda") is None, reason="this machine has CUDA")
def test_without_a_gpu_nothing_is_measured_and_the_reason_is_named(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPTS / "cuda.py", "-o", tmp_path / "out"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 3 and why_refused("cuda") in done.stderr
    assert not (tmp_path / "out").exists()


def test_it_needs_the_plain_files_only(tmp_path):
    """Neither installed nor with the packages of the rest: imports in it and in its child processes would fail."""
    walls = tmp_path / "walls"
    walls.mkdir()
    for name in ABSENT:
        (walls / f"{name}.py").write_text(f"raise ImportError('{name} is not on this machine')\n")
    program = (
        f"import sys; sys.path[:0] = [{str(walls)!r}, {str(SCRIPTS)!r}, {str(SCRIPTS.parents[1])!r}]\n"
        "import json, pathlib, cuda, cuda_parts\n"
        "cuda_parts.QUICK = cuda_parts.Scale(32, 16, 8, (1,), 0.2, 0.2, (16, 18), (1,))\n"
        f"sys.argv = ['cuda.py', '-o', {str(tmp_path / 'out')!r}, '--provider', 'cpu', '--quick']\n"
        "cuda.LIMIT_S = 0.0\n"  # no more than one part
        "code = cuda.main()\n"
        f"folder = pathlib.Path({str(tmp_path / 'out' / 'networks')!r})\n"
        "found = cuda_parts.accuracy(folder, 'large', 'fp16', 'cpu')\n"
        "assert found['equivalence']['passed'], found\n"
        "assert found['validation']['accuracy'][0]['samples'] == 8\n"
        "sys.exit(code)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 4, done.stderr
    assert "parts are left. Run the same command again." in done.stdout


def test_parts_go_on_where_they_stopped_and_a_dry_run_says_that_it_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cuda_parts, "QUICK", TINY)
    for folder in ("networks", "parts"):
        (tmp_path / folder).mkdir()
    names = [part.name for part in cuda_parts.parts(tmp_path, "cpu", TINY, False)]
    for name in names:
        if name.startswith("accuracy"):
            cuda.write(cuda.part_file(tmp_path, name), {"result": {"error": "left out of this test"}, "seconds": 0.0})
    arguments = argparse.Namespace(provider="cpu", quick=True, seconds=None)
    assert cuda.run_parts(tmp_path, arguments, time.monotonic()) == cuda.MORE
    assert cuda.part_file(tmp_path, "networks").exists()
    assert cuda.run_parts(tmp_path, arguments, time.monotonic() + 10_000) == 0
    said = capsys.readouterr().out
    assert said.count("networks:") == 1 and "accuracy" not in said
    found = json.loads((tmp_path / "cuda.json").read_text())
    assert found["dry_run"] and found["missing"] == [] and list(found["parts"]) == names
    text = (tmp_path / "cuda.md").read_text()
    assert text == page(found) and "A dry run on the CPU: these are not the figures" in text
    assert "accuracy large fp32 failed: left out of this test" in text
    assert "| large | fp32 | 1 | no |" in text and "| 18 |" in text
    arguments.quick = False  # other figures never get into the same folder
    assert cuda.run_parts(tmp_path, arguments, time.monotonic()) == cuda.REFUSED


def test_on_a_gpu_everything_that_was_promised_is_a_part_of_less_than_nine_minutes(tmp_path):
    todo = cuda_parts.parts(tmp_path, "cuda", cuda_parts.FULL, True)
    names = {part.name for part in todo}
    for pair in ("demo", "large"):
        for precision in ("fp32", "fp16"):
            assert f"accuracy {pair} {precision}" in names
            for batch in (1, 8, 32):
                for graph in ("", " graph"):
                    assert f"latency {pair} {precision} batch {batch}{graph}" in names
    assert {"staircase fp32 batch 1", "staircase fp16 batch 32"} <= names
    assert max(part.seconds for part in todo) < cuda.LIMIT_S
