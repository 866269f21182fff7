"""Units: the smallest legal deletions, what each is worth, and why anything else stays."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxprune.errors import EmptyAxisError, InputError
from onnxprune.graph import explain, grids, residual
from onnxprune.graph.labels import PINNED, Facet, any_flagged, spans
from onnxprune.graph.model import Model, load
from onnxprune.graph.trace import Trace, walk

#: What a unit can be; of several that fit the first is said.
KINDS = ("conv group", "key-value group", "head", "head dimension", "channel", "neuron", "embedding")
#: What `Channels.blocks` are.
BLOCK = "block"


@dataclass(frozen=True)
class Unit:
    """One smallest legal deletion.

    `kind` is one of KINDS ("key-value group" are the heads that share keys and values), or "block" for a whole residual
    branch, which has no channels; `size` the number of weights it deletes; `exactness` is "exact" (the function of the
    zeroed network is kept) or "restated"; `where` names its first weight.
    """

    index: int
    kind: str
    size: int
    exactness: str
    where: str
    channels: tuple[int, ...] = field(repr=False)


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
    def _legality(self) -> grids.Legality:
        links = [(self.channel[names], self.channel[members]) for names, members in self.trace.ledger.rows]
        return grids.Legality(self._grids, links, self.axes, self.count)

    @cached_property
    def pin_reasons(self) -> dict[int, str]:
        """{channel that stays: why}."""
        reasons = dict(self._pinned_by_rules)
        covered = {c for unit in self.units for c in unit.channels}
        for name, reason in self._bundles[1].items():
            if name not in covered:
                reasons.setdefault(name, reason)
        return reasons

    @cached_property
    def _bundles(self) -> tuple[list[np.ndarray], dict[int, str]]:
        return grids.bundle(self._grids, self._order)

    @cached_property
    def _pinned_by_rules(self) -> dict[int, str]:
        reasons: dict[int, str] = {}
        for _, labels, reason in self.trace.ledger.pins:
            for name in np.unique(self.channel[labels]):
                reasons.setdefault(int(name), reason)
        reasons.setdefault(int(self.channel[PINNED]), "padding or concatenation with something that can't shrink")
        for value, facets in self.trace.facets.items():
            for facet in facets:
                if facet.size > 1:
                    first = self.channel[facet.flat[0]]
                    if int(first) not in reasons and (self.channel[facet] == first).all():
                        reasons[int(first)] = f"'{value.name}' has no other channel on its axis"
        return reasons

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The smallest legal deletions, in graph order; rows of grids (conv groups, heads) last."""
        restated = np.zeros(self.count, bool)
        for labels in self.trace.ledger.restated:
            restated[self.channel[labels]] = True
        found = []
        for members in self._legal():
            size = self._size(members)
            if size:
                kind, where = self._describe(members)
                exactness = "restated" if restated[members].any() else "exact"
                found.append(Unit(len(found), kind, size, exactness, where, tuple(members.tolist())))
        return tuple(found)

    def _legal(self) -> list[np.ndarray]:
        """Sets of channels that may go: single ones, bundles, and then the rows that links name."""
        pinned = np.zeros(self.count, bool)
        pinned[list(self._pinned_by_rules)] = True
        bundles, loose = self._bundles
        apart = pinned.copy()
        apart[list(loose)] = True
        for names, _ in self.trace.ledger.rows:
            apart[self.channel[names]] = True
        found = {(c,): np.array([c]) for c in np.flatnonzero(~apart).tolist()}
        for members in bundles:
            self._add_legal(found, members, pinned)
        ordered = sorted(found.values(), key=lambda members: int(members[0]))
        for name, row in self._legality.links:
            self._add_legal(found, np.append(row, name), pinned)
        return ordered + list(found.values())[len(ordered) :]

    def _add_legal(self, found: dict[tuple[int, ...], np.ndarray], members: np.ndarray, pinned: np.ndarray) -> None:
        """Add the set with all that its links demand, unless that isn't legal."""
        if not pinned[members].any():
            closed = self._legality.close(members)
            key = tuple(closed.tolist())
            if key not in found and not pinned[closed].any() and self._legality.allows(closed):
                found[key] = closed

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
        chosen = {self._unit(unit).index for unit in units}
        return [block for unit, block in zip(self.blocks, self._residual, strict=True) if unit.index in chosen]

    def emptied(self, deleted: np.ndarray) -> tuple[str, int] | None:
        """(tensor, axis) that the deletion would leave without elements."""
        for name, shape_axes, named in self._axes:
            if deleted[named].all():
                return name, shape_axes
        return None

    @property
    def axes(self) -> list[np.ndarray]:
        """Every distinct labelled axis, as the channels on it."""
        return [named for _, _, named in self._axes]

    @cached_property
    def _axes(self) -> list[tuple[str, int, np.ndarray]]:
        """Every distinct labelled axis, as the set of its channels."""
        seen: dict[bytes, tuple[str, int, np.ndarray]] = {}
        for value, facets in self.trace.facets.items():
            for facet in facets:
                if facet.size > 1:
                    named = np.unique(self.channel[facet])
                    seen.setdefault(named.tobytes(), (value.name or "", spans(facet)[0], named))
        return list(seen.values())

    def _describe(self, members: np.ndarray) -> tuple[str, str]:
        kinds = {self._kinds.get(int(c)) for c in members}
        kind = next((k for k in KINDS if k in kinds), "channel")
        place = self._places.get(int(members[0])) or next(
            (self._places[int(c)] for c in members if int(c) in self._places), ""
        )
        return kind, place

    @cached_property
    def _kinds(self) -> dict[int, str]:
        rank = {kind: place for place, kind in enumerate(KINDS)}
        found: dict[int, str] = {}
        for labels, kind in self.trace.ledger.kinds:
            for name in np.unique(self.channel[labels]).tolist():
                if rank[kind] < rank.get(found.get(name, ""), len(rank)):
                    found[name] = kind
        for names, members in self.trace.ledger.rows:
            # Heads side by side that go together, since they read one head of keys and values.
            named, rows = self.channel[names], self.channel[members]
            repeats = (rows[1:] == rows[:-1]).all(axis=1)
            if repeats.any() and not repeats.all() and found.get(int(named[0])) == "head":
                found.update(dict.fromkeys(named[1:][repeats].tolist(), "key-value group"))
        return found

    @cached_property
    def _places(self) -> dict[int, str]:
        """{channel: the first weight that carries it, as text like 'conv1.weight[3]'}."""
        found: dict[int, str] = {}
        for name, facets in self.parameters():
            for facet in facets:
                axes = spans(facet)
                if len(axes) != 1:
                    continue
                colons = ":, " * axes[0]
                for place, c in enumerate(self.channel[facet].ravel().tolist()):
                    found.setdefault(c, f"{name}[{colons}{place}]")
        return found

    # ---- weights ----------------------------------------------------------------------------------------------------

    def parameters(self) -> Iterator[tuple[str, tuple[Facet, ...]]]:
        """(initializer name, its facets) of every labelled float initializer that isn't a copy."""
        for name, value in self.model.ir.graph.initializers.items():
            if name not in self.model.copies and _is_weight(value):
                yield name, self.facets(value)

    def facets(self, value: ir.Value) -> tuple[Facet, ...]:
        return tuple(self.trace.facets.get(value, ()))

    def _size(self, members: np.ndarray) -> int:
        """How many weights the channels delete together."""
        if len(members) == 1:
            return int(self._sizes[members[0]])
        deleted = np.zeros(self.count, bool)
        deleted[members] = True
        return int(sum(per_place * gone(deleted).sum() for per_place, gone in self._counters(members)))

    def _counters(self, members: np.ndarray):
        touched = {t for c in members for t in self._tensors_of.get(int(c), ())}
        for name in sorted(touched):
            value = self.model.ir.graph.initializers[name]
            facets = self.facets(value)
            joint = np.broadcast_shapes(*[f.shape for f in facets])
            per_place = int(np.prod(self.trace.shape_of[value])) // int(np.prod(joint))
            yield per_place, lambda deleted, facets=facets: any_flagged(deleted, [self.channel[f] for f in facets])

    @cached_property
    def _tensors_of(self) -> dict[int, set[str]]:
        found: dict[int, set[str]] = defaultdict(set)
        for name, facets in self.parameters():
            for facet in facets:
                for c in np.unique(self.channel[facet]):
                    found[int(c)].add(name)
        return found

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
            if name not in saliency:
                continue
            array = saliency[name]
            shape = self.trace.shape_of[self.model.ir.graph.initializers[name]]
            if array is None:
                array = np.broadcast_to(np.float64(1), shape)
            named = [self.channel[f] for f in facets]
            for facet in named:
                summed = _sum_to(array, facet.shape)
                total += np.bincount(facet.ravel(), weights=summed.ravel(), minlength=self.count)
            for i, a in enumerate(named):
                for b in named[:i]:
                    total -= self._shared(array, a, b)
        return total

    def _shared(self, array: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """What was counted twice because both facets give an element the same channel."""
        if not np.intersect1d(a, b).size:
            return np.zeros(self.count)
        a, b = np.broadcast_arrays(a, b)
        same = a == b
        summed = _sum_to(array, a.shape)
        return np.bincount(a[same], weights=summed[same], minlength=self.count)

    @cached_property
    def has_bundles(self) -> bool:
        """Whether grids leave a choice of which members go together."""
        return any(len(unit.channels) > 1 for unit in self.units)

    def importance(self, saliency: Mapping[str, np.ndarray]) -> np.ndarray:
        """The saliency of each unit: the sum over its channels. Array [units]."""
        total = self.weigh(saliency)
        return np.array([total[list(unit.channels)].sum() for unit in self.units])

    def ranked(self, saliency: Mapping[str, np.ndarray], first: np.ndarray | None = None) -> "Channels":
        """The same channels, with bundles that follow the ranking: the k-th bundle has each row's k-th least important.

        `saliency` is {initializer name: array of its shape}; channels in `first`, bool [channels], come before others.
        """
        if not self.has_bundles:
            return self
        total = self.weigh(saliency)
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
        return channels, tuple(u.index for u in channels.units if deleted[list(u.channels)].all())

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
        """Which channels a set of units deletes: bool [channels]. Raises EmptyAxisError, naming the tensor and axis."""
        deleted = np.zeros(self.count, bool)
        for unit in units:
            deleted[list(self._unit(unit).channels)] = True
        emptied = self.emptied(deleted)
        if emptied:
            name, axis = emptied
            raise EmptyAxisError(
                f"Deleting these units leaves nothing of axis {axis} of '{name}'. Keep at least one unit there."
            )
        return deleted

    def _unit(self, unit: Unit | int) -> Unit:
        if isinstance(unit, Unit):
            known = self.blocks if unit.kind == BLOCK else self.units
            index = unit.index - (len(self.units) if unit.kind == BLOCK else 0)
            if 0 <= index < len(known) and known[index] == unit:
                return unit
            raise InputError(f"{unit} belongs to other channels. Take the units of those that you pass.")
        if not isinstance(unit, int | np.integer):
            raise InputError(f"{unit!r} is no unit. Give units, or their indices.")
        if 0 <= unit < len(self.units):
            return self.units[unit]
        count = len(self.units) + len(self.blocks)
        if not 0 <= unit < count:
            raise InputError(f"There is no unit {unit}: this model has units 0 to {count - 1}.")
        return self.blocks[unit - len(self.units)]

    def keep_mask(self, value: ir.Value, deleted: np.ndarray) -> np.ndarray:
        """Which elements of a tensor stay: bool, broadcastable to its shape, of size 1 where no facet speaks."""
        gone = [found for found in (deleted[self.channel[f]] for f in self.facets(value)) if found.any()]
        if not gone:
            return np.ones((1,) * len(self.trace.shape_of[value]), bool)
        return ~np.logical_or.reduce(np.broadcast_arrays(*gone))

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


def _sum_to(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    axes = tuple(a for a, size in enumerate(shape) if size == 1 and array.shape[a] != 1)
    return array.sum(axis=axes, keepdims=True, dtype=np.float64) if axes else np.asarray(array, np.float64)
