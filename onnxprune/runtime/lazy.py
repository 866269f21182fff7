"""Samples that are read when they are asked for: image folders, Hugging Face datasets, and either of them disturbed.

Each behaves like an array [n, ...] as far as `len`, `shape`, `dtype` and indexing with a slice or an array of indices
go, so that a data set larger than memory streams through a model batch by batch.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from onnxprune.errors import DataError

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"))
PREPROCESSING = "preprocess.json"
EXTRA = "pip install 'onnxprune[metrics]'"

#: What an input is disturbed by on request: {name: (level, what it means)}.
CONDITIONS = {
    "noise": (0.1, "Gaussian noise, a tenth of the inputs' range"),
    "blur": (1.0, "Gaussian blur, 1 pixel"),
    "contrast": (0.5, "half the contrast"),
}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From a picture to numbers: (pixel / 255 - mean) / std, resized to `size` = (height, width).

    layout: NCHW or NHWC; None stands for what the model's input says.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str | None = None
    dtype: str = "float32"

    @classmethod
    def read(cls, path: Path) -> Preprocessing:
        """What preprocess.json says. Raises: DataError."""
        if not path.exists():
            return cls()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("it holds no names")
            known = {field.name for field in dataclasses.fields(cls)}
            if set(values) - known:
                unknown = ", ".join(sorted(set(values) - known))
                raise ValueError(f"{unknown} is unknown, {', '.join(sorted(known))} are not")
            return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"'{path}' doesn't say how pictures become inputs: {error}. Mend it.") from error

    def for_input(self, name: str, dtype: np.dtype, shape: Sequence[int | str]) -> Preprocessing:
        """Completed by the shape of the model's input. Raises: DataError where that leaves something open."""
        if len(shape) != 4:
            raise DataError(f"Input '{name}' takes {list(shape)}, and pictures have 4 axes. Choose other data.")
        layout = self.layout or ("NHWC" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "NCHW")
        channels, height, width = (shape[k] for k in ((1, 2, 3) if layout == "NCHW" else (3, 1, 2)))
        size = self.size or (height, width)
        found = channels if isinstance(channels, int) else self.channels or 3
        if not all(isinstance(side, int) for side in size):
            raise DataError(
                f"Input '{name}' takes pictures of any size. Say which in {PREPROCESSING} beside them: "
                '{"size": [224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}.'
            )
        return dataclasses.replace(self, size=tuple(size), channels=found, layout=layout, dtype=dtype.name)

    def apply(self, picture: Any) -> np.ndarray:
        """One picture (of pillow) as an array."""
        if self.size is None or self.layout is None:
            raise DataError("How large the pictures are isn't known yet: run them through a model.")
        height, width = self.size
        picture = picture.convert("L" if self.channels == 1 else "RGB").resize((width, height))
        pixels = np.asarray(picture)
        if np.dtype(self.dtype).kind in "ui":
            array = pixels.reshape(height, width, -1)
        else:
            array = (pixels.reshape(height, width, -1) / 255.0 - np.array(self.mean)) / np.array(self.std)
        return (array.transpose(2, 0, 1) if self.layout == "NCHW" else array).astype(self.dtype)


class Lazy:
    """What all lazy samples share. A subclass reads one sample."""

    preprocessing: Preprocessing

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> np.ndarray:
        """The sample at `index`."""
        raise NotImplementedError

    def __getitem__(self, indices: slice | np.ndarray) -> np.ndarray:
        chosen = range(len(self))[indices] if isinstance(indices, slice) else indices
        return np.stack([self.read(int(index)) for index in chosen])

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, ...] as soon as the preprocessing is known, [n] before."""
        p = self.preprocessing
        if p.size is None or p.layout is None:
            return (len(self),)
        sides = (p.channels, *p.size) if p.layout == "NCHW" else (*p.size, p.channels)
        return (len(self), *sides)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """Of the arrays that indexing gives."""
        return np.dtype(self.preprocessing.dtype)


@dataclasses.dataclass(frozen=True)
class ImageFiles(Lazy):
    """Pictures in files."""

    paths: tuple[str, ...]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> np.ndarray:
        image = pillow()
        try:
            with image.open(self.paths[index]) as picture:
                return self.preprocessing.apply(picture)
        except OSError as error:
            raise DataError(f"'{self.paths[index]}' isn't a readable picture ({error}). Take it out.") from error

    def raw(self, index: int) -> bytes:
        """The file as it is."""
        return Path(self.paths[index]).read_bytes()

    def fit_to(self, name: str, dtype: np.dtype, shape: Sequence[int | str]) -> ImageFiles:
        """The same pictures as the model's input takes them."""
        return dataclasses.replace(self, preprocessing=self.preprocessing.for_input(name, dtype, shape))


@dataclasses.dataclass(frozen=True)
class ColumnOfPictures(Lazy):
    """A column of pictures of a Hugging Face dataset on disk; opened anew wherever this is sent to."""

    folder: str
    column: str
    length: int
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> np.ndarray:
        return self.preprocessing.apply(open_dataset(self.folder)[index][self.column])

    def raw(self, index: int) -> bytes:
        """The picture as it is: its mode, size and pixels."""
        picture = open_dataset(self.folder)[index][self.column]
        return f"{picture.mode} {picture.size}".encode() + picture.tobytes()

    def fit_to(self, name: str, dtype: np.dtype, shape: Sequence[int | str]) -> ColumnOfPictures:
        """The same pictures as the model's input takes them."""
        return dataclasses.replace(self, preprocessing=self.preprocessing.for_input(name, dtype, shape))


class Disturbed:
    """Samples under noise, blur or less contrast: the same disturbance for the same sample, whoever asks.

    Only arrays of floats with at least two axes behind the batch can be disturbed.
    """

    def __init__(self, samples: Any, condition: str, seed: int = 0) -> None:
        self.samples, self.condition, self.seed = samples, condition, seed
        self.level = CONDITIONS[condition][0]
        some = samples[:64] if samples.ndim > 1 else None
        self.range = (0.0, 1.0) if some is None else (float(some.min()), float(some.max()))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the samples."""
        return self.samples.shape

    @property
    def ndim(self) -> int:
        """Of the samples."""
        return self.samples.ndim

    @property
    def dtype(self) -> np.dtype:
        """Of the samples."""
        return self.samples.dtype

    def fit_to(self, name: str, dtype: np.dtype, shape: Sequence[int | str]) -> Disturbed:
        """The same disturbance of what the model's input takes."""
        if is_lazy(self.samples):
            fitted = self.samples.fit_to(name, dtype, shape)
        else:
            fitted = np.asarray(self.samples).astype(dtype, copy=False)
        return Disturbed(fitted, self.condition, self.seed)

    def __getitem__(self, indices: slice | np.ndarray) -> np.ndarray:
        chosen = np.arange(len(self))[indices]
        clean = np.asarray(self.samples[indices], float)
        if self.condition == "blur":
            found = ndimage.gaussian_filter(clean, (0,) * (clean.ndim - 2) + (self.level,) * 2)
        elif self.condition == "contrast":
            middle = clean.mean(axis=tuple(range(1, clean.ndim)), keepdims=True)
            found = middle + self.level * (clean - middle)
        else:
            spread = self.level * (self.range[1] - self.range[0])
            noise = [np.random.default_rng([self.seed, int(k)]).standard_normal(clean.shape[1:]) for k in chosen]
            found = clean + spread * np.stack(noise)
        return found.astype(self.dtype)


def is_lazy(array: Any) -> bool:
    """Whether samples are read when they are asked for, as large as the model wants them."""
    return hasattr(array, "fit_to")


def disturb(inputs: Mapping[str, Any], condition: str) -> dict[str, Any]:
    """The inputs under a condition; those that aren't pictures or signals stay. Raises: DataError if none is one."""
    if condition not in CONDITIONS:
        raise DataError(f"Condition '{condition}' is unknown. Choose {', '.join(CONDITIONS)}.")
    picture = {name: is_lazy(array) or (array.ndim >= 3 and array.dtype.kind == "f") for name, array in inputs.items()}
    if not any(picture.values()):
        raise DataError(f"No input is a picture, so {condition} means nothing here. Leave it out.")
    return {name: Disturbed(array, condition) if picture[name] else array for name, array in inputs.items()}


def image_folder(folder: Path) -> tuple[ImageFiles, np.ndarray]:
    """Pictures and labels of folder/CLASS/picture; classes are numbered in the order of their names."""
    pillow()
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [
        (str(file), label)
        for label, path in enumerate(classes)
        for file in sorted(path.iterdir())
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise DataError(f"'{folder}' holds no pictures in folders of their classes. Sort them: {folder}/CLASS/x.png.")
    paths, labels = zip(*found, strict=True)
    return ImageFiles(tuple(paths), Preprocessing.read(folder / PREPROCESSING)), np.array(labels)


def saved_dataset(folder: Path, target_names: Sequence[str]) -> tuple[dict[str, Any], np.ndarray]:
    """Columns and targets of a Hugging Face dataset that `save_to_disk` wrote."""
    dataset = open_dataset(str(folder))
    if hasattr(dataset, "keys"):
        raise DataError(f"'{folder}' holds the splits {', '.join(dataset)}. Name one: {folder}/{next(iter(dataset))}.")
    columns = list(dataset.column_names)
    target = next((name for name in target_names if name in columns), None)
    if target is None:
        raise DataError(f"'{folder}' has the columns {', '.join(columns)}. Name one of them {target_names[0]}.")
    numbers = dataset.with_format("numpy")
    inputs: dict[str, Any] = {}
    for name in columns:
        if name == target:
            continue
        if type(dataset.features[name]).__name__ == "Image":
            inputs[name] = ColumnOfPictures(str(folder), name, len(dataset), Preprocessing.read(folder / PREPROCESSING))
        else:
            array = np.asarray(numbers[:][name])
            if array.dtype.kind in "fiub":
                inputs[name] = array
    return inputs, np.asarray(numbers[:][target])


@functools.lru_cache(maxsize=2)
def open_dataset(folder: str) -> Any:
    """The dataset in `folder`. Raises: DataError."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"'{folder}' needs the package datasets, which isn't installed: pip install datasets."
        ) from error
    try:
        return datasets.load_from_disk(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"'{folder}' isn't a dataset that save_to_disk wrote ({error}). Save it again.") from error


def pillow() -> Any:
    """The module PIL.Image. Raises: DataError where it is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"Pictures need the package pillow, which isn't installed: {EXTRA}.") from error
    return Image
