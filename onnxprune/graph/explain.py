"""The chains of ties and pins behind a tensor's axes: what goes along with a place, or what makes it stay."""

import difflib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order

from onnxprune.errors import InputError
from onnxprune.graph.labels import PINNED, Facet, spans
from onnxprune.graph.pins import Cause, Causes, Ties, pins, runs

if TYPE_CHECKING:
    from onnxprune.graph.units import Channels

#: How much of an explanation is printed; the object holds all of it.
SHOWN_PARTS, SHOWN_STEPS, SHOWN_RUNS = 6, 12, 4


@dataclass(frozen=True)
class Step:
    """A node ties a place of `axes` of `tensor` to step `after` of the chain, or to the asked axis if that is -1."""

    operator: str
    node: str
    tensor: str
    axes: tuple[int, ...]
    after: int


@dataclass(frozen=True)
class Part:
    """Places of an axis that fare alike; `places` are [from, to) pairs, counted through the axes of a grid.

    Where they can go, `kind` and `exactness` are those of the unit, and `chain` holds whatever goes along with the
    first of them, nearest first. Where they stay, `cause` says why and `chain` leads to it by the fewest ties.
    """

    places: tuple[tuple[int, int], ...]
    kind: str
    exactness: str
    cause: Cause | None
    chain: tuple[Step, ...]

    @property
    def count(self) -> int:
        return sum(end - start for start, end in self.places)


@dataclass(frozen=True)
class Axis:
    """What becomes of the places of one axis; of several axes where the labels form a grid."""

    axes: tuple[int, ...]
    size: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Explanation:
    """Why the axes of a tensor can or can't shrink, for `print`; `note` says it where no axis can."""

    tensor: str
    shape: tuple[int | str, ...]
    axes: tuple[Axis, ...]
    note: str = ""

    def __str__(self) -> str:
        return "\n".join(_text(self))


def prunable(channels: "Channels") -> float:
    """Fraction of the weights that some unit can delete."""
    total = weights(channels)
    return 1 - sum(channels.pinned.values()) / total if total else 0.0


def percent(share: float) -> str:
    """A share in words; what isn't all is never called 100%."""
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def weights(channels: "Channels") -> int:
    """Number of weights that units and pins speak about; copies that un-sharing made count once."""
    initializers = channels.model.ir.graph.initializers
    return sum(int(np.prod(channels.trace.shape_of[initializers[name]])) for name, _ in channels.parameters())


def pinned(channels: "Channels") -> dict[str, int]:
    """{reason: number of weights that no unit can delete because of it}, largest first."""
    return {pin.cause.reason: pin.weights for pin in pins(channels) if pin.weights}


def explain(channels: "Channels", name: str) -> Explanation:
    """The chain of ties and pins behind each axis of a tensor. Raises InputError for an unknown name."""
    value = _find(channels, name)
    chains = _Chains(channels, value)
    axes = tuple(Axis(spans(f), f.size, tuple(_parts(chains, f))) for f in channels.facets(value))
    return Explanation(name, _shape(channels, value), axes, "" if axes else _note(channels, value))


def _note(channels: "Channels", value: ir.Value) -> str:
    """Why a tensor has no labels."""
    node = value.producer()
    if value in channels.model.ir.graph.inputs:
        return "it is an input of the model, which keeps its shape"
    if node is None:
        return "no operator that reads it says how it could be cut"
    nodes = list(channels.model.ir.graph)
    reasons = [reason for at, _, reason in channels.trace.ledger.pins if at < len(nodes) and nodes[at] is node]
    return reasons[0] if reasons else f"{node.op_type} '{node.name}' gives it no axis that could be cut"


def _shape(channels: "Channels", value: ir.Value) -> tuple[int | str, ...]:
    """The sizes; of symbolic ones the name."""
    sizes = channels.trace.shape_of.get(value, ())
    given = list(value.shape) if value.shape is not None and len(value.shape) == len(sizes) else sizes
    dynamic = [channels.trace.is_dynamic(value, axis) for axis in range(len(sizes))]
    names = [str(getattr(dim, "value", None) or "?") for dim in given]
    return tuple(name if varies else size for size, name, varies in zip(sizes, names, dynamic, strict=True))


def _find(channels: "Channels", name: str) -> ir.Value:
    found = {v.name: v for v in [*channels.model.ir.graph.inputs, *channels.trace.facets] if v.name}
    if name in found:
        return found[name]
    named = [n for n, _ in channels.parameters()]
    near = difflib.get_close_matches(name, named, 3, 0.5) or difflib.get_close_matches(name, list(found), 3, 0.5)
    near = near or [n for n in named if name and name.lower() in n.lower()][:3]
    hint = f"Is it {_either(near)}?" if near else f"Weights have names such as {_either(named[:3])}." if named else ""
    raise InputError(f"There is no tensor '{name}' in this model. {hint}".strip())


def _either(names: list[str]) -> str:
    return " or ".join([", ".join(f"'{n}'" for n in names[:-1]), f"'{names[-1]}'"] if names[1:] else map(repr, names))


class _Chains:
    """What every chain of one explanation needs."""

    def __init__(self, channels: "Channels", asked: ir.Value):
        self.channels = channels
        self.asked = asked
        self.ties = Ties(channels)
        self.causes = Causes(channels, self.ties)
        self.can_go = channels.deletable
        self.unit_of = np.full(channels.count, -1)
        sets = channels.units.sets
        self.unit_of[sets.flat[::-1]] = np.repeat(np.arange(len(sets)), sets.lengths)[::-1]
        self._holders: list[tuple[ir.Value, Facet]] = []
        self._holder = np.full(len(self.causes.of), -1)
        for value, facets in reversed(channels.trace.facets.items()):
            for facet in facets:
                self._holder[facet] = len(self._holders)
                self._holders.append((value, facet))

    def to_the_pin(self, label: int) -> list[Step]:
        """The ties from a label to the nearest pin; ties by one node are one step."""
        steps = self._source(label)
        while (further := int(self.causes.toward[label])) >= 0 and further != PINNED:
            step = self._step(self.ties.between(label, further), further, len(steps) - 1)
            if not steps or (step.node, step.tensor, step.axes) != (steps[-1].node, steps[-1].tensor, steps[-1].axes):
                steps.append(step)
            label = further
        return steps

    def along(self, label: int) -> list[Step]:
        """Every other tensor's axis that a label's channel lies on, nearest first."""
        channel = self.channels.channel
        mine = np.flatnonzero(channel == channel[label])
        steps = self._source(label)
        if len(mine) == 1:
            return steps
        inside = channel[self.ties.first] == channel[label]
        node = self.ties.node[inside]
        first, second = (np.searchsorted(mine, side[inside]) for side in (self.ties.first, self.ties.second))
        graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(len(mine), len(mine))).tocsr()
        start = int(np.searchsorted(mine, label))
        order, before = breadth_first_order(graph, start, directed=False)
        # The nodes that tie each place to the one before it.
        keys = np.r_[first * len(mine) + second, second * len(mine) + first]
        sort = np.argsort(keys, kind="stable")
        wanted = before[order[1:]].astype(np.int64) * len(mine) + order[1:]
        nodes = np.r_[node, node][sort[np.searchsorted(keys[sort], wanted)]]
        step_of = {int(self._holder[label]): len(steps) - 1}
        for place, at in zip(order[1:].tolist(), nodes.tolist(), strict=True):
            holder = int(self._holder[mine[place]])
            if holder not in step_of:
                step_of[holder] = len(steps)
                after = step_of[int(self._holder[mine[before[place]]])]
                steps.append(self._step(at, int(mine[place]), after))
        return steps

    def _source(self, label: int) -> list[Step]:
        """Where a label comes from, if not from the tensor that was asked for."""
        value, facet = self._holders[self._holder[label]]
        node = self.asked.producer()
        if value is self.asked or node is None:
            return []
        return [Step(node.op_type, node.name or "", value.name or "", spans(facet), -1)]

    def _step(self, at: int, label: int, after: int) -> Step:
        node = self.ties.nodes[at]
        value, facet = self._holders[self._holder[label]]
        return Step(node.op_type, node.name or "", value.name or "", spans(facet), after)

    def kinship(self, names: np.ndarray) -> np.ndarray:
        """A number for each of some channels, equal where the same ties mention them (but for a chance of 2^-64)."""
        channel = self.channels.channel
        among = np.zeros(self.channels.count, bool)
        among[names] = True
        inside = among[channel[self.ties.first]]
        pairs = channel[self.ties.first[inside]] * (len(self.ties.nodes) + 1) + self.ties.node[inside]
        pairs = np.unique(pairs)
        owner, at = np.divmod(pairs, len(self.ties.nodes) + 1)
        random = np.random.default_rng(0).integers(0, 2**64, len(self.ties.nodes) + 1, np.uint64)
        total = np.zeros(self.channels.count, np.uint64)
        np.add.at(total, owner, random[at])
        return total[names]


def _parts(chains: _Chains, facet: Facet) -> Iterator[Part]:
    """The places of a facet, grouped by their fate, in the order of their first places."""
    labels = np.asarray(facet).ravel()
    names = chains.channels.channel[labels]
    free = chains.can_go[names]
    fate = np.where(free, chains.kinship(names).astype(object), -1 - chains.causes.of[labels])
    _, first, group = np.unique(fate.astype(str), return_index=True, return_inverse=True)
    for number in np.argsort(first, kind="stable").tolist():
        place = int(first[number])
        label, places = int(labels[place]), runs(group == number)
        if free[place]:
            unit = chains.channels.units[int(chains.unit_of[names[place]])]
            yield Part(places, unit.kind, unit.exactness, None, tuple(chains.along(label)))
        else:
            cause = chains.causes.all[int(chains.causes.of[label])] if chains.causes.of[label] >= 0 else None
            yield Part(places, "", "", cause or Cause("", "", "no unit contains it"), tuple(chains.to_the_pin(label)))


# ---- text -----------------------------------------------------------------------------------------------------------


def _text(found: Explanation) -> Iterator[str]:
    yield f"{found.tensor} [{', '.join(map(str, found.shape))}]"
    for _, alike in itertools.groupby(found.axes, key=_stays_by):
        axes = list(alike)
        yield ""
        name = _axes_words(tuple(a for axis in axes for a in axis.axes))
        if len(axes) > 1:
            yield f"{name}: {' and '.join(f'{axis.size:,}' for axis in axes)} places stay"
            yield from _pin_text(axes[0].parts[0], "  ")
        elif len(axes[0].parts) == 1:
            yield from _part_text(axes[0].parts[0], f"{name}: ", "  ")
        else:
            yield f"{name}: {axes[0].size:,} places, not all alike"
            for part in axes[0].parts[:SHOWN_PARTS]:
                yield from _part_text(part, f"  {_places(part.places)}: ", "    ")
            if rest := axes[0].parts[SHOWN_PARTS:]:
                yield f"  {len(rest)} more parts with {sum(p.count for p in rest):,} places"
    if found.note:
        yield f"no axis can shrink: {found.note}"


def _stays_by(axis: Axis) -> object:
    """Equal for axes that stay as a whole for the same reason, as the axes of a kernel do; else the axis itself."""
    part = axis.parts[0]
    return (part.cause, part.chain) if len(axis.parts) == 1 and part.cause else axis.axes


def _part_text(part: Part, lead: str, indent: str) -> Iterator[str]:
    if part.cause is not None:
        yield f"{lead}{_counted(part.count, 'place')} stay{'s' if part.count == 1 else ''}"
        yield from _pin_text(part, indent)
        return
    yield f"{lead}{_counted(part.count, part.kind)} can go ({part.exactness})"
    if part.chain:
        yield f"{indent}with each of them goes its place in"
    shown = part.chain[:SHOWN_STEPS]
    for depth, step in _in_order(shown, -1, 0):
        yield f"{indent}  {'  ' * depth}{_axis(step)}, by {step.operator} '{step.node}'"
    if len(part.chain) > len(shown):
        yield f"{indent}  and {len(part.chain) - len(shown)} more"


def _pin_text(part: Part, indent: str) -> Iterator[str]:
    for step in part.chain:
        yield f"{indent}tied by {step.operator} '{step.node}' to {_axis(step)}"
    yield f"{indent}pinned: {part.cause.reason if part.cause else ''}"


def _in_order(steps: Sequence[Step], after: int, depth: int) -> Iterator[tuple[int, Step]]:
    """(depth, step), each behind the one it follows."""
    for number, step in enumerate(steps):
        if step.after == after:
            yield depth, step
            yield from _in_order(steps, number, depth + 1)


def _axis(step: Step) -> str:
    return f"{step.tensor} {_axes_words(step.axes)}"


def _axes_words(axes: tuple[int, ...]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {' and '.join(map(str, axes))}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _places(places: Iterable[tuple[int, int]]) -> str:
    places = list(places)
    words = [str(a) if b == a + 1 else f"{a}–{b - 1}" for a, b in places[:SHOWN_RUNS]]
    return f"places {', '.join(words)}{' …' if len(places) > SHOWN_RUNS else ''}"
