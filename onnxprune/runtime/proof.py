"""The proof that a file computes what another one did: what is run on both sides so that every difference shows.

Halves are widened, since their rounding hides more than it shows. Positions and conditions tell little: what decides
them is compared instead. Integers are drawn from the range of the tables that they index. Some files can't be computed
in float32 as closely as the tolerance, whatever the order of summing; there float64 decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.runtime.doubles import graphs_of, in_float64
from onnxprune.runtime.equivalence import (
    TOLERANCE,
    Equivalence,
    Tally,
    compare_outputs,
    prove,
    runnable_feeds,
    runs_of,
)

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, *HALVES)
#: Two files whose float64 values agree round alike: they are this many times as far apart as one is from float64.
ROUNDINGS = 3.0
#: Beyond this share of the range it isn't rounding: float64 computes something else.
MOST_ROUNDING = 0.05
#: Operators that hand positions on as they are.
CARRY = frozenset("Cast Identity Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Concat Expand Tile".split())


def prove_files(reference: str | Path, candidate: str | Path, *, tolerance: float = TOLERANCE) -> Equivalence:
    """Compare two files as `prove` does, with both made comparable first. Raises ModelError, DataError."""
    before, after = (onnx.load(str(path)) for path in (reference, candidate))
    ranges = index_ranges(before)
    sides = reference, candidate
    if needs_widening(before) or _discrete(before):
        for model in (before, after):
            widen(model)
        observe_what_decides(before, after)
        sides = before.SerializeToString(), after.SerializeToString()
    found = prove(*sides, tolerance=tolerance, ranges=ranges)
    return found if found.passed else _in_float64(found, before, after, sides, ranges)


def _in_float64(found: Equivalence, before: onnx.ModelProto, after: onnx.ModelProto, sides, ranges) -> Equivalence:
    """`found`, decided in float64: no further apart there than the tolerance, and in float32 as far as rounding goes.

    How far that goes the reference says for each output: it is its largest distance from itself in float64.
    """
    feeds = runnable_feeds(sides[0], ranges=ranges)
    narrow, rounding, wide = (Tally(found.tolerance) for _ in range(3))
    try:
        exact, other = in_float64(before), in_float64(after)
        expected = [exact(feed) for feed in feeds]
        for index, feed in enumerate(feeds):
            wide.add(f"feed {index}", expected[index], other(feed))
    except ModelError:
        return found  # there is nothing to hold the difference against
    reference = {where: run(feed) for where, run, feed in runs_of(sides[0], feeds)}
    for (where, outputs), exactly in zip(reference.items(), [*expected, *expected], strict=True):
        rounding.add(where, exactly, outputs)
    for where, run, feed in runs_of(sides[1], feeds):
        narrow.add(where, reference[where], run(feed))
    own, apart, double = rounding.by_output(), narrow.by_output(), wide.result()
    passed = double.passed and all(
        own[name] <= MOST_ROUNDING and error <= max(found.tolerance, ROUNDINGS * own[name])
        for name, error in apart.items()
    )
    return replace(found, passed=passed, rounding=max(own.values()), error_in_float64=double.error_over_range)


def largest_change(reference: str | Path, candidate: str | Path, *, inputs: float) -> float:
    """How far any output moves, for random inputs of that size at most."""
    before, after = (onnx.load(str(path)) for path in (reference, candidate))
    for model in (before, after):
        widen(model)
    first, second = before.SerializeToString(), after.SerializeToString()
    feeds = runnable_feeds(first, batches=(1, 3), ranges=index_ranges(before))
    for feed in feeds:
        for name, array in feed.items():
            if array.dtype.kind == "f":
                feed[name] = np.clip(array, -inputs, inputs)
    return compare_outputs(first, second, feeds).max_error


# ---- halves ---------------------------------------------------------------------------------------------------------


def needs_widening(model: onnx.ModelProto) -> bool:
    """Whether the model computes with 16-bit floats."""
    graphs = list(graphs_of(model.graph))
    types = [v.type.tensor_type.elem_type for g in graphs for v in [*g.input, *g.output, *g.value_info]]
    return any(t in HALVES for t in [*types, *(t.data_type for g in graphs for t in g.initializer)]) or any(
        _is_half(a) for g in graphs for node in g.node for a in node.attribute
    )


def widen(model: onnx.ModelProto) -> None:
    """float32 in place of float16 and bfloat16, everywhere; in place."""
    for graph in graphs_of(model.graph):
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type in HALVES:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for tensor in graph.initializer:
            _widen_tensor(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _widen_tensor(attribute.t)
                elif _is_half(attribute):
                    attribute.i = TensorProto.FLOAT


def _is_half(attribute: onnx.AttributeProto) -> bool:
    if attribute.HasField("t"):
        return attribute.t.data_type in HALVES
    return attribute.name in ("to", "dtype") and attribute.i in HALVES


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in HALVES:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


# ---- positions and conditions ---------------------------------------------------------------------------------------


def _discrete(model: onnx.ModelProto) -> list[str]:
    return [v.name for v in model.graph.output if v.type.tensor_type.elem_type not in FLOATS]


def observe_what_decides(reference: onnx.ModelProto, candidate: onnx.ModelProto) -> None:
    """In both models, in place: outputs that aren't floats give way to the float tensors that they are computed from.

    Where the candidate has no tensor of that name, or nothing is computed, the output itself stays.
    """
    types = _types(reference)
    available = {name for node in candidate.graph.node for name in node.output}
    for name in _discrete(reference):
        deciding = list(_floats_behind(reference.graph, name, types))
        if deciding and all(tensor in available for tensor in deciding):
            for model in (reference, candidate):
                _swap_output(model.graph, name, deciding, types)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {v.name: v.type.tensor_type.elem_type for v in [*inferred.input, *inferred.value_info, *inferred.output]}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def _floats_behind(graph: onnx.GraphProto, name: str, types: dict[str, int]) -> Iterable[str]:
    """The computed float tensors from which a tensor follows through others that aren't."""
    producers = {out: node for node in graph.node for out in node.output}
    waiting, seen = [name], {name}
    while waiting:
        node = producers.get(waiting.pop())
        for tensor in node.input if node is not None else ():
            if tensor in seen or not tensor:
                continue
            seen.add(tensor)
            if types.get(tensor) in FLOATS:
                if tensor in producers and producers[tensor].op_type != "Constant":
                    yield tensor
            else:
                waiting.append(tensor)


def _swap_output(graph: onnx.GraphProto, name: str, deciding: list[str], types: dict[str, int]) -> None:
    kept = [v for v in graph.output if v.name != name]
    there = {v.name for v in kept}
    del graph.output[:]
    graph.output.extend(kept)
    for tensor in deciding:
        if tensor not in there:
            info = onnx.ValueInfoProto(name=tensor)
            info.type.tensor_type.elem_type = types[tensor]
            graph.output.append(info)


def index_ranges(model: onnx.ModelProto) -> dict[str, int]:
    """{integer input: how many places the smallest table has that it indexes}; inputs that index nothing are absent."""
    graph = model.graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    sizes |= {node.output[0]: list(a.t.dims) for node in graph.node for a in node.attribute if a.name == "value"}
    found = {}
    for value in graph.input:
        if value.name in sizes or value.type.tensor_type.elem_type in (*FLOATS, TensorProto.BOOL):
            continue
        limits = list(_tables(graph, value.name, sizes))
        if limits:
            found[value.name] = min(limits)
    return found


def _tables(graph: onnx.GraphProto, name: str, sizes: dict[str, list[int]]) -> Iterator[int]:
    carried = {name}
    for node in graph.node:  # in order, so that what carries it comes first
        if not carried & set(node.input):
            continue
        if node.op_type in CARRY:
            carried |= set(node.output)
        elif node.op_type in ("Gather", "GatherElements") and node.input[1] in carried and node.input[0] in sizes:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            yield sizes[node.input[0]][axis]
