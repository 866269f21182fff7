"""The command line: one sentence on stderr and the right code for whatever is wrong; nothing half written."""

import errno
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxprune
from onnxprune import cli

NET = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[N, 3, 8, 8] image) => (float[N, 4] logits) {
    hidden = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    active = Relu (hidden)
    pooled = GlobalAveragePool (active)
    flat = Flatten (pooled)
    logits = Gemm <transB = 1> (flat, w2)
}
"""


def write_net(path: Path, dead: int = 3) -> Path:
    """8 channels of which the first `dead` have neither filter nor bias."""
    generator = np.random.default_rng(0)
    w1, b1 = generator.standard_normal((8, 3, 3, 3)), generator.standard_normal(8)
    w1[:dead], b1[:dead] = 0, 0
    model = parser.parse_model(NET)
    for name, array in {"w1": w1, "b1": b1, "w2": generator.standard_normal((4, 8))}.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(model, path)
    return path


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return write_net(tmp_path / "net.onnx")


class Answer:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        return Answer(end.value.code or 0, *capsys.readouterr())

    return run


def assert_one_sentence(answer: Answer, code: int, sentence: str) -> None:
    assert answer.code == code, answer.err
    assert answer.err.startswith("onnxprune: ")
    assert answer.err.count("\n") == 1
    assert sentence in answer.err
    assert "Traceback" not in answer.err
    assert "internal error" not in answer.err


def not_onnx(folder: Path) -> Path:
    (folder / "text.onnx").write_text("this is no model\n")
    return folder / "text.onnx"


def empty_graph(folder: Path) -> Path:
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), folder / "empty.onnx")
    return folder / "empty.onnx"


def svg_folder(folder: Path) -> Path:
    (folder / "folder.svg").mkdir()
    return folder / "folder.svg"


# What is wrong: (the command in a folder that holds net.onnx, a file `file`, an empty package `empty`), code, sentence.
BAD_INPUT = {
    "inspect a missing file": (["inspect", "none.onnx"], 2, "'none.onnx' can't be read: No such file"),
    "inspect a folder": (["inspect", "."], 2, "'.' can't be read: Is a directory"),
    "inspect text": (["inspect", not_onnx], 2, "is not an ONNX file"),
    "inspect an empty file": (["inspect", "file"], 2, "'file'"),
    "inspect an empty graph": (["inspect", empty_graph], 2, "empty graph"),
    "explain a tensor that isn't there": (["inspect", "net.onnx", "--explain", "nothing"], 2, "no tensor 'nothing'"),
    "explain a tensor by a near name": (["inspect", "net.onnx", "--explain", "w3"], 2, "Is it 'w"),
    "draw into nowhere": (
        ["inspect", "net.onnx", "--graph", "no/net.svg"],
        2,
        "'no/net.svg' can't be written: No such",
    ),
    "draw into a folder": (["inspect", "net.onnx", "--graph", svg_folder], 2, "folder.svg' is no plain file"),
    "draw something else": (["inspect", "net.onnx", "--graph", "net.png"], 2, "Drawings are SVG: give 'net.png'"),
    "shrink a missing file": (["shrink", "none.onnx", "-o", "s.onnx"], 2, "'none.onnx' can't be read"),
    "shrink text": (["shrink", not_onnx, "-o", "s.onnx"], 2, "is not an ONNX file"),
    "shrink an empty graph": (["shrink", empty_graph, "-o", "s.onnx"], 2, "empty graph"),
    "shrink into nowhere": (["shrink", "net.onnx", "-o", "no/s.onnx"], 2, "The folder 'no' isn't there"),
    "shrink into a folder below a file": (["shrink", "net.onnx", "-o", "file/s.onnx"], 2, "The folder 'file'"),
    "shrink into a folder": (["shrink", "net.onnx", "-o", "empty"], 2, "'empty' is a folder"),
    "shrink with a report into nowhere": (
        ["shrink", "net.onnx", "-o", "s.onnx", "--report", "no/r.html"],
        2,
        "The folder 'no' isn't there. Make it first, or give another place with --report.",
    ),
    "shrink with the report for a model": (
        ["shrink", "net.onnx", "-o", "s.onnx", "--report", "s.onnx"],
        2,
        "The report would take the place of the model 's.onnx'",
    ),
    "shrink with a report over what is read": (
        ["shrink", "net.onnx", "-o", "s.onnx", "--report", "./net.onnx"],
        2,
        "The report would take the place of the model",
    ),
    "shrink into a device": (["shrink", "net.onnx", "-o", "/dev/null"], 2, "'/dev/null' is a device"),
    "shrink beyond a limit": (
        ["shrink", "net.onnx", "-o", "s.onnx", "--limit", "nodes=4"],
        2,
        "has 5 nodes once its functions are put in, more than the limit of 4. Raise the limit if you trust the file: "
        "--limit nodes=",
    ),
    "a limit that is none": (["inspect", "net.onnx", "--limit", "node=4"], 2, "'node=4' isn't a limit. Give one of"),
    "a limit without a number": (["inspect", "net.onnx", "--limit", "nodes=many"], 2, "'nodes=many' isn't a limit"),
    "shrink with too little memory for the proof": (
        ["shrink", "net.onnx", "-o", "s.onnx", "--limit", "memory_mb=1"],
        3,
        "its limit was 1 MB: --limit memory_mb=",
    ),
    "package with too little memory to run": (
        ["package", "net.onnx", "-o", "p", "--limit", "memory_mb=1"],
        3,
        "its limit was 1 MB",
    ),
    "validate a missing file": (["validate", "none.onnx", "net.onnx"], 2, "none.onnx"),
    "validate text": (["validate", "net.onnx", not_onnx], 2, "is not an ONNX file"),
    "validate on missing data": (["validate", "net.onnx", "net.onnx", "--data", "no.npz"], 2, "'no.npz' doesn't exist"),
    "validate on an unknown object": (
        ["validate", "net.onnx", "net.onnx", "--data", "no.mod:f"],
        2,
        "'no.mod:f' can't be",
    ),
    "a gate on accuracy without data": (["validate", "net.onnx", "net.onnx", "--max-drop", "0.1"], 2, "without data"),
    "validate with an unknown metric": (["validate", "net.onnx", "net.onnx", "--metric", "best"], 2, "best"),
    "bench one model": (["bench", "net.onnx"], 2, "give two models"),
    "bench a missing file": (["bench", "net.onnx", "none.onnx"], 2, "'none.onnx' isn't a file"),
    "package a missing file": (["package", "none.onnx", "-o", "p"], 2, "none.onnx"),
    "package into a file": (["package", "net.onnx", "-o", "file"], 2, "'file' is a file"),
    "package with a missing validation": (["package", "net.onnx", "-o", "p", "--validation", "v"], 2, "v"),
    "verify a missing package": (["verify", "none"], 2, "none"),
    "verify a folder that is none": (["verify", "empty"], 2, "empty"),
    "report on nothing": (["report", "none", "-o", "r.html"], 2, "none"),
    "report on a folder that is no run": (["report", "empty"], 2, "holds no validation.json"),
    "report to nowhere in particular": (["report", "file"], 2, "with -o"),
    "an unknown built-in recipe": (["recipe", "digit"], 2, "choose one of cifar-classic, digits, digits-quick"),
    "a recipe to print, unsaid which": (["recipe"], 2, "--list or --template"),
    "two recipes to print": (["recipe", "--list", "--template"], 2, "Say what to print"),
    "compress a missing recipe": (["compress", "none.yaml", "-o", "run"], 2, "'none.yaml' can't be read"),
    "compress what is no recipe": (["compress", "net.onnx", "-o", "run"], 2, "net.onnx"),
}


@pytest.mark.parametrize(("arguments", "code", "sentence"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_ends_in_one_sentence(run, net, tmp_path, monkeypatch, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("empty").mkdir()
    arguments = [argument(tmp_path) if callable(argument) else argument for argument in arguments]
    before = {path.name for path in tmp_path.iterdir()}
    assert_one_sentence(run(*arguments), code, sentence)
    assert {path.name for path in tmp_path.iterdir()} == before


# What is wrong with somebody's recipe or project: (the line that makes it so), code, sentence.
BAD_RECIPES = {
    "an unknown key": ("bugdet: 3", 2, "unknown key 'bugdet', did you mean 'budget'?"),
    "no such module": ("module: tiny_nut:build", 2, "'tiny_nut:build' can't be imported"),
    "no such function": ("module: tiny_net:built", 2, "'tiny_net' has no 'built'"),
    "a function that fails": ("module: tiny_net:build_failing", 2, "fails to build the network: KeyError"),
    "a function that returns nothing": ("module: tiny_net:build_nothing", 2, "gives a NoneType"),
    "a module that the exporter refuses": ("module: tiny_net:build_unexportable", 2, "can't export TinyNet"),
    "data that is none": ("data: tiny_net:not_a_task", 2, "without a pair (inputs, targets) named 'train'"),
    "data without its test part": ("data: tiny_net:task_without_test", 2, "named 'test'"),
    "data that fail": ("data: tiny_net:failing_task", 2, "fails to give the data: OSError: the archive is gone"),
    "data without their package": ("data: tiny_net:task_without_its_package", 2, "onnxprune[demo]"),
    "a sample in two parts": ("data: tiny_net:leaky_task", 2, "share 1 of 128 test samples"),
    "no such metric": ("metric: tiny_net:brightnes", 2, "has no 'brightnes'"),
    "no such loss": ("loss: tiny_net:lost", 2, "has no 'lost'"),
    "a budget below the smallest network": ("budget: {macs: 0.001}", 3, "the smallest legal network has"),
    "a device that isn't there": ("device: cuda", 3, "The recipe trains on cuda"),
}


@pytest.mark.parametrize(("line", "code", "sentence"), BAD_RECIPES.values(), ids=BAD_RECIPES)
def test_a_bad_recipe_ends_in_one_sentence_before_anything_is_trained(
    run, tiny_project, tmp_path, line, code, sentence
):
    if "device" in line and __import__("torch").cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    key = line.split(":")[0]
    lines = [old for old in (tiny_project / "recipe.yaml").read_text().splitlines() if not old.startswith(f"{key}:")]
    (tiny_project / "recipe.yaml").write_text("\n".join([*lines, line]) + "\n")
    answer = run("compress", tiny_project / "recipe.yaml", "-o", tmp_path / "run")
    assert_one_sentence(answer, code, sentence)
    assert not list((tmp_path / "run").glob("stages/*"))


def test_a_dry_run_says_what_would_happen_and_writes_nothing(run, tiny_project, tmp_path):
    with (tiny_project / "recipe.yaml").open("a") as recipe:
        recipe.write("quantize: {epochs: 1}\n")
    before = sorted(tiny_project.rglob("*"))
    answer = run("compress", tiny_project / "recipe.yaml", "--dry-run")
    assert answer.code == 0
    assert "conv1.weight: " in answer.out and "of 16 (channel)" in answer.out
    assert "pruning and fine-tuning" in answer.out and "nothing was written" in answer.out
    told = json.loads(run("compress", tiny_project / "recipe.yaml", "--dry-run", "--json").out)
    assert told["samples"] == {"train": 256, "validation": 64, "test": 128}
    assert list(told["seconds"]) == ["dense training", "pruning and fine-tuning", "training in int8", "measuring"]
    assert 0 < told["left"]["macs"] < 1 and all(seconds > 0 for seconds in told["seconds"].values())
    assert [path for path in sorted(tiny_project.rglob("*")) if "__pycache__" not in str(path)] == before
    assert_one_sentence(run("compress", tiny_project / "recipe.yaml"), 2, "-o RUN")


RUN_FOLDERS = {
    "a file": (lambda run: run.write_text("mine"), "is a file"),
    "below a file": (lambda run: run.parent.joinpath("run").write_text("mine"), "is a file"),
    "somebody's folder": (lambda run: (run.mkdir(), (run / "thesis.txt").write_text("mine")), "aren't a run"),
    "somebody's recipes": (lambda run: (run.mkdir(), (run / "recipe.yaml").write_text("mine")), "aren't a run"),
}


@pytest.mark.parametrize(("prepare", "sentence"), RUN_FOLDERS.values(), ids=RUN_FOLDERS)
def test_a_run_folder_that_cant_be_is_refused_and_left_alone(run, tiny_project, tmp_path, prepare, sentence):
    folder = tmp_path / "run"
    prepare(folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert_one_sentence(run("compress", tiny_project / "recipe.yaml", "-o", folder), 2, sentence)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "pycache" not in str(path)}
    assert after == before


@pytest.mark.parametrize("where", ["file/run", "/proc/onnxprune/run"])
def test_a_run_folder_that_cant_be_made(run, tiny_project, tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert_one_sentence(run("compress", tiny_project / "recipe.yaml", "-o", where), 2, "can't be used")


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


FULL_DISK = {
    "shrink": (["shrink", "net.onnx", "-o", "small.onnx"], "small.onnx"),
    "package": (["package", "net.onnx", "-o", "package"], "package"),
    "validate": (["validate", "net.onnx", "net.onnx", "--seconds", "0.1", "--save", "v.json"], "v.json"),
    "compress": (["compress", "project/recipe.yaml", "-o", "run"], "run"),
}


@pytest.mark.parametrize(("arguments", "what"), FULL_DISK.values(), ids=FULL_DISK)
def test_a_full_disk_leaves_nothing_half_written(run, net, tiny_project, tmp_path, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", full_disk)
    before = {path.name for path in tmp_path.iterdir()}
    answer = run(*arguments)
    assert_one_sentence(answer, 2, "No space left on device")
    assert f"'{what}" in answer.err
    there = {path.name for path in tmp_path.iterdir()} - before
    assert there <= {"run"}  # the folder of a run, which holds no file yet
    assert not [path for path in tmp_path.glob("run/**/*") if path.is_file()]


USAGE = {
    "no verb": ([], "Usage: "),
    "an unknown verb": (["shrnk", "net.onnx"], "shrink"),
    "an unknown option": (["inspect", "net.onnx", "--jsn"], "--json"),
    "a missing argument": (["inspect"], "MODEL.onnx"),
    "a missing output": (["shrink", "net.onnx"], "--out"),
    "a batch of nothing": (["bench", "a.onnx", "b.onnx", "--batch", "0"], "--batch"),
    "an unknown provider": (["bench", "a.onnx", "b.onnx", "--provider", "tpu"], "--provider"),
}


@pytest.mark.parametrize(("arguments", "mentioned"), USAGE.values(), ids=USAGE)
def test_usage_errors_name_what_is_wrong(run, arguments, mentioned):
    answer = run(*arguments)
    assert answer.code == 2
    assert mentioned in answer.err + answer.out
    assert "Traceback" not in answer.err


VERBS = {
    "doctor",
    "record",
    "compare",
    "schema",
    "demo",
    "compress",
    "recipe",
    "inspect",
    "shrink",
    "validate",
    "bench",
    "package",
    "verify",
    "report",
}


def test_help_lists_every_verb_and_each_has_its_own(run):
    answer = run("--help")
    assert answer.code == 0
    for verb in VERBS:
        assert f"\n  {verb}" in answer.out
        assert f"Usage: onnxprune {verb}" in run(verb, "--help").out


def test_the_version_is_the_packages(run):
    assert run("--version").out == f"onnxprune {onnxprune.__version__}\n"


def test_debug_shows_the_traceback(net, tmp_path):
    with pytest.raises(Exception, match=r"none\.onnx"):
        cli.main(["inspect", str(tmp_path / "none.onnx"), "--debug"])


def test_a_bug_is_said_in_one_sentence_too(run, net, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise TypeError("two\nlines")

    monkeypatch.setattr("onnxprune.pipeline.inspect", broken)
    answer = run("inspect", net)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "internal error, TypeError: two lines" in answer.err


def test_inspect_counts_what_is_there(run, net):
    answer = run("inspect", net, "--json")
    found = json.loads(answer.out)
    assert (answer.code, found["cost"]["params"]) == (0, 8 * 27 + 8 + 32)
    assert [(k["kind"], k["exactness"], k["units"], k["weights"]) for k in found["kinds"]] == [
        ("channel", "exact", 8, 8 * (27 + 1 + 4))
    ]
    assert found["inputs"] == {"image": "float[N,3,8,8]"}
    assert "8" in run("inspect", net, "--explain", "w1").out


def test_shrink_removes_the_dead_channels_and_proves_it(run, net, tmp_path):
    answer = run("shrink", net, "-o", tmp_path / "small.onnx", "--report", tmp_path / "small.html", "--json")
    assert "channels removed; the function is the same" in (tmp_path / "small.html").read_text()
    done = json.loads(answer.out)
    assert answer.code == 0
    assert onnx.load(tmp_path / "small.onnx").graph.initializer[0].dims[0] in (4, 5)
    assert done["after"]["params"] == 5 * 27 + 5 + 20
    assert done["verdicts"] == {"removed": 3, "folded": 0, "merged": 0, "kept": 5}
    assert set(done["before"]) == set(done["after"]) == {"params", "macs", "bytes", "nodes"}
    assert done["before"]["bytes"] == net.stat().st_size
    assert done["after"]["bytes"] == (tmp_path / "small.onnx").stat().st_size
    assert done["max_error"] <= 1e-5 * done["range"] and done["proof"].startswith("equal")
    assert done["seconds"] > 0 and done["kept_dead"] == []
    assert [unit["where"] for unit in done["gone"]] == ["w1[0]", "w1[1]", "w1[2]"]
    assert done["kept"] == [f"w1[{place}]" for place in range(5)]
    assert "not proved" in run("shrink", net, "-o", tmp_path / "small.onnx", "--no-verify").out
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_shrink_says_when_there_is_nothing_to_remove(run, net, tmp_path):
    assert "No channel is dead" not in run("shrink", net, "-o", tmp_path / "small.onnx", "--no-verify").out
    answer = run("shrink", tmp_path / "small.onnx", "-o", tmp_path / "again.onnx", "--no-verify")
    assert "No channel is dead: nothing was removed." in answer.out


def test_shrink_is_repeatable_and_done_once(run, net, tmp_path):
    for source, target in ((net, "a.onnx"), (net, "b.onnx"), (tmp_path / "a.onnx", "c.onnx")):
        assert run("shrink", source, "-o", tmp_path / target, "--no-verify").code == 0
    first, *others = ((tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx", "c.onnx"))
    assert others == [first, first]


def test_gates_make_the_exit_code(run, net, tmp_path):
    """A copy is no twice as fast, and no worse: failed, and passed."""
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(net.read_bytes())
    generator = np.random.default_rng(0)
    samples = {"image": generator.random((400, 3, 8, 8), dtype=np.float32), "targets": generator.integers(0, 4, 400)}
    np.savez(tmp_path / "data.npz", **samples)
    common = ["validate", net, copy, "--seconds", "0.2", "--provider", "cpu"]
    failed = run(*common, "--min-speedup", "2", "--save", tmp_path / "v.json")
    assert failed.code == 1
    assert "verdict: failed" in failed.out
    assert json.loads((tmp_path / "v.json").read_text())["exit_code"] == 1
    passed = run(*common, "--data", tmp_path / "data.npz", "--max-drop", "0.01", "--json")
    assert passed.code == 0
    assert json.loads(passed.out)["accuracy"][0]["difference"] == 0


def test_a_provider_that_isnt_there_counts_only_when_it_is_named(run, net):
    unnamed = run("validate", net, net, "--seconds", "0.1", "--json")
    if json.loads(unnamed.out)["environment"]["cuda_devices"]:
        pytest.skip("this machine has a CUDA device")
    assert unnamed.code == 0
    assert [comparison["refused"] is None for comparison in json.loads(unnamed.out)["latency"]] == [True, False]
    named = run("validate", net, net, "--seconds", "0.1", "--provider", "cuda")
    assert named.code == 3
    assert "refused" in named.out
    assert run("bench", net, net, "--provider", "cuda").code == 3


def test_packages_that_clash_are_named_with_the_remedy(run, net, monkeypatch):
    clash = [("onnxruntime", "1.31.1"), ("onnxruntime-gpu", "1.31.1")]
    monkeypatch.setattr("onnxprune.runtime.environment.installed_packages", lambda: clash)
    answer = run("bench", net, net, "--seconds", "0.1", "--json")
    assert answer.err.startswith("onnxprune: note: ")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in answer.err
    assert json.loads(answer.out)["comparisons"]


@pytest.mark.parametrize(
    ("spec", "state"), [(None, "isn't installed"), (ModuleSpec("onnxruntime", None), "is only half there")]
)
def test_a_missing_onnxruntime_is_refused_with_the_remedy(run, net, tmp_path, monkeypatch, spec, state):
    monkeypatch.setattr("onnxprune.measuring.find_spec", lambda name: spec)
    assert_one_sentence(run("shrink", net, "-o", tmp_path / "s.onnx"), 3, f"ONNX Runtime {state}")
    assert run("inspect", net).code == 0


def test_package_and_verify(run, net, tmp_path):
    package = tmp_path / "package"
    assert run("package", net, "-o", package).code == 0
    assert json.loads(run("verify", package, "--json").out)["passed"]
    (package / "run.py").write_text("print('mine')\n")
    answer = run("verify", package)
    assert answer.code == 1
    assert "run.py" in answer.out


def test_recipes_are_printed_as_they_are(run):
    assert run("recipe", "--list").out.split() == ["cifar-classic", "digits", "digits-quick", "keywords", "languages"]
    assert "module: my_project.net:build" in run("recipe", "--template").out
    assert "name: digits\n" in run("recipe", "digits").out


def start(*arguments: object, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "onnxprune", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_ctrl_c_keeps_what_was_finished(run, tiny_project, tmp_path):
    folder = tmp_path / "run"
    slow = {**os.environ, "TINY_SECONDS_A_BATCH": "0.5"}
    # Where the tests run in the background, SIGINT is ignored, and children would inherit that.
    listens = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = start("compress", tiny_project / "recipe.yaml", "-o", folder, env=slow, **listens)
    try:
        for _ in range(1200):
            if (folder / "stages" / "dense.safetensors").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert_one_sentence(Answer(process.returncode, out, err), 130, "interrupted")
    assert "--resume" in err
    assert sorted(path.name for path in folder.rglob("*")) == ["dense.safetensors", "recipe.yaml", "stages"]
    assert_one_sentence(run("compress", tiny_project / "recipe.yaml", "-o", folder), 2, "--resume")


def test_a_reader_that_goes_away_is_no_error(net):
    process = start("inspect", net)
    process.stdout.close()
    err = process.stderr.read()
    assert (process.wait(timeout=60), err) == (0, "")
    process.stderr.close()


NO_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "net.onnx"],
        ["shrink", "net.onnx", "-o", "small.onnx"],
        ["validate", "net.onnx", "net.onnx", "--seconds", "0.1"],
        ["bench", "net.onnx", "net.onnx", "--seconds", "0.1"],
        ["verify", "package"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_edge_box_does_without_torch(run, net, tmp_path, arguments):
    run("package", net, "-o", tmp_path / "package")
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH)  # holds for child processes too
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = start(*arguments, cwd=tmp_path, env=environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, 4), err  # so short a measurement may settle nothing
    assert err == ""
    assert out


def test_training_without_torch_is_refused_with_the_remedy(tiny_project, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = start("compress", tiny_project / "recipe.yaml", "-o", tmp_path / "run", env=environment)
    out, err = process.communicate(timeout=120)
    assert_one_sentence(Answer(process.returncode, out, err), 3, "pip install 'onnxprune[train]'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "option, value, code, words",
    [
        ("--for", "soon", 2, "isn't a time such as 60s or 2m"),
        ("--for", "0s", 2, "isn't a time"),
        ("--for", "90h", 2, "between 0.1s and 24h"),
        ("--threads", "one", 2, "isn't a number of threads such as 1, or 1,all"),
        ("--threads", "1,,2", 2, "isn't a number of threads"),
        ("--until", "precise", 2, "isn't a share such as 1%"),
        ("--until", "100%", 2, "less than 100%"),
    ],
)
def test_times_and_shares_that_are_none(run, net, option, value, code, words):
    answer = run("bench", net, net, option, value)
    assert answer.code == code
    assert words in " ".join(answer.err.replace("│", " ").split())


def test_times_and_shares():
    times = [cli._duration(text) for text in ("60s", "2m", "1.5", "1h")]
    assert (times, cli._share("1%"), cli._share("0.02")) == ([60, 120, 1.5, 3600], 0.01, 0.02)


def test_threads_are_a_list(run, net):
    """One and all cores; twice the same is measured once."""
    answer = run("bench", net, net, "--for", "0.1s", "--threads", "1,all", "--threads", "1", "--json")
    assert [comparison["threads"] for comparison in json.loads(answer.out)["comparisons"]] == [1, 0]


def test_bench_as_a_page(run, net, tmp_path):
    page = tmp_path / "b.html"
    assert run("bench", net, net, "--for", "0.1s", "--report", page).code in (0, 4)
    assert re.search(r"<h1>\S*net.onnx \(2\) against \S*net.onnx \(1\)</h1>", page.read_text())
    assert run("bench", net, net, "--report", tmp_path / "nowhere" / "b.html").code == 2


def test_a_summary_for_a_pull_request(run, net, tmp_path):
    answer = run(
        "validate", net, net, "--for", "0.2s", "--provider", "cpu", "--markdown", "--report", tmp_path / "r.html"
    )
    assert answer.out.startswith("### net.onnx against net.onnx: ")
    assert "| parameters |" in answer.out and "|---|---:|" in answer.out
    assert "<html" in (tmp_path / "r.html").read_text()


def test_models_run_in_child_processes_within_limits_only(run, net, tmp_path, monkeypatch):
    """A stranger's file may crash, hang or take the machine."""
    import onnxruntime

    from onnxprune.runtime.children import RuntimeFailure

    asked = []

    def refuse(*_, **__):
        raise AssertionError("a model was opened here")

    def watch(function, *_, memory_mb=None, timeout_s, **__):
        asked.append((function.__name__, memory_mb, timeout_s))
        raise RuntimeFailure("was only to be asked for")

    importlib.import_module("onnxprune.runtime.validation")
    importlib.import_module("onnxprune.deploy.package")
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    for name in [name for name in sys.modules if name.startswith("onnxprune.")]:
        if hasattr(sys.modules[name], "run_in_child"):
            monkeypatch.setattr(sys.modules[name], "run_in_child", watch)
    np.savez(tmp_path / "d.npz", image=np.ones((6, 3, 8, 8), np.float32), targets=np.zeros(6, int))
    data = ("--data", tmp_path / "d.npz")
    for command in (
        ("shrink", net, "-o", tmp_path / "s.onnx"),
        ("validate", net, net, *data, "--provider", "cpu"),
        ("validate", net, net, "--provider", "cpu", "--tolerance", "1e-5"),
        ("bench", net, net),
        ("record", net, *data, "-o", tmp_path / "r.npz"),
        ("package", net, "-o", tmp_path / "p"),
    ):
        asked.clear()
        answer = run(*command, "--limit", "memory_mb=3000", "--limit", "seconds=77")
        assert answer.code == 3 and "Traceback" not in answer.err, answer.err
        assert asked and {found[1:] for found in asked} == {(3000, 77)}, (command, asked)


def test_recorded_here_compared_there(run, net, tmp_path):
    inputs = onnx.load(net).graph.input[0]
    shape = [dim.dim_value or 6 for dim in inputs.type.tensor_type.shape.dim]
    np.savez(tmp_path / "d.npz", **{inputs.name: np.ones((6, *shape[1:]), np.float32)}, targets=np.zeros(6, int))
    for name in ("a", "b"):
        answer = run("record", net, "--data", tmp_path / "d.npz", "-o", tmp_path / f"{name}.npz")
        assert answer.code == 0 and "6 samples" in answer.out
    answer = run("compare", tmp_path / "a.npz", tmp_path / "b.npz", "--tolerance", "1e-6")
    assert answer.code == 0 and "passed" in answer.out


def test_doctor_and_schema(run):
    assert run("doctor").code == 0
    assert json.loads(run("schema", "validation").out)["properties"]["verdict"]
    assert_one_sentence(run("schema", "plan"), 2, "Ask for validation")
