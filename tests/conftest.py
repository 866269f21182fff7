"""What every test relies on: checks on, one thread a process, seeds fixed, no colours."""

import os
import shutil
from pathlib import Path

# Before anything imports torch or ONNX Runtime: two test processes share two cores.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["ONNXPRUNE_CHECK"] = "1"
os.environ["NO_COLOR"] = "1"
os.environ.pop("FORCE_COLOR", None)

import numpy as np
import pytest
from hypothesis import settings

# The same examples everywhere: a failure in CI is a failure here. No deadline: machines are shared.
settings.register_profile("onnxprune", derandomize=True, deadline=None)
settings.load_profile("onnxprune")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """NumPy's global generator starts the same in each test; torch's is the business of tests that use torch."""
    np.random.seed(0)


TINY_RECIPE = """
name: tiny
module: tiny_net:build
data: tiny_net:task
budget: {macs: 0.6}
steps: 2
guard: 0.9
dense: {epochs: 3, batch: 64, learning_rate: 0.02}
finetune: {epochs: 6, batch: 64, learning_rate: 0.01}
measure: {seconds: 0.2}
providers: cpu
gates: {max_drop: 0.5}
"""


def make_tiny_project(parent: Path) -> Path:
    """A folder with somebody's network and recipe: tiny_net.py and recipe.yaml."""
    folder = parent / "project"
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "projects" / "tiny_net.py", folder)
    (folder / "recipe.yaml").write_text(TINY_RECIPE)
    return folder


@pytest.fixture
def tiny_project(tmp_path: Path) -> Path:
    """A project of this test's own."""
    return make_tiny_project(tmp_path)


@pytest.fixture(scope="session")
def shared_tiny_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that nobody may change."""
    return make_tiny_project(tmp_path_factory.mktemp("shared"))
