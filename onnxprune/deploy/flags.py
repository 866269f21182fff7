"""What goes of every tensor of a graph, found from what goes of its initializers.

Flags (True: goes) flow through the graph, moved by the same NumPy calls that move the data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import ModelError

#: Flags of a tensor: of its rank, and of size 1 along axes where they don't differ.
Flags = np.ndarray
NO_FLAGS = ("Shape", "Size", "ConstantOfShape", "Range", "OneHot", "EyeLike", "NonZero")


def compact(flags: Flags) -> Flags:
    """The flags with size 1 along every axis where they don't differ."""
    for axis in range(flags.ndim):
        first = flags.take([0], axis)
        if flags.shape[axis] > 1 and (flags == first).all():
            flags = first
    return flags


def cut(array: np.ndarray, flags: Flags) -> np.ndarray:
    """The elements that stay. Every surviving row keeps as many places; which ones is each row's own choice."""
    keep = np.broadcast_to(~flags, array.shape)
    return array[keep].reshape(sizes_left(flags, array.shape))


def sizes_left(flags: Flags, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that is left of `shape`. Raises ModelError where it isn't a box."""
    keep = ~flags
    sizes = []
    for axis, size in enumerate(shape):
        # What is left of the leading axes: every surviving row of them has to have as many places.
        places = keep.any(axis=tuple(range(axis + 1, keep.ndim)))
        counts = np.unique(places.sum(axis=-1))
        counts = counts[counts > 0]
        if len(counts) > 1:
            raise ModelError(f"These units leave rows of {counts.tolist()} places. Only equal rows make a tensor.")
        count = int(counts[0]) if len(counts) else 0
        sizes.append(count if keep.shape[axis] == size else count * size)
    return tuple(sizes)


@dataclass
class Tensors:
    """What goes of every tensor, and shapes under two probes, which tell fixed sizes from dynamic ones."""

    goes: dict[str, Flags]
    shapes: Mapping[str, tuple[int, ...]]
    others: Mapping[str, tuple[int, ...]]

    def flow(self, node: gs.Node) -> None:
        """Find what goes of the node's outputs."""
        if not any(tensor.name in self.goes for tensor in node.inputs):
            return
        rule = FLOWS.get(node.op, _elementwise)
        for tensor, flags in zip(node.outputs, rule(node, self), strict=False):
            if flags is not None and flags.any():
                self.goes[tensor.name] = compact(flags)

    def flags(self, tensor: gs.Tensor) -> Flags:
        """Flags of the tensor's rank; all False where nothing goes."""
        found = self.goes.get(tensor.name)
        return np.zeros((1,) * len(self.shapes[tensor.name]), bool) if found is None else found

    def whole(self, tensor: gs.Tensor) -> Flags:
        """Flags of the tensor's shape."""
        return np.broadcast_to(self.flags(tensor), self.shapes[tensor.name])

    def left(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """The shape that is left of the tensor."""
        return sizes_left(self.flags(tensor), self.shapes[tensor.name])

    def changes(self, name: str) -> dict[int, int]:
        """{axis: new size} of the axes that shrink."""
        shape = self.shapes[name]
        left = sizes_left(self.goes[name], shape)
        return {axis: left[axis] for axis in range(len(shape)) if left[axis] != shape[axis]}

    def is_dynamic(self, tensor: gs.Tensor, axis: int) -> bool:
        """Whether the size of the axis depends on the input."""
        return self.shapes[tensor.name][axis] != self.others[tensor.name][axis]


def _elementwise(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Each output element belongs to the input elements at its place: flags broadcast as the data does."""
    rank = len(tensors.shapes[node.outputs[0].name])
    flags = np.zeros((1,) * rank, bool)
    for tensor in node.inputs:
        if tensor.name in tensors.goes:
            found = tensors.goes[tensor.name]
            flags = flags | found.reshape((1,) * (rank - found.ndim) + found.shape)
    for axis, size in enumerate(flags.shape):
        if size not in (1, tensors.shapes[node.outputs[0].name][axis]):
            raise ModelError(f"What {node.op} '{node.name}' does to axis {axis} isn't known to this backend.")
    return [flags] * len(node.outputs)


def _first_alone(node: gs.Node, tensors: Tensors) -> list[Flags]:
    return [tensors.flags(node.inputs[0])] + [None] * (len(node.outputs) - 1)


def _conv(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """w[O,C/g,*K]: an output channel goes when all of its filter does."""
    weight = tensors.whole(node.inputs[1])
    rank = len(tensors.shapes[node.outputs[0].name])
    return [weight.all(axis=tuple(range(1, weight.ndim))).reshape(1, -1, *[1] * (rank - 2))]


def _conv_transpose(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """w[C,O/g,*K], the first axis split over the groups."""
    weight = tensors.whole(node.inputs[1])
    filters = weight.all(axis=tuple(range(2, weight.ndim)))
    outputs = filters.reshape(node.attrs.get("group", 1), -1, filters.shape[1]).all(axis=1)
    rank = len(tensors.shapes[node.outputs[0].name])
    return [outputs.reshape(1, -1, *[1] * (rank - 2))]


def _gemm(node: gs.Node, tensors: Tensors) -> list[Flags]:
    left, right = tensors.flags(node.inputs[0]), tensors.flags(node.inputs[1])
    left = left.T if node.attrs.get("transA", 0) else left
    right = right.T if node.attrs.get("transB", 0) else right
    return [left.all(axis=1, keepdims=True) | right.all(axis=0, keepdims=True)]


def _matmul(node: gs.Node, tensors: Tensors) -> list[Flags]:
    left, right = tensors.flags(node.inputs[0]), tensors.flags(node.inputs[1])
    rows = left.all(axis=-1, keepdims=right.ndim > 1)
    columns = right.all(axis=-2 if right.ndim > 1 else -1, keepdims=left.ndim > 1)
    return [rows | columns]


def _reshape(node: gs.Node, tensors: Tensors) -> list[Flags]:
    return [tensors.whole(node.inputs[0]).reshape(tensors.shapes[node.outputs[0].name])]


def _transpose(node: gs.Node, tensors: Tensors) -> list[Flags]:
    return [np.transpose(tensors.flags(node.inputs[0]), node.attrs.get("perm"))]


def _concat(node: gs.Node, tensors: Tensors) -> list[Flags]:
    return [np.concatenate([tensors.whole(tensor) for tensor in node.inputs], axis=node.attrs.get("axis", 1))]


def _split(node: gs.Node, tensors: Tensors) -> list[Flags]:
    axis = node.attrs.get("axis", 0)
    ends = np.cumsum([tensors.shapes[tensor.name][axis] for tensor in node.outputs])
    return np.split(tensors.whole(node.inputs[0]), ends[:-1], axis=axis)


def _slice(node: gs.Node, tensors: Tensors) -> list[Flags]:
    flags = tensors.whole(node.inputs[0])
    for axis, place, step in slice_places(node, flags.shape):
        flags = flags[(slice(None),) * axis + (slice(*place, step),)] if flags.shape[axis] > 1 else flags
    return [np.broadcast_to(compact(flags), tensors.shapes[node.outputs[0].name])]


def slice_places(node: gs.Node, shape: Sequence[int]) -> list[tuple[int, tuple[int | None, int | None], int]]:
    """(axis, (start, end), step) of the axes that are sliced at places known beforehand."""
    if "starts" in node.attrs:
        starts, ends = node.attrs["starts"], node.attrs["ends"]
        axes, steps = node.attrs.get("axes", range(len(starts))), [1] * len(starts)
    else:
        starts, ends, axes, steps = (constant(node, index) for index in range(1, 5))
        if starts is None or ends is None:
            return []
        axes = range(len(starts)) if axes is None else axes
        steps = [1] * len(starts) if steps is None else steps
    places = zip(axes, starts, ends, steps, strict=True)
    return [(int(axis) % len(shape), (int(start), int(end)), int(step)) for axis, start, end, step in places]


def _gather(node: gs.Node, tensors: Tensors) -> list[Flags]:
    flags = tensors.flags(node.inputs[0])
    axis = node.attrs.get("axis", 0) % flags.ndim
    if flags.shape[axis] > 1:
        return [np.take(flags, constant(node, 1), axis=axis)]
    places = (1,) * len(tensors.shapes[node.inputs[1].name])
    return [flags.reshape(flags.shape[:axis] + places + flags.shape[axis + 1 :])]


def _pad(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """What is put around stays."""
    flags, out = tensors.flags(node.inputs[0]), tensors.shapes[node.outputs[0].name]
    rank = flags.ndim
    pads, axes = node.attrs.get("pads", node.attrs.get("paddings")), range(rank)
    if pads is None:
        pads, given = constant(node, 1), constant(node, 3)
        axes = axes if given is None else [int(axis) % rank for axis in given]
    for position, axis in enumerate(axes):
        if flags.shape[axis] > 1:
            widths = [(0, 0)] * rank
            widths[axis] = (int(pads[position]), int(pads[position + len(axes)]))
            flags = np.pad(flags, widths)
    return [flags if flags.any() else np.zeros(out, bool)]


def _tile(node: gs.Node, tensors: Tensors) -> list[Flags]:
    flags, out = tensors.flags(node.inputs[0]), tensors.shapes[node.outputs[0].name]
    return [np.tile(flags, [out[a] // size if size > 1 else 1 for a, size in enumerate(flags.shape)])]


def _expand(node: gs.Node, tensors: Tensors) -> list[Flags]:
    flags = tensors.flags(node.inputs[0])
    return [flags.reshape((1,) * (len(tensors.shapes[node.outputs[0].name]) - flags.ndim) + flags.shape)]


def _depth_to_space(node: gs.Node, tensors: Tensors) -> list[Flags]:
    n, c, h, w = tensors.shapes[node.inputs[0].name]
    b = node.attrs["blocksize"]
    is_dcr = node.attrs.get("mode", "DCR") == "DCR"
    blocks = tensors.whole(node.inputs[0]).reshape((n, b, b, -1, h, w) if is_dcr else (n, -1, b, b, h, w))
    order = (0, 3, 4, 1, 5, 2) if is_dcr else (0, 1, 4, 2, 5, 3)
    return [blocks.transpose(order).reshape(n, c // (b * b), h * b, w * b)]


def _space_to_depth(node: gs.Node, tensors: Tensors) -> list[Flags]:
    n, c, h, w = tensors.shapes[node.inputs[0].name]
    b = node.attrs["blocksize"]
    blocks = tensors.whole(node.inputs[0]).reshape(n, c, h // b, b, w // b, b)
    return [blocks.transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)]


def _reduce(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """The reduced axes are of size 1 or gone; flags that differ along them have been reduced away."""
    flags = tensors.flags(node.inputs[0])
    axes = node.attrs.get("axis", 0) if node.op.startswith("Arg") else node.attrs.get("axes", constant(node, 1))
    axes = range(flags.ndim) if axes is None else [int(axis) % flags.ndim for axis in np.ravel(axes)]
    return [flags.all(axis=tuple(axes), keepdims=bool(node.attrs.get("keepdims", 1)))]


def _nothing(node: gs.Node, tensors: Tensors) -> list[None]:
    return [None] * len(node.outputs)


def constant(node: gs.Node, index: int) -> np.ndarray | None:
    """The values of an input of the node that is known beforehand, else None."""
    tensor = node.inputs[index] if index < len(node.inputs) else None
    return tensor.values if isinstance(tensor, gs.Constant) else None


REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
FLOWS: dict[str, Callable[[gs.Node, Tensors], list[Flags | None]]] = {
    "BatchNormalization": _first_alone,
    "InstanceNormalization": _first_alone,
    "Dropout": _first_alone,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Tile": _tile,
    "Expand": _expand,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "ArgMax": _reduce,
    "ArgMin": _reduce,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **{f"Reduce{name}": _reduce for name in REDUCTIONS.split()},
    **dict.fromkeys(NO_FLAGS, _nothing),
}
