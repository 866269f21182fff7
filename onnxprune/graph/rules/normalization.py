"""Normalisation. Per-channel statistics keep channels apart; statistics over the channels pin them."""

from onnxprune.graph.rules.elementwise import column
from onnxprune.graph.rules.registry import Facets, Op, Tensor, rule


@rule("", "BatchNormalization")
def batch_normalization(op: Op) -> list[Facets]:
    """Each channel by itself, by its recorded mean and variance: x[N,C,*S]; scale, shift, mean, variance [C]."""
    if len(op.outputs) > 1 and op.attr("training_mode", 0):
        op.pin([f for t in op.inputs for f in t.facets], "updates its statistics")
        return [()] * len(op.outputs)
    return [op.meet([op.inputs[0], *_columns(op)])] + [()] * (len(op.outputs) - 1)


@rule("", "InstanceNormalization")
def instance_normalization(op: Op) -> Facets:
    """Each channel of each sample by its own statistics over the positions."""
    x = op.inputs[0]
    facets = op.collapse(x.facets, range(2, len(x.shape)), "takes statistics over the axis")
    return op.meet([x.view(x.shape, facets), *_columns(op)])


def _columns(op: Op) -> list[Tensor]:
    """The parameters, as columns beside x[N,C,*S]."""
    return [column(t, len(op.inputs[0].shape)) for t in op.inputs[1:] if t is not None]
