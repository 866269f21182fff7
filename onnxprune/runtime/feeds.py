"""What to feed a model: its inputs read from the file, and random, border and large arrays that fit them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from onnxprune.errors import DataError, ModelError
from onnxprune.graph.files import read_file
from onnxprune.graph.limits import current_limits

Feed = dict[str, np.ndarray]

# Two values for each dynamic size, tried in this order until the model runs: networks want multiples of their stride.
SIZE_PAIRS = ((16, 24), (32, 64), (64, 128), (128, 160), (224, 256), (48, 96), (5, 9), (1, 2))
LARGE = 100.0


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input of a model: `shape` holds an int for a static size, the name of the size for a dynamic one."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]

    @property
    def batch(self) -> int | None:
        """The static batch size (axis 0), None where it is dynamic or the input is a scalar."""
        return self.shape[0] if self.shape and isinstance(self.shape[0], int) else None

    @property
    def dynamic_sizes(self) -> tuple[str, ...]:
        """Names of the dynamic sizes other than the batch."""
        return tuple(size for size in self.shape[1:] if isinstance(size, str))

    def concrete(self, batch: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with `batch` for a dynamic axis 0 and `sizes` for the other dynamic ones."""
        if not self.shape:
            return ()
        first = self.shape[0] if isinstance(self.shape[0], int) else batch
        return (first, *(size if isinstance(size, int) else sizes[size] for size in self.shape[1:]))


def read_inputs(model: str | Path | bytes) -> tuple[InputSpec, ...]:
    """The inputs that a caller of `model` must give, read from the file without running it.

    Raises: ModelError (not an ONNX file, or an input that isn't a tensor of a type NumPy has).
    """
    if not isinstance(model, bytes) and not Path(model).exists():
        raise ModelError(f"'{model}' doesn't exist. Give the path of an ONNX file.")
    content = model if isinstance(model, bytes) else read_file(Path(model), current_limits().file_bytes)
    try:
        proto = onnx.load_from_string(content)
    except (DecodeError, ValueError) as error:
        where = "The bytes given" if isinstance(model, bytes) else f"'{model}'"
        raise ModelError(f"{where} can't be read as an ONNX model ({error}). Export it again.") from error
    given = {tensor.name for tensor in proto.graph.initializer}
    return tuple(_spec(value) for value in proto.graph.input if value.name not in given)


def random_feeds(
    model: str | Path | bytes,
    batches: Sequence[int] = (1, 7),
    seed: int = 0,
    given: Mapping[str, np.ndarray] | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    ranges: Mapping[str, int] | None = None,
) -> list[Feed]:
    """Feeds for each batch and each value of the dynamic sizes: random, at the borders only, large; and real samples.

    given: real samples per input name, [n, ...]: a feed of them is added for each batch, and integers, whose legal
    range nobody else knows, are drawn from them (without them integers are 0 or 1, or below their input's number in
    `ranges`); the dynamic sizes that their shapes fix are taken from them. sizes: values for each remaining dynamic
    size (default: the first of SIZE_PAIRS). A static batch size overrides `batches`. Raises: ModelError, DataError
    (samples that don't fit the model).
    """
    specs = read_inputs(model)
    samples = fit_samples(specs, given) if given is not None else {}
    drawn = {name: np.arange(n) for name, n in (ranges or {}).items()} | samples
    generator = np.random.default_rng(seed)
    feeds = []
    for batch in dict.fromkeys(static_batch(specs) or batch for batch in batches):
        for values in _size_choices(specs, samples, sizes):
            for kind in (_random, _border, _large):
                feeds.append({spec.name: kind(generator, spec, spec.concrete(batch, values), drawn) for spec in specs})
        if samples:
            feeds.append(take_samples(specs, samples, generator.integers(0, _count(samples), batch)))
    return feeds


def static_batch(specs: Sequence[InputSpec]) -> int | None:
    """The batch size that the model fixes, None where an input leaves it open (no static axis 0 is a batch then)."""
    if any(spec.shape and spec.batch is None for spec in specs):
        return None
    return next((spec.batch for spec in specs if spec.batch is not None), None)


def fit_samples(specs: Sequence[InputSpec], samples: Mapping[str, np.ndarray]) -> Feed:
    """Samples named and typed as the model's inputs; a single array is taken for a single input, whatever its name.

    Raises: DataError naming the input and both shapes or types.
    """
    if len(specs) == 1 and len(samples) == 1:
        samples = {specs[0].name: next(iter(samples.values()))}
    fitted = {}
    for spec in specs:
        if spec.name not in samples:
            raise DataError(
                f"The model's input '{spec.name}' has no array in the data, which holds {', '.join(sorted(samples))}. "
                "Name the arrays as the model's inputs."
            )
        array = samples[spec.name]
        array = array.fit_to(spec.name, spec.dtype, spec.shape) if hasattr(array, "fit_to") else np.asarray(array)
        fits = array.ndim == len(spec.shape) and all(
            not isinstance(size, int) or size == given
            for size, given in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits or not array.ndim or not len(array):
            shape = [spec.shape[0] if spec.batch is None else "n", *spec.shape[1:]] if spec.shape else []
            raise DataError(f"Input '{spec.name}' takes {shape}, the data is {list(array.shape)}. Reshape the data.")
        if array.dtype != spec.dtype:
            if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
                raise DataError(f"Input '{spec.name}' takes {spec.dtype}, the data is {array.dtype}. Convert the data.")
            array = array.astype(spec.dtype)
        fitted[spec.name] = array
    if len({len(array) for array in fitted.values()}) > 1:
        counts = ", ".join(f"{name}: {len(array)}" for name, array in fitted.items())
        raise DataError(f"The arrays hold different numbers of samples ({counts}). Give one of each per sample.")
    return fitted


def take_samples(specs: Sequence[InputSpec], samples: Feed, indices: np.ndarray) -> Feed:
    """One feed with the samples at `indices`."""
    return {spec.name: np.ascontiguousarray(samples[spec.name][indices]) for spec in specs}


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    if value.type.WhichOneof("value") != "tensor_type":
        raise ModelError(f"Input '{value.name}' isn't a tensor. Only models whose inputs are tensors can be run.")
    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"Input '{value.name}' has the unknown type {tensor.elem_type}. Export the model again."
        ) from error
    if dtype.kind not in "fiubcV":
        raise ModelError(f"Input '{value.name}' has the type {dtype}. Only models whose inputs are numbers can be run.")
    shape = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0:
            shape.append(dim.dim_value)
        else:
            shape.append(dim.dim_param or f"{value.name}:{axis}")
    return InputSpec(value.name, dtype, tuple(shape))


def _size_choices(
    specs: Sequence[InputSpec], samples: Feed, sizes: Mapping[str, Sequence[int]] | None
) -> Iterator[dict[str, int]]:
    """Values for all dynamic sizes: what the samples fix, else the k-th choice of each size together."""
    choices: dict[str, Sequence[int]] = {}
    for spec in specs:
        for axis, size in enumerate(spec.shape[1:], start=1):
            if isinstance(size, str):
                if spec.name in samples:
                    choices[size] = (samples[spec.name].shape[axis],)
                else:
                    choices.setdefault(size, (sizes or {}).get(size, SIZE_PAIRS[0]))
    longest = max((len(values) for values in choices.values()), default=1)
    for k in range(longest):
        yield {name: values[min(k, len(values) - 1)] for name, values in choices.items()}


def _random(generator: np.random.Generator, spec: InputSpec, shape: tuple[int, ...], samples: Feed) -> np.ndarray:
    if _is_float(spec.dtype):
        return generator.standard_normal(shape).astype(spec.dtype)
    if spec.name in samples:
        return generator.choice(samples[spec.name].ravel(), shape).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)


def _border(generator: np.random.Generator, spec: InputSpec, shape: tuple[int, ...], samples: Feed) -> np.ndarray:
    """Zero but for the first and last position of every axis behind batch and channel: where padding shows."""
    array = _random(generator, spec, shape, samples)
    if _is_float(spec.dtype) and all(size > 2 for size in shape[2:]):
        array[(slice(None), slice(None), *(slice(1, -1) for _ in shape[2:]))[: len(shape)]] = 0
    return array


def _large(generator: np.random.Generator, spec: InputSpec, shape: tuple[int, ...], samples: Feed) -> np.ndarray:
    array = _random(generator, spec, shape, samples)
    return (array * LARGE).astype(spec.dtype) if _is_float(spec.dtype) else array


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind in "fcV"  # V: ml_dtypes' bfloat16 and its kin


def _count(samples: Feed) -> int:
    return min((len(array) for array in samples.values()), default=math.inf)
