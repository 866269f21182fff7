"""Operators that sum products over an axis: Conv, ConvTranspose, Gemm, MatMul.

All are one idea: operands are laid out in one joint index space, where the axis they share meets place by place. The
facets that speak only about free axes go on to the result; those that speak about the contracted axis end here.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import onnx_ir as ir

from onnxprune.graph.labels import Facet, Ledger, facet, ghost_of, spans
from onnxprune.graph.rules.elementwise import align, column, product, total
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, Tensor, attribute, mend, rule, weight_labels

#: Operators whose reading of each channel is known weight by weight (`known.reading`).
WEIGHED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def contract(op: Op, operands: Sequence[tuple[Tensor, str]], out: str) -> Facets:
    """Tie operands whose axes are named by letters, as in einsum; return the facets of the result.

    Of a grid that is summed along its rows (a head's dimensions) the rows are left, by new labels of their own. A
    letter that is summed is exact where a deleted place holds 0, in one of the operands at least.
    """
    letters = _joined(tuple([axes for _, axes in operands]))
    met = op.meet([_lay_out(tensor, axes, letters) for tensor, axes in operands], product)
    result: list[Facet] = []
    for found in met:
        axes = spans(found)
        summed = [i for i in axes if letters[i] not in out]
        free = [i for i in axes if letters[i] in out]
        if summed and ghost_of(found) != 0.0:
            op.pin([found], "sums over the axis what isn't 0 once deleted")
            continue
        if summed and op.node.op_type not in WEIGHED:
            op.ledger.sum(found)
        if summed and free:
            op.ledger.kind(found, "head dimension")
            found = op.rows(found, summed)
        elif summed:
            continue
        elif len(free) > 1 and op.node.op_type not in ("Conv", "ConvTranspose"):
            op.ledger.kind(found, "head dimension")
        laid = _rearrange(found, letters, out)
        if spans(laid) not in {spans(f) for f in result}:
            result.append(laid)
    return tuple(result)


@lru_cache(maxsize=1024)
def _joined(terms: tuple[str, ...]) -> str:
    """The letters of all terms, each once."""
    return "".join(dict.fromkeys("".join(terms)))


def _lay_out(tensor: Tensor, axes: str, letters: str) -> Tensor:
    _, places = _moves(axes, letters)
    shape = tuple([1 if place is None else tensor.shape[place] for place in places])
    return tensor.view(shape, tuple([_rearrange(f, axes, letters) for f in tensor.facets]))


def _rearrange(facet: Facet, axes: str, letters: str) -> Facet:
    order, places = _moves(axes, letters)
    shape = [1 if place is None else facet.shape[place] for place in places]
    return facet.reshape(shape) if len(spans(facet)) < 2 else facet.transpose(order).reshape(shape)


@lru_cache(maxsize=1024)
def _moves(axes: str, letters: str) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    """(the order of the axes by `letters`, dropped ones last; for each letter its axis, None for none)."""
    places = tuple(axes.index(x) if x in axes else None for x in letters)
    dropped = [i for i, x in enumerate(axes) if x not in letters]
    return (*(place for place in places if place is not None), *dropped), places


@rule("", "Conv")
def conv(op: Op) -> Facets:
    """y[N,O,*S'] = conv(x[N,C,*S], w[O,C/g,*K]) + b[O]."""
    return _convolution(op, weight_out=0)


@rule("", "ConvTranspose")
def conv_transpose(op: Op) -> Facets:
    """y[N,O,*S'] = transposed conv(x[N,C,*S], w[C,O/g,*K]) + b[O]."""
    return _convolution(op, weight_out=1)


def _convolution(op: Op, weight_out: int) -> Facets:
    """Either convolution; `weight_out` is the weight's axis of outputs, the other one is that of inputs."""
    single = _single_places(op) if op.attr("group", 1) == 1 else ()
    x, w = _window_free(op, single)
    spatial = len(x.shape) - 2
    op.ledger.kind(_labels(w.facing(weight_out)), "channel")
    if op.attr("group", 1) == 1:
        kernel = ("co" if weight_out else "oc") + "efghij"[:spatial]
        before = "uvwxyz"[:spatial]
        after = "".join(b if axis in single else a for axis, b, a in zip(range(2, 8), before, "klmpqr", strict=False))
        out = contract(op, [(x, f"nc{before}"), (w, kernel)], f"no{after}")
    else:
        out = _grouped(op, x, w, weight_out)
    return add_bias(op, out, op.input(2))


def _labels(facets: Facets) -> np.ndarray:
    return np.concatenate([f.ravel() for f in facets]) if facets else np.empty(0, np.int64)


def _single_places(op: Op) -> tuple[int, ...]:
    """The axes whose window is a single place, one beside the other: each place goes on by itself."""
    x, w, out = op.inputs[0].shape, op.inputs[1].shape, op.outputs[0].shape
    strides, pads = op.attr("strides", (1,) * len(x)), op.attr("pads", (0,) * 2 * len(x))
    return tuple(
        a for a in range(2, len(x)) if w[a] == 1 and strides[a - 2] == 1 and pads[a - 2] == 0 and out[a] == x[a]
    )


def _window_free(op: Op, single: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Input and weight without labels that change within a window: those are tied, or pinned."""
    found = []
    for tensor in op.inputs[:2]:
        axes = [axis for axis in range(2, len(tensor.shape)) if axis not in single]
        facets = op.collapse(tensor.facets, axes, "slides a window over the axis")
        found.append(tensor.view(tensor.shape, facets))
    return found[0], found[1]


def add_bias(op: Op, out: Facets, bias: Tensor | None) -> Facets:
    """The facets of the result once a bias [O] is added to it."""
    if bias is None:
        return out
    result = op.outputs[0].view(op.outputs[0].shape, out)
    return op.meet([result, column(bias, len(result.shape))], total)


@weight_labels("", "Conv", "ConvTranspose", operand=1)
def grouped_weight(ledger: Ledger, node: ir.Node, shape: tuple[int, ...]) -> Facets | None:
    """Facets of a grouped convolution's weight: its second axis, which is per group, gets own labels in every group."""
    group = attribute(node, "group", 1)
    if group == 1:
        return None
    rest = (1,) * (len(shape) - 2)
    facets = [ledger.fresh(shape[0]).reshape((-1, 1, *rest))] if shape[0] > 1 else []
    if shape[1] > 1:
        labels = np.repeat(ledger.fresh(group, shape[1]), shape[0] // group, axis=0)
        facets.append(labels.reshape(shape[:2] + rest))
    return tuple(facet(labels, ghost=0.0) for labels in facets)


def _grouped(op: Op, x: Tensor, w: Tensor, weight_out: int) -> Facets:
    """Labels of a grouped convolution, on grids of (group, place in the group).

    The weight's first axis is split over the groups; its second has labels of its own in every group.
    """
    group = op.attr("group", 1)
    per_group = (w.shape[0] // group, w.shape[1])
    out_per_group, into = per_group[weight_out], per_group[1 - weight_out]
    op.pin([f for f in x.facets if spans(f) != (1,)], "computes groups over an axis other than the channels'")
    op.pin([f for f in w.facets if ghost_of(f) != 0.0], "reads weights that aren't 0 once deleted")
    inputs = [f.reshape(group, into) for f in x.facets if spans(f) == (1,)]
    along_first, along_second = [], []
    for labels in w.facets:
        spread = np.broadcast_to(labels, (w.shape[0], *labels.shape[1:]), subok=True)
        grid = spread.reshape(group, per_group[0], labels.shape[1])
        if labels.shape[1] > 1:
            op.tie(grid, grid[:, :1, :])
            along_second.append(grid[:, 0, :])
        else:
            along_first.append(grid[:, :, 0])
    outputs, weight_inputs = (along_second, along_first) if weight_out else (along_first, along_second)
    if weight_out or into > 1:
        _meet_grids(op, inputs, weight_inputs, x, w)
    if weight_out and out_per_group == 1:  # one output a group: the weight has no axis to name it
        outputs = [facet(op.ledger.fresh(group, 1), ghost=0.0)]
    if into == 1 and out_per_group == 1:
        for a in inputs:
            for b in outputs:
                op.tie(a, b)
        if not inputs or not outputs:
            op.pin([*inputs, *outputs], "works channel by channel on an axis that can't shrink")
    else:
        names = op.ledger.fresh(group)
        op.ledger.kind(names, "conv group")
        for grid in [*inputs, *outputs]:
            op.ledger.row(names, grid)
        if not inputs or not outputs:
            op.pin([names], "has groups on an axis that can't shrink")
    rest = (1,) * (len(x.shape) - 2)
    return tuple(g.reshape((1, -1, *rest)) for g in outputs)


def _meet_grids(op: Op, inputs: list[Facet], weight_inputs: list[Facet], x: Tensor, w: Tensor) -> None:
    for a in inputs:
        for b in weight_inputs:
            op.tie(a, b)
    if not inputs:
        op.pin(weight_inputs, f"reads '{x.name}', whose channels can't shrink")
    if not weight_inputs:
        op.pin(inputs, f"meets '{w.name}', whose axis can't shrink")


@mend("", "Conv", "ConvTranspose")
def groups_left(change: Change) -> Mended | None:
    """Depthwise and grouped convolutions count the groups that are left."""
    group = change.attr("group", 1)
    if group == 1:
        return None
    weight_before, weight_after = change.before[1], change.after[1]
    if change.node.op_type == "Conv":
        left = change.after[0][1] // weight_after[1]
    else:
        left = change.outputs_after[0][1] // weight_after[1]
    if left == group or weight_before is None:
        return None
    return Mended(attributes={"group": left})


@rule("", "Gemm")
def gemm(op: Op) -> Facets:
    """y[M,N] = a'[M,K] b'[K,N] + c, c broadcast to [M,N]; a' and b' are transposed where transA, transB say so."""
    a, b = op.inputs[0], op.inputs[1]
    weight = b.facing(0 if op.attr("transB", 0) else 1)
    op.ledger.kind(_labels(weight), "neuron")
    out = contract(op, [(a, "km" if op.attr("transA", 0) else "mk"), (b, "nk" if op.attr("transB", 0) else "kn")], "mn")
    bias = op.input(2)
    return out if bias is None else op.meet([op.outputs[0].view(op.outputs[0].shape, out), align(bias, 2)], total)


@rule("", "MatMul")
def matmul(op: Op) -> Facets:
    """y[*B,M,N] = a[*B,M,K] b[*B,K,N]; one-dimensional operands as in NumPy."""
    a, b = op.inputs[0], op.inputs[1]
    op.ledger.kind(_labels(b.facing(len(b.shape) - 1)) if len(b.shape) > 1 else np.empty(0, np.int64), "neuron")
    batch = "abcdefgh"[: max(len(a.shape), len(b.shape), 2) - 2]
    left = "k" if len(a.shape) == 1 else batch[len(batch) - (len(a.shape) - 2) :] + "mk"
    right = "k" if len(b.shape) == 1 else batch[len(batch) - (len(b.shape) - 2) :] + "kn"
    out = batch + ("m" if "m" in left else "") + ("n" if "n" in right else "")
    return contract(op, [(a, left), (b, right)], out)


@rule("", "Einsum")
def einsum(op: Op) -> Facets | None:
    """Any contraction, by its equation; an operand with a repeated letter (a diagonal) is pinned."""
    tensors = [t for t in op.inputs if t is not None]
    left, arrow, right = op.attr("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in left]
    extra = max(len(t.shape) - len(term.replace("...", "")) for t, term in zip(tensors, terms, strict=True))
    broadcast = "".join(spare[:extra])

    def spell(term: str, rank: int) -> str:
        extra = rank - len(term.replace("...", ""))
        return term.replace("...", broadcast[len(broadcast) - extra :] if extra else "")

    axes = [spell(term, len(t.shape)) for t, term in zip(tensors, terms, strict=True)]
    if not arrow:
        joined = left.replace("...", "").replace(",", "")
        right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    out = spell(right, len(op.outputs[0].shape))
    if any(len(set(term)) < len(term) for term in axes):
        op.pin([f for t in tensors for f in t.facets], "takes a diagonal")
        return None
    return contract(op, list(zip(tensors, axes, strict=True)), out)
