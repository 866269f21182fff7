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
    opset: int

    def flow(self, node: gs.Node) -> None:
        """Find what goes of the node's outputs."""
        inside = {name for body in node.subgraphs() for name in body.tensors()}
        if inside & self.goes.keys():
            raise refusal(node, "reads in a body what shrinks")
        if not any(tensor.name in self.goes for tensor in node.inputs):
            return
        rule = FLOWS.get(node.op)
        if rule is None or node.domain not in (None, "", "ai.onnx"):
            raise refusal(node, "does to an axis that shrinks")
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


def refusal(node: gs.Node, what: str) -> ModelError:
    """What to raise where the node does something that can't be followed."""
    return ModelError(
        f"What {node.op} '{node.name}' {what} isn't known to the onnx-graphsurgeon backend. "
        "Remove these units with the backend onnx-ir."
    )


def _other_axes(flags: Flags, *axes: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(flags.ndim) if axis not in axes)


def _ahead(flags: Flags, rank: int) -> Flags:
    """The flags of a broadcast operand, aligned to `rank`."""
    return flags.reshape((1,) * (rank - flags.ndim) + flags.shape)


def _whole_slices(node: gs.Node, flags: Flags, axes: Sequence[int]) -> Flags:
    """The flags, of size 1 along `axes`. Raises ModelError where only some of the places along them go."""
    axes = tuple(axes)
    if (flags.any(axis=axes, keepdims=True) != flags.all(axis=axes, keepdims=True)).any():
        raise refusal(node, f"does to axes {list(axes)}, of which only some places go,")
    return flags.all(axis=axes, keepdims=True)


def _check_agrees(node: gs.Node, result: Flags, operand: Flags, sizes: Sequence[int]) -> None:
    """Raise ModelError unless an operand, broadcast where its `sizes` are 1, loses just what `result` does."""
    broadcast = tuple(axis for axis, size in enumerate(sizes) if size == 1)
    if (result.all(axis=broadcast, keepdims=True) != operand).any():
        raise refusal(node, "makes of operands that don't shrink alike")


def _elementwise(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Each output element belongs to the input elements at its place: flags broadcast as the data does."""
    out = tensors.shapes[node.outputs[0].name]
    rank = len(out)
    operands = [tensor for tensor in node.inputs if tensor.name]
    aligned = [_ahead(tensors.flags(tensor), rank) for tensor in operands]
    flags = np.logical_or.reduce(np.broadcast_arrays(*aligned))
    for tensor, found in zip(operands, aligned, strict=True):
        shape = tensors.shapes[tensor.name]
        _check_agrees(node, flags, found, (1,) * (rank - len(shape)) + tuple(shape))
    return [flags] * len(node.outputs)


def _layer_norm(node: gs.Node, tensors: Tensors) -> list[Flags]:
    if len(node.outputs) > 1:
        raise refusal(node, "gives as its statistics")
    return _elementwise(node, tensors)


def _channel_norm(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """x[N,C,*S] and parameters [C]."""
    flags, channels = tensors.flags(node.inputs[0]), tensors.shapes[node.inputs[0].name][1]
    if node.attrs.get("training_mode", 0):
        raise refusal(node, "does to its statistics")
    if node.op == "GroupNormalization":
        _whole_slices(node, flags, _other_axes(flags, 1))
    rest = (1,) * (flags.ndim - 2)
    for tensor in node.inputs[1:]:
        if tensors.shapes[tensor.name] != (channels,):
            raise refusal(node, "scales group by group")
        _check_agrees(node, flags, tensors.flags(tensor).reshape(1, -1, *rest), (1, channels, *rest))
    return [flags] + [None] * (len(node.outputs) - 1)


def _first_alone(node: gs.Node, tensors: Tensors) -> list[Flags]:
    return [tensors.flags(node.inputs[0])] * len(node.outputs)


def _window(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Each channel by itself: x[N,C,*S] -> y[N,C,*S']."""
    if len(node.outputs) > 1:
        raise refusal(node, "gives as positions in the whole tensor")
    flags = tensors.flags(node.inputs[0])
    return [_whole_slices(node, flags, range(2, flags.ndim))]


def _along(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Mixes the places of some axes, which therefore go together or not at all."""
    flags, rank = tensors.flags(node.inputs[0]), len(tensors.shapes[node.inputs[0].name])
    if node.op == "CumSum":
        given = constant(node, 1)
        axes = range(rank) if given is None else [int(np.ravel(given)[0]) % rank]
    elif node.op == "LRN":
        axes = [1]
    elif node.op == "Trilu":
        axes = [rank - 2, rank - 1]
    elif node.op in ("Softmax", "LogSoftmax", "Hardmax") and tensors.opset < 13:
        axes = range(node.attrs.get("axis", 1) % rank, rank)
    else:
        axes = [node.attrs.get("axis", -1) % rank]
    return [_whole_slices(node, flags, axes)] * len(node.outputs)


def _resize(node: gs.Node, tensors: Tensors) -> list[Flags]:
    flags = tensors.flags(node.inputs[0])
    shapes = zip(tensors.shapes[node.inputs[0].name], tensors.shapes[node.outputs[0].name], strict=True)
    return [_whole_slices(node, flags, [axis for axis, (before, after) in enumerate(shapes) if before != after])]


def _conv(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """w[O,C/g,*K]: an output channel goes when all of its filter does."""
    x, weight = tensors.flags(node.inputs[0]), tensors.whole(node.inputs[1])
    x, weight = _whole_slices(node, x, range(2, x.ndim)), _whole_slices(node, weight, range(2, weight.ndim))
    group, rank = node.attrs.get("group", 1), x.ndim
    filters = weight.reshape(group, -1, weight.shape[1])  # [group, output, input]
    return [_convolved(node, tensors, x, filters.transpose(0, 2, 1), rank)]


def _conv_transpose(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """w[C,O/g,*K], the first axis split over the groups."""
    x, weight = tensors.flags(node.inputs[0]), tensors.whole(node.inputs[1])
    x, weight = _whole_slices(node, x, range(2, x.ndim)), _whole_slices(node, weight, range(2, weight.ndim))
    filters = weight.reshape(node.attrs.get("group", 1), -1, weight.shape[1])  # [group, input, output]
    return [_convolved(node, tensors, x, filters, x.ndim)]


def _convolved(node: gs.Node, tensors: Tensors, x: Flags, filters: Flags, rank: int) -> Flags:
    """Flags of the output, from filters[group, input, output]. Inputs have to go as what reads them does."""
    outputs = filters.all(axis=1)
    channels = x.all(axis=_other_axes(x, 1)) & np.ones(tensors.shapes[node.inputs[0].name][1], bool)
    read = channels.reshape(len(filters), -1)
    for of_group, gone, given in zip(filters, outputs, read, strict=True):
        wrong = not given.all() if gone.all() and len(filters) > 1 else (of_group[:, ~gone] != given[:, None]).any()
        if wrong:
            raise refusal(node, "makes of channels and filters that don't shrink alike")
    samples = x.all(axis=_other_axes(x, 0), keepdims=True)
    flags = samples | outputs.reshape(1, -1, *[1] * (rank - 2))
    if len(node.inputs) > 2 and node.inputs[2].name:
        bias = tensors.whole(node.inputs[2])
        _check_agrees(node, outputs.reshape(-1), bias, bias.shape)
    return flags


def _contract(node: gs.Node, tensors: Tensors, terms: Sequence[str], out: str) -> Flags:
    """Operands whose axes are named by letters: an output element goes when every product in its sum does."""
    letters = "".join(dict.fromkeys("".join(terms)))
    laid = []
    for tensor, term in zip(node.inputs, terms, strict=False):
        flags = tensors.flags(tensor)
        laid.append(
            flags.transpose([term.index(x) for x in letters if x in term]).reshape(
                [flags.shape[term.index(x)] if x in term else 1 for x in letters]
            )
        )
    joint = np.logical_or.reduce(np.broadcast_arrays(*laid))
    summed = tuple(i for i, x in enumerate(letters) if x not in out)
    gone = joint.all(axis=summed, keepdims=True)
    # What stays of a sum must be the same places of every operand that has them.
    for i, one in enumerate(laid):
        for j in range(i):
            shared = [a for a in summed if letters[a] in terms[i] and letters[a] in terms[j]]
            alone = tuple(a for a in summed if a not in shared)
            left, right = one.all(axis=alone, keepdims=True), laid[j].all(axis=alone, keepdims=True)
            if shared and ((left | gone) != (right | gone)).any():
                raise refusal(node, "sums over places that don't go alike")
    order = [letters.index(x) for x in out]
    return gone.transpose(order + list(summed)).reshape([gone.shape[a] for a in order])


def _gemm(node: gs.Node, tensors: Tensors) -> list[Flags]:
    terms = ["km" if node.attrs.get("transA", 0) else "mk", "nk" if node.attrs.get("transB", 0) else "kn"]
    flags = _contract(node, tensors, terms, "mn")
    if len(node.inputs) > 2 and node.inputs[2].name:
        shape = tensors.shapes[node.inputs[2].name]
        sizes = (1,) * (2 - len(shape)) + tuple(shape)
        _check_agrees(node, flags, _ahead(tensors.flags(node.inputs[2]), 2), sizes)
    return [flags]


def _matmul(node: gs.Node, tensors: Tensors) -> list[Flags]:
    ranks = [len(tensors.shapes[tensor.name]) for tensor in node.inputs]
    batch = "abcdefgh"[: max(*ranks, 2) - 2]
    left, right = (batch[len(batch) - max(rank - 2, 0) :] for rank in ranks)
    left += "mk" if ranks[0] > 1 else "k"
    right += "kn" if ranks[1] > 1 else "k"
    return [_contract(node, tensors, [left, right], batch + "m" * (ranks[0] > 1) + "n" * (ranks[1] > 1))]


def _einsum(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Any contraction, by its equation; `...` stands for letters that the equation doesn't use."""
    left, arrow, right = node.attrs["equation"].replace(" ", "").partition("->")
    spare = "".join(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in left)
    terms, widest = [], 0
    for tensor, term in zip(node.inputs, left.split(","), strict=True):
        width = len(tensors.shapes[tensor.name]) - len(term.replace("...", ""))
        widest = max(widest, width)
        terms.append(term.replace("...", spare[:width][::-1]))  # aligned from the right
    if not arrow:
        named = left.replace("...", "").replace(",", "")
        right = "..." * ("..." in left) + "".join(sorted(c for c in set(named) if named.count(c) == 1))
    if any(len(set(term)) < len(term) for term in terms):
        raise refusal(node, "takes as a diagonal")
    return [_contract(node, tensors, terms, right.replace("...", spare[:widest][::-1]))]


def _scatter_nd(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Slices at places of the first axes are overwritten; the axes behind those shrink with the updates'."""
    data, updates = tensors.flags(node.inputs[0]), tensors.flags(node.inputs[2])
    shape, depth = tensors.shapes[node.inputs[0].name], tensors.shapes[node.inputs[1].name][-1]
    lead = updates.ndim - (data.ndim - depth)
    _whole_slices(node, data, range(depth))
    _whole_slices(node, updates, range(lead))
    if node.inputs[1].name in tensors.goes or data.all() or updates.all():
        raise refusal(node, "writes to")
    tail = updates.reshape((1,) * depth + updates.shape[lead:])
    _check_agrees(node, data, tail, (1,) * depth + tuple(shape[depth:]))
    return [data]


def _col2im(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """x[N,C*k,L] -> y[N,C,*S]: a channel goes with all the k places of its block."""
    flags, out = tensors.flags(node.inputs[0]), tensors.shapes[node.outputs[0].name]
    flags = _whole_slices(node, flags, (0, 2))
    blocks = (flags & np.ones((1, tensors.shapes[node.inputs[0].name][1], 1), bool)).reshape(out[1], -1)
    return [_whole_slices(node, blocks, [1]).reshape(1, -1, *[1] * (len(out) - 2))]


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
    places, out = slice_places(node, flags.shape), tensors.shapes[node.outputs[0].name]
    compacted = tensors.flags(node.inputs[0])
    if not places and compacted.size > 1:
        given = constant(node, 3)
        if given is None or any(compacted.shape[int(axis)] > 1 for axis in given):
            raise refusal(node, "slices at computed places")
        return [compacted]
    for axis, place, step in places:
        if step != 1 and compacted.shape[axis] > 1:
            raise refusal(node, "slices with a step")
        flags = flags[(slice(None),) * axis + (slice(*place, step),)] if flags.shape[axis] > 1 else flags
    return [np.broadcast_to(compact(flags), out)]


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
    flags, places, known = tensors.flags(node.inputs[0]), tensors.flags(node.inputs[1]), constant(node, 1)
    axis = node.attrs.get("axis", 0) % flags.ndim
    before, behind = flags.shape[:axis], flags.shape[axis + 1 :]
    if flags.shape[axis] == 1:
        found = flags.reshape(before + (1,) * places.ndim + behind)
    elif known is None or known.ndim > 1:
        raise refusal(node, "looks up by places that are computed or of several axes")
    else:
        kept = flags.all(axis=_other_axes(flags, axis), keepdims=True) | flags.all(axis=axis, keepdims=True)
        if (kept != flags).any():
            raise refusal(node, "looks up, rows of which different places go,")
        found = np.take(flags, known, axis=axis)
    return [found | places.reshape((1,) * len(before) + places.shape + (1,) * len(behind))]


def _pad(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """What is put around stays."""
    flags, out = tensors.flags(node.inputs[0]), tensors.shapes[node.outputs[0].name]
    rank = flags.ndim
    pads, axes = node.attrs.get("pads", node.attrs.get("paddings")), range(rank)
    if pads is None:
        pads, given = constant(node, 1), constant(node, 3)
        axes = axes if given is None else [int(axis) % rank for axis in given]
    if pads is None:
        raise refusal(node, "pads by computed amounts")
    for position, axis in enumerate(axes):
        if flags.shape[axis] > 1:
            widths = [(0, 0)] * rank
            widths[axis] = (int(pads[position]), int(pads[position + len(axes)]))
            if min(widths[axis]) < 0 or (node.attrs.get("mode", "constant") != "constant" and any(widths[axis])):
                raise refusal(node, "pads with what an axis holds that shrinks")
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
    _whole_slices(node, tensors.flags(node.inputs[0]), (0, 2, 3))
    is_dcr = node.attrs.get("mode", "DCR") == "DCR"
    blocks = tensors.whole(node.inputs[0]).reshape((n, b, b, -1, h, w) if is_dcr else (n, -1, b, b, h, w))
    order = (0, 3, 4, 1, 5, 2) if is_dcr else (0, 1, 4, 2, 5, 3)
    found = blocks.transpose(order).reshape(n, c // (b * b), h * b, w * b)
    return [_whole_slices(node, found, (2, 3))]


def _space_to_depth(node: gs.Node, tensors: Tensors) -> list[Flags]:
    n, c, h, w = tensors.shapes[node.inputs[0].name]
    b = node.attrs["blocksize"]
    _whole_slices(node, tensors.flags(node.inputs[0]), (0, 2, 3))
    blocks = tensors.whole(node.inputs[0]).reshape(n, c, h // b, b, w // b, b)
    return [blocks.transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)]


def reduced_axes(node: gs.Node, rank: int) -> tuple[int, ...]:
    """The axes that a reduction reduces. Raises ModelError where they are computed."""
    if node.op.startswith("Arg"):
        return (node.attrs.get("axis", 0) % rank,)
    given = node.attrs.get("axes", constant(node, 1))
    if given is None and len(node.inputs) > 1 and node.inputs[1].name:
        raise refusal(node, "reduces over axes that are computed")
    if given is None or not len(given):
        return () if node.attrs.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(int(axis) % rank for axis in given)


def _reduce(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """The reduced axes are of size 1 or gone. Where only some of their places go, zeros must have added nothing."""
    flags, shape = tensors.flags(node.inputs[0]), tensors.shapes[node.inputs[0].name]
    axes = reduced_axes(node, flags.ndim)
    found = flags.all(axis=axes, keepdims=True) if node.op in ADDS_ZERO else _whole_slices(node, flags, axes)
    before = sizes_left(flags, shape)
    after = sizes_left(found, [1 if axis in axes else size for axis, size in enumerate(shape)])
    if any(before[axis] != after[axis] for axis in range(flags.ndim) if axis not in axes):
        raise refusal(node, "mixes, rows of which different places go,")
    return [found if node.attrs.get("keepdims", 1) else found.squeeze(axes)]


def _nothing(node: gs.Node, tensors: Tensors) -> list[None]:
    return [None] * len(node.outputs)


def constant(node: gs.Node, index: int) -> np.ndarray | None:
    """The values of an input of the node that is known beforehand, else None."""
    tensor = node.inputs[index] if index < len(node.inputs) else None
    return tensor.values if isinstance(tensor, gs.Constant) else None


REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
#: Reductions to which a place that holds 0 adds nothing (a mean is scaled afterwards).
ADDS_ZERO = frozenset("ReduceL1 ReduceL2 ReduceMean ReduceSum ReduceSumSquare".split())
ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu "
    "Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN "
    "LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
)
POOLS = "AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool"
MIXES = "Softmax LogSoftmax Hardmax LpNormalization CumSum TopK LRN Trilu"
FLOWS: dict[str, Callable[[gs.Node, Tensors], list[Flags | None]]] = {
    **dict.fromkeys(ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(POOLS.split(), _window),
    **dict.fromkeys(MIXES.split(), _along),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization"), _channel_norm),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _layer_norm),
    **dict.fromkeys(("Dropout", "CastLike"), _first_alone),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Einsum": _einsum,
    "ScatterND": _scatter_nd,
    "Col2Im": _col2im,
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
    **dict.fromkeys(("Shape", "Size"), _nothing),
}
