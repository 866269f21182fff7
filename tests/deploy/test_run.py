"""The runner inside a package: what it runs, what it refuses, and with which words."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from onnxprune.deploy.package import build_package
from onnxprune.deploy.verify import sha256_of
from onnxprune.runtime.cuda import why_not_cuda


def load_runner(package):
    """run.py of a package as a module: its `main` is what the command line calls."""
    spec = importlib.util.spec_from_file_location("packaged_run", package / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runner(built):
    return load_runner(built)


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "package")


def refit(package, name):
    """Make the manifest fit a file that was changed."""
    path = package / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"sha256": sha256_of(package / name), "size_bytes": (package / name).stat().st_size}
    path.write_text(json.dumps(manifest))


def test_on_its_own_it_needs_numpy_and_onnxruntime_only(copy, tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['run.py', '--check']\n"
        "try: runpy.run_path(sys.path.pop(), run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, sorted({'onnx', 'onnxprune', 'torch', 'scipy', 'onnx_ir'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(copy / 'run.py')!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout.splitlines()[0].startswith("passed: ")
    assert done.stdout.splitlines()[1] == "0 []", done


def test_input_to_output(runner, network, images, tmp_path):
    np.save(tmp_path / "x.npy", images)
    assert runner.main(["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]) == 0
    (expected,) = onnx.reference.ReferenceEvaluator(network).run(None, {"image": images})
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-4, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy", "y.npy"]


def test_named_input_npz_and_wider_floats(runner, images, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", image=images.astype(np.float64))
    np.save(tmp_path / "x.npy", images)
    assert runner.main(["--input", f"image={tmp_path / 'x.npy'}", "--output", str(tmp_path / "a.npy")]) == 0
    assert capsys.readouterr().err == ""
    assert runner.main(["--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "b.npz")]) == 0
    assert "converted from float64 to float32" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npz")["logits"])


def test_several_inputs_and_outputs(network_from_text, tmp_path, capsys):
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    two (float[N, 4] a, int64[N] b) => (float[N, 4] twice, int64[N] same) { twice = Add (a, a)  same = Identity (b) }
    """
    onnx.save(network_from_text(text), tmp_path / "two.onnx")
    build_package(tmp_path / "two.onnx", tmp_path / "p")
    runner = load_runner(tmp_path / "p")
    assert runner.main(["--check"]) == 0
    np.save(tmp_path / "a.npy", np.arange(8, dtype=np.float32).reshape(2, 4))
    np.save(tmp_path / "b.npy", np.array([5, 6]))
    both = ["--input", f"a={tmp_path / 'a.npy'}", "--input", f"b={tmp_path / 'b.npy'}"]
    assert runner.main([*both, "--output", str(tmp_path / "y.npz")]) == 0
    with np.load(tmp_path / "y.npz") as outputs:
        np.testing.assert_array_equal(outputs["twice"], np.arange(0, 16, 2).reshape(2, 4))
        np.testing.assert_array_equal(outputs["same"], [5, 6])
    capsys.readouterr()
    for arguments, words in [
        ([*both, "--output", str(tmp_path / "y.npy")], "2 outputs (twice, same)"),
        ([*both[:2], "--output", str(tmp_path / "y.npz")], "no array was given for input 'b'"),
        (["--input", str(tmp_path / "a.npy"), "--output", str(tmp_path / "y.npz")], "say which input"),
    ]:
        assert runner.main(arguments) == 2
        assert words in capsys.readouterr().err


BAD_INPUTS = {
    "missing": (lambda path: None, "can't be read: No such file"),
    "not numpy": (lambda path: path.write_bytes(b"not an array"), "isn't an array that numpy saved"),
    "empty": (lambda path: path.write_bytes(b""), "isn't an array that numpy saved"),
    "pickle": (lambda path: np.save(path, np.array([{}], object)), "isn't an array that numpy saved"),
    "shape": (lambda path: np.save(path, np.zeros((1, 3, 8, 9), np.float32)), "has shape [1, 3, 8, 9]"),
    "rank": (lambda path: np.save(path, np.zeros((3, 8, 8), np.float32)), "float32 [N, 3, 8, 8]"),
    "type": (lambda path: np.save(path, np.zeros((1, 3, 8, 8), np.uint8)), "is uint8"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_sentence(runner, tmp_path, capsys, name):
    make, words = BAD_INPUTS[name]
    make(tmp_path / "x.npy")
    assert runner.main(["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("run.py: ") and error.count("\n") == 1
    assert not (tmp_path / "y.npy").exists()


def test_unwritable_output(runner, images, tmp_path, capsys):
    np.save(tmp_path / "x.npy", images)
    assert runner.main(["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "no" / "y.npy")]) == 2
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--check", "--benchmark"],
        ["--input", "x.npy"],
        ["--output", "y.npy"],
        ["--check", "--json"],
        ["--benchmark", "--batch", "0"],
        ["--benchmark", "--seconds", "-1"],
        ["--check", "--provider", "tpu"],
    ],
    ids=" ".join,
)
def test_usage(runner, capsys, arguments):
    with pytest.raises(SystemExit) as end:
        runner.main(arguments)
    assert end.value.code == 2
    assert "usage: run.py" in capsys.readouterr().err


def test_a_changed_file_stops_it(copy, capsys):
    with open(copy / "README.md", "a") as file:
        file.write("!")
    assert load_runner(copy).main(["--check"]) == 1
    assert "README.md isn't the file that was packaged" in capsys.readouterr().err
    (copy / "README.md").unlink()
    assert load_runner(copy).main(["--check"]) == 1
    (copy / "manifest.json").write_text("{}")
    assert load_runner(copy).main(["--check"]) == 1
    assert "isn't the manifest" in capsys.readouterr().err


def test_check_fails_where_the_answer_differs(copy, capsys):
    with np.load(copy / "sample.npz") as sample:
        arrays = dict(sample)
    arrays["output:logits"][0, 0] += 3e-4 * np.ptp(arrays["output:logits"])
    np.savez(copy / "sample.npz", **arrays)
    refit(copy, "sample.npz")
    assert load_runner(copy).main(["--check"]) == 1
    assert "failed: the sample's outputs differ by 3.0" in capsys.readouterr().err


def test_check_fails_on_nan(copy, capsys):
    with np.load(copy / "sample.npz") as sample:
        arrays = dict(sample)
    arrays["output:logits"][1, 2] = np.nan
    np.savez(copy / "sample.npz", **arrays)
    refit(copy, "sample.npz")
    assert load_runner(copy).main(["--check"]) == 1
    assert "isn't finite where it should be" in capsys.readouterr().err


def test_benchmark_writes_what_a_validation_needs(runner, built, tmp_path, capsys):
    path = tmp_path / "timings.json"
    assert runner.main(["--benchmark", "--seconds", "0.2", "--batch", "2", "--json", str(path)]) == 0
    assert "median" in capsys.readouterr().out
    found = json.loads(path.read_text())
    runs = [run for session in found["sessions"] for run in session["runs_ms"]]
    assert found["model_sha256"] == sha256_of(built / "model.onnx")
    assert found["shapes"] == {"image": [2, 3, 8, 8]}
    assert found["samples"] == len(runs) and len(found["sessions"]) == runner.SESSIONS
    assert found["median_ms"] == pytest.approx(np.median(runs))
    assert set(found["nodes_per_provider"]) == {"CPUExecutionProvider"}
    assert found["device"]["cores"] == len(os.sched_getaffinity(0))


def test_benchmark_prints_json_alone(runner, capsys):
    assert runner.main(["--benchmark", "--seconds", "0.1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shapes"] == {"image": [1, 3, 8, 8]}


def test_a_rare_percentile_needs_many_runs(runner, monkeypatch, capsys):
    monkeypatch.setattr(runner, "SESSIONS", 1)
    assert runner.main(["--benchmark", "--seconds", "0.000001", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["p99_ms"]) == (1, None)


def test_cuda_is_refused_where_it_is_not(runner, capsys):
    if why_not_cuda() is None:
        pytest.skip("this machine has CUDA")
    assert runner.main(["--check", "--provider", "cuda"]) == 3
    assert "CUDA" in capsys.readouterr().err


def test_nodes_astray_stop_a_benchmark(runner, monkeypatch, capsys):
    """A session that says CUDA and ran its convolutions on the CPU gives no figure."""
    original = runner.open_session

    def disguised(model, provider, threads, profile=None, exact=False):
        return original(model, "cpu", threads, profile)

    monkeypatch.setattr(runner, "open_session", disguised)
    assert runner.main(["--benchmark", "--seconds", "0.1", "--provider", "cuda", "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.out == "" and "Conv" in captured.err


def test_without_onnxruntime_it_says_what_to_install(built):
    code = "import runpy, sys; sys.modules['onnxruntime'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, built / "run.py"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "pip install numpy onnxruntime" in done.stderr and "Traceback" not in done.stderr
