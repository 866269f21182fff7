"""The network of many a CIFAR-10 tutorial: two convolutions, two poolings, a wide linear layer. 2,175,626 parameters.

It learns from a CIFAR-10 folder where the environment variable CIFAR10 names one, in the binary or the Python version
(`cifar-10-batches-bin`, `cifar-10-batches-py`); elsewhere from 5,000 real MNIST digits, padded to 32x32 and given three
equal colours. Input `image` float32 [N,3,32,32] in 0..1, output `logits` [N,10].
"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from onnxprune_models import digits_resnet
from onnxprune_models.task import Split, Task, random_affine, split_by_class

#: What the batches of CIFAR-10's Python version are pickled with; anything else in such a file isn't data.
PICKLED = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")} | {
    (f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")
}


class CifarClassic(nn.Module):
    """Conv 3x3 64, pool, conv 3x3 128, pool, linear 256, linear 10, ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1)
        self.conv2 = nn.Conv2d(64, 128, 3, padding=1)
        self.hidden = nn.Linear(128 * 8 * 8, 256)
        self.head = nn.Linear(256, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv1(image)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.head(torch.relu(self.hidden(x.flatten(1))))


def build() -> nn.Module:
    """The untrained network; its random initialisation follows torch's global generator."""
    return CifarClassic()


def task() -> Task:
    """CIFAR-10 from the folder that CIFAR10 names, 5,000 of its training images to validate; else padded digits."""
    folder = os.environ.get("CIFAR10")
    if folder:
        return _task("cifar10", *_cifar(Path(folder)), _mirror)
    digits = digits_resnet.task()
    parts = [_in_colour(part) for part in (digits.train, digits.validation, digits.test)]
    return _task("padded_digits", *parts, digits_resnet.vary)


def _task(name: str, train: Split, validation: Split, test: Split, augment: Callable) -> Task:
    return Task(name, train, validation, test, (torch.zeros(2, 3, 32, 32),), augment=augment)


def _in_colour(part: Split) -> Split:
    """Digits [n,1,28,28] in the middle of images [n,3,32,32]."""
    padded = np.pad(part.images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return Split(np.repeat(padded, 3, axis=1), part.labels)


def _mirror(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every second image mirrored, all shifted a little."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return random_affine(images, generator, degrees=0, shift=0.2, scale=0, shear=0)


def _cifar(folder: Path) -> tuple[Split, Split, Split]:
    """(train, validation, test) of the folder. Raises FileNotFoundError, ValueError for one without the batches."""
    read = _read_binary if (folder / "data_batch_1.bin").exists() else _read_python
    ending = ".bin" if read is _read_binary else ""
    batches = [read(folder / f"data_batch_{number}{ending}") for number in range(1, 6)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    train, validation, _ = split_by_class(_scaled(images), labels, validation=len(images) // 10, test=0, seed=0)
    test_images, test_labels = read(folder / f"test_batch{ending}")
    return train, validation, Split(_scaled(test_images), test_labels)


def _scaled(images: np.ndarray) -> np.ndarray:
    return (images.reshape(-1, 3, 32, 32) / 255.0).astype(np.float32)


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a byte for the class and 3,072 for the image."""
    rows = np.frombuffer(path.read_bytes(), np.uint8)
    if not len(rows) or len(rows) % 3073:
        raise ValueError(f"'{path}' isn't a batch of CIFAR-10's binary version. Fetch it again")
    rows = rows.reshape(-1, 3073)
    return rows[:, 1:], rows[:, 0].astype(np.int64)


def _read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A pickled dict of `data` and `labels`; nothing but arrays is unpickled."""
    with path.open("rb") as file:
        batch = _Arrays(file, encoding="bytes").load()
    return np.asarray(batch[b"data"], np.uint8), np.asarray(batch[b"labels"], np.int64)


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in PICKLED:
            raise ValueError(f"The batch holds {module}.{name}, which isn't data. Fetch CIFAR-10 again")
        return super().find_class(module, name)
