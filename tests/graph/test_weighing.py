"""How many elements sets of channels delete, against asking of one set after another which elements it flags."""

import math
import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.graph.labels import any_flagged
from onnxprune.graph.weighing import Counter, Sets

CHANNELS, SHAPE = 12, (3, 2, 4)


@st.composite
def tensors(draw):
    """Facets of one tensor, as channels, along any of its axes."""
    shapes = [[size if draw(st.booleans()) else 1 for size in SHAPE] for _ in range(draw(st.integers(1, 3)))]
    channel = st.integers(0, CHANNELS - 1)
    return [
        np.array(draw(st.lists(channel, min_size=math.prod(shape), max_size=math.prod(shape)))).reshape(shape)
        for shape in shapes
    ]


#: Few sets, and as many as hold each channel several times over.
sets = st.lists(st.sets(st.integers(0, CHANNELS - 1), min_size=1, max_size=5), min_size=1, max_size=40)


@settings(max_examples=int(os.environ.get("ONNXPRUNE_EXAMPLES", 300)))
@given(sets, tensors())
def test_an_element_counts_once_for_each_set_that_deletes_it(sets, named):
    distinct = {frozenset(members) for members in sets}
    arrays = [np.array(sorted(members)) for members in distinct]
    expected = []
    for members in arrays:
        flags = np.zeros(CHANNELS, bool)
        flags[members] = True
        expected.append(math.prod(SHAPE) * any_flagged(flags, named).mean())
    found = np.broadcast_to(Counter(Sets.side_by_side(arrays), CHANNELS).deleted(SHAPE, named), len(arrays))
    assert np.allclose(found, expected, rtol=0, atol=1e-9)
