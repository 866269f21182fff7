"""A small residual network on scikit-learn's 1,797 8x8 digits, the network of the quick demo.

It trains in seconds on a laptop. Input `image` float32 [N,1,8,8] in 0..1, output `logits` [N,10].
"""

import numpy as np
import torch
from torch import nn

from onnxprune_models.task import Task, random_affine, split_by_class


class QuickDigits(nn.Module):
    """A stem and a residual block at 8x8, a strided convolution to 4x4, a linear head."""

    def __init__(self, width: int = 64, deep_width: int = 96) -> None:
        super().__init__()
        self.stem = _conv_norm(1, width)
        self.conv1 = _conv_norm(width, width)
        self.conv2 = _conv_norm(width, width)
        self.down = _conv_norm(width, deep_width, stride=2)
        self.head = nn.Linear(deep_width * 4 * 4, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)
        x = torch.relu(self.down(x))
        return self.head(x.flatten(1))


def _conv_norm(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution and its BatchNorm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs))


def build() -> nn.Module:
    """The untrained network; its random initialisation follows torch's global generator."""
    return QuickDigits()


def task() -> Task:
    """Scikit-learn's handwritten digits: 1,197 images to train, 200 to validate, 400 to test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    train, validation, test = split_by_class(images, digits.target.astype(np.int64), validation=200, test=400, seed=0)
    return Task("quick_digits", train, validation, test, (torch.zeros(2, 1, 8, 8),), augment=vary)


def vary(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Small turns and shifts: on 8x8 pixels a tenth of a half side is less than half a pixel."""
    return random_affine(images, generator, degrees=8, shift=0.1, scale=0.08, shear=0.1)
