"""Channels: which labels go together, the units that can be deleted, and why anything else stays."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, reduce

import numpy as np
import onnx_ir as ir

from onnxprune.errors import EmptyAxisError, InputError, RaggedError
from onnxprune.graph import explain, grids, residual, weighing
from onnxprune.graph.labels import PINNED, Facet, distinct, matched, spans, unrolled
from onnxprune.graph.legality import Legality
from onnxprune.graph.model import Model, load
from onnxprune.graph.trace import Trace, walk
from onnxprune.graph.unit import BLOCK, KINDS, Unit, Units


def trace(model) -> "Channels":
    """Find every unit of `model` (anything `load` takes). Raises ModelError for a file that can't be read."""
    return Channels(walk(load(model)))


class Channels:
    """The units of one model, what pins the rest, and the masks that deletions leave."""

    def __init__(self, trace: Trace, order: np.ndarray | None = None):
        self.trace = trace
        self.channel = trace.ledger.solve()  # label -> channel
        self.count = int(self.channel.max()) + 1
        self._order = np.arange(self.count) if order is None else order
        self._named: dict[int, np.ndarray] = {}  # by the identity of a facet, which the trace keeps alive

    @property
    def model(self) -> Model:
        return self.trace.model

    def __repr__(self) -> str:
        kinds = defaultdict(int)
        for unit in self.units:
            kinds[unit.kind] += 1
        listed = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in sorted(kinds.items())) or "no unit"
        return f"Channels({self.model.name!r}: {listed}; {self.prunable:.1%} of the weights prunable)"

    # ---- units ------------------------------------------------------------------------------------------------------

    @cached_property
    def _grids(self) -> list[grids.Grid]:
        facets = (f for found in self.trace.facets.values() for f in found)
        return grids.collect(facets, (members for _, members in self.trace.ledger.rows), self.channel)

    @cached_property
    def _crossings(self) -> list[grids.Crossing]:
        return grids.crossings(self._grids)

    @cached_property
    def _legality(self) -> Legality:
        links = [(self.channel[names], self.channel[members]) for names, members in self.trace.ledger.rows]
        return Legality(self._grids, links, self.axes, self.count)

    @cached_property
    def pin_reasons(self) -> dict[int, str]:
        """{channel that stays: why}."""
        reasons = dict(self._pinned_by_rules)
        covered = self.deletable
        for names, reason in self._bundles[1]:
            for name in names[~covered[names]].tolist():
                reasons.setdefault(name, reason)
        return reasons

    @property
    def deletable(self) -> np.ndarray:
        """Which channels some unit contains: bool [channels]."""
        flags = np.zeros(self.count, bool)
        flags[self.units.sets.flat] = True
        return flags

    @cached_property
    def _bundles(self) -> tuple[list[grids.Bundles], list[grids.Loose]]:
        return grids.bundle(self._grids, self._order)

    @cached_property
    def _pinned_by_rules(self) -> dict[int, str]:
        pins = self.trace.ledger.pins
        first = np.full(self.count, len(pins))
        for number, (_, labels, _) in reversed(list(enumerate(pins))):
            first[self.channel[labels]] = number
        pinned = np.flatnonzero(first < len(pins))
        reasons = {c: pins[n][2] for c, n in zip(pinned.tolist(), first[pinned].tolist(), strict=True)}
        reasons.setdefault(int(self.channel[PINNED]), "padding or concatenation with something that can't shrink")
        for name, _, named in self._axes:
            if len(named) == 1:
                reasons.setdefault(int(named[0]), f"'{name}' has no other channel on its axis")
        return reasons

    @cached_property
    def units(self) -> Units:
        """The smallest legal deletions, in graph order; rows of grids (conv groups, heads) last."""
        sets = self._legal()
        sizes = sets.sums(self._sizes)
        several = np.flatnonzero(sets.lengths > 1)
        sizes[several] = 0
        counter = weighing.Counter(sets.chosen(several), self.count)
        for name, facets in self.parameters() if len(several) else ():
            sizes[several] += counter.deleted(self.shape(name), [self.named(f) for f in facets])
        chosen = np.flatnonzero(sizes >= 0.5)
        sets = sets.chosen(chosen)
        restated = np.zeros(self.count, bool)
        for labels in self.trace.ledger.restated:
            restated[self.channel[labels]] = True
        whole = np.rint(sizes[chosen]).astype(np.int64)
        return Units(sets, whole, sets.least(self._kinds), sets.any(restated), lambda: self._places)

    def _legal(self) -> weighing.Sets:
        """Sets of channels that may go: single ones, bundles, and then the rows that links name."""
        pinned = np.zeros(self.count, bool)
        pinned[list(self._pinned_by_rules)] = True
        bundles, loose = self._bundles
        is_name = np.zeros(self.count, bool)
        for names, _ in self.trace.ledger.rows:
            is_name[self.channel[names]] = True
        apart = pinned | is_name
        for names, _ in loose:
            apart[names] = True
        evenly, others = [np.flatnonzero(~apart)[:, None]], []
        for alike in bundles:
            if alike.even and not is_name[alike.sets].any():
                # No row and no axis is whole, so no link says more, and every grid loses evenly.
                evenly.append(np.sort(alike.sets[~pinned[alike.sets].any(axis=1)], axis=1))
            else:
                others += list(alike.sets)
        rows = np.array(self._legality.representatives, np.int64)
        candidates = weighing.Sets.side_by_side([*others, *rows[:, None]])
        numbers, closed = self._legality.legal(candidates, pinned)
        is_row = numbers >= len(others)
        by_place = weighing.Sets.of(evenly) + weighing.Sets.side_by_side([closed[i] for i in np.flatnonzero(~is_row)])
        order = np.argsort(by_place.flat[by_place.starts], kind="stable")
        return by_place.chosen(order) + weighing.Sets.side_by_side([closed[i] for i in np.flatnonzero(is_row)])

    @cached_property
    def blocks(self) -> tuple[Unit, ...]:
        """Whole residual blocks. They are deleted like `units`, and numbered on from them."""
        found = []
        for block in self._residual:
            weights = [value for value in block.weights() if _is_weight(value)]
            size = sum(value.const_value.size for value in weights)
            index = len(self.units) + len(found)
            largest = max(weights, key=lambda value: value.const_value.size)
            found.append(Unit(index, BLOCK, size, "exact", largest.name or "", ()))
        return tuple(found)

    @cached_property
    def _residual(self) -> list[residual.Block]:
        found = residual.find(self.model.ir.graph, self.trace.shape_of)
        return [block for block in found if any(_is_weight(value) for value in block.weights())]

    def dropped(self, units: Iterable[Unit | int]) -> list[residual.Block]:
        """The residual blocks among `units`."""
        indices = self._indices(units)
        chosen = np.unique(indices[indices >= len(self.units)]) - len(self.units)
        return [self._residual[number] for number in chosen.tolist()]

    def emptied(self, deleted: np.ndarray) -> tuple[str, int] | None:
        """(tensor, axis) that the deletion would leave without elements."""
        whole = np.flatnonzero(self._axis_sets.all(deleted))
        return self._axes[int(whole[0])][:2] if len(whole) else None

    @cached_property
    def _axis_sets(self) -> weighing.Sets:
        return weighing.Sets.side_by_side(self.axes)

    @property
    def axes(self) -> list[np.ndarray]:
        """Every distinct labelled axis, as the channels on it."""
        return [named for _, _, named in self._axes]

    @cached_property
    def _axes(self) -> list[tuple[str, int, np.ndarray]]:
        """Every distinct labelled axis, as the set of its channels."""
        looked_at: set[int] = set()
        seen: dict[bytes, tuple[str, int, np.ndarray]] = {}
        in_order: set[bytes] = set()  # most axes carry their channels in the same order: no need to sort them again
        for value, facets in self.trace.facets.items():
            for facet in facets:
                if facet.size > 1 and id(facet) not in looked_at:
                    looked_at.add(id(facet))
                    named = self.named(facet)
                    key = named.tobytes() if named.size <= self.count else b""
                    if key not in in_order:
                        named = distinct(named, self.count)
                        seen.setdefault(named.tobytes(), (value.name or "", spans(facet)[0], named))
                    if key:
                        in_order.add(key)
        return list(seen.values())

    def named(self, facet: Facet) -> np.ndarray:
        """The channels of a facet of the trace."""
        found = self._named.get(id(facet))
        if found is None:
            found = self._named[id(facet)] = self.channel[facet]
        return found

    @cached_property
    def _kinds(self) -> np.ndarray:
        """The kind of each channel, as a number in KINDS."""
        said = np.full(self.count, len(KINDS))
        for labels, kind in self.trace.ledger.kinds:
            channels = self.channel[labels]
            said[channels] = np.minimum(said[channels], KINDS.index(kind))
        for names, members in self.trace.ledger.rows:
            # Heads side by side that go together, since they read one head of keys and values.
            named, rows = self.channel[names], self.channel[members]
            if len(named) > 1 and said[named[0]] == KINDS.index("head"):
                repeats = (rows[1:] == rows[:-1]).all(axis=1)
                if repeats.any() and not repeats.all():
                    said[named[1:][repeats]] = KINDS.index("key-value group")
        return np.where(said < len(KINDS), said, KINDS.index("channel"))

    @cached_property
    def _places(self) -> list[str]:
        """The first weight that carries each channel, as text like 'conv1.weight[3]'; "" where none does."""
        found = [""] * self.count
        for name, facets in self.parameters():
            for facet in facets:
                axes = spans(facet)
                if len(axes) == 1:
                    start = f"{name}[{':, ' * axes[0]}"
                    for place, c in enumerate(self.named(facet).ravel().tolist()):
                        found[c] = found[c] or f"{start}{place}]"
        return found

    # ---- weights ----------------------------------------------------------------------------------------------------

    def parameters(self) -> tuple[tuple[str, tuple[Facet, ...]], ...]:
        """(initializer name, its facets) of every labelled float initializer that isn't a copy."""
        return self._parameters

    @cached_property
    def _parameters(self) -> tuple[tuple[str, tuple[Facet, ...]], ...]:
        return tuple(
            (name, self.facets(value))
            for name, value in self.model.ir.graph.initializers.items()
            if name not in self.model.copies and _is_weight(value)
        )

    def facets(self, value: ir.Value) -> tuple[Facet, ...]:
        """The facets of a tensor, with a label for every place of the axes that they speak about."""
        return tuple(unrolled(facet, self.trace.shape_of[value]) for facet in self.trace.facets.get(value, ()))

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Number of weights that each channel deletes by itself."""
        return self.weigh({name: None for name, _ in self.parameters()})

    def weigh(self, saliency: Mapping[str, np.ndarray | None]) -> np.ndarray:
        """Sum a saliency over the weights of each channel: {initializer name: array of its shape} -> array [channels].

        None stands for all ones. Elements that two facets of a tensor give to one channel count once.
        """
        total = np.zeros(self.count)
        for name, facets in self.parameters():
            if name in saliency:
                named = [self.named(f) for f in facets]
                weighing.add(total, saliency[name], self.shape(name), named)
        return total

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an initializer."""
        return self.trace.shape_of[self.model.ir.graph.initializers[name]]

    @cached_property
    def has_bundles(self) -> bool:
        """Whether grids leave a choice of which members go together."""
        return bool((self.units.sets.lengths > 1).any())

    def importance(self, saliency: Mapping[str, np.ndarray]) -> np.ndarray:
        """The saliency of each unit: the sum over its channels. Array [units]."""
        return self.units.sets.sums(self.weigh(saliency))

    def ranked(self, saliency: Mapping[str, np.ndarray] | np.ndarray, first: np.ndarray | None = None) -> "Channels":
        """The same channels, with bundles that follow the ranking: the k-th bundle has each row's k-th least important.

        `saliency` is {initializer name: array of its shape}, or an array [channels]; channels in `first`, bool
        [channels], come before others.
        """
        if not self.has_bundles:
            return self
        total = saliency if isinstance(saliency, np.ndarray) else self.weigh(saliency)
        keys = (total,) if first is None else (total, ~first)
        return self._ordered(np.argsort(np.lexsort(keys), kind="stable"))

    def _ordered(self, order: np.ndarray) -> "Channels":
        """The same channels with bundles in another order."""
        other = copy.copy(self)
        other._order = order
        for name in ("_bundles", "units", "blocks", "pin_reasons", "has_bundles", "prunable", "pinned"):
            other.__dict__.pop(name, None)
        return other

    def covering(self, deleted: np.ndarray) -> tuple["Channels", tuple[int, ...]]:
        """Channels whose bundles take `deleted[channel]` members first, and its units that lie within `deleted`."""
        order = (~deleted).astype(np.int64)
        channels = self._ordered(order) if self.has_bundles else self
        return channels, tuple(channels.units.within(deleted).tolist())

    @cached_property
    def prunable(self) -> float:
        """Fraction of the weights that some unit can delete."""
        return explain.prunable(self)

    @cached_property
    def pinned(self) -> dict[str, int]:
        """{reason: number of weights that no unit can delete because of it}, largest first."""
        return explain.pinned(self)

    def explain(self, name: str) -> explain.Explanation:
        """The chain of ties and pins behind each axis of a tensor. Raises InputError for an unknown name."""
        return explain.explain(self, name)

    # ---- deletion ---------------------------------------------------------------------------------------------------

    def deleted(self, units: Iterable[Unit | int]) -> np.ndarray:
        """Which channels a set of units deletes: bool [channels].

        Raises EmptyAxisError, naming the tensor and axis; RaggedError where units that overlap don't go together.
        """
        indices = self._indices(units)
        deleted = np.zeros(self.count, bool)
        members = self.units.sets.chosen(np.unique(indices[indices < len(self.units)])).flat
        deleted[members] = True
        emptied = self.emptied(deleted)
        if emptied:
            name, axis = emptied
            raise EmptyAxisError(
                f"Deleting these units leaves nothing of axis {axis} of '{name}'. Keep at least one unit there."
            )
        if len(members) > deleted.sum() and self.ragged(deleted):
            raise RaggedError(
                "Some of these units share channels, and without all of them the rows of a tensor would differ in "
                "length. Leave out units that share channels with others."
            )
        return deleted

    def ragged(self, deleted: np.ndarray) -> bool:
        """Whether the deletion would leave rows of different lengths. Units that share no channel never do."""
        return not all(grid.stays_regular(deleted) for grid in [*self._grids, *self._crossings])

    def _indices(self, units: Iterable[Unit | int]) -> np.ndarray:
        """Units as indices. Raises InputError for one that isn't of these channels."""
        given = units if isinstance(units, np.ndarray) else list(units)
        found = np.array([self._index(unit) for unit in given] if Unit in {*map(type, given)} else given)
        if not found.size:
            return np.empty(0, np.int64)
        if found.dtype.kind not in "iu" or found.ndim != 1:
            raise InputError(f"{units!r} are no units. Give units, or their indices.")
        known = len(self.units)
        if found.min() < 0 or found.max() >= known:  # blocks are looked for only where somebody asks for them
            count = known + len(self.blocks)
            for unit in found[(found < 0) | (found >= count)].tolist():
                raise InputError(f"There is no unit {unit}: this model has units 0 to {count - 1}.")
        return found

    def _index(self, unit: Unit | int) -> int:
        if not isinstance(unit, Unit):
            return unit
        known = self.blocks if unit.kind == BLOCK else self.units
        index = unit.index - (len(self.units) if unit.kind == BLOCK else 0)
        if 0 <= index < len(known) and known[index] == unit:
            return unit.index
        raise InputError(f"{unit} belongs to other channels. Take the units of those that you pass.")

    def keep_mask(self, value: ir.Value, deleted: np.ndarray) -> np.ndarray:
        """Which elements of a tensor stay: bool, broadcastable to its shape, of size 1 where no facet speaks."""
        return unrolled(self.keep_runs(value, deleted), self.trace.shape_of[value])

    def keep_runs(self, value: ir.Value, deleted: np.ndarray) -> np.ndarray:
        """`keep_mask` with one place for each run of places that stay or go together, as facets have them."""
        facets = self.trace.facets.get(value, ())
        gone = [found for found in (deleted[self.named(f)] for f in facets) if found.any()]
        if not gone:
            return np.ones((1,) * len(self.trace.shape_of[value]), bool)
        return ~reduce(np.logical_or, matched(gone))

    def keep_masks(self, units: Sequence[Unit | int]) -> dict[str, np.ndarray]:
        """{initializer name: bool array of its shape, False = goes}, for every initializer that loses something.

        A block's initializers go with it, whole, and are not among them.
        """
        deleted = self.deleted(units)
        masks = {}
        for name, value in self.model.ir.graph.initializers.items():
            mask = self.keep_mask(value, deleted)
            if not mask.all():
                masks[name] = np.array(np.broadcast_to(mask, self.trace.shape_of[value]))
        return masks


def _is_weight(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1
