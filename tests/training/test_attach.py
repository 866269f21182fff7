"""An attached pruner steps with the optimizer: in a plain loop, in Lightning Fabric's and in accelerate's."""

import warnings

import pytest
import torch
from torch import nn

from onnxprune.training.pruner import Pruner

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
BATCHES = [(x, y) for x, y in zip(X.split(8), Y.split(8), strict=True)] * 2
#: Batches whose gradients make one step.
ACCUMULATED = 2


def start():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))
    return module, torch.optim.AdamW(module.parameters(), 0.02)


def pruner_of(module):
    return Pruner(module, (X[:2],), budget={"params": 0.5}, total_steps=6, pruning_steps=2, round_to=1)


def by_hand():
    module, optimizer = start()
    pruner = pruner_of(module)
    for number, (x, y) in enumerate(BATCHES, 1):
        (nn.functional.cross_entropy(module(x), y) / ACCUMULATED).backward()
        if number % ACCUMULATED == 0:
            optimizer.step()
            pruner.step(optimizer)
            optimizer.zero_grad()
    return module, pruner


def plain():
    module, optimizer = start()
    pruner = pruner_of(module)
    pruner.attach(optimizer)
    for number, (x, y) in enumerate(BATCHES, 1):
        (nn.functional.cross_entropy(module(x), y) / ACCUMULATED).backward()
        if number % ACCUMULATED == 0:
            optimizer.step()
            optimizer.zero_grad()
    return module, pruner


def fabric():
    from lightning_fabric import Fabric

    module, optimizer = start()
    lightning = Fabric(accelerator="cpu", devices=1)
    model, optimizer = lightning.setup(module, optimizer)
    pruner = pruner_of(module)
    pruner.attach(optimizer)
    for number, (x, y) in enumerate(BATCHES, 1):
        lightning.backward(nn.functional.cross_entropy(model(x), y) / ACCUMULATED)
        if number % ACCUMULATED == 0:
            optimizer.step()
            optimizer.zero_grad()
    return module, pruner


def accelerate():
    from accelerate import Accelerator

    module, optimizer = start()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    model, optimizer = accelerator.prepare(module, optimizer)
    pruner = pruner_of(module)
    pruner.attach(optimizer)
    for x, y in BATCHES:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
    return module, pruner


@pytest.fixture(scope="module")
def expected():
    return by_hand()


@pytest.mark.parametrize("loop", [plain, fabric, accelerate])
def test_the_result_is_that_of_a_loop_that_calls_the_pruner(expected, loop):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        module, pruner = loop()
    assert pruner.cost == expected[1].cost and pruner.cost["params"] <= 0.5
    for name, value in expected[0].state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    assert pruner.export().equivalence.passed


def test_what_is_detached_steps_no_more():
    module, optimizer = start()
    pruner = pruner_of(module)
    pruner.attach(optimizer).remove()
    for x, y in BATCHES:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    assert pruner.cost["params"] == 1.0
