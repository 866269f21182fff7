"""Somebody's project: a tiny network and its data, as a recipe names them. Copied beside a recipe by the tests."""

import os
import time

import numpy as np
import torch
from torch import nn


class TinyNet(nn.Module):
    def __init__(self, unexportable: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 4)
        self.unexportable = unexportable

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.conv2(x)).mean((2, 3))
        if self.unexportable and x.sum() > 0:
            x = x + 1
        return self.head(x)


def build() -> nn.Module:
    return TinyNet()


def build_unexportable() -> nn.Module:
    return TinyNet(unexportable=True)


def build_failing() -> nn.Module:
    raise KeyError("no such layer")


def build_nothing() -> None:
    return None


def task() -> dict:
    """Which quarter of the image is bright? 256 samples to train, 64 to validate, 128 to test."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 448)
    images = generator.random((448, 1, 8, 8), dtype=np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 1
    parts = {"train": slice(256), "validation": slice(256, 320), "test": slice(320, 448)}
    data = {name: (images[part], labels[part]) for name, part in parts.items()}
    return {**data, "augment": slowly if os.environ.get("TINY_SECONDS_A_BATCH") else None}


def slowly(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gives a test the time to press Ctrl-C."""
    time.sleep(float(os.environ["TINY_SECONDS_A_BATCH"]))
    return images


def leaky_task() -> dict:
    """One sample of the validation data is among the test data too."""
    data = task()
    (images, labels), (seen, known) = data["test"], data["validation"]
    images[7], labels[7] = seen[3], known[3]
    return data


def task_without_test() -> dict:
    data = task()
    del data["test"]
    return data


def failing_task() -> None:
    raise OSError("the archive is gone")


def task_without_its_package() -> None:
    import a_package_nobody_has  # noqa: F401


not_a_task = 3


def brightness(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A metric of the project's own: the probability given to the right quarter."""
    weights = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True))[np.arange(len(targets)), targets]
