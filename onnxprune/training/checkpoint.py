"""Checkpoints of a training run: one file of safetensors, whose metadata holds plain values and random state as JSON.

It's never half there, and reading it runs no code. In the JSON everything that it has no word for is an object of one
key that starts with "$": a tensor or an array by the name of its safetensor, a tuple, a number that isn't finite, and a
dict whose keys aren't all strings, as a list of pairs.
"""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from onnxprune.errors import DataError, OutputError
from onnxprune.graph.files import write_atomically

#: The key of the metadata that the JSON lies under.
_METADATA = "onnxprune"
#: What reading a file that is no checkpoint may raise.
_DAMAGE = (SafetensorError, OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError, OverflowError)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` (dicts, lists, tuples, tensors, arrays, numbers, strings) together with the random state.

    Raises OutputError where the folder can't be written, the disk is full or `content` holds something else; an older
    checkpoint then stays as it was.
    """
    tensors = _Tensors()
    text = json.dumps(_encode({"content": content, "random": random_state()}, tensors), allow_nan=False)
    write_atomically(path, save(tensors.named, metadata={_METADATA: text}))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote and restore the random state. Runs no code that the file might hold.

    Raises DataError where the file isn't such a checkpoint.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {})[_METADATA]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it isn't a dict
        stored = _decode(json.loads(text), tensors)
        set_random_state(stored["random"])
        return stored["content"]
    except _DAMAGE as error:
        raise DataError(
            f"'{path}' can't be read as a training checkpoint ({type(error).__name__}). Delete it to start afresh."
        ) from error


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global random generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's global random generators."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, keys.astype(np.int64), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned. States of CUDA devices that aren't there are left out."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


class _Tensors:
    """The tensors of one checkpoint by number; what is there twice, as tied weights are, is written once."""

    def __init__(self) -> None:
        self.named: dict[str, torch.Tensor] = {}
        self._known: dict[tuple, str] = {}
        self._held: list[torch.Tensor] = []  # their memory isn't given to others meanwhile

    def add(self, tensor: torch.Tensor) -> str:
        tensor = tensor.detach()
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() == 0 or key not in self._known:
            name = str(len(self.named))
            # Memory of its own: safetensors refuses views that overlap.
            self.named[name] = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
            self._known[key] = name
            self._held.append(tensor)
        return self._known[key]


def _encode(value: Any, tensors: _Tensors) -> Any:
    if isinstance(value, torch.Tensor):
        return {"$tensor": tensors.add(value)}
    if isinstance(value, np.ndarray):
        return {"$array": tensors.add(torch.from_numpy(np.array(value)))}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encode(item, tensors) for key, item in value.items()}
        return {"$dict": [[_encode(key, tensors), _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, tensors) for item in value]}
    raise OutputError(
        f"A checkpoint can't hold a {type(value).__name__}. Give dicts, lists, tuples, tensors, arrays, numbers and "
        "strings."
    )


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind, held = next(iter(value.items())) if len(value) == 1 else ("", None)
    if kind == "$tensor":
        return tensors[held]
    if kind == "$array":
        return tensors[held].numpy()
    if kind == "$float":
        return float(held)
    if kind == "$tuple":
        return tuple(_decode(item, tensors) for item in held)
    if kind == "$dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in held}
    return {key: _decode(item, tensors) for key, item in value.items()}
