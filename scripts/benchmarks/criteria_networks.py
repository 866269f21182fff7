"""The networks and tasks that `criteria.py` compares on: small, so that a run is a matter of seconds."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from onnxprune.training.settings import TrainingSettings
from onnxprune_models import digits_resnet, keyword_spotting, language_id
from onnxprune_models.task import Split, Task

PARTS = ("train", "validation", "test")


class DigitsNet(nn.Module):
    """Five 3x3 convolutions with BatchNorm, a residual sum and a linear head: 0.26 million multiply-adds a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = _layer(1, 16, 2), _layer(16, 24, 2)
        self.inner, self.back = _layer(24, 24), _layer(24, 24)
        self.last, self.head = _layer(24, 32, 2), nn.Linear(32 * 2 * 2, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.down(torch.relu(self.stem(image))))
        x = torch.relu(self.back(torch.relu(self.inner(x))) + x)
        return self.head(torch.relu(self.last(x)).flatten(1))


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs))


def digits() -> Task:
    """The demo's digits at half their size, 14x14: the means of 2x2 pixels."""

    def smaller(split: Split) -> Split:
        return Split(functional.avg_pool2d(torch.from_numpy(split.images), 2).numpy(), split.labels)

    data = digits_resnet.task()
    parts = {part: smaller(getattr(data, part)) for part in PARTS}
    return dataclasses.replace(data, **parts, example_inputs=(torch.zeros(2, 1, 14, 14),))


def fewer(data: Task, *samples: int) -> Task:
    """The same task with the first samples of its training, validation and test part alone."""
    split = {part: getattr(data, part) for part in PARTS}
    cut = {part: Split(split[part].images[:n], split[part].labels[:n]) for part, n in zip(PARTS, samples, strict=True)}
    return dataclasses.replace(data, **cut)


def heads_of(module: nn.Module) -> dict[str, Any]:
    """What Torch-Pruning has to be told of the Transformer."""
    layers = [layer for layer in module.modules() if isinstance(layer, language_id.Layer)]
    heads = {part: layer.heads for layer in layers for part in (layer.query, layer.key, layer.value)}
    return {"num_heads": heads, "prune_head_dims": True}


def fit_norms(module: nn.Module) -> None:
    """Torch-Pruning narrows an RMSNorm's weight and forgets the size that it normalises."""
    for part in module.modules():
        if isinstance(part, nn.RMSNorm) and part.weight is not None:
            part.normalized_shape = (part.weight.numel(),)


@dataclasses.dataclass(frozen=True)
class Network:
    """One network and its task: `macs` is what may be left, `in_words` says what it is."""

    build: Callable[[], nn.Module]
    task: Callable[[], Task]
    in_words: str
    macs: float
    dense: TrainingSettings
    pruning: TrainingSettings
    free: TrainingSettings
    input_name: str
    grain: int = 2
    #: Torch-Pruning narrows layers by this part of the way at once, until the target is met.
    bar_steps: int = 400
    bar: Callable[[nn.Module], dict[str, Any]] = lambda module: {}


def _settings(dense: int, pruning: int, steps: int) -> dict[str, TrainingSettings]:
    """Epochs of the dense network and of pruning; schedules that follow the metric may step before each until 75%."""
    common = {"epochs": pruning, "warmup": 0.1, "prune_start": 0.1}
    return {
        "dense": TrainingSettings(epochs=dense, warmup=0.2),
        "pruning": TrainingSettings(**common, prune_end=0.5, prune_steps=steps),
        "free": TrainingSettings(**common, prune_end=0.75, prune_every=1, prune_steps=pruning),
    }


NETWORKS = {
    "digits": Network(
        DigitsNet,
        digits,
        "a network of five convolutions and a residual sum on the demo's 5,000 MNIST digits at half their size, 14x14",
        macs=0.15,
        **_settings(10, 8, 4),
        input_name="image",
    ),
    "keywords": Network(
        keyword_spotting.build,
        lambda: fewer(keyword_spotting.task(), 1536, 480, 1728),
        "the keyword spotter of `models/keyword_spotting.py`, depthwise-separable convolutions on spectrograms of "
        "twelve classes of synthesised speech, with 1,536 clips to train",
        macs=0.1,
        **_settings(14, 6, 3),
        input_name="sound",
        grain=4,
        bar_steps=60,
    ),
    "languages": Network(
        lambda: language_id.LanguageId(width=32, heads=4, hidden=64),
        lambda: fewer(language_id.task(), 6000, 1000, 3000),
        "the Transformer encoder of `models/language_id.py` at half its width, with 6,000 texts in 98 locales to train",
        macs=0.3,
        **_settings(10, 4, 2),
        input_name="text",
        grain=4,
        bar_steps=60,
        bar=heads_of,
    ),
}
