"""What a network of the zoo is: a way to make it, the inputs it takes, and the sizes it is checked at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

#: How many samples the first and the second check feed.
BATCHES = (3, 2)


@dataclass(frozen=True)
class Input:
    """One input. `shape` holds an int for a static size, a name for a dynamic one; "N" is the batch.

    Floats are normal; with `below`, integers of `dtype` from 0 up to it; a `mask` is 1 in its first place, else 0 or 1.
    """

    name: str
    shape: tuple[int | str, ...]
    below: int | None = None
    mask: bool = False
    dtype: str = "int64"

    def draw(self, generator: np.random.Generator, sizes: Mapping[str, int]) -> np.ndarray:
        """Random values, with the dynamic sizes as given."""
        shape = tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)
        if self.mask:
            drawn = generator.integers(0, 2, shape, self.dtype)
            drawn[..., 0] = 1
            return drawn
        if self.below is not None:
            return generator.integers(0, self.below, shape, self.dtype)
        drawn = generator.standard_normal(shape, np.float32)
        if len(shape) > 2:  # samples whose means differ too, or nothing would be left of them after a pooling
            drawn += 2 * generator.standard_normal(shape[:2] + (1,) * (len(shape) - 2), np.float32)
        return drawn

    def fixed(self, sizes: Mapping[str, int]) -> "Input":
        """The same with every dynamic size but the batch as in `sizes`."""
        shape = tuple(size if size == "N" or isinstance(size, int) else sizes[size] for size in self.shape)
        return replace(self, shape=shape)


@dataclass(frozen=True)
class Subject:
    """A network that is made: a PyTorch module, or the `onnx.ModelProto` of a file, with its inputs.

    `sizes` are the dynamic sizes at the first and at the second check, without the batch; `deviation` is what the
    outputs of its layers are scaled to; `remark` goes into the table.
    """

    network: Any
    inputs: tuple[Input, ...]
    sizes: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})
    deviation: float = 1.0
    remark: str = ""

    @property
    def is_module(self) -> bool:
        return not hasattr(self.network, "SerializeToString")

    def static(self) -> "Subject":
        """The same with only the batch dynamic."""
        inputs = tuple(value.fixed(self.sizes[0]) for value in self.inputs)
        return replace(self, inputs=inputs, sizes=({}, {}))


@dataclass(frozen=True)
class Network:
    """A name such as "timm/resnet18", and the function that makes the network with its initial weights."""

    name: str
    make: Callable[[], Subject]


def feeds(inputs: tuple[Input, ...], sizes: Mapping[str, int], batch: int, seed: int) -> dict[str, np.ndarray]:
    """Random values for every input."""
    generator = np.random.default_rng(seed)
    return {value.name: value.draw(generator, {"N": batch, **sizes}) for value in inputs}


class NotInstalled(Exception):
    """The package that a network comes from isn't there; says how to install it."""
