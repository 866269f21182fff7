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


# ---- where float32 can't compute the reference itself as closely as the tolerance -----------------------------------

#: Two large products that all but cancel: rounding them shows in what is left.
CANCELS = "(float[N,40] x) => (float[N,8] y) { a = MatMul(x, u) b = MatMul(x, v) y = Sub(a, b) }"


def cancelling(size: float, order=slice(None), scale: float = 1.0) -> onnx.ModelProto:
    """x times small numbers, as the difference of products with numbers `size` times as large, summed in some order.

    All of them are few binary digits, which float32 holds exactly.
    """
    u = (np.rint(weights((40, 8), np.float64)) * size).astype(np.float32)
    v = (u - np.rint(8 * weights((40, 8), np.float64, seed=1)) / 8 * scale).astype(np.float32)
    # Where rows are in another order, the input is put into it first.
    rows = np.arange(40)[order]
    text = CANCELS.replace(
        "{ a = MatMul(x, u) b = MatMul(x, v)", "{ z = Gather<axis=1>(x, rows) a = MatMul(z, u) b = MatMul(z, v)"
    )
    return model(text, {"u": u[rows], "v": v[rows], "rows": rows})


def saved(tmp_path, *models):
    paths = []
    for number, found in enumerate(models):
        paths.append(tmp_path / f"{number}.onnx")
        onnx.save(found, paths[-1])
    return paths


def test_another_order_of_summing_passes_in_float64(tmp_path):
    found = prove_files(*saved(tmp_path, cancelling(2.0**12), cancelling(2.0**12, slice(None, None, -1))))
    assert found.passed and found.error_over_range > found.tolerance
    assert found.error_in_float64 < 1e-9 and found.rounding > found.tolerance / 3
    assert "equal: in float64 error" in str(found) and "rounding moves the reference itself by" in str(found)


def test_a_change_that_rounding_would_hide_is_seen_in_float64(tmp_path):
    """It is as small as the reference's own rounding."""
    found = prove_files(*saved(tmp_path, cancelling(2.0**12), cancelling(2.0**12, scale=1 + 2.0**-8)))
    assert not found.passed
    assert found.error_in_float64 > found.tolerance
    assert found.error_over_range < 10 * found.rounding


def test_a_candidate_that_rounds_far_more_than_the_reference_fails(tmp_path):
    """In float64 they are the same, but nobody runs them there."""
    found = prove_files(*saved(tmp_path, cancelling(1.0), cancelling(2.0**17)))
    assert found.error_in_float64 < 1e-9 and found.error_over_range > found.tolerance
    assert not found.passed and found.rounding < found.tolerance


def test_what_float64_cannot_compute_is_judged_in_float32(tmp_path):
    found = []
    for scale in (1.0, 1.001):
        found.append(model("(float[N,3] x) => (float[N,4] y) { a = MatMul(x, w) y = com.microsoft.QuickGelu(a) }", {}))
        found[-1].opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        found[-1].graph.initializer.append(numpy_helper.from_array(weights((3, 4)) * np.float32(scale), "w"))
    result = prove_files(*saved(tmp_path, *found))
    assert not result.passed and result.error_in_float64 is None and "NOT equal: error" in str(result)


def test_close_files_are_not_computed_twice(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.runtime.proof.in_float64", None)
    assert prove_files(*saved(tmp_path, cancelling(1.0), cancelling(1.0, slice(None, None, -1)))).passed
