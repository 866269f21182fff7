"""Which units to delete: keep the most saliency that fits the budget, on widths that the target runs fast.

Units that live on the same axes form a group; of each group the least salient units go. A layer's cost depends on its
input width and its output width at once, so the widths are chosen together by a mixed-integer program: one choice for
each group, and for each pair of groups that meet in a layer one variable for each pair of choices.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxprune.errors import BudgetUnreachable, InputError, RecipeError
from onnxprune.graph.labels import spans
from onnxprune.graph.units import Channels
from onnxprune.prune import ranking as rankings
from onnxprune.prune.cost import node_macs, sample_shapes
from onnxprune.prune.groups import Group, Reason, find, fits
from onnxprune.prune.program import best_widths

#: Choices of width in one group; the program stays small when wide groups skip some.
MAX_WIDTHS = 24
#: Where less than this share of a layer's saliency is left, there might as well be nothing.
LEAST_SHARE = 1e-9
COSTS = ("macs", "params", "bytes")


@dataclass(frozen=True)
class Width:
    """How many units of a group stay. `group` names its first weight."""

    group: str
    kind: str
    before: int
    after: int


@dataclass(frozen=True)
class Plan:
    """Units to delete, the fraction of each cost that is left, and the widths."""

    units: tuple[int, ...]
    cost: Mapping[str, float]
    widths: tuple[Width, ...]

    def __str__(self) -> str:
        left = ", ".join(f"{value:.1%} of {name}" for name, value in self.cost.items())
        return f"Plan: delete {len(self.units)} units, leaving {left}"


def profile_widths(size: int, round_to: "int | str" = "cpu") -> list[int]:
    """Widths below `size` that run fast, and `size` itself.

    ONNX Runtime's CPU provider computes fp32 convolutions in blocks of 16 channels (AVX-512): from 16 up only multiples
    of the block pay, below it multiples of 4 do. A number asks for its multiples.
    """
    if round_to == "cpu":
        widths = [w for w in (4, 8, 12) if w < size] + list(range(16, size, 16))
    elif isinstance(round_to, int) and round_to > 0:
        widths = list(range(round_to, size, round_to))
    else:
        raise RecipeError(f"round_to is {round_to!r}. Give a positive number, or 'cpu'.")
    if len(widths) >= MAX_WIDTHS:
        chosen = np.unique(np.round(np.geomspace(1, len(widths), MAX_WIDTHS - 1)).astype(int) - 1)
        widths = [widths[i] for i in chosen]
    return [*widths, size]


class Planner:
    """Plans for one network; what doesn't change between plans is computed once.

    `keep` are patterns over weight names, or parts of them: units that delete anything of a matching weight stay. So do
    those with any of the channels of `stays`, bool [channels].
    `ranking` says which units are compared: "global" chooses the widths by all saliencies at once; "layer" takes the
    same share of every layer, "isomorphic" of every set of layers that are built alike, the least salient units first.
    Of units that overlap, such as heads and head dimensions, those whose kind is in `prefer` are planned.
    `widths` are patterns over the names of groups, which are those of their first weights; each group that fits has a
    limit of its own wherever a budget names the pattern. `without` names weights that are gone whole, with residual
    blocks: they count for the whole network, and no more for what is left of it.
    """

    def __init__(
        self,
        channels: Channels,
        *,
        keep: Sequence[str] = (),
        round_to: "int | str" = "cpu",
        min_width: int = 1,
        stays: np.ndarray | None = None,
        ranking: str = "global",
        prefer: Iterable[str] = (),
        widths: Iterable[str] = (),
        without: Collection[str] = (),
    ):
        self.channels = channels
        self.width_patterns = tuple(widths)
        self.without = frozenset(without)
        #: {(name, kind) of a group: widths to choose from, in the place of those of `round_to`}
        self.choices: dict[tuple[str, str], list[int]] = {}
        self.prefer = frozenset(prefer)
        self.ranking = rankings.check(ranking)
        self.round_to = round_to
        self.min_width = min_width
        self.keep = tuple(keep)
        self.stays = stays

    @property
    def groups(self) -> tuple[Group, ...]:
        """Units that appear on the same axes of the same weights."""
        return self._found[0]

    @property
    def staying(self) -> dict[Reason, tuple[Group, ...]]:
        """The units that aren't planned, by why."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[tuple[Group, ...], dict[Reason, tuple[Group, ...]]]:
        return find(self.channels, keep=self.keep, stays=self.stays, prefer=self.prefer)

    @cached_property
    def compared(self) -> list[np.ndarray]:
        """The sets of units whose saliencies are compared: all, each layer's, or those of layers that are alike."""
        members = [group.units for group in self.groups]
        if self.ranking == "global":
            return [np.concatenate(members)] if members else []
        return members if self.ranking == "layer" else rankings.isomorphic(self.channels, members)

    @cached_property
    def _group_of_channel(self) -> np.ndarray:
        of = np.full(self.channels.count, -1)
        for number, group in enumerate(self.groups):
            for index in group.units:
                of[list(self.channels.units[index].channels)] = number
        return of

    @cached_property
    def _terms(self) -> dict[str, dict[tuple[int, ...], float]]:
        """{cost: {() or (group,) or (group, group): what elements of that kind cost together}}, groups in order.

        Each kind of unit is a cost of its own: the number of its units.
        """
        return self._counted[0]

    @cached_property
    def _counted(self) -> tuple[dict[str, dict[tuple[int, ...], float]], dict[str, float]]:
        """(the terms of what isn't gone with a residual block, the cost of what is)."""
        uses = self._uses_per_weight
        terms: dict[str, dict[tuple[int, ...], float]] = {name: defaultdict(float) for name in COSTS}
        lost: dict[str, float] = defaultdict(float)
        initializers = self.channels.model.ir.graph.initializers
        for name, facets in self.channels.parameters():
            value = initializers[name]
            shape = self.channels.trace.shape_of[value]
            itemsize = value.const_value.nbytes / value.const_value.size
            if name in self.without:
                size = value.const_value.size
                lost["params"] += size
                lost["bytes"] += size * itemsize
                lost["macs"] += size * uses.get(name, 0.0)
                continue
            for key, elements in self._blocks(facets, float(np.prod(shape))).items():
                terms["params"][key] += elements
                terms["bytes"][key] += elements * itemsize
                terms["macs"][key] += elements * uses.get(name, 0.0)
        for value, macs in self._products.items():
            for key, part in self._blocks(self.channels.facets(value), macs).items():
                if key and all(self.is_gone(self.groups[number]) for number in key):
                    lost["macs"] += part
                else:
                    terms["macs"][key] += part
        for number, group in enumerate(self.groups):
            names = [group.kind]
            if any(fits(group.name, pattern) for pattern in self.width_patterns):
                names.append(width_of(group.name))
            for name in names:
                found = terms.setdefault(name, defaultdict(float))
                if self.is_gone(group):
                    lost[name] += len(group.units)
                else:
                    found[number,] += len(group.units)
        return {name: dict(found) for name, found in terms.items()}, dict(lost)

    def is_gone(self, group: Group) -> bool:
        """Whether all weights that a group's units have are gone with residual blocks."""
        if not self.without:
            return False
        mine = np.isin(
            np.arange(self.channels.count), [c for u in group.units for c in self.channels.units[u].channels]
        )
        named = {
            name
            for name, facets in self.channels.parameters()
            if any(mine[self.channels.named(facet)].any() for facet in facets)
        }
        return named <= self.without

    def _blocks(self, facets, total: float) -> dict[tuple[int, ...], float]:
        """How much of `total`, that of all elements of a tensor together, belongs to which groups."""
        if not facets:
            return {(): total}
        of = self._group_of_channel
        named = np.broadcast_arrays(*[of[self.channels.channel[f]] for f in facets])
        stacked = np.sort(np.stack([a.ravel() for a in named]), axis=0)
        keys, counts = np.unique(stacked, axis=1, return_counts=True)
        per_place = total / stacked.shape[1]
        found: dict[tuple[int, ...], float] = defaultdict(float)
        for column, number in zip(keys.T.tolist(), counts.tolist(), strict=True):
            groups = sorted({g for g in column if g >= 0})
            # A square weight that reads and writes one group shrinks on both sides.
            if len(groups) == 1 and column.count(groups[0]) > 1 and not _same_place(facets):
                groups = groups * 2
            found[tuple(groups[:2])] += number * per_place
        return found

    @cached_property
    def _uses_per_weight(self) -> dict[str, float]:
        """Multiply-adds that one element of a weight takes part in, for one sample."""
        found: dict[str, float] = defaultdict(float)
        for node, macs in self._contractions:
            weight = _weight_of(node)
            if weight is not None and weight.name is not None:
                found[weight.name] += macs / weight.const_value.size
        return found

    @cached_property
    def _products(self) -> dict[ir.Value, float]:
        """{operand: multiply-adds for one sample} of products of two activations, as in attention.

        Of both operands it is the one of which more axes get narrower; what the other's own axis has counts whole.
        """
        found: dict[ir.Value, float] = defaultdict(float)
        for node, macs in self._contractions:
            if _weight_of(node) is None:
                operands = [value for value in node.inputs[:2] if value in self.channels.trace.shape_of]
                if operands:
                    found[max(operands, key=self._narrowing_axes)] += macs
        return found

    def _narrowing_axes(self, value: ir.Value) -> int:
        return len({axis for facet in self.channels.facets(value) for axis in spans(facet)})

    @cached_property
    def _contractions(self) -> list[tuple[ir.Node, int]]:
        """Nodes and their multiply-adds for one sample."""
        shape_of = sample_shapes(self.channels.model)
        counted = ((node, node_macs(node, shape_of)) for node in self.channels.model.ir.graph)
        return [(node, macs) for node, macs in counted if macs]

    @cached_property
    def totals(self) -> dict[str, float]:
        """Each cost of the whole network."""
        terms, lost = self._counted
        return {name: sum(found.values()) + lost.get(name, 0.0) for name, found in terms.items()}

    def cost(self, left: Sequence[float]) -> dict[str, float]:
        """Fraction of each cost, and of each kind of unit, when `left[g]` of every group's units are left."""
        return {
            name: sum(v * float(np.prod([left[g] for g in key])) for key, v in self._terms[name].items())
            / max(self.totals[name], 1e-12)
            for name in self._terms
        }

    def cost_without(self, deleted: Iterable[int]) -> dict[str, float]:
        """Fraction of each cost that is left without these units."""
        gone = set(deleted)
        return self.cost([1 - sum(int(u) in gone for u in g.units) / len(g.units) for g in self.groups])

    def cost_of(self, deleted: np.ndarray) -> dict[str, float]:
        """Fraction of each cost, and of each kind of unit, without the channels of `deleted`, bool [channels].

        Counted element by element, and so exact where units overlap, which takes longer than `cost_without`.
        """
        left, whole = dict.fromkeys(COSTS, 0.0), dict.fromkeys(COSTS, 0.0)
        initializers = self.channels.model.ir.graph.initializers
        for name, _ in self.channels.parameters():
            value = initializers[name]
            size = value.const_value.size
            kept = 0.0 if name in self.without else float(self.channels.keep_mask(value, deleted).mean())
            worth = {"params": size, "bytes": value.const_value.nbytes, "macs": size * self._uses_per_weight[name]}
            for cost, amount in worth.items():
                whole[cost] += amount
                left[cost] += amount * kept
        for value, macs in self._products.items():
            whole["macs"] += macs
            left["macs"] += macs * float(self.channels.keep_mask(value, deleted).mean())
        widths = {name: self._left_of(name, deleted) for name in self._terms if name.startswith(width_of(""))}
        kinds: dict[str, list[bool]] = defaultdict(list)
        for unit in self.channels.units:
            kinds[unit.kind].append(not deleted[list(unit.channels)].all())
        found = {cost: left[cost] / max(whole[cost], 1e-12) for cost in COSTS}
        return {**found, **{kind: float(np.mean(stay)) for kind, stay in kinds.items()}, **widths}

    def _left_of(self, width: str, deleted: np.ndarray) -> float:
        if not self._terms[width]:
            return 0.0
        ((number,),) = self._terms[width]
        units = [self.channels.units[u] for u in self.groups[number].units]
        return float(np.mean([not deleted[list(unit.channels)].all() for unit in units]))

    def fractions(self, budget: Mapping[str, float]) -> dict[str, float]:
        """A budget with every figure as a fraction; figures above 1 are absolute.

        It names costs, and kinds of units: {"macs": 0.3, "head": 0.5}. Raises RecipeError for others.
        """
        found = {}
        for name, value in budget.items():
            if name in self.width_patterns:
                found |= self._width_limits(name, value)
                continue
            if name not in self._terms or not 0 < value < np.inf:
                kinds = ", ".join(f"{kind}" for kind in self._terms if kind not in COSTS)
                raise RecipeError(
                    f"The budget asks for {value!r} {name}. Give macs, params or bytes above 0, or a kind of unit that "
                    f"this network has: {kinds or 'none'}."
                )
            found[name] = value if value <= 1 else min(1.0, value / max(self.totals[name], 1.0))
        if not found:
            raise RecipeError("The budget is empty. Give macs, params or bytes, as a fraction or a figure.")
        return found

    def _width_limits(self, pattern: str, share: float) -> dict[str, float]:
        """{the width of each group that fits: what may be left of it}."""
        names = [group.name for group in self.groups if fits(group.name, pattern)]
        if not names or not 0 < share <= 1:
            layers = ", ".join(group.name for group in self.groups) or "none"
            raise RecipeError(
                f"Of layers named like '{pattern}' {share!r} can't be left. Give a fraction, and a pattern over "
                f"what can get narrower: {layers}."
            )
        return {width_of(name): share for name in names}

    def plan(
        self,
        saliency: np.ndarray,
        budget: Mapping[str, float],
        deleted: Iterable[int] = (),
        stay: np.ndarray | None = None,
    ) -> Plan:
        """Choose the units to delete so that every cost in `budget` (fractions) holds and the most saliency is left.

        With the ranking "global" that is the most of sum_g sqrt(S_g) log(s_g / S_g), S_g the saliency of a group's
        units now and s_g of those that are left. Logarithms, because the last channels of a layer carry all that runs
        through it, whatever they seemed worth among many; roots, because saliencies of layers far apart compare badly.
        (The plain sum narrows some layers to next to nothing, and so do logarithms with S_g itself before them.)

        `saliency[unit]` is non-negative; units in `deleted` are gone already and go first, those in `stay`, bool
        [units], aren't chosen. Raises BudgetUnreachable, saying the best that can be reached.
        """
        gone = np.zeros(len(self.channels.units), bool)
        gone[list(deleted)] = True
        stay = np.zeros_like(gone) if stay is None else stay & ~gone
        if not np.isfinite(saliency).all():
            raise InputError("The saliency of some units isn't a number. Did the loss explode?")
        ranked = [self._rank(group, saliency, gone, stay) for group in self.groups]
        widths = [self._widths(group, gone, stay) for group in self.groups]
        self.check(budget, widths)
        if self.ranking == "global":
            worth = [_worth(saliency[order], w) for order, w in zip(ranked, widths, strict=True)]
            sizes = [len(group.units) for group in self.groups]
            chosen = best_widths(worth, widths, sizes, budget, self._terms, self.totals)
        else:
            chosen = self._cut_evenly(saliency, gone, stay, widths, budget)
        return self._made(ranked, chosen)

    def _cut_evenly(
        self, saliency: np.ndarray, gone: np.ndarray, stay: np.ndarray, widths: list[list[int]], budget
    ) -> list[int]:
        """Widths that leave out every unit whose rank lies below one bound: the lowest bound that meets the budget."""
        members = [group.units for group in self.groups]
        known = np.where(gone, -1.0, saliency)
        ranks = rankings.within(np.where(stay, known.max(initial=0) + 1, known), self.compared)

        def at(bound: float) -> list[int]:
            return self._widths_above(ranks > bound, widths)

        def fits(bound: float) -> bool:
            cost = self.cost([w / len(units) for w, units in zip(at(bound), members, strict=True)])
            return all(cost[name] <= limit + 1e-9 for name, limit in budget.items())

        bounds = [0.0, *np.unique(ranks).tolist()]
        return at(bounds[bisect_left(bounds, True, key=fits)])

    def _widths_above(self, wanted: np.ndarray, widths: list[list[int]]) -> list[int]:
        """The narrowest choice of each group that has room for all of its units in `wanted`, bool [units]."""
        least = [int(wanted[group.units].sum()) for group in self.groups]
        return [next((w for w in some if w >= n), some[-1]) for some, n in zip(widths, least, strict=True)]

    def plan_below(
        self,
        saliency: np.ndarray,
        theta: float,
        budget: Mapping[str, float],
        deleted: Iterable[int] = (),
        stay: np.ndarray | None = None,
    ) -> Plan:
        """Delete the units whose saliency isn't above `theta`, no more of a layer than its widths allow.

        Where that would meet the whole budget, the plan is `plan`'s for that budget: nothing beyond it is deleted.
        """
        gone = np.zeros(len(self.channels.units), bool)
        gone[list(deleted)] = True
        stay = np.zeros_like(gone) if stay is None else stay & ~gone
        widths = [self._widths(group, gone, stay) for group in self.groups]
        chosen = self._widths_above((saliency > theta) & ~gone | stay, widths)
        left = [w / len(g.units) for w, g in zip(chosen, self.groups, strict=True)]
        cost = self.cost(left)
        if all(cost[name] <= limit for name, limit in budget.items()):
            return self.plan(saliency, budget, deleted, stay)
        ranked = [self._rank(group, saliency, gone, stay) for group in self.groups]
        return self._made(ranked, chosen)

    def plan_around(self, saliency: np.ndarray, stays: np.ndarray, deleted: Iterable[int] = ()) -> Plan:
        """Delete the units that `stays`, bool [units], doesn't name, no more of a layer than its widths allow.

        Where some have to stay all the same, they are those of most `saliency` [units].
        """
        gone = np.zeros(len(self.channels.units), bool)
        gone[list(deleted)] = True
        nothing = np.zeros_like(gone)
        widths = [self._widths(group, gone, nothing) for group in self.groups]
        ranked = [self._rank(group, saliency, gone, stays & ~gone) for group in self.groups]
        return self._made(ranked, self._widths_above(stays & ~gone, widths))

    def element_costs(self, cost: str) -> dict[str, float]:
        """What one element of each weight costs: 1 parameter, its bytes, or its multiply-adds for one sample."""
        found = {}
        for name, _ in self.channels.parameters():
            tensor = self.channels.model.ir.graph.initializers[name].const_value
            found[name] = {"params": 1.0, "bytes": tensor.nbytes / tensor.size, "macs": self._uses_per_weight[name]}[
                cost
            ]
        return found

    def kept(self, name: str, deleted: np.ndarray) -> np.ndarray:
        """Which elements of a weight stay without the channels `deleted`: bool, broadcastable to its shape."""
        return self.channels.keep_mask(self.channels.model.ir.graph.initializers[name], deleted)

    def _made(self, ranked: list[np.ndarray], chosen: Sequence[int]) -> Plan:
        """The plan that leaves `chosen` units of each group."""
        units = [order[: len(order) - width] for order, width in zip(ranked, chosen, strict=True)]
        left = [width / len(group.units) for width, group in zip(chosen, self.groups, strict=True)]
        return Plan(
            tuple(sorted(int(u) for part in units for u in part)),
            self.cost(left),
            tuple(Width(g.name, g.kind, len(g.units), int(w)) for g, w in zip(self.groups, chosen, strict=True)),
        )

    def check(self, budget: Mapping[str, float], widths: Sequence[Sequence[int]] | None = None) -> None:
        """Raise BudgetUnreachable, saying the best that can be, for a budget below the smallest choice of widths."""
        nothing = np.zeros(len(self.channels.units), bool)
        widths = widths or [self._widths(group, nothing, nothing) for group in self.groups]
        smallest = self.cost([w[0] / len(g.units) for w, g in zip(widths, self.groups, strict=True)])
        for name, limit in budget.items():
            if smallest[name] > limit + 1e-9:
                raise BudgetUnreachable(
                    f"A budget of {limit:.1%} of the {name} can't be reached: the smallest legal network has "
                    f"{smallest[name]:.1%}. Ask for at least {np.ceil(smallest[name] * 1000) / 1000:.1%}, "
                    "or keep fewer layers whole."
                )

    def _rank(self, group: Group, saliency: np.ndarray, gone: np.ndarray, stay: np.ndarray) -> np.ndarray:
        """Units from the first to go to the last."""
        units = group.units
        return units[np.lexsort((units, saliency[units], stay[units], ~gone[units]))]

    def _widths(self, group: Group, gone: np.ndarray, stay: np.ndarray) -> list[int]:
        """Widths to choose from, not above what is alive; smallest first."""
        size = len(group.units)
        alive = max(size - int(gone[group.units].sum()), 1)
        least = max(min(self.min_width, size), int(stay[group.units].sum()))
        some = self.choices.get((group.name, group.kind)) or profile_widths(size, self.round_to)
        widths = [w for w in some if least <= w <= alive]
        return widths if widths and widths[-1] == alive else [*widths, alive]


def width_of(name: str) -> str:
    """What a budget calls the width of one group."""
    return f"width of {name}"


def _worth(ranked: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """sqrt(S) log(s / S) at each width, from the saliencies of a group's units, the first to go first."""
    left = np.r_[0.0, np.cumsum(ranked[::-1])]
    if left[-1] <= 0:
        return np.zeros(len(widths))
    return np.sqrt(left[-1]) * np.log(np.maximum(left[list(widths)] / left[-1], LEAST_SHARE))


def _same_place(facets) -> bool:
    """Whether all facets speak about one and the same axis."""
    axes = {tuple(a for a, s in enumerate(f.shape) if s > 1) for f in facets}
    return len(axes) == 1


def _weight_of(node: ir.Node) -> ir.Value | None:
    """The weight that a node multiplies with; None where it multiplies activations."""
    return next((found for v in (node.inputs[1], node.inputs[0]) if (found := _source(v)) is not None), None)


def _source(value: ir.Value | None) -> ir.Value | None:
    """The initializer behind a value, through operators of one operand."""
    while value is not None and value.const_value is None:
        node = value.producer()
        if node is None or node.op_type not in ("Transpose", "Reshape", "Cast", "Identity", "DequantizeLinear"):
            return None
        value = node.inputs[0]
    return value
