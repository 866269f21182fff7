"""Groups of units: those that live on the same axes of the same weights, and so have one width together."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch, fnmatchcase
from typing import Literal

import numpy as np

from onnxprune.graph.units import Channels

#: Why a unit isn't in any group: `keep` names it, its deletion can't be restated, it lies within units of another kind.
Reason = Literal["keep", "restated", "overlap"]


@dataclass(frozen=True, eq=False)
class Group:
    """`units` are indices of units, `name` is that of their first weight."""

    units: np.ndarray
    name: str
    kind: str


def find(
    channels: Channels, *, keep: Sequence[str] = (), stays: np.ndarray | None = None, prefer: Collection[str] = ()
) -> tuple[tuple[Group, ...], dict[Reason, tuple[Group, ...]]]:
    """(groups of units that may go, those of units that stay by why they do).

    `keep` are patterns over weight names, or parts of them: units that delete anything of a matching weight stay. So do
    units with any of the channels `stays`, bool [channels], whose deletion can't be restated. Units that overlap with
    earlier ones are left out; those of the kinds in `prefer` come first.
    """
    signature = np.zeros(channels.count, np.uint64)
    rng = np.random.default_rng(0)
    kept = np.zeros(channels.count, bool)
    for name, facets in channels.parameters():
        for facet in facets:
            named = np.unique(channels.channel[facet])
            signature[named] ^= rng.integers(0, 2**63, dtype=np.uint64)
            kept[named] |= any(fnmatch(name, f"*{pattern}*") for pattern in keep)
    taken = np.zeros(channels.count, bool)
    found: dict[tuple, list[int]] = defaultdict(list)
    for unit in sorted(channels.units, key=lambda unit: unit.kind not in prefer):
        members = list(unit.channels)
        reason = None
        if kept[members].any():
            reason = "keep"
        elif stays is not None and stays[members].any():
            reason = "restated"
        elif taken[members].any():
            reason = "overlap"
        else:
            taken[members] = True
        found[reason, unit.kind, tuple(sorted(signature[members].tolist()))].append(unit.index)
    groups: dict[Reason | None, list[Group]] = defaultdict(list)
    for (reason, kind, _), members in found.items():
        groups[reason].append(Group(np.array(members), weight_name(channels.units[members[0]].where), kind))
    return tuple(groups.pop(None, ())), {reason: tuple(some) for reason, some in groups.items() if reason}


def fits(name: str, pattern: str) -> bool:
    """Whether the name of a weight, or of a module that holds it, is like a pattern."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def weight_name(where: str) -> str:
    """The weight that a place such as 'conv1.weight[3]' lies in."""
    return where.split("[")[0]
