"""Checkpoints keep values and the random state, run no foreign code, and say what is wrong with a file."""

import math
import pickle
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from onnxprune.errors import DataError, OutputError
from onnxprune.training.checkpoint import load_checkpoint, save_checkpoint, seed_everything


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_values_arrays_and_tensors_come_back_as_they_were(tmp_path):
    content = {
        "number": 3,
        "text": "a",
        "nothing": None,
        "nested": [{"mask": np.array([True, False]), "pair": (1.5, torch.arange(3))}],
        "scalar": np.float64(0.25),
        "not finite": [math.nan, math.inf, -math.inf],
        "like a tag": {"$tensor": "0"},
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "none of it": torch.zeros(0, 3),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        1: "integer keys, as optimizers have",
    }
    save_checkpoint(tmp_path / "c.safetensors", content)
    back = load_checkpoint(tmp_path / "c.safetensors")
    assert back.keys() == content.keys()
    assert back["nested"][0]["mask"].dtype == bool
    assert back["nested"][0]["mask"].tolist() == [True, False]
    assert torch.equal(back["nested"][0]["pair"][1], torch.arange(3))
    plain = ("number", "text", "nothing", "scalar", "like a tag", 1)
    assert {k: back[k] for k in plain} == {k: content[k] for k in plain}
    assert [str(value) for value in back["not finite"]] == ["nan", "inf", "-inf"]
    for name in ("half", "none of it", "turned"):
        assert back[name].dtype == content[name].dtype and torch.equal(back[name], content[name])


def test_tied_and_overlapping_tensors_come_back_whole(tmp_path):
    weight = torch.arange(6.0)
    save_checkpoint(
        tmp_path / "c.safetensors", {"one": weight, "other": weight, "part": weight[2:], "ends": weight[:2]}
    )
    with safe_open(tmp_path / "c.safetensors", framework="pt") as file:
        of_random_state = 2
        assert len(file.keys()) == 3 + of_random_state
    back = load_checkpoint(tmp_path / "c.safetensors")
    assert [value.tolist() for value in back.values()] == [[0, 1, 2, 3, 4, 5]] * 2 + [[2, 3, 4, 5], [0, 1]]


def test_what_has_no_word_in_json_is_refused_and_the_older_checkpoint_stays(tmp_path):
    save_checkpoint(tmp_path / "c.safetensors", {"a": 1})
    with pytest.raises(OutputError, match="hold a set"):
        save_checkpoint(tmp_path / "c.safetensors", {"a": {1, 2}})
    assert load_checkpoint(tmp_path / "c.safetensors") == {"a": 1}


def test_random_generators_go_on_where_they_were(tmp_path):
    seed_everything(5)
    draw()
    save_checkpoint(tmp_path / "c.safetensors", {})
    expected = draw(), draw()
    seed_everything(99)
    load_checkpoint(tmp_path / "c.safetensors")
    assert (draw(), draw()) == expected


def test_seeding_repeats_all_three_generators():
    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


class Payload:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no checkpoint"),
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(pickle.dumps(Payload())),
        lambda path: torch.save(Payload(), path),
        lambda path: torch.save({"other": 1}, path),
        lambda path: torch.save([1, 2], path),
        lambda path: save_file({"a": torch.zeros(3)}, path),
        lambda path: save_file({"a": torch.zeros(3)}, path, {"onnxprune": '{"content": {"$tensor": "b"}}'}),
        lambda path: save_file({"a": torch.zeros(3)}, path, {"onnxprune": '{"random": {"python": [3, [1], null]}}'}),
        lambda path: save_file({"a": torch.zeros(3)}, path, {"onnxprune": "[" * 100000}),
        lambda path: path.unlink(),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name_and_runs_nothing(tmp_path, capsys, damage):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"a": torch.zeros(100)})
    damage(path)
    with pytest.raises(DataError, match=r"c\.safetensors"):
        load_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_a_write_that_fails_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"a": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError):
        save_checkpoint(path, {"a": 2})
    assert load_checkpoint(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
