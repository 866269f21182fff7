"""What is in a model, and what could go: the answer of `onnxprune inspect`."""

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.drawing.draw import draw
from onnxprune.errors import OutputError
from onnxprune.graph.cuts import cuts
from onnxprune.graph.explain import Explanation, percent, weights
from onnxprune.graph.model import Model, load, write_atomically
from onnxprune.graph.pins import Pin, pins
from onnxprune.graph.units import Channels, Unit, trace
from onnxprune.prune.cost import Cost, count


@dataclass(frozen=True)
class UnitKind:
    """All units of one kind: how many there are, the weights that each would delete, and the first one's place."""

    kind: str
    exactness: str
    units: int
    weights: int
    smallest: int
    largest: int
    example: str


@dataclass(frozen=True)
class Inspection:
    """A model's cost and structure.

    `inputs` and `outputs` are {name: "type[shape]"}; `weights` counts those of labelled tensors, `prunable` is the
    fraction of them that some unit can delete; `pins` says what holds the others, most first; `drawing` is the SVG.
    """

    file: str
    opset: Mapping[str, int]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    cost: Cost
    weights: int
    prunable: float
    kinds: tuple[UnitKind, ...]
    pins: tuple[Pin, ...]
    explanation: Explanation | None = None
    drawing: str | None = None
    channels: Channels | None = field(default=None, repr=False, compare=False)

    @property
    def can_go(self) -> str:
        """How much of the weights can go, in words."""
        stuck = sum(pin.weights for pin in self.pins)
        return f"{percent(self.prunable)} of the weights can go: {self.weights - stuck:,} of {self.weights:,}"

    def as_dict(self) -> dict[str, Any]:
        """The inspection as plain JSON types, with every unit and what it cuts, and every pinned axis."""
        plain = {name: getattr(self, name) for name in ("file", "opset", "inputs", "outputs")}
        plain |= {"cost": self.cost.as_dict(), "weights": self.weights, "prunable": self.prunable}
        plain["kinds"] = [asdict(kind) for kind in self.kinds]
        plain["pinned"] = [
            {**asdict(pin.cause), "weights": pin.weights, "axes": [asdict(axis) for axis in pin.axes]}
            for pin in self.pins
        ]
        plain["units"] = _units(self.channels) if self.channels else []
        plain["drawing"] = self.drawing
        plain["explanation"] = None if self.explanation is None else _explained(self.explanation)
        return plain


def inspect_model(
    path: str | os.PathLike, explain: str | None = None, graph: str | os.PathLike | None = None
) -> Inspection:
    """Trace the model in `path`; `explain` names a tensor whose ties and pins are wanted too, `graph` an SVG to draw.

    Raises ModelError for a file that can't be read, InputError for a tensor that isn't there, OutputError for a
    drawing that can't be written.
    """
    if graph is not None and Path(graph).suffix.lower() != ".svg":
        raise OutputError(f"Drawings are SVG: give '{graph}' a name that ends in .svg.")
    model = load(path)
    channels = trace(model)
    explanation = None if explain is None else channels.explain(explain)
    if graph is not None:
        write_atomically(graph, draw(channels))
    return Inspection(
        file=str(Path(path)),
        opset=dict(model.ir.graph.opset_imports),
        inputs=_ends(model, "inputs"),
        outputs=_ends(model, "outputs"),
        cost=count(model),
        weights=weights(channels),
        prunable=channels.prunable,
        kinds=_kinds([*channels.units, *channels.blocks]),
        pins=pins(channels),
        explanation=explanation,
        drawing=None if graph is None else str(Path(graph)),
        channels=channels,
    )


def _ends(model: Model, side: str) -> dict[str, str]:
    ends = {}
    for value in getattr(model.ir.graph, side):
        if not value.is_initializer():
            dims = "?" if value.shape is None else ",".join(str(getattr(dim, "value", dim)) for dim in value.shape)
            ends[value.name] = f"{'unknown' if value.dtype is None else value.dtype.name.lower()}[{dims}]"
    return ends


def _kinds(units: list[Unit]) -> tuple[UnitKind, ...]:
    alike: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    for unit in units:
        alike[unit.kind, unit.exactness].append(unit)
    found = []
    for (kind, exactness), these in alike.items():
        sizes = [unit.size for unit in these]
        found.append(UnitKind(kind, exactness, len(sizes), sum(sizes), min(sizes), max(sizes), these[0].where))
    return tuple(found)


def _units(channels: Channels) -> list[dict[str, Any]]:
    """By hand: there are tens of thousands of cuts, and `asdict` takes its time for each."""
    return [
        {
            "index": unit.index,
            "kind": unit.kind,
            "size": unit.size,
            "exactness": unit.exactness,
            "where": unit.where,
            "cuts": [{"tensor": cut.tensor, "axes": cut.axes, "places": cut.places} for cut in taken],
        }
        for unit, taken in zip([*channels.units, *channels.blocks], cuts(channels), strict=True)
    ]


def _explained(found: Explanation) -> dict[str, Any]:
    return {**asdict(found), "text": str(found)}
