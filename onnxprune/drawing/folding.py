"""Blocks of layers, and repeats of a block folded into one."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.drawing.families import STAYS, Stripe
from onnxprune.drawing.layers import Layer
from onnxprune.drawing.modules import blocks

#: Networks of no more layers than this are drawn as they are.
SMALL = 24


@dataclass(frozen=True, eq=False)
class Box:
    """A layer as it is drawn, standing for itself and for its counterparts in the repeats of its block."""

    layers: tuple[Layer, ...]
    block: str

    @property
    def layer(self) -> Layer:
        return self.layers[0]

    def label(self, title: str) -> str:
        """The name, without what the title of a frame around it says already."""
        return self.layer.name.removeprefix(f"{title}.")


@dataclass(frozen=True)
class Edge:
    """An edge between boxes, given by their numbers, and what flows along it; `width` is written beside it."""

    source: int
    target: int
    stripe: Stripe
    width: str


@dataclass(frozen=True)
class Picture:
    """What is drawn: boxes, edges, and {block: its title}, `layer1.1 – 3` for three alike."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    titles: dict[str, str]


def fold(layers: Sequence[Layer], stripe_of, *, small: int = SMALL) -> Picture:
    """Group layers into blocks; where there are more than `small` layers, fold neighbours that are alike."""
    block_of = dict(zip(layers, blocks([_path(layer) for layer in layers]), strict=True))
    members: dict[str, list[Layer]] = {}
    for layer in layers:
        members.setdefault(block_of[layer], []).append(layer)
    members.pop("", None)
    runs = [[block] for block in members]
    if len(layers) > small:
        runs = _runs(members, block_of)
    boxes: list[Box] = []
    box_of: dict[Layer, int] = {}
    titles: dict[str, str] = {}
    for run in runs:
        titles[run[0]] = run[0] if len(run) == 1 else f"{run[0]} – {run[-1].rpartition('.')[2]}"
    first = {
        layer: [members[block][place] for block in run] for run in runs for place, layer in enumerate(members[run[0]])
    }
    for layer in layers:
        if layer in box_of:
            continue
        alike = tuple(first.get(layer, [layer]))
        for other in alike:
            box_of[other] = len(boxes)
        boxes.append(Box(alike, block_of[layer] if block_of[layer] in titles else ""))
    return Picture(tuple(boxes), tuple(_edges(layers, box_of, stripe_of)), titles)


def _path(layer: Layer) -> str:
    """Where a layer lies among the modules, itself included."""
    if layer.kind == "layer" and (not layer.module or layer.name.startswith(f"{layer.module}.")):
        return layer.name
    return f"{layer.module}.{layer.operator}"


def _edges(layers: Sequence[Layer], box_of: dict[Layer, int], stripe_of) -> list[Edge]:
    """Edges between boxes; those from one repeat to the next are gone."""
    found: dict[tuple[int, int], Edge] = {}
    for layer in layers:
        for reader, values in layer.readers.items():
            ends = box_of[layer], box_of[reader]
            if ends[0] < ends[1]:
                stripe = layer.gives if len(values) > 1 and layer.gives else stripe_of(values[0])
                width = layer.gives.width if layer.gives and not stripe.families else stripe.width
                found.setdefault(ends, Edge(*ends, stripe, width))
    return list(found.values())


def _runs(members: dict[str, list[Layer]], block_of: dict[Layer, str]) -> list[list[str]]:
    """Neighbouring blocks of one list that are alike, each read by the next."""
    signature = {block: _signature(layers, block_of) for block, layers in members.items()}
    runs: list[list[str]] = []
    for block in members:
        last = runs[-1][-1] if runs else ""
        siblings = last.rpartition(".")[0] == block.rpartition(".")[0]
        follows = any(block_of[reader] == block for layer in members.get(last, ()) for reader in layer.readers)
        if runs and siblings and follows and signature[last] == signature[block]:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _signature(layers: list[Layer], block_of: dict[Layer, str]) -> tuple:
    """Equal for blocks that would be drawn alike: the same layers, of the same widths, wired alike."""
    place = {layer: number for number, layer in enumerate(layers)}
    block = block_of[layers[0]]
    found = []
    for layer in layers:
        inner = tuple(place[reader] for reader in layer.readers if reader in place)
        name = layer.name.removeprefix(block) if layer.name.startswith(f"{block}.") else ""
        leaves = any(reader not in place for reader in layer.readers)
        widths = tuple(_widths(stripe) for stripe in (layer.takes, layer.gives))
        found.append((layer.kind, layer.operator, name, layer.detail, widths, inner, leaves))
    return tuple(found)


def _widths(stripe: Stripe | None) -> tuple:
    return () if stripe is None else (stripe.width, *((size, family == STAYS) for family, size in stripe.runs))
