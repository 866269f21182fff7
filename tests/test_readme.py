"""The README's code runs, and its commands exist."""

import re
from pathlib import Path

import onnx
import pytest

import onnxprune
from onnxprune import cli

README = (Path(__file__).parents[1] / "README.md").read_text()
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_command_and_option_is_there(capsys):
    lines = [line.split("#")[0].split(">")[0].split() for line in SHELL.splitlines() if line.startswith("onnxprune")]
    assert len(lines) >= 5
    for _, verb, *arguments in lines:
        with pytest.raises(SystemExit) as end:
            cli.main([verb, "--help"])
        assert end.value.code in (0, None), verb
        shown = capsys.readouterr().out
        assert all(argument in shown for argument in arguments if argument.startswith("-"))


def test_every_file_that_is_named_is_there():
    for name in re.findall(r"scripts/\w+\.sh|constraints\.txt", README):
        assert (Path(__file__).parents[1] / name).is_file()


def test_the_snippets_run(tiny_project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tiny_project)
    import tiny_net
    import torch

    from onnxprune.training.batches import shuffled_batches

    on_a_file, in_ci, in_a_loop, attached, at_sites = PYTHON
    torch.manual_seed(0)
    module, data = tiny_net.build(), tiny_net.task()
    names = {
        "module": module,
        "example_inputs": (torch.from_numpy(data["train"][0][:2]),),
        "epochs": 8,
        "loader": list(shuffled_batches(*data["train"], batch_size=64)(0)),
        "criterion": torch.nn.functional.cross_entropy,
        "optimizer": torch.optim.AdamW(module.parameters(), 1e-3),
    }
    exec(in_a_loop, names)
    assert names["result"].equivalence.passed
    assert names["pruner"].cost["macs"] <= 0.2

    from lightning_fabric import Fabric

    steps_of = {**names, "onnxprune": onnxprune, "fabric": Fabric(accelerator="cpu", devices=1)}
    exec(attached, steps_of)
    assert steps_of["pruner"].cost["macs"] == 1.0
    exec(at_sites, {**names, "onnxprune": onnxprune, "files": ["site-1.safetensors"]})

    Path("pruned.onnx").rename("net.onnx")
    exec(on_a_file, {})
    calls = []
    exec(in_ci, names)
    names["test_the_pruned_model"](*(lambda *files, **options: calls.append((files, options)) for _ in range(2)))
    assert [files for files, _ in calls] == [("dense.onnx", "pruned.onnx")] * 2
    assert onnx.load("small.onnx").graph.node
