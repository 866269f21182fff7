"""A pytest plugin: a project asserts in its own CI that a model is no worse and no slower than the one it replaces.

    def test_the_pruned_model(no_worse, no_slower):
        no_worse("dense.onnx", "pruned.onnx", data="test.npz", max_drop=0.01)
        no_slower("dense.onnx", "pruned.onnx")

Both fixtures give the Validation. What can't be settled fails as well, unless --onnxprune-inconclusive=skip.
"""

from collections.abc import Callable
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long to measure, and what to make of a measurement that settles nothing."""
    group = parser.getgroup("onnxprune", "onnxprune")
    group.addoption(
        "--onnxprune-seconds", type=float, default=20.0, metavar="S", help="how long each latency comparison measures"
    )
    group.addoption(
        "--onnxprune-inconclusive",
        choices=("fail", "skip"),
        default="fail",
        help="what to do where the measurement can't settle it (default: fail)",
    )


@pytest.fixture
def no_worse(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """no_worse(reference, candidate, data=, metric="top1", max_drop=): accuracy within the margin, sample by sample."""

    def check(reference: Any, candidate: Any, *, data: str, max_drop: float, **options: Any) -> Any:
        from onnxprune import measuring

        found = measuring.validate(
            reference,
            candidate,
            data=data,
            max_drop=max_drop,
            latency=False,
            **{"providers": ("cpu",), **options},
        )
        _settle(request, found, found.verdict)
        return found

    return check


@pytest.fixture
def no_slower(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """no_slower(reference, candidate, margin=0.02): all of the ratio's interval at most 1 + margin."""

    def check(reference: Any, candidate: Any, *, margin: float = 0.02, **options: Any) -> Any:
        from onnxprune import measuring

        seconds = request.config.getoption("--onnxprune-seconds")
        found = measuring.validate(
            reference,
            candidate,
            min_speedup=1 / (1 + margin),
            **{"providers": ("cpu",), "seconds": seconds, **options},
        )
        _settle(request, found, found.verdict)
        return found

    return check


def _settle(request: pytest.FixtureRequest, found: Any, verdict: str) -> None:
    if verdict == "inconclusive" and request.config.getoption("--onnxprune-inconclusive") == "skip":
        pytest.skip(f"inconclusive\n{found}")
    if verdict != "passed":
        pytest.fail(f"{verdict}\n{found}", pytrace=False)
