"""Which units are compared with which: all with all, each with its layer, or like with like."""

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from onnxprune.errors import RecipeError
from onnxprune.graph.labels import spans
from onnxprune.graph.units import Channels
from onnxprune.prune.criteria import ranks

Ranking = Literal["global", "layer", "isomorphic"]
RANKINGS: tuple[Ranking, ...] = ("global", "layer", "isomorphic")


def check(ranking: str) -> Ranking:
    """`ranking` itself. Raises RecipeError for one that isn't there."""
    if ranking not in RANKINGS:
        raise RecipeError(f"There is no ranking '{ranking}'. Choose one of: {', '.join(RANKINGS)}.")
    return ranking  # type: ignore[return-value]


def within(scores: np.ndarray, sets: Sequence[np.ndarray]) -> np.ndarray:
    """Each unit's rank, between 0 and 1, among the units of its own set; units of no set have 0."""
    found = np.zeros(len(scores))
    for members in sets:
        found[members] = ranks(scores[members])
    return found


def isomorphic(channels: Channels, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Merge groups of units that are built alike. Fang et al. 2024, "Isomorphic Pruning", arXiv:2407.04616.

    Two groups are alike where their units are of one kind and cut tensors of the same sort along the same axes: how
    many axes a tensor has and its kernel's size count, how wide it is doesn't.
    """
    shapes: dict[int, list[Hashable]] = {}
    for name, facets in channels.parameters():
        shape = channels.shape(name)
        labelled = {axis for facet in facets for axis in spans(facet)[:1] if axis < 2}
        kernel = tuple(size for axis, size in enumerate(shape) if axis not in labelled)
        for facet in facets:
            for channel in np.unique(channels.named(facet)).tolist():
                shapes.setdefault(channel, []).append((len(shape), spans(facet), kernel))
    alike: dict[Hashable, list[np.ndarray]] = {}
    for members in groups:
        unit = channels.units[members[0]]
        cuts = sorted((cut for c in unit.channels for cut in shapes.get(c, [])), key=repr)
        alike.setdefault((unit.kind, tuple(cuts)), []).append(members)
    return [np.concatenate(found) for found in alike.values()]
