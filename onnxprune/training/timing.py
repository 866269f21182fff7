"""How long single steps of a training take on this machine, for those who want to know before they wait."""

import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

#: Steps that are timed, after one that isn't.
STEPS = 3


def step_seconds(
    module: nn.Module, inputs: np.ndarray, targets: np.ndarray, batch: int, loss: Callable, taught: bool
) -> float:
    """The median of a few training steps of a copy of `module` with AdamW, a teacher's answer included if `taught`."""
    copied = copy.deepcopy(module).train()
    device = next(copied.parameters()).device
    optimizer = torch.optim.AdamW([p for p in copied.parameters() if p.requires_grad], 1e-4)
    x, y = (torch.from_numpy(np.ascontiguousarray(array[:batch])).to(device) for array in (inputs, targets))
    found = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        if taught:
            with torch.no_grad():
                copied(x)
        optimizer.zero_grad()
        loss(copied(x), y).backward()
        optimizer.step()
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])


def evaluation_seconds(module: nn.Module, inputs: np.ndarray, most: int = 250) -> float:
    """What a pass over all of `inputs` takes, from the first `most`."""
    copied = copy.deepcopy(module).eval()
    device = next(copied.parameters()).device
    x = torch.from_numpy(np.ascontiguousarray(inputs[:most])).to(device)
    with torch.no_grad():
        copied(x[:2])
        started = time.perf_counter()
        copied(x)
    return (time.perf_counter() - started) * len(inputs) / len(x)
