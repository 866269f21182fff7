"""Units: the smallest legal deletions of a model, in arrays as long as nobody asks for one of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import overload

import numpy as np

from onnxprune.graph.weighing import Sets

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


class Units(Sequence[Unit]):
    """All units of a model. What is asked about all of them at once is asked of the arrays.

    `sets` are their channels, `sizes` their weights: int [unit].
    """

    def __init__(
        self,
        sets: Sets,
        sizes: np.ndarray,
        kinds: np.ndarray,
        restated: np.ndarray,
        places: Callable[[], Sequence[str]],
    ):
        self.sets, self.sizes = sets, sizes
        self._kinds, self._restated, self._places = kinds, restated, places

    @cached_property
    def _all(self) -> tuple[Unit, ...]:
        places = self._places()
        columns = (self.sizes.tolist(), self._kinds.tolist(), self._restated.tolist(), self.sets.members())
        return tuple(
            Unit(index, KINDS[kind], size, "restated" if again else "exact", _first(places, members), members)
            for index, (size, kind, again, members) in enumerate(zip(*columns, strict=True))
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> Unit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Unit, ...]: ...
    def __getitem__(self, index):
        return self._all[index]

    def __iter__(self) -> Iterator[Unit]:
        return iter(self._all)

    def __repr__(self) -> str:
        return f"{len(self)} units"

    def within(self, deleted: np.ndarray) -> np.ndarray:
        """The indices of the units whose every channel is `deleted[channel]`."""
        return np.flatnonzero(self.sets.all(deleted))


def _first(places: Sequence[str], members: Iterable[int]) -> str:
    return next((places[c] for c in members if places[c]), "")
