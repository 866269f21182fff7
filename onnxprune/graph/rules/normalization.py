"""Normalisation. Per-channel statistics keep channels apart; statistics over the channels pin them."""

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.labels import ghost_of, spans
from onnxprune.graph.rules.elementwise import align, column, product
from onnxprune.graph.rules.registry import Change, Facets, Mended, Op, Tensor, mend, rule


@rule("", "BatchNormalization")
def batch_normalization(op: Op) -> list[Facets]:
    """Each channel by itself, by its recorded mean and variance: x[N,C,*S]; scale, shift, mean, variance [C]."""
    if len(op.outputs) > 1 and op.attr("training_mode", 0):
        op.pin([f for t in op.inputs for f in t.facets], "updates its statistics")
        return [()] * len(op.outputs)
    if any(len(t.shape) != 1 for t in op.inputs[1:]):
        op.pin([f for t in op.inputs for f in t.facets], "scales places, not channels")
        return [()] * len(op.outputs)
    return [op.meet([op.inputs[0], *_columns(op)], scaled_and_shifted)] + [()] * (len(op.outputs) - 1)


@rule("", "InstanceNormalization", runs=True, exactness="restated")
def instance_normalization(op: Op) -> Facets:
    """Each channel of each sample by its own statistics over the positions.

    Exporters write GroupNorm with it, groups as channels: then labels differ along the positions.
    """
    x = op.inputs[0]
    _restate(op, x.facets, range(2, len(x.shape)))
    return op.meet([x, *_columns(op)], scaled_and_shifted)


@rule("", "LayerNormalization", exactness="restated")
def layer_normalization(op: Op) -> list[Facets]:
    """Statistics over the axes from `axis` on: x[*B,*D], scale [*D], shift [*D]; over the kept places once some go."""
    x = op.inputs[0]
    rank = len(x.shape)
    if len(op.outputs) > 1:
        op.pin(x.facets, "gives its statistics too")
        return [()] * len(op.outputs)
    _restate(op, x.facets, range(op.axis(-1), rank))
    operands = [x, *(align(t, rank) for t in op.inputs[1:] if t is not None)]
    return [op.meet(operands, scaled_and_shifted if len(operands) > 2 else product)]


@rule("", "GroupNormalization", exactness="restated")
def group_normalization(op: Op) -> Facets | None:
    """Statistics over the channels of a group and the positions; a group loses as many channels as the others."""
    x = op.inputs[0]
    groups = op.attr("num_groups")
    if op.version < 21:
        op.pin([f for t in op.inputs for f in t.facets], "scales whole groups")
        return None
    facets = op.collapse(x.facets, range(2, len(x.shape)), "takes statistics over the axis")
    op.pin([f for f in facets if spans(f) != (1,)], "takes statistics over groups of channels")
    facets = tuple(f for f in facets if spans(f) == (1,))
    for found in facets:
        names = op.ledger.fresh(groups)
        op.ledger.kind(names, "channel")
        op.ledger.row(names, found.reshape(groups, -1))
    _restate(op, facets, [1])
    return op.meet([x.view(x.shape, facets), *_columns(op)], scaled_and_shifted)


@mend("", "GroupNormalization")
def groups_left(change: Change) -> Mended | None:
    groups = change.attr("num_groups")
    left = int(change.kept(change.node.inputs[0], 1).reshape(groups, -1).any(axis=1).sum())
    return None if left == groups else Mended(attributes={"num_groups": left})


@rule("", "RMSNormalization")
def rms_normalization(op: Op) -> Facets:
    """x / sqrt(mean(x^2) + epsilon) * scale, over the axes from `axis` on: exact where deleted places held 0."""
    x = op.inputs[0]
    axes = set(range(op.axis(-1), len(x.shape)))
    touched = [f for f in x.facets if set(spans(f)) & axes]
    op.pin([f for f in touched if ghost_of(f) != 0.0 or not set(spans(f)) <= axes], "takes the mean square of the axis")
    for found in touched:
        op.ledger.sum(found)
    return op.meet([x, align(op.inputs[1], len(x.shape))], product)


@mend("", "RMSNormalization")
def mean_square_over_all(change: Change) -> Mended | None:
    """The mean square was over all n places, k of which are left: epsilon times n/k, scale times sqrt(n/k)."""
    rank = len(change.before[0])
    axes = range(change.attr("axis", -1) % rank, rank)
    ratio = float(np.prod([change.before[0][a] / change.after[0][a] for a in axes]))
    if ratio == 1.0:
        return None
    epsilon = float(change.attr("epsilon", 1e-5))
    return Mended(attributes={"epsilon": epsilon * ratio}, multiply={1: ratio**0.5})


def _restate(op: Op, facets: Facets, axes: Sequence[int]) -> None:
    """Statistics over `axes` become those of the kept places.

    Over a symbolic size only behind a Reshape, as GroupNorm is written: there the mask can be made at run time.
    """
    producer = op.node.inputs[0].producer()
    is_reshaped = producer is not None and producer.op_type == "Reshape"
    for found in facets:
        touched = [a for a in spans(found) if a in axes]
        if touched and not is_reshaped and any(op.is_dynamic_input(0, a) for a in spans(found)):
            op.pin([found], "takes statistics over a symbolic size")
        elif touched:
            op.ledger.restate(found)


def scaled_and_shifted(held: Sequence[float | None]) -> float | None:
    """Behind scale 0 and shift 0 there is 0, whatever was normalised."""
    return 0.0 if all(h == 0.0 for h in held[1:3]) and len(held) > 2 else None


def _columns(op: Op) -> list[Tensor]:
    """The parameters, as columns beside x[N,C,*S]."""
    return [column(t, len(op.inputs[0].shape)) for t in op.inputs[1:] if t is not None]
