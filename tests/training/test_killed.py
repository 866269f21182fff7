"""A training that is killed outright, at moments drawn at random, ends where an undisturbed one does."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("killed_run.py")


def start(folder: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), str(folder / "run.safetensors"), str(folder / "result.pt"), str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=250)
    assert process.returncode == 0, said


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_at_random_moments_it_ends_with_the_same_masks_and_weights(tmp_path):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    beside = start(undisturbed, 0.0)
    drawn = random.Random(1)
    epochs: list[int] = []
    for _ in range(2):
        process = start(disturbed, 0.02)
        # So many epochs later, in the middle of a batch, of an evaluation or of writing the checkpoint.
        for _ in range(drawn.randint(1, 4)):
            epochs.append(int(process.stdout.readline()))
        time.sleep(drawn.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert epochs[-1] < 9 and not (disturbed / "result.pt").exists()
    finish(start(disturbed, 0.0))
    finish(beside)
    one, other = (torch.load(folder / "result.pt", weights_only=True) for folder in (undisturbed, disturbed))
    assert torch.equal(one["deleted"], other["deleted"]) and one["deleted"].any()
    assert all(torch.equal(value, other["module"][name]) for name, value in one["module"].items())
