"""Two processes that train together end where one does with the same samples: plain, sharded, and in the ready loop."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

SCRIPT = Path(__file__).with_name("two_ranks.py")


def start(rank: int, ranks: int, folder: Path) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), str(rank), str(ranks), str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """What one process left, and what two did."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    processes = [start(0, 1, one), start(0, 2, two), start(1, 2, two)]
    try:
        for process in processes:
            _, said = process.communicate(timeout=280)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return one, two


def read(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def assert_like_one(alone: dict, two: Path, name: str) -> None:
    """Both ranks have the same to the bit, one process the same masks, and its weights are equal to float accuracy."""
    first, second = read(two / f"{name}-0.pt"), read(two / f"{name}-1.pt")
    assert any(not mask.all() for mask in alone["masks"].values())
    assert_equal(first["masks"], second["masks"])
    assert_equal(first["weights"], second["weights"])
    assert_equal(first["masks"], alone["masks"])
    for key, value in alone["weights"].items():
        torch.testing.assert_close(first["weights"][key], value, rtol=1e-3, atol=1e-4, msg=f"{name}: {key}")


PRUNERS = "taylor fisher activation omp obd error_rate structure weights".split()


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_two_ranks_prune_what_one_process_prunes(folders, kind, name):
    one, two = folders
    assert_like_one(read(one / "whole" / f"{name}-0.pt"), two / kind, name)


@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_the_first_rank_writes_the_whole_network(folders, kind):
    one, two = folders
    weights = []
    for folder in (one / "whole", two / kind):
        initializers = onnx.load(folder / "pruned.onnx").graph.initializer
        weights.append({tensor.name: numpy_helper.to_array(tensor) for tensor in initializers})
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert [path.name for path in (two / kind).glob("*.onnx")] == ["pruned.onnx"]


def test_the_ready_loop_ends_where_one_process_does(folders):
    one, two = folders
    assert_like_one(read(one / "ready" / "ready-0.pt"), two / "ready", "ready")
    alone, first, second = (
        read(folder / "ready" / f"history-{rank}.pt") for folder, rank in ((one, 0), (two, 0), (two, 1))
    )
    assert alone == first == second


def test_batch_statistics_are_each_ranks_own_and_the_result_is_the_same_on_all(folders):
    first, second = (read(folders[1] / "batchnorm" / f"ready-{rank}.pt") for rank in (0, 1))
    assert any(not mask.all() for mask in first["masks"].values())
    assert_equal(first["masks"], second["masks"])
    assert_equal(first["weights"], second["weights"])
    histories = [read(folders[1] / "batchnorm" / f"history-{rank}.pt") for rank in (0, 1)]
    assert histories[0] == histories[1]
