"""What pins: for every label that stays the nearest pin, and for every pin the weights that no unit can delete."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order

from onnxprune.graph.labels import PINNED, Facet, spans

if TYPE_CHECKING:
    from onnxprune.graph.units import Channels

NO_UNIT = "no unit can delete it without leaving a ragged tensor or an empty axis"


@dataclass(frozen=True)
class Cause:
    """What makes something stay: a node, an end of the graph, or (with neither) the shape of what hangs together.

    `reason` is a sentence that names the node; `why` is the same without its name.
    """

    operator: str
    node: str
    reason: str

    @property
    def by(self) -> str:
        """The node or the end of the graph, as messages name it."""
        return f"{self.operator} '{self.node}'" if self.operator else ""

    @property
    def why(self) -> str:
        return self.reason.removeprefix(self.by).strip() or "keeps its shape"


@dataclass(frozen=True)
class PinnedAxis:
    """Places of a weight's axis that stay, as [from, to) pairs; `axes` are more than one where a grid spans them."""

    tensor: str
    axes: tuple[int, ...]
    size: int
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pin:
    """One cause, the number of weights that no unit can delete because of it, and all axes whose places it holds."""

    cause: Cause
    weights: int
    axes: tuple[PinnedAxis, ...]


class Ties:
    """All ties of a model as arrays: `first[i]` and `second[i]` go together because of node number `node[i]`."""

    def __init__(self, channels: "Channels"):
        ties = channels.trace.ledger.ties
        empty = [np.empty(0, np.int64)]
        self.first = np.concatenate([a for _, a, _ in ties] or empty)
        self.second = np.concatenate([b for _, _, b in ties] or empty)
        self.node = np.repeat([at for at, _, _ in ties], [a.size for _, a, _ in ties]) if ties else empty[0]
        self.nodes: list[ir.Node] = list(channels.model.ir.graph)

    def between(self, label: int, other: int) -> int:
        """The number of the first node that ties these two."""
        joins = ((self.first == label) & (self.second == other)) | ((self.first == other) & (self.second == label))
        return int(self.node[np.argmax(joins)])


class Causes:
    """For every label the nearest pin, along the fewest ties.

    `of[label]` is an index into `all`, -1 where a label may go; `toward[label]` is the next label on the way to the
    pin, -1 at the pin itself and where there is no such way.
    """

    def __init__(self, channels: "Channels", ties: Ties | None = None):
        self.channels = channels
        self.ties = ties or Ties(channels)
        self.all: list[Cause] = []
        self._index: dict[Cause, int] = {}
        self.of = np.full(channels.trace.ledger.count, -1, np.int64)
        self._at_the_pins()
        self._along_ties()
        self._without_a_pin()

    def _number(self, cause: Cause) -> int:
        if cause not in self._index:
            self._index[cause] = len(self.all)
            self.all.append(cause)
        return self._index[cause]

    def _at_the_pins(self) -> None:
        for at, labels, reason in reversed(self.channels.trace.ledger.pins):
            self.of[labels] = self._number(_cause(self.ties.nodes, at, reason))

    def _along_ties(self) -> None:
        """Breadth first from all pins at once."""
        count, ties = len(self.of), self.ties
        pins = np.union1d(np.flatnonzero(self.of >= 0), [PINNED])
        among = np.zeros(self.channels.count, bool)
        among[self.channels.channel[pins]] = True
        inside = among[self.channels.channel[ties.first]]
        a = np.concatenate([ties.first[inside], np.full(len(pins), count)])
        b = np.concatenate([ties.second[inside], pins])
        graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(count + 1, count + 1)).tocsr()
        _, before = breadth_first_order(graph, count, directed=False)
        self.toward = np.where((before[:count] < 0) | (before[:count] == count), -1, before[:count]).astype(np.int64)
        # Who is tied to label 0 itself is held by whatever brought the label there.
        entries = np.flatnonzero(self.toward == PINNED)
        node_of = np.full(count, -1)
        for label, other in ((ties.first, ties.second), (ties.second, ties.first)):
            meets = other == PINNED
            node_of[label[meets][::-1]] = ties.node[meets][::-1]
        for at in np.unique(node_of[entries]):
            self.of[entries[node_of[entries] == at]] = self._number(self._brought_by(int(at)))
        self.of[PINNED] = self._number(Cause("", "", "it is padding, or joined with something that can't shrink"))
        # Everybody else asks whom it leads to, until nothing changes.
        lead = np.where((self.toward < 0) | (self.toward == PINNED), np.arange(count), self.toward)
        while not np.array_equal(further := lead[lead], lead):
            lead = further
        self.of = self.of[lead]

    def _brought_by(self, at: int) -> Cause:
        """The node that first put label 0 among those which node number `at` ties."""
        node: ir.Node | None = self.ties.nodes[at] if 0 <= at < len(self.ties.nodes) else None
        seen: set[ir.Node] = set()
        while node is not None and node not in seen:
            seen.add(node)
            pinned = [v for v in node.inputs if v is not None and self._has_padding(v)]
            before = [v.producer() for v in pinned]
            if not before or before[0] is None:
                break
            node = before[0]
        if node is None:
            return Cause("", "", "it is joined with something that can't shrink")
        bare = [v.name for v in node.inputs if v is not None and not self.channels.facets(v)]
        what = "adds places that can't shrink"
        if node.op_type == "Concat" and bare:
            what = f"joins it with '{bare[0]}', which can't shrink"
        return Cause(node.op_type, node.name or "", f"{node.op_type} '{node.name}' {what}")

    def _has_padding(self, value: ir.Value) -> bool:
        return any((facet == PINNED).any() for facet in self.channels.facets(value))

    def _without_a_pin(self) -> None:
        """What stays although no rule pins it: ragged grids, axes of a single channel."""
        stays = np.full(self.channels.count, -1)
        for channel, reason in self.channels.pin_reasons.items():
            stays[channel] = self._number(Cause("", "", reason))
        self.of = np.where(self.of < 0, stays[self.channels.channel], self.of)

    def is_end(self) -> np.ndarray:
        """Which causes are ends of the graph, which nothing could lift: bool [causes]."""
        return np.array([cause.operator.startswith("graph ") for cause in self.all], bool)


def _cause(nodes: Sequence[ir.Node], at: int, reason: str) -> Cause:
    if reason.startswith("graph "):
        end, _, rest = reason.partition(" '")
        return Cause(end, rest.partition("'")[0], reason)
    node = nodes[at] if 0 <= at < len(nodes) else None
    if node is None or not reason.startswith(f"{node.op_type} '{node.name}'"):
        return Cause("", "", reason)
    return Cause(node.op_type, node.name or "", reason)


def pins(channels: "Channels", causes: Causes | None = None) -> tuple[Pin, ...]:
    """Every cause for which a weight's axis, or a part of it, stays; what holds most weights first.

    A weight that is held on several axes counts once: for the first of them that isn't held by an end of the graph.
    """
    causes = causes or Causes(channels)
    can_go = channels.deletable
    weights: dict[Cause, int] = {}
    axes: dict[Cause, list[PinnedAxis]] = {}
    for name, facets in channels.parameters():
        shape = channels.trace.shape_of[channels.model.ir.graph.initializers[name]]
        held = [_held(channels, causes, can_go, facet) for facet in facets]
        for facet, cause_of in zip(facets, held, strict=True):
            for number in np.unique(cause_of[cause_of >= 0]).tolist():
                place = spans(facet)
                found = PinnedAxis(name, place, facet.size, runs(cause_of.ravel() == number))
                axes.setdefault(causes.all[number], []).append(found)
        for cause, number in _stuck(name, shape, held, causes):
            weights[cause] = weights.get(cause, 0) + number
    order = sorted(weights.keys() | axes.keys(), key=lambda c: (-weights.get(c, 0), c.reason))
    return tuple(Pin(cause, weights.get(cause, 0), tuple(axes.get(cause, ()))) for cause in order)


def _held(channels: "Channels", causes: Causes, can_go: np.ndarray, facet: Facet) -> np.ndarray:
    """The number of the cause that holds each place of a facet, -1 where it may go."""
    found = np.where(can_go[channels.channel[facet]], -2, causes.of[facet])
    if (found == -1).any():
        found[found == -1] = causes._number(Cause("", "", NO_UNIT))
    return np.maximum(found, -1)


def _stuck(name: str, shape: tuple[int, ...], held: list[np.ndarray], causes: Causes) -> Iterator[tuple[Cause, int]]:
    """(cause, number of weights of one tensor that stay because of it)."""
    size = int(np.prod(shape))
    if not held:
        yield Cause("", "", f"'{name}' has no labelled axis"), size
        return
    if any((cause_of < 0).all() for cause_of in held):
        return
    is_end = causes.is_end()
    chosen, free = held[0], held[0] < 0
    for cause_of in held[1:]:
        free = free | (cause_of < 0)
        chosen = np.where(is_end[chosen] & ~is_end[cause_of], cause_of, chosen)
    chosen, free = np.broadcast_arrays(chosen, free)
    numbers = np.bincount(chosen[~free], minlength=len(causes.all)) * (size // chosen.size)
    for number in np.flatnonzero(numbers).tolist():
        yield causes.all[number], int(numbers[number])


def runs(flags: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Where a bool array is set, as [from, to) pairs.

    >>> runs(np.array([True, True, False, True]))
    ((0, 2), (3, 4))
    """
    edges = np.flatnonzero(np.diff(np.r_[False, flags.ravel(), False]))
    return tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
