"""What is in a model, and what could go: the answer of `onnxprune inspect`."""

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.graph.model import Model, load
from onnxprune.graph.units import Channels, trace
from onnxprune.prune.cost import Cost, count


@dataclass(frozen=True)
class UnitKind:
    """All units of one kind: how many there are, and the weights that each would delete, added up."""

    kind: str
    exactness: str
    units: int
    weights: int


@dataclass(frozen=True)
class Inspection:
    """A model's cost and structure.

    `inputs` and `outputs` are {name: "type[shape]"}; `prunable` is the fraction of the weights that some unit can
    delete, `pinned` the others: {reason: number of weights}, most first.
    """

    file: str
    opset: Mapping[str, int]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    cost: Cost
    prunable: float
    kinds: tuple[UnitKind, ...]
    pinned: Mapping[str, int]
    explanation: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The inspection as plain JSON types."""
        return asdict(self)


def inspect_model(path: str | os.PathLike, explain: str | None = None) -> Inspection:
    """Trace the model in `path`; `explain` names a tensor whose ties and pins are wanted too.

    Raises ModelError for a file that can't be read, InputError for a tensor that isn't there.
    """
    model = load(path)
    channels = trace(model)
    return Inspection(
        file=str(Path(path)),
        opset=dict(model.ir.graph.opset_imports),
        inputs=_ends(model, "inputs"),
        outputs=_ends(model, "outputs"),
        cost=count(model),
        prunable=channels.prunable,
        kinds=_kinds(channels),
        pinned=dict(sorted(channels.pinned.items(), key=lambda item: -item[1])),
        explanation=None if explain is None else str(channels.explain(explain)),
    )


def _ends(model: Model, side: str) -> dict[str, str]:
    ends = {}
    for value in getattr(model.ir.graph, side):
        if not value.is_initializer():
            dims = "?" if value.shape is None else ",".join(str(getattr(dim, "value", dim)) for dim in value.shape)
            ends[value.name] = f"{'unknown' if value.dtype is None else value.dtype.name.lower()}[{dims}]"
    return ends


def _kinds(channels: Channels) -> tuple[UnitKind, ...]:
    sizes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for unit in channels.units:
        sizes[unit.kind, unit.exactness].append(unit.size)
    return tuple(UnitKind(kind, exactness, len(all_of), sum(all_of)) for (kind, exactness), all_of in sizes.items())
