"""What one training has gathered about its weights, as a value: to be saved, sent, and merged with that of others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxprune.errors import DataError, InputError
from onnxprune.graph.files import write_atomically


@dataclass(frozen=True, eq=False)
class Saliency:
    """Means over `steps` batches of what `criterion` reads: {where it belongs: array}. No data can be told from it
    but the sizes of gradients.
    """

    criterion: str
    arrays: Mapping[str, np.ndarray]
    steps: int

    def __repr__(self) -> str:
        return f"Saliency({self.criterion!r}, {self.steps} steps, {len(self.arrays)} arrays)"

    def save(self, path: "str | Path") -> None:
        """Write it as safetensors, with criterion and steps as its metadata. Raises OutputError."""
        from safetensors.numpy import save

        told = {"onnxprune": json.dumps({"criterion": self.criterion, "steps": self.steps})}
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        write_atomically(Path(path), save(arrays, metadata=told))

    @classmethod
    def load(cls, path: "str | Path") -> "Saliency":
        """Read what `save` wrote. Raises DataError for any other file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                told = json.loads((file.metadata() or {})["onnxprune"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it isn't a dict
                return cls(str(told["criterion"]), arrays, int(told["steps"]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"'{path}' can't be read as a saliency ({type(error).__name__}). Write one with "
                "pruner.saliency().save()."
            ) from error


def average(saliencies: Sequence[Saliency], weights: Sequence[float] | None = None) -> Saliency:
    """The weighted mean of several sites' saliencies; by default each counts by the steps that it saw.

    All sites that are given the same mean choose the same units, and none has seen another's data. Raises InputError
    for saliencies of different networks or criteria, and for weights that don't fit.
    """
    if not saliencies:
        raise InputError("There is no saliency to average. Give at least one.")
    first = saliencies[0]
    for other in saliencies[1:]:
        shapes = [{name: array.shape for name, array in s.arrays.items()} for s in (first, other)]
        if other.criterion != first.criterion or shapes[0] != shapes[1]:
            raise InputError(
                f"{first} and {other} don't belong together. Average those of one network and one criterion."
            )
    shares = np.array([s.steps for s in saliencies] if weights is None else weights, float)
    if len(shares) != len(saliencies) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise InputError(
            f"{len(saliencies)} saliencies can't be weighed by {shares.tolist()}. Give each a number of at least 0."
        )
    shares = shares / shares.sum()
    merged = {
        name: sum(share * s.arrays[name].astype(np.float64) for share, s in zip(shares, saliencies, strict=True))
        for name in first.arrays
    }
    arrays = {name: np.asarray(value, first.arrays[name].dtype) for name, value in merged.items()}
    return Saliency(first.criterion, arrays, sum(s.steps for s in saliencies))
