"""A model computed in float64, where rounding leaves no excuse: onnx's reference implementation over widened weights.

What that implementation lacks or has otherwise than ONNX Runtime is NumPy's here: its convolutions are slow, its
pooling differs at borders, a `momentum` it takes for a wish to train, and an old Softmax for a new one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxprune.errors import ModelError
from onnxprune.runtime.feeds import Feed

WIDENED = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
#: Attributes that name an element type.
TYPE_ATTRIBUTES = ("to", "dtype")


def in_float64(model: onnx.ModelProto) -> Callable[[Feed], dict[str, np.ndarray]]:
    """A function from a feed to the outputs by name, computed in float64.

    Raises ModelError, when it is made or called, where an operator has no implementation there.
    """
    wide = doubled(model)
    names = [output.name for output in wide.graph.output]
    try:
        evaluator = ReferenceEvaluator(wide, new_ops=list(OWN))
    except Exception as error:  # whatever an evaluator for tests raises
        raise _refusal(error) from error

    def run(feed: Feed) -> dict[str, np.ndarray]:
        given = {name: array.astype(np.float64) if _is_narrow(array) else array for name, array in feed.items()}
        try:
            with np.errstate(all="ignore"):
                return dict(zip(names, map(np.asarray, evaluator.run(names, given)), strict=True))
        except Exception as error:
            raise _refusal(error) from error

    return run


def _refusal(error: Exception) -> ModelError:
    said = " ".join(str(error).split())[:200].rstrip(".")
    return ModelError(f"onnx's reference implementation can't compute the model in float64 ({said}).")


def _is_narrow(array: np.ndarray) -> bool:
    return array.dtype.kind in "fV" and array.dtype.itemsize < 8


# ---- the model, widened ---------------------------------------------------------------------------------------------


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with float64 in place of float32, float16 and bfloat16."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for graph in graphs_of(wide.graph):
        del graph.value_info[:]
        for value in [*graph.input, *graph.output]:
            if value.type.tensor_type.elem_type in WIDENED:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        for tensor in graph.initializer:
            _double(tensor)
        _double_nodes(graph.node)
    for function in wide.functions:
        _double_nodes(function.node)
    return wide


def _double_nodes(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _double(attribute.t)
            elif attribute.name in TYPE_ATTRIBUTES and attribute.i in WIDENED:
                attribute.i = TensorProto.DOUBLE
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = numpy_helper.from_array(np.array(numbers, np.float64))
                attribute.CopyFrom(helper.make_attribute("value", tensor))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))


def _double(tensor: TensorProto) -> None:
    if tensor.data_type in WIDENED:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies of its nodes, however deep."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs_of(inner)


# ---- windows --------------------------------------------------------------------------------------------------------


def _ends(
    sizes: Sequence[int], kernel: Sequence[int], strides, dilations, pads, auto_pad: str, ceil_mode: int = 0
) -> tuple[list[tuple[int, int]], list[int]]:
    """(places before and behind, places of the result) for each window axis."""
    rank = len(sizes)
    strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * (2 * rank)
    around, results = [], []
    for axis, size in enumerate(sizes):
        stride, reach = strides[axis], dilations[axis] * (kernel[axis] - 1) + 1
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            if dilations[axis] > 1:
                raise NotImplementedError("windows with dilations and auto_pad")
            result = -(-size // stride)
            total = max(0, (result - 1) * stride + reach - size)
            before = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            behind = total - before
        else:
            before, behind = (0, 0) if auto_pad == "VALID" else (pads[axis], pads[rank + axis])
            steps = (size + before + behind - reach) / stride
            result = (math.ceil(steps) if ceil_mode else int(steps)) + 1  # ONNX Runtime rounds towards 0
            if ceil_mode and (result - 1) * stride >= size + before:
                result -= 1  # no window starts behind the image
        around.append((before, behind))
        results.append(result)
    return around, results


def _windows(x: np.ndarray, kernel, strides, dilations, around, results, filling: float) -> Iterator[tuple]:
    """(place in the kernel, what every window has there [N,C,*S])."""
    rank = len(results)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    needed = [(r - 1) * s + d * (k - 1) + 1 for r, s, d, k in zip(results, strides, dilations, kernel, strict=True)]
    widths = [(b, max(0, n - size - b)) for (b, _), n, size in zip(around, needed, x.shape[2:], strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *widths], constant_values=filling)
    for place in np.ndindex(*kernel):
        spans = tuple(
            slice(p * d, p * d + (r - 1) * s + 1, s)
            for p, d, r, s in zip(place, dilations, results, strides, strict=True)
        )
        yield place, padded[(slice(None), slice(None), *spans)]


class Conv(OpRun):
    """y[N,O,*S] = sum over places of w[O,C/g,place] x[N,C,*S]."""

    op_domain = ""

    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, pads=None, strides=None):
        kernel, group = w.shape[2:], group or 1
        around, results = _ends(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
        rows = w.reshape(group, len(w) // group, w.shape[1], *kernel)
        total = np.zeros((len(x), group, len(w) // group, math.prod(results)), x.dtype)
        for place, seen in _windows(x, kernel, strides, dilations, around, results, 0):
            total += rows[(..., *place)] @ seen.reshape(len(x), group, w.shape[1], -1)
        y = total.reshape(len(x), len(w), *results)
        return (y if b is None else y + b.reshape(-1, *[1] * len(kernel)),)


class ConvTranspose(OpRun):
    """Each place of x[N,C,*S] adds w[C,O/g,*K] times itself to the result."""

    op_domain = ""

    def _run(
        self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, output_padding=None,
        output_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        kernel, group, rank = w.shape[2:], group or 1, x.ndim - 2
        strides, dilations, extra = strides or [1] * rank, dilations or [1] * rank, output_padding or [0] * rank
        pads = list(pads or [0] * (2 * rank))
        whole = [
            s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(strides, x.shape[2:], dilations, kernel, strict=True)
        ]
        same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
        if output_shape or same:
            wanted = (
                output_shape[-rank:] if output_shape else [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
            )
            for axis in range(rank):
                total = max(0, whole[axis] + extra[axis] - wanted[axis])
                less = total // 2
                pads[axis] = less if auto_pad == "SAME_UPPER" else total - less
                pads[rank + axis] = total - pads[axis]
        else:
            wanted = [whole[a] + extra[a] - pads[a] - pads[rank + a] for a in range(rank)]
        rows = w.reshape(group, len(w) // group, w.shape[1], *kernel).swapaxes(1, 2)
        data = x.reshape(len(x), group, len(w) // group, -1)
        room = [max(size, pads[a] + wanted[a]) for a, size in enumerate(whole)]
        y = np.zeros((len(x), group * w.shape[1], *room), x.dtype)
        for place in np.ndindex(*kernel):
            spans = tuple(
                slice(p * d, p * d + (n - 1) * s + 1, s)
                for p, d, n, s in zip(place, dilations, x.shape[2:], strides, strict=True)
            )
            added = rows[(..., *place)] @ data
            y[(slice(None), slice(None), *spans)] += added.reshape(len(x), -1, *x.shape[2:])
        y = y[(slice(None), slice(None), *(slice(pads[a], pads[a] + wanted[a]) for a in range(rank)))]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class AveragePool(OpRun):
    """The mean of each window of x[N,C,*S]; with `count_include_pad` over the border too."""

    op_domain = ""

    def _run(
        self, x, auto_pad=None, ceil_mode=None, count_include_pad=None, dilations=None, kernel_shape=None, pads=None,
        strides=None,
    ):  # fmt: skip
        around, results = _ends(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
        there = np.ones((1, 1, *x.shape[2:]))
        if count_include_pad:
            there = np.pad(there, [(0, 0), (0, 0), *around], constant_values=1)
            counted = [(0, 0)] * len(around)
        else:
            counted = around
        total = sum(seen for _, seen in _windows(x, kernel_shape, strides, dilations, around, results, 0))
        count = sum(seen for _, seen in _windows(there, kernel_shape, strides, dilations, counted, results, 0))
        return ((total / count).astype(x.dtype),)


class MaxPool(OpRun):
    """The largest element of each window of x[N,C,*S]; the places it has in x, where they are asked for."""

    op_domain = ""

    def _run(
        self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape=None, pads=None, storage_order=None,
        strides=None,
    ):  # fmt: skip
        if len(self.output) > 1 and self.output[1]:
            raise NotImplementedError("MaxPool with indices")
        around, results = _ends(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
        filling = -math.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        found = [seen for _, seen in _windows(x, kernel_shape, strides, dilations, around, results, filling)]
        return (np.maximum.reduce(found),)


class GlobalAveragePool(OpRun):
    """The mean over *S of x[N,C,*S]."""

    op_domain = ""

    def _run(self, x):
        return (x.mean(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GlobalMaxPool(OpRun):
    """The largest element over *S of x[N,C,*S]."""

    op_domain = ""

    def _run(self, x):
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class BatchNormalization(OpRun):
    """With the recorded mean and variance."""

    op_domain = ""

    def _run(self, x, scale, shift, mean, variance, epsilon=None, momentum=None, spatial=None, training_mode=None):
        if training_mode or len(self.output) > 1 or spatial == 0:
            raise NotImplementedError("BatchNormalization in training mode")
        column = (-1, *[1] * (x.ndim - 2))
        factor = scale / np.sqrt(variance + (1e-5 if epsilon is None else epsilon))
        return ((x - mean.reshape(column)) * factor.reshape(column) + shift.reshape(column),)


class LRN(OpRun):
    """x[N,C,*S] divided by (bias + alpha / size * the sum of squares over `size` channels around) ** beta."""

    op_domain = ""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        before, channels = (size - 1) // 2, x.shape[1]
        squares = np.pad(x * x, [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)])
        total = sum(squares[:, k : k + channels] for k in range(size))
        return (x / (bias + alpha / size * total) ** beta,)


def _exponentials(x: np.ndarray, operator: OpRun) -> tuple[np.ndarray, np.ndarray]:
    """(x less its maximum, the sum of its exponentials); before opset 13 over all axes from `axis`, or 1, on."""
    given = next((a.i for a in operator.onnx_node.attribute if a.name == "axis"), None)
    if operator.run_params["opsets"][""] < 13:
        axes = tuple(range((1 if given is None else given) % x.ndim, x.ndim))
    else:
        axes = (-1 if given is None else given,)
    shifted = x - x.max(axis=axes, keepdims=True)
    return shifted, np.exp(shifted).sum(axis=axes, keepdims=True)


class Softmax(OpRun):
    """Exponentials over their sum."""

    op_domain = ""

    def _run(self, x, axis=None):
        shifted, total = _exponentials(x, self)
        return (np.exp(shifted) / total,)


class LogSoftmax(OpRun):
    """The logarithm of Softmax."""

    op_domain = ""

    def _run(self, x, axis=None):
        shifted, total = _exponentials(x, self)
        return (shifted - np.log(total),)


def _along(parameter: np.ndarray, rank: int, axis: int | None) -> np.ndarray:
    """A scale or zero point beside its tensor: for all of it, or for each place on `axis`."""
    if parameter.size == 1:
        return parameter.reshape(())
    if parameter.ndim != 1:
        raise NotImplementedError("a scale for each block")
    shape = [1] * rank
    shape[(1 if axis is None else axis) % rank] = -1
    return parameter.reshape(shape)


class DequantizeLinear(OpRun):
    """(x - zero point) * scale."""

    op_domain = ""

    def _run(self, x, scale, zero_point=None, axis=None, block_size=None, output_dtype=None):
        levels = x.astype(np.float64)
        if zero_point is not None:
            levels = levels - _along(zero_point, x.ndim, axis)
        return (levels * _along(scale, x.ndim, axis),)


class QuantizeLinear(OpRun):
    """x / scale + zero point, rounded to even and held within the type's limits."""

    op_domain = ""

    def _run(
        self, x, scale, zero_point=None, axis=None, block_size=None, output_dtype=None, precision=None, saturate=None
    ):
        if zero_point is None:
            zero_point = np.zeros(1, np.uint8)
        if zero_point.dtype.kind not in "iu" or output_dtype:
            raise NotImplementedError("QuantizeLinear to this type")
        limits = np.iinfo(zero_point.dtype)
        levels = np.rint(x / _along(scale, x.ndim, axis)) + _along(zero_point, x.ndim, axis)
        return (np.clip(levels, limits.min, limits.max).astype(zero_point.dtype),)


OWN = (
    Conv,
    ConvTranspose,
    AveragePool,
    MaxPool,
    GlobalAveragePool,
    GlobalMaxPool,
    BatchNormalization,
    LRN,
    Softmax,
    LogSoftmax,
    DequantizeLinear,
    QuantizeLinear,
)
