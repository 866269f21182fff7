"""Why what stays stays: the weights that no unit can delete, and the ties and pins behind a tensor's axes."""

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.errors import InputError
from onnxprune.graph.labels import any_flagged, spans

if TYPE_CHECKING:
    from onnxprune.graph.units import Channels


def prunable(channels: "Channels") -> float:
    """Fraction of the weights that some unit can delete."""
    initializers = channels.model.ir.graph.initializers
    total = sum(int(np.prod(channels.trace.shape_of[initializers[name]])) for name, _ in channels.parameters())
    return 1 - sum(channels.pinned.values()) / total if total else 0.0


def pinned(channels: "Channels") -> dict[str, int]:
    """{reason: number of weights that no unit can delete because of it}, largest first."""
    deletable = np.zeros(channels.count, bool)
    for unit in channels.units:
        deletable[list(unit.channels)] = True
    found: dict[str, int] = defaultdict(int)
    for name, facets in channels.parameters():
        shape = channels.trace.shape_of[channels.model.ir.graph.initializers[name]]
        named = [channels.channel[f] for f in facets]
        stuck = ~any_flagged(deletable, named) if named else np.ones((1,) * len(shape), bool)
        per_place = int(np.prod(shape)) // max(int(np.prod(stuck.shape)), 1)
        number = int(stuck.sum()) * per_place
        if number:
            why = channels.pin_reasons
            reasons = [why[int(c)] for a in named for c in np.unique(a) if int(c) in why]
            found[reasons[0] if reasons else f"'{name}' has no labelled axis"] += number
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def explain(channels: "Channels", name: str) -> str:
    """The chain of ties and pins behind each axis of a tensor. Raises InputError for an unknown name."""
    found = [v for v in channels.trace.facets if v.name == name]
    if not found:
        known = ", ".join(n for n, _ in list(channels.parameters())[:5])
        raise InputError(f"There is no tensor '{name}'. Names are as in the file, for example: {known}.")
    nodes = list(channels.model.ir.graph)
    shape = channels.trace.shape_of.get(found[0])
    lines = [f"{name} {list(shape) if shape else ''}"]
    for facet in channels.facets(found[0]):
        mine = np.unique(channels.channel[facet])
        axes = ", ".join(str(a) for a in spans(facet))
        lines.append(f"  axis {axes}: {len(mine)} channels")
        for at, a, b in channels.trace.ledger.ties:
            if np.isin(channels.channel[a], mine).any() and not np.array_equal(a, b):
                node = nodes[at]
                operands = ", ".join(v.name or "" for v in node.inputs if v is not None)
                line = f"    tied by {node.op_type} '{node.name}' ({operands})"
                if line not in lines:
                    lines.append(line)
        reasons = {channels.pin_reasons[int(c)] for c in mine if int(c) in channels.pin_reasons}
        lines += [f"    pinned: {reason}" for reason in sorted(reasons)]
    if len(lines) == 1:
        lines.append("  no axis can shrink")
    return "\n".join(lines)
