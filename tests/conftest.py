"""What every test relies on: checks on, one thread a process, seeds fixed, no colours."""

import os

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
