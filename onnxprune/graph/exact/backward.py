"""Which channels no output depends on, whatever they hold."""

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.exact.forward import Facts
from onnxprune.graph.exact.readings import Reading, lives_in_sums
from onnxprune.graph.labels import PINNED
from onnxprune.graph.units import Channels


def seeds(channels: Channels, facts: Facts) -> np.ndarray:
    """Channels that are needed before any sum of products is looked at: bool [channels]."""
    lives = np.zeros(channels.count, bool)
    lives[channels.channel[PINNED]] = True
    for _, labels, _ in channels.trace.ledger.pins:
        lives[channels.channel[labels]] = True
    lives_in_sums(channels, facts, lives)
    return lives


def alive(
    channels: Channels, reads: Sequence[Reading], seeds: np.ndarray, *, by_value: bool = True
) -> tuple[np.ndarray, dict[int, Reading]]:
    """Which channels matter: bool [channels], and {channel: the first reading that needs it}.

    A channel matters if a node sums it, with a product that may be other than 0, into a channel that matters. With
    `by_value` off only weights count: then it may hold anything, and what it holds may change.
    """
    lives = seeds.copy()
    needed_by: dict[int, Reading] = {}
    rows = [(channels.channel[names], channels.channel[members]) for names, members in channels.trace.ledger.rows]
    changed = True
    while changed:
        changed = False
        for reading in reversed(reads):
            needs = reading.needs(lives, by_value=by_value)
            if not needs.any():
                continue
            for named in reading.ends:
                read = needs
                if by_value and reading.axis >= 0:
                    shape = reading.places
                    if all(n == 1 or shape[i] > 1 for i, n in enumerate(named.shape)):
                        read = reading.over_places(needs)
                flat = tuple(i for i, n in enumerate(named.shape) if n == 1)
                hit = np.broadcast_to(read.any(axis=flat, keepdims=True), named.shape)
                new = np.unique(named[hit])
                new = new[~lives[new]]
                if new.size:
                    changed = True
                    lives[new] = True
                    for c in new.tolist():
                        needed_by.setdefault(c, reading)
        for names, members in rows:  # a row is there as long as one of its members is
            new = lives[members].any(axis=tuple(range(1, members.ndim))) & ~lives[names]
            if new.any():
                changed = True
                lives[names[new]] = True
    return lives, needed_by
