"""Which units a benchmark deletes."""

from collections.abc import Sequence

import numpy as np

from onnxprune.errors import EmptyAxisError, RaggedError
from onnxprune.graph.units import Channels

SEED = 0


def legal(channels: Channels, candidates: Sequence[int], share: float, seed: int = SEED) -> list[int]:
    """A random `share` of the candidates that empties no axis."""
    order = np.random.default_rng(seed).permutation(candidates)
    wanted = max(1, round(share * len(order)))
    chosen = order[:0]
    waiting = [order[:wanted]]
    while waiting:
        chunk = waiting.pop()
        try:
            channels.deleted(together := np.concatenate([chosen, chunk]))
            chosen = together
        except (EmptyAxisError, RaggedError):
            if len(chunk) > 1:
                half = len(chunk) // 2
                waiting += [chunk[half:], chunk[:half]]
    return chosen.tolist()
