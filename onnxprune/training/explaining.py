"""What is known of a trained network before anything is cut, for the report: who matters, and what a layer minds.

In `history.json` the key `importance` holds

    {"neurons": [{"layer", "values", "gone"}],       I_i of each output of a layer, and which are gone in the end
     "parameters": [{"group", "kind", "values"}],    I_p of each unit
     "connections": [{"from", "to", "through", "inputs", "outputs", "values"}]}    I_ij from each input of one layer
                        to each output of the next, through the neurons between; means over blocks where there are many

and the key `sensitivity` [{"group", "kind", "shares", "losses"}]: the loss with such shares of a group's units off.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxprune.graph.units import Channels
from onnxprune.prune import criteria
from onnxprune.prune.channelwise import ChannelScores
from onnxprune.prune.groups import Group
from onnxprune.training import layers, probing
from onnxprune.training.scoring import array

#: Connections are told in at most so many blocks along each side.
BLOCKS = 32
DIGITS = 4


def importance(
    module: nn.Module, parameters: Mapping[str, nn.Parameter], channels: Channels, groups: Sequence[Group]
) -> dict[str, list[dict[str, Any]]]:
    """The importance of neurons, of units' parameters, and of connections across two layers, from the weights.

    Formulas: `neuron`, `parameter` and `connections` of `onnxprune.prune.criteria`.
    """
    weights = {name: array(parameter) for name, parameter in parameters.items()}
    layouts = layers.layouts(module, parameters)
    neurons = [
        {"layer": name, "values": _short(criteria.neuron(np.moveaxis(weights[name], layout.outputs, 0)))}
        for name, layout in layouts.items()
        if layout.outputs is not None
    ]
    squares = channels.importance({name: np.square(w) for name, w in weights.items()})
    sizes = channels.importance({name: np.ones_like(w) for name, w in weights.items()})
    of_units = criteria.parameter(squares, sizes)
    of_parameters = [{"group": g.name, "kind": g.kind, "values": _short(of_units[g.units])} for g in groups]
    connections = list(_connections(weights, layouts, ChannelScores(channels)))
    return {"neurons": neurons, "parameters": of_parameters, "connections": connections}


def _connections(
    weights: Mapping[str, np.ndarray], layouts: Mapping, scores: ChannelScores
) -> Iterator[dict[str, Any]]:
    """I_ij across each layer and the nearest one before it whose outputs it reads."""
    # An embedding's rows are no channels: it has no inputs.
    plain = {n: at for n, at in layouts.items() if at.groups == 1 and None not in (at.outputs, at.inputs)}
    before: dict[bytes, str] = {}
    for name, layout in plain.items():
        read, made = scores.inputs(name, layout), scores.outputs(name, layout)
        first = None if read is None else before.get(np.unique(read).tobytes())
        if first is not None and read is not None:
            through = np.unique(read)
            into = _matrix(weights[first], plain[first])
            out_of = _matrix(weights[name], layout)
            # What is read of one channel at several places, as behind a flattened image, counts together.
            place = np.searchsorted(through, scores.outputs(first, plain[first]))
            into = into[np.argsort(place)]
            summed = np.zeros((len(out_of), len(through)))
            np.add.at(summed.T, np.searchsorted(through, read), out_of.T)
            found = criteria.connections(np.sqrt(into), np.sqrt(summed))
            yield {
                "through": len(through),
                "from": first,
                "to": name,
                "inputs": found.shape[0],
                "outputs": found.shape[1],
                "values": [_short(row) for row in _in_blocks(found)],
            }
        if made is not None and len(np.unique(made)) == len(made) > 1:
            before[np.unique(made).tobytes()] = name


def _matrix(weight: np.ndarray, layout: Any) -> np.ndarray:
    """[O,I]: the squares of a layer's weights, those of a kernel summed."""
    turned = np.moveaxis(np.square(weight, dtype=np.float64), (layout.outputs, layout.inputs), (0, 1))
    return turned.reshape(*turned.shape[:2], -1).sum(axis=2)


def _in_blocks(matrix: np.ndarray) -> np.ndarray:
    """Means over blocks, so that no side is longer than BLOCKS."""
    for axis in (0, 1):
        size = matrix.shape[axis]
        if size > BLOCKS:
            starts = np.arange(BLOCKS) * size // BLOCKS
            counts = np.diff([*starts, size])
            matrix = np.add.reduceat(matrix, starts, axis) / counts.reshape((-1, 1) if axis == 0 else (1, -1))
    return matrix


def sensitivity(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    channels: Channels,
    groups: Sequence[Group],
    batches: Sequence[tuple[Any, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> list[dict[str, Any]]:
    """The loss on `batches` when one group at a time loses 0, 10 ... 90% of its units, those of small weights first."""
    order = channels.importance({name: np.abs(array(parameter)) for name, parameter in parameters.items()})
    curves = probing.loss_curves(module, parameters, channels, [g.units for g in groups], order, batches, loss)
    return [
        {"group": group.name, "kind": group.kind, "shares": list(probing.SHARES), "losses": _short(losses)}
        for group, (_, losses) in zip(groups, curves, strict=True)
    ]


def mark_gone(neurons: Sequence[dict[str, Any]], module: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Add "gone" to each layer of `neurons`: the outputs all of whose weights `masks`, bool, take away."""
    layouts = layers.layouts(module, masks)
    for entry in neurons:
        mask = masks.get(entry["layer"])
        gone = np.zeros(0, int)
        if mask is not None:
            turned = np.moveaxis(mask.cpu().numpy(), layouts[entry["layer"]].outputs, 0)
            gone = np.flatnonzero(~turned.reshape(len(turned), -1).any(axis=1))
        entry["gone"] = gone.tolist()


def _short(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.{DIGITS}g}") if np.isfinite(v) else None for v in np.asarray(values, float).tolist()]
