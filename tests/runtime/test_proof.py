"""What the proof looks at: widened halves, what decides a position, tables that integers index."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper

from onnxprune.runtime.proof import index_ranges, needs_widening, observe_what_decides, prove_files, widen


def model(text: str, weights: dict[str, np.ndarray], opset: int = 17) -> onnx.ModelProto:
    found = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    found.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return found


def weights(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


ARGMAX = "(float[N,3] x) => (int64[N] y) { a = MatMul(x, w) y = ArgMax<axis=1, keepdims=0>(a) }"


def test_a_position_is_proved_by_the_tensor_that_decides_it(tmp_path):
    """A change too small to move any position shows all the same."""
    before, after = weights((3, 4)), weights((3, 4)) * np.float32(1.001)
    for name, array in (("before", before), ("after", after)):
        onnx.save(model(ARGMAX, {"w": array}), tmp_path / f"{name}.onnx")
    assert prove_files(tmp_path / "before.onnx", tmp_path / "before.onnx").passed
    found = prove_files(tmp_path / "before.onnx", tmp_path / "after.onnx")
    assert not found.passed and "'a'" in found.worst


def test_an_input_decides_nothing_that_could_be_compared():
    source = model("(float[N,3] x) => (int64[N] y) { y = ArgMax<axis=1, keepdims=0>(x) }", {})
    observe_what_decides(source, source)
    assert [value.name for value in source.graph.output] == ["y"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_widened(dtype):
    kind = onnx.helper.make_tensor("w", getattr(TensorProto, dtype.upper()), (3, 4), weights((3, 4)).ravel().tolist())
    source = model(f"({dtype}[N,3] x) => ({dtype}[N,4] y) {{ a = MatMul(x, w) y = Relu(a) }}", {}, opset=22)
    source.graph.initializer.append(kind)
    assert needs_widening(source)
    widen(source)
    assert not needs_widening(source)
    onnx.checker.check_model(source, full_check=True)


def test_integers_stay_within_the_tables_they_index():
    text = "(int64[N,T] ids, int64[N,T] kinds, int64[N] other) => (float[N,T,4] y, float[N] z)"
    body = "{ c = Cast<to=6>(ids) a = Gather(table, c) b = Gather(small, kinds) y = Add(a, b) z = Cast<to=1>(other) }"
    source = model(f"{text} {body}", {"table": weights((30, 4)), "small": weights((2, 4))})
    assert index_ranges(source) == {"ids": 30, "kinds": 2}


def test_integers_are_drawn_from_the_whole_table(tmp_path):
    """Only the last row differs."""
    text = "(int64[N,T] ids) => (float[N,T,4] y) { y = Gather(table, ids) }"
    table = weights((5, 4))
    other = table.copy()
    other[4] += 1
    onnx.save(model(text, {"table": table}), tmp_path / "a.onnx")
    onnx.save(model(text, {"table": other}), tmp_path / "b.onnx")
    assert not prove_files(tmp_path / "a.onnx", tmp_path / "b.onnx").passed
