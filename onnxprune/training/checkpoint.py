"""Checkpoints of a training run: tensors, plain values and the random state, in one file that is never half there."""

import io
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnxprune.errors import DataError
from onnxprune.graph.files import write_atomically

_ARRAY = "__numpy__"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` (dicts, lists, tuples, tensors, arrays, numbers, strings) together with the random state.

    Raises OutputError where the folder can't be written or the disk is full; an older checkpoint then stays as it was.
    """
    buffer = io.BytesIO()
    torch.save(_encode({"content": content, "random": random_state()}), buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote and restore the random state. Runs no code that the file might hold.

    Raises DataError where the file isn't such a checkpoint.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not written by torch.save")
        stored = _decode(torch.load(path, map_location="cpu", weights_only=True))
        set_random_state(stored["random"])
        return stored["content"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError, OSError) as error:
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


def _encode(value: Any) -> Any:
    """Arrays become tagged tensors: torch reads tensors back without unpickling arbitrary objects."""
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.array(value))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_encode(item) for item in value)
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return value[_ARRAY].numpy() if value.keys() == {_ARRAY} else {k: _decode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_decode(item) for item in value)
    return value
