"""Remove what provably changes nothing, and say of every channel what became of it and why."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import onnx_ir as ir

from onnxprune.graph.exact.backward import alive, seeds
from onnxprune.graph.exact.constants import replace_constants
from onnxprune.graph.exact.duplicates import alike
from onnxprune.graph.exact.forward import Facts, forward
from onnxprune.graph.exact.plan import plan
from onnxprune.graph.exact.products import OPERATORS
from onnxprune.graph.exact.readings import Reading, readings
from onnxprune.graph.exact.rewrite import apply, bias_problem, edits, weight_problem
from onnxprune.graph.exact.subnormals import SMALLEST, flush
from onnxprune.graph.labels import spans
from onnxprune.graph.model import Model, load, normalise
from onnxprune.graph.remove import remove
from onnxprune.graph.trace import walk
from onnxprune.graph.units import Channels

#: What can become of a channel.
VERDICTS = ("removed", "folded", "merged", "kept")


@dataclass(frozen=True)
class KeptDead:
    """A channel that holds a constant, or that nobody reads, and yet stays: where, and which node is in the way."""

    tensor: str
    axis: int
    index: int
    node: str
    reason: str


@dataclass(frozen=True)
class Gone:
    """A unit that went: `where` names its first weight; `verdict` is one of VERDICTS for its `channels`."""

    where: str
    kind: str
    channels: int
    verdict: str


@dataclass(frozen=True)
class ShrinkReport:
    """What `shrink` did. `verdicts` counts channels; `gone` lists the units that went, `kept` names the first weight of
    each that stays, `kept_dead` the channels among these that are dead.

    `steps` says what was done, in order; `subnormals` is the number of weights that were set to 0 beforehand because
    they were below `zero_below`.
    """

    verdicts: Mapping[str, int] = field(default_factory=dict)
    kept_dead: tuple[KeptDead, ...] = ()
    rounds: int = 0
    gone: tuple[Gone, ...] = ()
    kept: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    subnormals: int = 0
    zero_below: float = 0.0

    def as_dict(self) -> dict:
        """The report as plain JSON types."""
        return {**asdict(self), "verdicts": dict(self.verdicts)}


def shrink(
    model, *, keep_denormals: bool = False, zero_below: float | None = None, at_most: int | None = None
) -> tuple[Model, ShrinkReport]:
    """Remove every unit that no output depends on; the function stays the same.

    `model` is anything `load` takes. Values inside the network are assumed finite. Weights below 2^-126 become 0 first,
    unless `keep_denormals`; with `zero_below` all below that do, which changes the function. `at_most` stops after so
    many steps. Of an axis on which everything is dead one channel stays, unless the tensor holds a constant and its
    readers take that instead. Returns the smaller model, and the report. Where nothing is dead the model comes back as
    it was.
    """
    model = load(model)
    below = zero_below if zero_below is not None else 0.0 if keep_denormals else SMALLEST
    model, subnormals = flush(model, below) if below else (model, 0)
    result, left = model, at_most
    gone: list[Gone] = []
    steps: list[str] = []
    counts: Counter[str] = Counter()
    rounds = 0
    while True:
        found = _Round(model)
        if left is None or left > 0:
            simpler = replace_constants(found.channels.trace, found.facts)
            if simpler is not None:
                vanished = found.vanished(simpler)
                gone += vanished
                steps.append("branches that compute constants")
                counts["removed"] += sum(unit.channels for unit in vanished)
                result = simpler
                model = normalise(simpler.ir.clone(), simpler.name)
                rounds += 1
                left = None if left is None else left - 1
                continue
        found.choose(left)
        if not found.units:
            break
        result, entries = found.without()
        gone += entries
        steps += [f"{entry.kind} '{entry.where}' ({entry.verdict})" for entry in entries]
        counts.update(found.verdicts())
        model = normalise(result.ir.clone(), result.name)  # what was merged again may tie layers again
        rounds += 1
        left = None if left is None else left - len(entries)
    if not rounds:
        result = remove(model, found.channels, ())
    counts["kept"] = len({c for u in found.channels.units for c in u.channels})
    verdicts = {verdict: counts[verdict] for verdict in VERDICTS}
    report = ShrinkReport(
        verdicts,
        tuple(found.kept_dead()),
        rounds,
        tuple(gone),
        tuple(unit.where for unit in found.channels.units),
        tuple(steps),
        subnormals,
        below,
    )
    return result, report


class _Round:
    """One look at a model: what is known, what is needed, and which units can go."""

    def __init__(self, model: Model):
        self.model = model
        self.channels = Channels(walk(model))
        self.facts: Facts = forward(self.channels.trace)
        self.units: list[int] = []
        #: Nodes whose type can't hold what their readings would take over.
        self.refused: set[ir.Node] = set()

    def choose(self, at_most: int | None = None) -> None:
        """Find the units that can go, `at_most` so many, and what their readers take over."""
        while True:
            self._choose(at_most)
            self.edits, problems = edits(self.channels, self.reads, self.deleted)
            if not problems:
                return
            self.refused |= {reading.node for reading in problems}

    def _choose(self, at_most: int | None) -> None:
        channels = self.channels
        self.reads: Sequence[Reading] = readings(channels, self.facts)
        needed = seeds(channels, self.facts)
        plan(channels, self.reads, needed, alike(channels.trace, self.facts), self.refused)
        free, _ = alive(channels, self.reads, needed, by_value=False)
        while True:
            lives, self.needed_by = alive(channels, self.reads, needed)
            channels, units = self.channels.covering(~lives)
            self.units = _evenly(channels, _without_emptying(channels, units)[:at_most])
            self.deleted = channels.deleted(self.units)
            # A channel that stays and doesn't count only because of its value has to keep that value.
            stays = ~self.deleted & ~lives & free
            if not stays.any():
                break
            needed = needed | stays
        self.lives, self.channels = lives, channels

    def without(self) -> tuple[Model, list[Gone]]:
        """The model without the chosen units, and what each was."""
        smaller = remove(self.model, self.channels, self.units)
        apply(smaller, self.edits)
        verdict_of = self._verdict_of(self.deleted)
        entries = []
        for index in self.units:
            unit = self.channels.units[index]
            verdict = max((verdict_of[c] for c in unit.channels), key=VERDICTS.index)
            entries.append(Gone(unit.where, unit.kind, len(unit.channels), verdict))
        return smaller, entries

    def _verdict_of(self, deleted: np.ndarray) -> dict[int, str]:
        found = dict.fromkeys(np.flatnonzero(deleted).tolist(), "removed")
        for position, verdict in ((0, "folded"), (1, "merged")):
            for reading in self.reads:
                places = reading.handled(deleted)[position]
                if places.any():
                    for named in reading.channels_of():
                        found.update(dict.fromkeys(np.unique(named[places & deleted[named]]).tolist(), verdict))
        return found

    def verdicts(self) -> Counter:
        return Counter(self._verdict_of(self.deleted).values())

    def vanished(self, smaller: Model) -> list[Gone]:
        """Units whose weights are all gone with nodes that were."""
        left = set(smaller.ir.graph.initializers)
        channels = self.channels
        lost = {name for name, _ in channels.parameters() if name not in left}
        stays = np.zeros(channels.count, bool)
        goes = np.zeros(channels.count, bool)
        for name, facets in channels.parameters():
            for found in facets:
                (goes if name in lost else stays)[channels.channel[found]] = True
        gone = goes & ~stays
        return [
            Gone(u.where, u.kind, len(u.channels), "removed") for u in channels.units if gone[list(u.channels)].all()
        ]

    def kept_dead(self) -> Iterator[KeptDead]:
        """Channels that hold a constant, or that nobody needs, and stay."""
        channels = self.channels
        seen: set[int] = set()
        for node in self.model.ir.graph:
            if node.op_type not in OPERATORS or node.domain:
                continue
            pair = self.facts.known.get(node.outputs[0])
            for facet in channels.facets(node.outputs[0]):
                axes = spans(facet)
                if len(axes) != 1:
                    continue
                named = channels.channel[facet].ravel()
                flags, values = np.zeros(named.size, bool), np.ones(named.size)
                if pair is not None:
                    others = tuple(a for a in range(facet.ndim) if a != axes[0])
                    same = pair.same_along(others)
                    flags = np.broadcast_to(same.is_known, facet.shape).ravel()
                    values = np.broadcast_to(same.value, facet.shape).ravel()
                for index in np.flatnonzero(flags | ~self.lives[named]).tolist():
                    c = int(named[index])
                    if c in seen:
                        continue
                    seen.add(c)
                    value = float(values[index]) if flags[index] else None
                    where, reason = self._why(c, value)
                    yield KeptDead(node.outputs[0].name or "", axes[0], index, where, reason)

    def _why(self, c: int, value: float | None) -> tuple[str, str]:
        """The node in the way of a channel, and why it is."""
        what = "nobody reads it" if value is None else f"holds {value:.6g} here"
        reader = self.needed_by.get(c)
        if c in self.channels.pin_reasons:
            return (reader.where if reader else ""), f"{what}; {self.channels.pin_reasons[c]}"
        if reader is None:
            return "", f"{what}; it can only go together with others that are needed"
        if reader.node in self.refused:
            return reader.where, f"{what}; {reader.where} computes in halves, which round what it would take over"
        problem = bias_problem(reader)
        if problem and not weight_problem(reader) and any((named == c).any() for named in reader.channels_of()):
            return reader.where, f"{what}; {reader.where} {problem}"
        return reader.where, f"{what}; what it is added to is read"


def _without_emptying(channels: Channels, units: tuple[int, ...]) -> list[int]:
    """The units; where an axis would be left empty the heaviest first, as long as something stays."""
    deleted = np.zeros(channels.count, bool)
    for index in units:
        deleted[list(channels.units[index].channels)] = True
    if channels.emptied(deleted) is None:
        return list(units)
    axes_of: dict[int, list[int]] = defaultdict(list)
    left = []
    for number, named in enumerate(channels.axes):
        left.append(len(named))
        for c in named.tolist():
            axes_of[c].append(number)
    deleted[:] = False
    chosen = []
    for index in sorted(units, key=lambda index: -channels.units[index].size):
        new = [c for c in channels.units[index].channels if not deleted[c]]
        loses = Counter(axis for c in new for axis in axes_of[c])
        if all(left[axis] > count for axis, count in loses.items()):
            for axis, count in loses.items():
                left[axis] -= count
            deleted[new] = True
            chosen.append(index)
    return sorted(chosen)


def _evenly(channels: Channels, units: list[int]) -> list[int]:
    """The units; where some share channels and don't go together the heaviest first, as long as rows stay even."""
    deleted = np.zeros(channels.count, bool)
    for index in units:
        deleted[list(channels.units[index].channels)] = True
    if not channels.ragged(deleted):
        return units
    chosen: list[int] = []
    deleted[:] = False
    for index in sorted(units, key=lambda index: -channels.units[index].size):
        with_it = deleted.copy()
        with_it[list(channels.units[index].channels)] = True
        if not channels.ragged(with_it):
            deleted = with_it
            chosen.append(index)
    return sorted(chosen)
