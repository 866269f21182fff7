"""What became of every unit, and why: its score and rank at each pruning step, and the decision about it.

In `history.json` the key `units` holds a list with an entry for each group of units, in arrays along its units:

    {"group": "layer1.conv1.weight",  "kind": "channel",  "count": 16,
     "index": [0, 1, ... 15],                      the place of each unit on the axis of the group's first weight; of
                                                   whole residual blocks "names" has the first weight of each
     "steps": [{"step": 0,                         its number in the list `steps` of the history
                "score": [0.31, null, ...],        as the criterion had it; null for a unit that was gone already
                "rank": [12, null, ...],           among all units that it was compared with; 1 goes first
                "cut": [1, 5], "back": []},        units that it took, and that it gave back; the group's first is 0
               ...],
     "cut": {"0": [1], "2": [5]},                  the units that are gone in the end, by the step that took them
     "kept": {"score": [0, 2, ...], "rounding": [7]},   those that are left, by what kept them
     "back": [3]}                                  those that were cut, were there again, and may have been cut again

A unit is kept because of its *score* where nothing else is said; because of *rounding*, *min_width* or *retention*
where the last step without that rule would have taken it; because of *keep* or because its deletion would be *restated*
(other statistics than it is trained with) where it was never among the units to choose from; as *overlap* where it lies
within units of another kind, which were chosen instead; and as *rolled back* where it was cut, and that was undone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.graph.units import BLOCK, Channels
from onnxprune.prune.groups import Group
from onnxprune.prune.kinds import Planners
from onnxprune.prune.plan import profile_widths

#: Digits of a score in history.json.
DIGITS = 4
#: So many widths between two that the target runs fast are tried to say what rounding kept.
NEAR = 7


@dataclass
class Step:
    """One pruning step: `scores` [units], NaN where none was asked for; `ranks` [units], 0 where there is none.

    `before` and `gone`, bool [units], are the units that are deleted before it and after it; `asked` is the budget that
    its plan was to meet, `theta` the threshold, if there was one; `when` counts training steps.
    """

    scores: np.ndarray
    ranks: np.ndarray
    before: np.ndarray
    gone: np.ndarray
    asked: dict[str, float]
    theta: float | None
    when: int

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Decisions:
    """All pruning steps of one pruner, those included that were rolled back."""

    steps: list[Step] = field(default_factory=list)
    open: bool = False

    def note(self, step: Step, compared: Sequence[np.ndarray], *, goes_on: bool = False) -> None:
        """Add a step, whose ranks are those of its scores within each of the sets `compared`, of units to choose from.

        With `goes_on` it belongs to the step before: scores that are there already stay.
        """
        known, step.ranks = np.full(len(step.scores), np.nan, np.float32), np.zeros(len(step.scores), np.int32)
        for alive in compared:
            known[alive] = step.scores[alive]
            step.ranks[alive[np.argsort(step.scores[alive], kind="stable")]] = np.arange(1, len(alive) + 1)
        step.scores = known
        if goes_on and self.open:
            last = self.steps.pop()
            step.scores = np.where(last.ranks > 0, last.scores, step.scores)
            step.ranks = np.where(last.ranks > 0, last.ranks, step.ranks)
            step.before = last.before
            step.asked = {**last.asked, **step.asked}
        self.steps.append(step)
        self.open = True

    @property
    def when(self) -> int:
        """The training step of the last pruning step; -1 where there is none, or what follows is another one."""
        return self.steps[-1].when if self.steps and self.open else -1

    def close(self) -> None:
        """What follows is another step: masks were put back."""
        self.open = False

    def state_dict(self) -> dict[str, Any]:
        return {"open": self.open, "steps": [step.as_dict() for step in self.steps]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.open, self.steps = bool(state["open"]), [Step(**step) for step in state["steps"]]

    def table(
        self,
        channels: Channels,
        planning: Mapping[str, Any],
        gone: np.ndarray,
        retention: float | None = None,
        blocks: Any = None,
    ) -> list[dict[str, Any]]:
        """The key `units` of history.json. `planning` is what `Planners` takes, `gone` the end, bool [units].

        `blocks`, whole residual blocks, are counted on from the units: they have a `group`, and names of `parameters`.
        """
        planners, places = Planners(channels, **planning), [unit.where for unit in channels.units]
        groups = planners.groups
        if blocks:
            groups, places = (*groups, blocks.group), [*places, *(names[0] for names in blocks.parameters)]
        last = next((step for step in reversed(self.steps) if np.array_equal(step.gone, gone)), None)
        kept = {} if last is None else kept_by_rules(channels, planning, last, retention)
        changes = [(n, step, step.gone & ~step.before, step.before & ~step.gone) for n, step in enumerate(self.steps)]
        cut_at, returned = np.full(len(gone), -1), np.zeros(len(gone), bool)
        for number, _, cut, _ in changes:
            returned |= cut & (cut_at >= 0)
            cut_at[cut] = number
        returned |= (cut_at >= 0) & ~gone
        told = []
        for group in groups:
            units = group.units
            steps = [
                {
                    "step": number,
                    "score": [_short(value) for value in step.scores[units].tolist()],
                    "rank": [rank or None for rank in step.ranks[units].tolist()],
                    "cut": _places(cut[units]),
                    "back": _places(back[units]),
                }
                for number, step, cut, back in changes
            ]
            left = ~gone[units]
            by_step = {str(k): _places(~left & (cut_at[units] == k)) for k in range(len(self.steps))}
            by_rule: dict[str, list[int]] = {}
            for rule, flags in {**kept, "rolled back": returned, "score": np.ones(len(gone), bool)}.items():
                by_rule[rule] = _places(left & flags[units])
                left = left & ~flags[units]
            told.append(_entry(group, places, steps, by_step, by_rule, _places(returned[units])))
        for reason, others in planners.staying.items():
            told += [_entry(g, places, [], {}, {reason: list(range(len(g.units)))}, []) for g in others]
        return told


def kept_by_rules(
    channels: Channels, planning: Mapping[str, Any], step: Step, retention: float | None = None
) -> dict[str, np.ndarray]:
    """Of each rule that is in force, the units that `step` left and would have taken without it: bool [units]."""
    stay = None if retention is None else step.scores > retention
    rules: dict[str, tuple[dict[str, int], np.ndarray | None]] = {}
    if stay is not None:
        rules["retention"] = {}, None
    if planning["min_width"] > 1:
        rules["min_width"] = {"min_width": 1}, stay
    if planning["round_to"] != 1:
        rules["rounding"] = {"round_to": 1}, stay
    count, found = len(channels.units), {}
    scores = np.nan_to_num(step.scores).astype(float)[:count]
    for name, (changed, stays) in rules.items():
        planners = Planners(channels, **{**planning, **changed})
        if name == "rounding" and planning["ranking"] == "global" and step.theta is None:
            for stage in planners.stages:
                stage.choices = {
                    (g.name, g.kind): _widths_near(g, step.gone, planning["round_to"]) for g in stage.groups
                }
        stays = None if stays is None else stays[:count]
        settled = (step.before & (step.ranks == 0))[:count]  # under soft masks what was gone stood for choice again
        taken = planners.taken(scores, step.asked, step.theta, settled, stays)
        found[name] = ~step.gone & np.concatenate([taken, np.zeros(len(step.gone) - count, bool)])
    return found


def _widths_near(group: Group, gone: np.ndarray, round_to: "int | str") -> list[int]:
    """A few widths from the next narrower one of the profile to the next wider one: with all of them, in a network of
    many layers, a plan takes minutes.
    """
    size, now = len(group.units), int((~gone[group.units]).sum())
    profile = profile_widths(size, round_to)
    low = max((w for w in profile if w < now), default=1)
    high = min((w for w in profile if w > now), default=size)
    return np.unique([now, *np.linspace(low, high, NEAR).round().astype(int)]).tolist()


def _entry(group: Group, places: Sequence[str], steps: list, cut: Mapping, kept: Mapping, back: list) -> dict[str, Any]:
    return {
        "group": group.name,
        "kind": group.kind,
        "count": len(group.units),
        "index": [_index(places[unit]) for unit in group.units.tolist()],
        **({"names": [places[unit] for unit in group.units.tolist()]} if group.kind == BLOCK else {}),
        "steps": steps,
        "cut": {step: units for step, units in cut.items() if units},
        "kept": {rule: units for rule, units in kept.items() if units},
        "back": back,
    }


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def _places(flags: np.ndarray) -> list[int]:
    return np.flatnonzero(flags).tolist()


def _index(place: str) -> int | None:
    """3 of 'conv1.weight[3]' and of 'conv1.weight[:, 3]'."""
    digits = place.rpartition("[")[2].rstrip("]").rpartition(" ")[2]
    return int(digits) if digits.isdigit() else None


@dataclass(frozen=True)
class UnitRecord:
    """One unit of a run: `scores` and `ranks` have an entry for each step, None where it was gone or not asked for.

    `decision` is "cut at step k", or "kept: " and what kept it; `came_back` says whether a cut of it was undone.
    """

    group: str
    kind: str
    index: int | None
    scores: tuple[float | None, ...]
    ranks: tuple[int | None, ...]
    decision: str
    came_back: bool


def unit_records(history: Mapping[str, Any]) -> Iterator[UnitRecord]:
    """Every unit of what `history.json` holds, one by one. Raises DataError where it says nothing about units."""
    if "units" not in history:
        raise DataError("This history says nothing about units: it has no key 'units'. Take one of a newer run.")
    for entry in history["units"]:
        decisions = {unit: f"cut at step {step}" for step, units in entry["cut"].items() for unit in units}
        decisions |= {unit: f"kept: {rule}" for rule, units in entry["kept"].items() for unit in units}
        back = set(entry["back"])
        for unit in range(entry["count"]):
            yield UnitRecord(
                entry["group"],
                entry["kind"],
                entry["index"][unit],
                tuple(step["score"][unit] for step in entry["steps"]),
                tuple(step["rank"][unit] for step in entry["steps"]),
                decisions[unit],
                unit in back,
            )
