"""Operators that compute: element by element, over windows, along axes, by products."""

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.deploy.cutting.flags import Flags, ahead, other_axes, sizes_left
from onnxprune.deploy.cutting.tensors import Tensors, check_agrees, flow, mend, operand, refusal, whole_slices

# ---- each element by itself -----------------------------------------------------------------------------------------

ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu "
    "Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN "
    "LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
)


@flow(*ELEMENTWISE.split())
def elementwise(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Each output element belongs to the input elements at its place: flags broadcast as the data does."""
    rank = len(tensors.shapes[node.outputs[0].name])
    operands = [tensor for tensor in node.inputs if tensor.name]
    aligned = [ahead(tensors.flags(tensor), rank) for tensor in operands]
    flags = reduce(np.logical_or, aligned)
    for tensor, found in zip(operands, aligned, strict=True):
        shape = tensors.shapes[tensor.name]
        check_agrees(node, flags, found, (1,) * (rank - len(shape)) + tuple(shape))
    return [flags]


@flow("Dropout", "CastLike")
def first_alone(node: gs.Node, tensors: Tensors) -> list[Flags]:
    return [tensors.flags(node.inputs[0])] * len(node.outputs)


@flow("Shape", "Size")
def measure(node: gs.Node, tensors: Tensors) -> list[None]:
    """What shrinks is measured by other sizes from here on."""
    source = node.inputs[0]
    rank, changed = len(tensors.shapes[source.name]), tensors.changes(source.name)
    read = range(rank)[node.attrs.get("start", 0) : node.attrs.get("end", rank)]
    if node.op == "Size" or any(axis in changed for axis in read):
        tensors.measured[node.outputs[0].name] = np.isin(read, list(changed)) if node.op == "Shape" else None
    return [None]


# ---- over windows ---------------------------------------------------------------------------------------------------


@flow("AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", operands=1)
def pool(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Each channel by itself: x[N,C,*S] -> y[N,C,*S']."""
    if len(node.outputs) > 1:
        raise refusal(node, "gives as positions in the whole tensor")
    flags = tensors.flags(node.inputs[0])
    return [whole_slices(node, flags, range(2, flags.ndim))]


@flow("Conv")
def conv(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """w[O,C/g,*K]: an output channel goes when all of its filter does."""
    return [_convolved(node, tensors, lambda weight: weight.transpose(0, 2, 1))]


@flow("ConvTranspose")
def conv_transpose(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """w[C,O/g,*K], the first axis split over the groups."""
    return [_convolved(node, tensors, lambda weight: weight)]


def _single_places(node: gs.Node, tensors: Tensors) -> list[int]:
    """The axes along which the window is one place, and the next place is beside it: flags go on along them."""
    (x, y), window = (
        (tensors.shapes[t.name] for t in (node.inputs[0], node.outputs[0])),
        tensors.shapes[node.inputs[1].name],
    )
    padded, steps = any(node.attrs.get("pads", ())), node.attrs.get("strides", [1] * len(x))
    alike = [a for a in range(2, len(x)) if window[a] == 1 and steps[a - 2] == 1 and x[a] == y[a]]
    return alike if node.attrs.get("group", 1) == 1 and not padded else []


def _convolved(node: gs.Node, tensors: Tensors, inputs_first) -> Flags:
    """Flags of the output. Inputs have to go as what reads them does, and groups stay equal."""
    source, groups = node.inputs[0], node.attrs.get("group", 1)
    x, positions = tensors.along(source, 1), []
    for axis in _single_places(node, tensors):
        gone = x.all(axis=other_axes(x, axis), keepdims=True)
        positions.append(gone)
        x = np.compress(~gone.ravel(), x, axis)
    x = whole_slices(node, x, range(2, x.ndim))
    weight = tensors.along(node.inputs[1], 0, 1)
    weight = whole_slices(node, weight, range(2, weight.ndim)).reshape(groups, -1, weight.shape[1])
    filters = inputs_first(weight)  # [group, input, output]
    outputs = filters.all(axis=1)
    given = x.all(axis=other_axes(x, 1)).reshape(groups, -1)  # [group, input]
    dead = outputs.all(axis=1) & (groups > 1)
    unlike = (filters != given[:, :, None]) & ~outputs[:, None, :]
    if unlike.any() or not given[dead].all():
        raise refusal(node, "makes of channels and filters that don't shrink alike")
    for places in (given[~dead], outputs[~dead]):
        if len(np.unique(places.sum(axis=1))) > 1:
            raise refusal(node, "makes of groups that don't shrink alike")
    samples = x.all(axis=other_axes(x, 0), keepdims=True)
    flags = reduce(np.logical_or, positions, samples | outputs.reshape(1, -1, *[1] * (x.ndim - 2)))
    bias = operand(node, 2)
    if bias is not None:
        check_agrees(node, outputs.reshape(-1), tensors.whole(bias), tensors.shapes[bias.name])
    return flags


@mend("Conv", "ConvTranspose")
def count_groups(node: gs.Node, tensors: Tensors) -> None:
    if node.attrs.get("group", 1) > 1:
        counted = node.inputs[0] if node.op == "Conv" else node.outputs[0]
        node.attrs["group"] = tensors.left(counted)[1] // tensors.left(node.inputs[1])[1]


# ---- by products ----------------------------------------------------------------------------------------------------


def contract(node: gs.Node, tensors: Tensors, terms: Sequence[str], out: str) -> Flags:
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
    joint = reduce(np.logical_or, laid)
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
    # And rows that are left of the result, rows of every operand that has them.
    for one, term in zip(laid, terms, strict=True):
        for axis, letter in enumerate(letters):
            rest = other_axes(gone, axis)
            if letter in term and letter in out and (one.all(axis=rest) != gone.all(axis=rest)).any():
                raise refusal(node, "multiplies rows that don't go alike")
    order = [letters.index(x) for x in out]
    return gone.transpose(order + list(summed)).reshape([gone.shape[a] for a in order])


@flow("Gemm")
def gemm(node: gs.Node, tensors: Tensors) -> list[Flags]:
    terms = ["km" if node.attrs.get("transA", 0) else "mk", "nk" if node.attrs.get("transB", 0) else "kn"]
    flags, bias = contract(node, tensors, terms, "mn"), operand(node, 2)
    if bias is not None:
        shape = tensors.shapes[bias.name]
        check_agrees(node, flags, ahead(tensors.flags(bias), 2), (1,) * (2 - len(shape)) + tuple(shape))
    return [flags]


@flow("MatMul")
def matmul(node: gs.Node, tensors: Tensors) -> list[Flags]:
    ranks = [len(tensors.shapes[tensor.name]) for tensor in node.inputs]
    batch = "abcdefgh"[: max(*ranks, 2) - 2]
    left, right = (batch[len(batch) - max(rank - 2, 0) :] for rank in ranks)
    left += "mk" if ranks[0] > 1 else "k"
    right += "kn" if ranks[1] > 1 else "k"
    return [contract(node, tensors, [left, right], batch + "m" * (ranks[0] > 1) + "n" * (ranks[1] > 1))]


@flow("Einsum")
def einsum(node: gs.Node, tensors: Tensors) -> list[Flags]:
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
    return [contract(node, tensors, terms, right.replace("...", spare[:widest][::-1]))]


# ---- along axes -----------------------------------------------------------------------------------------------------


@flow("Softmax", "LogSoftmax", "Hardmax", "CumSum", "TopK", "LRN", "Trilu", "ReverseSequence", operands=1)
def mix(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Mixes the places of some axes, which therefore go together or not at all."""
    flags, rank = tensors.flags(node.inputs[0]), len(tensors.shapes[node.inputs[0].name])
    if node.op == "CumSum":
        given = tensors.known(node, 1)
        axes = range(rank) if given is None else [int(np.ravel(given)[0]) % rank]
    elif node.op == "LRN":
        axes = [1]
    elif node.op == "ReverseSequence":
        axes = [node.attrs.get("batch_axis", 1), node.attrs.get("time_axis", 0)]
    elif node.op == "Trilu":
        axes = [rank - 2, rank - 1]
    elif node.op in ("Softmax", "LogSoftmax", "Hardmax") and tensors.opset < 13:
        axes = range(node.attrs.get("axis", 1) % rank, rank)
    else:
        axes = [node.attrs.get("axis", -1) % rank]
    return [whole_slices(node, flags, axes)] * len(node.outputs)


REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
#: Reductions to which a place that holds 0 adds nothing (a mean is scaled afterwards).
ADDS_ZERO = frozenset("ReduceL1 ReduceL2 ReduceMean ReduceSum ReduceSumSquare".split())


@flow("ArgMax", "ArgMin", *(f"Reduce{name}" for name in REDUCTIONS.split()), operands=1)
def reduction(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """The reduced axes are of size 1 or gone. Where only some of their places go, zeros must have added nothing."""
    flags, shape = tensors.flags(node.inputs[0]), tensors.shapes[node.inputs[0].name]
    axes = _reduced_axes(node, tensors, flags.ndim)
    found = flags.all(axis=axes, keepdims=True) if node.op in ADDS_ZERO else whole_slices(node, flags, axes)
    before = sizes_left(flags, shape)
    after = sizes_left(found, [1 if axis in axes else size for axis, size in enumerate(shape)])
    if any(before[axis] != after[axis] for axis in range(flags.ndim) if axis not in axes):
        raise refusal(node, "mixes, rows of which different places go,")
    return [found if node.attrs.get("keepdims", 1) else found.squeeze(axes)]


def _reduced_axes(node: gs.Node, tensors: Tensors, rank: int) -> tuple[int, ...]:
    if node.op.startswith("Arg"):
        return (node.attrs.get("axis", 0) % rank,)
    given = node.attrs.get("axes", tensors.known(node, 1))
    if given is None and operand(node, 1) is not None:
        raise refusal(node, "reduces over axes that are computed")
    if given is None or not len(given):
        return () if node.attrs.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(int(axis) % rank for axis in given)


@mend("ReduceMean")
def mean_over_all(node: gs.Node, tensors: Tensors) -> None:
    """The mean was over all places, those that go being 0: the mean over those kept, times kept over all.

    Statistics of a normalisation are those of what is kept.
    """
    if node.name not in tensors.moments:
        share = _share_left(node, tensors, _reduced_axes(node, tensors, len(tensors.shapes[node.inputs[0].name])))
        if share not in (0.0, 1.0):
            tensors.scale_output(node, share)


def _share_left(node: gs.Node, tensors: Tensors, axes: Iterable[int]) -> float:
    """Which fraction of the places of `axes` stays."""
    before, left = tensors.shapes[node.inputs[0].name], tensors.left(node.inputs[0])
    return float(np.prod([left[axis] / before[axis] for axis in axes]))


# ---- normalisation --------------------------------------------------------------------------------------------------


@flow("LayerNormalization", "RMSNormalization")
def layer_norm(node: gs.Node, tensors: Tensors) -> list[Flags]:
    if len(node.outputs) > 1:
        raise refusal(node, "gives as its statistics")
    return elementwise(node, tensors)


@mend("RMSNormalization")
def rescale(node: gs.Node, tensors: Tensors) -> None:
    """The mean square is over a share of the places: epsilon over the share, and scale over its square root."""
    rank = len(tensors.shapes[node.inputs[0].name])
    share = _share_left(node, tensors, range(node.attrs.get("axis", -1) % rank, rank))
    if share in (0.0, 1.0):
        return
    node.attrs["epsilon"] = node.attrs.get("epsilon", 1e-5) / share
    scale = node.inputs[1]
    if isinstance(scale, gs.Constant) and len(scale.outputs) == 1:
        values = scale.values
        scale.values = (values.astype(np.float64) / share**0.5).astype(values.dtype)
    else:
        tensors.scale_output(node, share**-0.5)


@flow("LpNormalization", "MeanVarianceNormalization", operands=1)
def norm_without_scale(node: gs.Node, tensors: Tensors) -> list[Flags]:
    """Each place over the norm of all of them, to which zeros add nothing, or by the statistics of what is kept."""
    return [tensors.flags(node.inputs[0])]


@flow("BatchNormalization", "InstanceNormalization", "GroupNormalization")
def channel_norm(node: gs.Node, tensors: Tensors) -> list[Flags | None]:
    """x[N,C,*S] and parameters [C]."""
    flags, channels = tensors.flags(node.inputs[0]), tensors.shapes[node.inputs[0].name][1]
    if node.attrs.get("training_mode", 0):
        raise refusal(node, "does to its statistics")
    if node.op == "GroupNormalization":
        whole_slices(node, flags, other_axes(flags, 1))
    rest = (1,) * (flags.ndim - 2)
    for tensor in node.inputs[1:]:
        if tensors.shapes[tensor.name] != (channels,):
            raise refusal(node, "scales group by group")
        check_agrees(node, flags, tensors.flags(tensor).reshape(1, -1, *rest), (1, channels, *rest))
    return [flags] + [None] * (len(node.outputs) - 1)


@mend("GroupNormalization")
def count_norm_groups(node: gs.Node, tensors: Tensors) -> None:
    """Groups that go are counted no more; the others must lose as many channels each."""
    groups = node.attrs["num_groups"]
    counts = (~tensors.along(node.inputs[0], 1).reshape(groups, -1)).sum(axis=1)
    left = counts[counts > 0]
    if len(np.unique(left)) > 1:
        raise refusal(node, f"does to groups of {left.tolist()} channels")
    node.attrs["num_groups"] = len(left)
