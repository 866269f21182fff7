"""Data sets for validation: named input arrays with their targets, from a file or from a Python object."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import sys
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from onnxprune.errors import DataError
from onnxprune.runtime.lazy import image_folder, saved_dataset

TARGETS = "targets"
ALPHABET = "alphabet"
TARGET_COLUMNS = ("targets", "target", "label", "labels")
HASHED_AT_A_TIME = 256


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Samples and what is right for them: inputs {input name: array [n, ...]}, targets [n, ...].

    An input may also be read when it is asked for (see `lazy`). alphabet: the text of each class, for metrics of text.
    """

    inputs: Mapping[str, np.ndarray]
    targets: np.ndarray
    name: str = "data"
    alphabet: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in {**self.inputs, TARGETS: self.targets}.items()}
        if not self.inputs or len(set(lengths.values())) != 1 or not len(self.targets):
            counts = ", ".join(f"{name}: {count}" for name, count in lengths.items())
            raise DataError(
                f"Inputs and targets of {self.name} need the same number of samples, at least one ({counts})."
            )

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def sha256(self) -> str:
        """sha256 of all inputs and targets, to see whether two runs judged by the same samples."""
        digest = hashlib.sha256()
        for name, array in [*sorted(self.inputs.items()), (TARGETS, self.targets)]:
            digest.update(f"{name} {len(array)}".encode())
            if hasattr(array, "raw"):  # pictures are what was stored, however large a model takes them
                for index in range(len(array)):
                    digest.update(array.raw(index))
                continue
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            for start in range(0, len(array), HASHED_AT_A_TIME):
                digest.update(np.ascontiguousarray(array[start : start + HASHED_AT_A_TIME]).tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}{list(array.shape)}" for name, array in self.inputs.items())
        return f"Dataset({self.name}: {shapes} -> {list(self.targets.shape)})"


def load_dataset(reference: str | Path | Dataset) -> Dataset:
    """A data set from a file, a folder, or "module:object".

    A .npz file holds arrays named as the model's inputs, and `targets`. A folder holds pictures sorted into folders of
    their classes (with preprocess.json where they need more than resizing and dividing by 255), or a Hugging Face
    dataset that `save_to_disk` wrote; both stream.
    The object, called if it can be, is a Dataset or a pair (inputs, targets), inputs being an array or a dict of them.
    Raises: DataError.
    """
    if isinstance(reference, Dataset):
        return reference
    text = str(reference)
    if text.endswith(".npz"):
        return _load_npz(Path(reference))
    if Path(text).is_dir():
        return _load_folder(Path(text))
    if ":" not in text:
        raise DataError(f"'{text}' names no data. Give a .npz file, a folder, or a Python object as module:function.")
    value = resolve(text)
    value = value() if callable(value) else value
    if isinstance(value, Dataset):
        return value
    if not isinstance(value, tuple) or len(value) != 2:
        raise DataError(f"'{text}' gives {type(value).__name__}. Return a Dataset or a pair (inputs, targets).")
    inputs, targets = value
    if not isinstance(inputs, Mapping):
        inputs = {"input": inputs}
    return Dataset({name: np.asarray(array) for name, array in inputs.items()}, np.asarray(targets), text)


def resolve(reference: str) -> object:
    """The Python object that "module:attribute" names; modules in the working folder are found too.

    Raises: DataError naming what couldn't be found.
    """
    module_name, _, attribute = reference.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: object = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise DataError(
            f"'{reference}' can't be imported: {error}. Run from the module's folder, or install it."
        ) from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise DataError(f"'{module_name}' has no '{attribute}'. Name an object of the module as module:object.")
        value = getattr(value, part)
    return value


def sample_hashes(dataset: Dataset) -> set[str]:
    """sha256 of each sample's inputs (name, type, shape and bytes), to see whether two data sets share a sample."""
    names = sorted(dataset.inputs)
    arrays = [np.ascontiguousarray(dataset.inputs[name]) for name in names]
    heads = [f"{name} {array.dtype.str} {array.shape[1:]}".encode() for name, array in zip(names, arrays, strict=True)]
    hashes = set()
    for index in range(len(dataset)):
        digest = hashlib.sha256()
        for head, array in zip(heads, arrays, strict=True):
            digest.update(head + array[index].tobytes())
        hashes.add(digest.hexdigest())
    return hashes


def _load_npz(path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise DataError(f"'{path}' doesn't exist. Give a .npz file with the model's inputs and '{TARGETS}'.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"'{path}' isn't a readable .npz file ({error}). Write it with numpy.savez.") from error
    if TARGETS not in arrays or len(arrays) < 2:
        raise DataError(
            f"'{path}' holds {', '.join(sorted(arrays)) or 'nothing'}. Name one array '{TARGETS}', others as inputs."
        )
    targets = arrays.pop(TARGETS)
    alphabet = arrays.pop(ALPHABET, None)
    if any(array.ndim == 0 for array in (targets, *arrays.values())):
        raise DataError(f"'{path}' holds a scalar. Every array needs the samples on its first axis.")
    return Dataset(arrays, targets, path.name, None if alphabet is None else tuple(map(str, alphabet)))


def _load_folder(folder: Path) -> Dataset:
    if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
        inputs, targets = saved_dataset(folder, TARGET_COLUMNS)
        return Dataset(inputs, targets, folder.name)
    pictures, targets = image_folder(folder)
    return Dataset({"image": pictures}, targets, folder.name)
