"""What the pruner adds to a training step: docs/benchmarks/training_overhead.md.

    python scripts/benchmarks/training_overhead.py [--minutes 10]

Prints the page. A step is forward, backward, the optimizer and `Pruner.step()`, whose time is taken inside the very
step that it belongs to: both parts of the ratio see the same load. A run is dense at first, reaches its budget in ten
pruning steps over its first half, and is trained on with masks; the pruning steps themselves, scoring and planning, are
timed by themselves and spread over the steps of a real run. Evaluation isn't part of it. Exit code 1 where a promise
isn't kept.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from torch import nn

from onnxprune.training.pruner import Pruner

PRUNING_STEPS = 10
BUDGET = 0.2


@dataclass(frozen=True)
class Case:
    """A network, its batch, and over how many training steps ten pruning steps are spread in a real run."""

    name: str
    build: Callable[[], tuple[nn.Module, tuple[int, ...], int]]
    batch: int
    run_steps: int
    at_most: float


def demo() -> tuple[nn.Module, tuple[int, ...], int]:
    from onnxprune_models.digits_resnet import build

    return build(), (1, 28, 28), 10


def resnet50() -> tuple[nn.Module, tuple[int, ...], int]:
    from networks.torchvision_loads import make_torchvision_load

    make_torchvision_load()
    import timm

    return timm.create_model("resnet50", num_classes=1000), (3, 224, 224), 1000


CASES = (
    # The recipe: 3,000 digits in batches of 64, 28 epochs.
    Case("the demo's network, batch 64", demo, 64, 28 * (3000 // 64), 0.05),
    # One pass over ImageNet's 1,281,167 pictures in batches of 32; real runs take many.
    Case("ResNet-50, 224x224, batch 32", resnet50, 32, 1_281_167 // 32, 0.02),
)


@dataclass(frozen=True)
class Found:
    """Seconds of each training step without the pruner, of each `Pruner.step()` in it, and of each pruning step."""

    steps: list[float]
    pruner: list[float]
    pruning: list[float]

    def share(self, run_steps: int, chosen: np.ndarray, pruning: np.ndarray) -> float:
        """What the pruner adds, as a share of the steps without it."""
        steps, added = np.array(self.steps)[chosen], np.array(self.pruner)[chosen]
        spread = PRUNING_STEPS / run_steps * np.array(self.pruning)[pruning].mean()
        return float((added.mean() + spread) / steps.mean())

    def interval(self, run_steps: int) -> tuple[float, float, float]:
        """(share, lower, upper): 95% by bootstrap over the steps."""
        drawn, n, k = np.random.default_rng(0), len(self.steps), len(self.pruning)
        draws = [self.share(run_steps, drawn.integers(0, n, n), drawn.integers(0, k, k)) for _ in range(2000)]
        low, high = np.percentile(draws, [2.5, 97.5])
        return self.share(run_steps, np.arange(n), np.arange(k)), float(low), float(high)


def measure(case: Case, seconds: float) -> Found:
    torch.manual_seed(0)
    module, shape, classes = case.build()
    x, y = torch.randn(case.batch, *shape), torch.randint(classes, (case.batch,))
    pruner = Pruner(module, (x[:2],), budget={"macs": BUDGET})
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4)
    module.train()
    steps, added, pruning = [], [], []

    def step() -> None:
        started = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
        between = time.perf_counter()
        pruner.step(optimizer)
        steps.append(between - started)
        added.append(time.perf_counter() - between)

    step()
    steps.clear(), added.clear()
    until = time.monotonic() + seconds
    # Half of the steps come before the budget is reached, as many after each pruning step; the others with all masks.
    for number in range(PRUNING_STEPS):
        block = time.monotonic() + seconds / 2 / PRUNING_STEPS
        step()
        while time.monotonic() < block:
            step()
        started = time.perf_counter()
        pruner.prune((number + 1) / PRUNING_STEPS)
        pruning.append(time.perf_counter() - started)
    step()
    while time.monotonic() < until:
        step()
    return Found(steps, added, pruning)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for both networks together")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, kept = [], True
    for case, part in zip(CASES, (0.2, 0.8), strict=True):
        loads = [os.getloadavg()[0]]
        found = measure(case, arguments.minutes * 60 * part)
        loads.append(os.getloadavg()[0])
        share, low, high = found.interval(case.run_steps)
        within = high <= case.at_most
        kept &= within
        milliseconds = [1e3 * statistics.mean(times) for times in (found.steps, found.pruner, found.pruning)]
        rows.append(
            f"| {case.name} | {len(found.steps)} | {milliseconds[0]:.1f} ms | {milliseconds[1]:.2f} ms "
            f"| {milliseconds[2]:.0f} ms | {case.run_steps} | {share:.2%} [{low:.2%}, {high:.2%}] "
            f"| {case.at_most:.0%} | {'yes' if within else 'no'} | {min(loads):.1f} to {max(loads):.1f} |"
        )
    print(
        "# What the pruner adds to training\n\n"
        f"Printed by `python scripts/benchmarks/training_overhead.py --minutes {arguments.minutes:g}`: PyTorch "
        f"{version('torch')}, {platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, AdamW, the "
        f"default criterion, a budget of {BUDGET:.0%} of the multiply-adds. A step is forward, backward and the "
        "optimizer; `Pruner.step()` is timed within the step that it belongs to, one half of the steps before the "
        f"budget is reached and one half after. The {PRUNING_STEPS} pruning steps (scoring, planning) are spread over "
        "the training steps of a run: the demo's recipe, one pass over ImageNet. Means, 95% intervals by bootstrap.\n\n"
        "| network | timed | a step | `step()` | a pruning step | steps of a run | added | at most | kept | load |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n" + "\n".join(rows)
    )
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
