"""The one oracle: what remains after removal computes what the masked network computes."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented

from onnxprune.errors import EmptyAxisError, RaggedError
from onnxprune.graph.mask import mask
from onnxprune.graph.model import Model, load, to_bytes, to_proto
from onnxprune.graph.remove import remove
from onnxprune.graph.units import Channels, trace
from onnxprune.runtime.doubles import in_float64

#: Largest error, as a fraction of the output's range.
TOLERANCE = 1e-5
#: Where removal only cuts, both sides add up the same numbers: in float64 no more than the order of adding differs.
EXACT = 1e-10
#: Random weights make networks that float32 can't compute to TOLERANCE (the cosine of a large number); there the model
#: that is left is this many times as far from the other as float32 is from float64 at most.
ROUNDINGS = 10
#: The newest opset that the oldest supported ONNX Runtime takes.
NEWEST_RUN = 26


def parse(
    body: str,
    inputs: dict[str, str],
    weights: dict[str, tuple[int, ...]] | None = None,
    constants: dict[str, np.ndarray] | None = None,
    outputs: str = "float[ya,yb,yc,yd] y",
    opset: int = 20,
    seed: int = 0,
    infos: str = "",
) -> onnx.ModelProto:
    """A model from ONNX text: `body` is the nodes, `weights` gives shapes that are filled at random.

    Names that end in "var" are positive. `infos` are types and shapes that the file gives of values inside.
    """
    listed = ", ".join(f"float[{shape}] {name}" for name, shape in inputs.items())
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({listed}) => ({outputs}) <{infos}> {{ {body} }}'
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for name, shape in (weights or {}).items():
        array = rng.normal(size=shape).astype(np.float32)
        if name.endswith("var"):
            array = np.abs(array) + 0.5
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for name, array in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def run(model: Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes; onnx's reference evaluator where ONNX Runtime has no such opset, type or operator."""
    if model.ir.graph.opset_imports[""] > NEWEST_RUN:
        return ReferenceEvaluator(to_proto(model)).run(None, feeds)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    except NotImplemented:
        return ReferenceEvaluator(to_proto(model)).run(None, feeds)
    return session.run(None, feeds)


def feeds_for(model: Model, batch: int, size: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs; a symbolic first axis is the batch, other symbolic axes have `size`."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.ir.graph.inputs:
        shape = [d if isinstance(d, int) else (batch if a == 0 else size) for a, d in enumerate(value.shape)]
        feeds[value.name] = rng.normal(size=shape).astype(np.float32)
    return feeds


def error_over_range(expected: list[np.ndarray], got: list[np.ndarray]) -> float:
    worst = 0.0
    assert len(expected) == len(got) > 0
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape
        assert a.size and np.isfinite(a).all()
        worst = max(worst, float(np.abs(a - b).max() / max(np.ptp(a), 1e-6)))
    return worst


def agree(reference: Model, candidate: Model, feeds: dict[str, np.ndarray], exact: float) -> None:
    """Fail unless both compute the same: in float64 within `exact` of the range, in float32 as closely as that can."""
    expected, found = (list(in_float64(to_proto(model))(feeds).values()) for model in (reference, candidate))
    assert error_over_range(expected, found) <= exact
    narrow = run(reference, feeds)
    allowed = max(TOLERANCE, ROUNDINGS * error_over_range(expected, narrow))
    assert error_over_range(narrow, run(candidate, feeds)) <= allowed


@dataclass
class Oracle:
    """Random deletions of a model's units, each compared with the mask."""

    parse = staticmethod(parse)
    run = staticmethod(run)
    feeds_for = staticmethod(feeds_for)
    error_over_range = staticmethod(error_over_range)
    agree = staticmethod(agree)
    legal = staticmethod(lambda channels, rng, share: legal(channels, rng, share))
    parameters = staticmethod(lambda model: parameters(model))

    def check(
        self, source, *, trials: int = 4, share: float = 0.35, size: int = 8, seed: int = 0, doubles: bool = False
    ) -> Channels:
        """Delete units at random, at batch 3 and at another dynamic size; fail unless `mask` and `remove` agree.

        They do so in float32; with `doubles` in float64, which shows less than rounding, and in float32 up to rounding.
        Deletes something in every trial if there is a unit at all, and in every other one by a random ranking, where
        each row of a grid makes its own choice. Returns the channels.
        """
        given = source.SerializeToString(deterministic=True)
        model = load(source)
        before = to_bytes(model)
        channels = trace(model)
        rng = np.random.default_rng(seed)
        for trial in range(trials if channels.units or channels.blocks else 0):
            chosen = channels.ranked(random_saliency(channels, rng)) if trial % 2 else channels
            units = legal(chosen, rng, share)
            smaller = remove(model, chosen, units)
            masked = mask(model, chosen, units)
            assert parameters(smaller) < parameters(model)
            onnx.checker.check_model(to_bytes(smaller), full_check=infers(source))
            for batch, dynamic in ((3, size), (2, size + 4)):
                feeds = feeds_for(model, batch, dynamic, seed + trial)
                if doubles:
                    agree(masked, smaller, feeds, EXACT)
                    continue
                assert error_over_range(run(masked, feeds), run(smaller, feeds)) <= TOLERANCE
        nothing = remove(model, channels, [])
        feeds = feeds_for(model, 2, size)
        assert error_over_range(run(model, feeds), run(nothing, feeds)) == 0
        assert to_bytes(model) == before, "the input was modified"
        assert source.SerializeToString(deterministic=True) == given, "the source was modified"
        return channels


def infers(source: onnx.ModelProto) -> bool:
    """Whether onnx can infer the shapes at all: of some operators defined by functions it can't."""
    try:
        onnx.checker.check_model(source, full_check=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def legal(channels: Channels, rng: np.random.Generator, share: float) -> list[int]:
    """A random set of units and blocks that go together, with at least one of them."""
    order = rng.permutation(len(channels.units) + len(channels.blocks))
    wanted = max(1, round(share * len(order)))
    chosen: list[int] = []
    for index in order.tolist():
        try:
            channels.deleted([*chosen, index])
        except (EmptyAxisError, RaggedError):
            continue
        chosen.append(index)
        if len(chosen) == wanted:
            break
    return chosen


def random_saliency(channels: Channels, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A number for every weight."""
    initializers = channels.model.ir.graph.initializers
    return {name: rng.random(initializers[name].const_value.shape) for name, _ in channels.parameters()}


def parameters(model: Model) -> int:
    return sum(
        v.const_value.size
        for name, v in model.ir.graph.initializers.items()
        if v.const_value.dtype.is_floating_point() and name not in model.copies
    )


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()
