"""Operators that move data, one by one: what they are told afterwards, held against what they move."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.deploy.cutting.removal import delete
from onnxprune.errors import ModelError
from onnxprune.graph.model import Model, load
from tests.graph import conftest as oracle

A = np.array


@dataclass
class Move:
    """y = `text`, over the initializer x of `shape`; x loses `count` places of each row of `axis`.

    `alike` says that all rows lose the same ones.
    """

    text: str
    shape: tuple[int, ...]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    axis: int = 1
    count: int = 2
    alike: bool = True
    opset: int = 20


# fmt: off
MOVES = {
    "reshape": Move("Reshape(x, s)", (2, 6, 4), {"s": A([2, 2, 3, -1])}, axis=2, alike=False),
    "reshape that joins": Move("Reshape(x, s)", (2, 3, 4), {"s": A([0, -1])}, axis=2, count=1, alike=False),
    "flatten": Move("Flatten<axis=1>(x)", (2, 6, 3)),
    "transpose": Move("Transpose<perm=[0,2,1]>(x)", (2, 6, 3), alike=False, axis=2, count=1),
    "squeeze": Move("Squeeze(x)", (1, 3, 1), axis=1),
    "squeeze of opset 11": Move("Squeeze(x)", (1, 3, 1), axis=1, opset=11),
    "expand": Move("Expand(x, s)", (6, 1), {"s": A([2, 1, 4])}, axis=0),
    "tile": Move("Tile(x, r)", (2, 6, 1), {"r": A([1, 3, 2])}),
    "space to depth": Move("SpaceToDepth<blocksize=2>(x)", (1, 6, 4, 4)),
    "slice": Move("Slice(x, s, e, a)", (2, 9), {"s": A([1, 2]), "e": A([9, -1]), "a": A([0, 1])}),
    "slice of rows that choose": Move("Slice(x, s, e, a)", (3, 9), {"s": A([1]), "e": A([9]), "a": A([0])}, alike=False),
    "slice backwards": Move("Slice(x, s, e, a, t)", (2, 9), {"s": A([7]), "e": A([-99]), "a": A([1]), "t": A([-1])}),
    "slice of all, backwards": Move("Slice(x, s, e, a, t)", (9,), {"s": A([-1]), "e": A([-99]), "a": A([0]), "t": A([-1])}, axis=0),
    "slice of opset 9": Move("Slice<axes=[1], starts=[2], ends=[8]>(x)", (2, 9), opset=9),
    "split": Move("Split<axis=-1>(x, s)", (2, 9), {"s": A([4, 5])}),
    "gather": Move("Gather<axis=1>(x, i)", (2, 6), {"i": A([5, -2, 0, 0, 3])}),
    "gather at a grid of places": Move("Gather<axis=1>(x, i)", (2, 6), {"i": A([[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])}, alike=True),
    "gather of rows that choose": Move("Gather<axis=0>(x, i)", (3, 6), {"i": A([2, 0, 0])}, alike=False),
    "compress": Move("Compress<axis=1>(x, c)", (2, 6), {"c": A([True, True, False, True, True, True])}, count=1),
    "gather elements": Move("GatherElements<axis=1>(x, i)", (3, 6), {"i": A([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5], [1, 0, 3, 2, 5, 4]])}),
    "gather elements of fewer rows": Move("GatherElements<axis=0>(x, i)", (3, 6), {"i": A([[2] * 6, [0] * 6])}),
    "gather elements of rows that choose": Move("GatherElements<axis=1>(x, i)", (3, 6), {"i": A([[5, 4, 3, 2, 1, 0]] * 3)}, alike=False),
    "gather tuples": Move("GatherND(x, i)", (3, 6, 2), {"i": A([[r, c] for r in (2, 0) for c in range(6)])}),
    "gather tuples of the first axis": Move("GatherND(x, i)", (3, 6, 2), {"i": A([[2], [0]])}, axis=1),
    "pad": Move("Pad(x, p)", (2, 6), {"p": A([0, 2, 0, 3])}),
    "pad of rows that choose": Move("Pad(x, p)", (2, 6), {"p": A([0, 2, 0, 3])}, alike=False),
    "pad of an axis by name": Move("Pad(x, p, v, a)", (2, 6), {"p": A([2, 3]), "v": np.float32(7.5), "a": A([-1])}),
    "pad that cuts": Move("Pad(x, p)", (2, 6), {"p": A([0, -1, 0, 2])}),
    "pad of opset 9": Move("Pad<pads=[0,2,0,1]>(x)", (2, 6), opset=9),
    "pad that repeats the ends": Move('Pad<mode="edge">(x, p)', (2, 6), {"p": A([0, 2, 0, 1])}),
    "pad that mirrors": Move('Pad<mode="reflect">(x, p)', (2, 6), {"p": A([0, 3, 0, 2])}),
    "pad around": Move('Pad<mode="wrap">(x, p)', (2, 6), {"p": A([0, 3, 0, 2])}),
    "concat": Move("Concat<axis=1>(x, k, x)", (2, 6), {"k": np.float32([[0.5], [0.25]])}),
}
# fmt: on


def goes_of(move: Move, generator: np.random.Generator) -> np.ndarray:
    """Random flags: the same number of places of each row, or the same places."""
    order = np.broadcast_to(np.arange(move.shape[move.axis]), np.moveaxis(np.empty(move.shape), move.axis, -1).shape)
    lead = order.shape[:-1]
    if move.alike:
        order = np.broadcast_to(generator.permutation(order.shape[-1]), order.shape)
    else:
        order = generator.permuted(order, axis=-1)
        order = np.broadcast_to(order[:, :1] if len(lead) > 1 else order, order.shape)
    return np.moveaxis(order < move.count, -1, move.axis)


def one_node(outputs: str, text: str, initializers: dict[str, np.ndarray], opset: int = 20) -> Model:
    listed = ", ".join(f"float {out}" for out in outputs.split(", "))
    graph = f'<ir_version: 8, opset_import: ["" : {opset}]> g () => ({listed}) {{ {outputs} = {text} }}'
    proto = onnx.parser.parse_model(graph)
    for key, array in initializers.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, key))
    return load(proto)


@pytest.mark.parametrize("name", MOVES)
def test_what_is_moved(name):
    """What is left of the output is the elements that came from places that stay, in their order."""
    move, generator = MOVES[name], np.random.default_rng(1)
    x = np.arange(1, 1 + np.prod(move.shape), dtype=np.float32).reshape(move.shape)
    outputs = "y, z" if move.text.startswith("Split") else "y"
    model = one_node(outputs, move.text, {"x": x, **move.constants}, move.opset)
    refused = 0
    for _ in range(12):
        goes = goes_of(move, generator)
        try:
            found = delete(model, {"x": ~goes}, {})
        except ModelError:
            refused += 1
            continue
        for whole, left in zip(oracle.run(model, {}), oracle.run(found, {}), strict=True):
            assert left.ravel().tolist() == whole[~np.isin(whole, x[goes])].tolist()
    assert refused < 12 if 'mode="reflect"' in move.text else not refused  # a mirror can't stand where nothing is


SCATTERED = {
    "elements": ("ScatterElements<axis=0>(x, i, z)", {"i": A([[2] * 6, [0] * 6])}, (2, 6)),
    "elements along the axis": ("ScatterElements<axis=1>(x, i, z)", {"i": A([[5, 1], [0, 3], [2, 4]])}, (3, 2)),
    "slices": ("ScatterND(x, i, z)", {"i": A([[2], [0]])}, (2, 6)),
    "tuples": ("ScatterND(x, i, z)", {"i": A([[r, c] for r in (2, 0) for c in range(6)])}, (12,)),
}


@pytest.mark.parametrize("name", SCATTERED)
def test_what_is_overwritten(name):
    """What is written goes where what it replaces does; it is refused where it doesn't."""
    text, constants, size = SCATTERED[name]
    x, z = np.arange(1, 19, dtype=np.float32).reshape(3, 6), -np.arange(1, 1 + np.prod(size), dtype=np.float32)
    model = one_node("y", text, {"x": x, "z": z.reshape(size), **constants})
    (whole,) = oracle.run(model, {})
    gone = np.zeros((3, 6), bool)
    if name == "elements along the axis":
        gone[[0, 0, 1, 1, 2, 2], [1, 2, 0, 5, 4, 5]] = True
    else:
        gone[:, [1, 4]] = True
    written = np.isin(z, whole[gone]).reshape(size)
    (found,) = oracle.run(delete(model, {"x": ~gone, "z": ~written}, {}), {})
    assert found.ravel().tolist() == whole[~gone].tolist()
    with pytest.raises(ModelError, match="don't shrink alike"):
        delete(model, {"x": ~gone}, {})
