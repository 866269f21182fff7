"""Checkpoints keep values and the random state, run no foreign code, and say what is wrong with a file."""

import pickle
import random

import numpy as np
import pytest
import torch

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
        1: "integer keys, as optimizers have",
    }
    save_checkpoint(tmp_path / "c.pt", content)
    back = load_checkpoint(tmp_path / "c.pt")
    assert back["nested"][0]["mask"].dtype == bool
    assert back["nested"][0]["mask"].tolist() == [True, False]
    assert torch.equal(back["nested"][0]["pair"][1], torch.arange(3))
    assert {k: back[k] for k in ("number", "text", "nothing", "scalar", 1)} == {
        k: content[k] for k in ("number", "text", "nothing", "scalar", 1)
    }


def test_random_generators_go_on_where_they_were(tmp_path):
    seed_everything(5)
    draw()
    save_checkpoint(tmp_path / "c.pt", {})
    expected = draw(), draw()
    seed_everything(99)
    load_checkpoint(tmp_path / "c.pt")
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
        lambda path: path.unlink(),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name_and_runs_nothing(tmp_path, capsys, damage):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"a": torch.zeros(100)})
    damage(path)
    with pytest.raises(DataError, match=r"c\.pt"):
        load_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_a_write_that_fails_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"a": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError):
        save_checkpoint(path, {"a": 2})
    assert load_checkpoint(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
