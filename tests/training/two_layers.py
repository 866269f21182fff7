"""A small network of two hidden layers, data that it learns, and its channels, which are traced once."""

import functools

import torch
from torch import nn

from onnxprune.training.pruner import Pruner

X = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3] + 0.3 * X[:, 3:]).argmax(1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


@functools.cache
def channels():
    return Pruner(network(), (X[:2],), budget={"params": 0.9}, round_to=1).channels
