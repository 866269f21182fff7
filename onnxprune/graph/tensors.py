"""What is wrong with a tensor of a stranger's file: its shape against its bytes, where its data is, what it holds."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxprune.errors import ModelError
from onnxprune.graph.files import plain_sibling
from onnxprune.graph.limits import Limits

#: NumPy broadcasts no arrays of more axes.
MOST_AXES = 32
#: Nor does it count more elements, of which a view may have many without a byte behind them.
MOST_ELEMENTS = 2**48
#: Where a tensor without raw bytes keeps its elements, and how many entries an element takes there.
_TYPE = onnx.TensorProto
TYPED_FIELDS: dict[int, tuple[str, float]] = {
    **dict.fromkeys((_TYPE.FLOAT,), ("float_data", 1)),
    **dict.fromkeys((_TYPE.COMPLEX64,), ("float_data", 2)),
    **dict.fromkeys((_TYPE.DOUBLE,), ("double_data", 1)),
    **dict.fromkeys((_TYPE.COMPLEX128,), ("double_data", 2)),
    **dict.fromkeys((_TYPE.INT64,), ("int64_data", 1)),
    **dict.fromkeys((_TYPE.UINT32, _TYPE.UINT64), ("uint64_data", 1)),
    **dict.fromkeys((_TYPE.STRING,), ("string_data", 1)),
    **dict.fromkeys((_TYPE.INT32, _TYPE.INT16, _TYPE.INT8, _TYPE.UINT16, _TYPE.UINT8, _TYPE.BOOL), ("int32_data", 1)),
    **dict.fromkeys((_TYPE.FLOAT16, _TYPE.BFLOAT16), ("int32_data", 1)),
    **dict.fromkeys((_TYPE.INT4, _TYPE.UINT4, _TYPE.FLOAT4E2M1), ("int32_data", 1 / 2)),
}
#: Operators whose constant operands are weights: an infinite one makes every output infinite or NaN.
WEIGHED_BY = frozenset(
    "Conv ConvTranspose Gemm MatMul LSTM GRU RNN BatchNormalization InstanceNormalization LayerNormalization "
    "GroupNormalization RMSNormalization DequantizeLinear".split()
)
#: A larger file holds its tensors itself.
SINGLE_FILE_BYTES = 2**26
#: Elements looked at together: what a check needs at a time, not as much again as the tensor.
_PIECE = 2**22


def tensor_problem(tensor: onnx.TensorProto, limits: Limits) -> str | None:
    """What is wrong with a tensor, as the end of a sentence that starts with its name; None if nothing is."""
    dims = list(tensor.dims)
    if any(d < 0 for d in dims):
        return f"has a negative dimension in {dims}"
    if len(dims) > MOST_AXES:
        return f"has {len(dims)} axes, more than the limit of {MOST_AXES}"
    count = math.prod(dims)
    if count > limits.tensor_elements:
        return f"has {count} elements by its shape {dims}, more than the limit of {limits.tensor_elements}"
    if tensor.data_type == _TYPE.UNDEFINED or tensor.data_type not in _TYPE.DataType.values():
        return f"has the unknown element type {tensor.data_type}"
    if tensor.data_location == _TYPE.EXTERNAL:
        return None  # it has no bytes here
    if tensor.HasField("raw_data"):
        if tensor.data_type == _TYPE.STRING:
            return "holds raw bytes where its type is text"
        expected = (count * int(ir.DataType(tensor.data_type).bitwidth) + 7) // 8
        if len(tensor.raw_data) != expected:
            return f"has {len(tensor.raw_data)} bytes where its shape {dims} needs {expected}"
        return None
    field, entries = TYPED_FIELDS.get(tensor.data_type, ("int32_data", 1))
    expected = math.ceil(count * entries)
    found = len(getattr(tensor, field))
    if found != expected:
        return f"has {found} elements where its shape {dims} needs {expected}"
    return None


def size_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the elements of a tensor without a problem take in memory."""
    return (math.prod(tensor.dims) * int(ir.DataType(tensor.data_type).bitwidth) + 7) // 8


def stored_bytes(path: str | os.PathLike) -> int:
    """Bytes of a model's file and of the files beside it that hold its tensors; what can't be read counts 0."""
    path = Path(path)
    try:
        total = path.stat().st_size
        if total > SINGLE_FILE_BYTES:
            return total
        tensors = onnx.load(path, load_external_data=False).graph.initializer
    except (OSError, DecodeError, ValueError):
        return 0
    entries = [entry for tensor in tensors if tensor.external_data for entry in tensor.external_data]
    for location in {entry.value for entry in entries if entry.key == "location"}:
        data = plain_sibling(path.parent, location)
        total += 0 if isinstance(data, str) else data.stat().st_size
    return total


def check_external(tensors: Iterable[onnx.TensorProto], base_dir: str | None, where: str) -> None:
    """Refuse external data that isn't a plain file beside the model, or not all there.

    `base_dir` is the model's folder, None for a model that has none: bytes, or a message.
    """
    spans: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for tensor in tensors:
        if tensor.data_location != _TYPE.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        subject = f"Initializer '{tensor.name}' of {where} points to external data at '{location}'"
        if base_dir is None:
            raise ModelError(f"{subject}, and a model without a path has no folder. Load it from its path.")
        path = plain_sibling(Path(base_dir), location)
        if isinstance(path, str):
            raise ModelError(f"{subject}, {path}. Put the data file itself beside the model.")
        offset, length = (_number(entries.get(key), tensor.name, where) for key in ("offset", "length"))
        needed = size_bytes(tensor)
        if length is not None and length != needed:
            raise ModelError(
                f"Initializer '{tensor.name}' of {where} has {length} bytes of external data where its shape "
                f"{list(tensor.dims)} needs {needed}. Export the model again."
            )
        start = offset or 0
        if path.stat().st_size < start + needed:
            raise ModelError(
                f"'{path}' ends before byte {start + needed}, where initializer '{tensor.name}' ends. Copy it again."
            )
        if needed:
            spans[location].append((start, start + needed, tensor.name))
    for location, found in spans.items():
        found.sort()
        for (start, end, name), (other_start, other_end, other) in pairwise(found):
            if other_start < end and (start, end) != (other_start, other_end):  # the same data twice is thrift
                raise ModelError(
                    f"Initializers '{name}' and '{other}' of {where} overlap in '{location}' at byte {other_start}. "
                    "Export the model again."
                )


def _number(text: str | None, name: str, where: str) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ModelError(
            f"The external data of initializer '{name}' of {where} has offset or length '{text[:40]}', which is no "
            "number of bytes. Export the model again."
        )
    return int(text)


def check_finite(graph: ir.Graph, where: str) -> None:
    """Refuse NaN in any float initializer, and infinity in weights; a mask may hold minus infinity."""
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        flat = tensor.numpy().reshape(-1)
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            if _all_finite(piece):
                continue
            wide = piece.astype(np.float32)
            place = int(np.flatnonzero(~np.isfinite(wide))[0])
            is_nan = bool(np.isnan(wide).any())
            if is_nan:
                place = int(np.flatnonzero(np.isnan(wide))[0])
            readers = [node for node, _ in value.uses() if not node.domain and node.op_type in WEIGHED_BY]
            if is_nan or readers:
                raise ModelError(
                    f"Initializer '{name}' of {where} holds {'NaN' if is_nan else 'infinity'} at element "
                    f"{start + place}. Train the network again, or load it with Limits(finite=False)."
                )


def _all_finite(piece: np.ndarray) -> bool:
    if piece.dtype.kind == "f":
        return bool(np.isfinite(piece).all())
    if piece.dtype.name == "bfloat16":  # a third of the time that its own isfinite takes
        return not ((piece.view(np.uint16) & 0x7F80) == 0x7F80).any()
    return bool(np.isfinite(piece.astype(np.float32)).all())
