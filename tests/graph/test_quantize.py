"""QuantizeLinear and DequantizeLinear around layers: the numbers are those of the definition, the ends stay."""

import numpy as np
import pytest

from onnxprune.graph.model import load, to_bytes
from onnxprune.graph.quantize import Activation, Layer, largest, quantize, weight_scale
from onnxprune.prune.cost import count
from onnxprune.runtime.session import SessionSettings, open_session, run_session
from tests.graph.conftest import parse

IN, OUT = Activation(2 / 255, 128), Activation(0.05, 100)
RECTIFIED = Activation(0.02, 0)
X = np.random.default_rng(1).uniform(-1, 1, (2, 3, 6, 6)).astype(np.float32)


def named(body, weights, layers, **how):
    """A model whose nodes `layers` {name: module path} say where they come from."""
    model = parse(body, {"x": "N,3,6,6"}, weights, **how)
    for node in model.graph.node:
        if node.name in layers:
            entry = node.metadata_props.add()
            entry.key, entry.value = "pkg.torch.onnx.name_scopes", f"['', '{layers[node.name]}', 'call']"
    return load(model)


def rounded(x, how):
    return how.scale * (np.clip(np.rint(x / np.float32(how.scale)) + how.zero_point, 0, 255) - how.zero_point)


def rounded_weight(array, scale, top):
    column = scale.reshape(-1, *[1] * (array.ndim - 1))
    return np.clip(np.rint(array / column), -top, top) * column


def run(model, optimization="all"):
    return run_session(open_session(to_bytes(model), SessionSettings(optimization=optimization)), {"x": X})["y"]


def weights_of(model):
    return {name: value.const_value.numpy() for name, value in model.ir.graph.initializers.items()}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("top", [63, 127])
def test_a_convolution_by_definition(per_channel, top):
    model = named("[c] a = Conv(x, w, b) y = Relu(a)", {"w": (4, 3, 1, 1), "b": (4,)}, {"c": "conv"})
    held = weights_of(model)
    done = quantize(model, {"conv": Layer(IN, RECTIFIED)}, largest=top, per_channel=per_channel)
    w, b = held["w"], held["b"]
    scale = np.abs(w).reshape(4, -1).max(1) / top
    scale = scale if per_channel else np.full(4, scale.max())
    bias = np.rint(b / (IN.scale * scale)) * IN.scale * scale
    products = np.einsum("nihw,oi->nohw", rounded(X, IN), rounded_weight(w, scale, top)[:, :, 0, 0])
    expected = rounded(np.maximum(products + bias[:, None, None], 0), RECTIFIED)
    # In integers the full range overflows where the processor has no VNNI.
    error = np.abs(run(done, "all" if top == 63 else "none") - expected)
    assert error.max() <= 1.01 * RECTIFIED.scale
    assert np.mean(error < 1e-5) > 0.98
    kinds = [node.op_type for node in done.ir.graph]
    assert kinds.count("QuantizeLinear") == 2 and kinds.count("DequantizeLinear") == 4
    assert kinds[-3:] == ["Relu", "QuantizeLinear", "DequantizeLinear"]
    assert {array.dtype.name for array in weights_of(done).values()} == {"int8", "int32", "uint8", "float32"}
    assert not {"w", "b"} & weights_of(done).keys()


def test_the_graph_before_is_as_it_was():
    model = named("[c] y = Conv(x, w)", {"w": (4, 3, 1, 1)}, {"c": "conv"})
    before = to_bytes(model)
    quantize(model, {"conv": Layer(IN, OUT)})
    assert to_bytes(model) == before


def test_an_output_keeps_its_name_and_what_reads_it_besides():
    model = named("[c] y = Conv(x, w) [d] z = Conv(y, v)", {"w": (4, 3, 1, 1), "v": (2, 4, 1, 1)}, {"c": "c", "d": "d"},
                  outputs="float[a,b,e,f] y, float[a,g,e,f] z")  # fmt: skip
    done = quantize(model, {"c": Layer(IN, OUT), "d": Layer(OUT, OUT)})
    assert [value.name for value in done.ir.graph.outputs] == ["y", "z"]
    found = run_session(open_session(to_bytes(done)), {"x": X})
    for array in found.values():
        assert np.allclose(np.rint(array / OUT.scale), array / OUT.scale, atol=1e-3)
    # What d reads is on its grid already: no second pair.
    assert [node.op_type for node in done.ir.graph].count("QuantizeLinear") == 3


@pytest.mark.parametrize(
    ("body", "shape", "axis"),
    [
        ("f = Flatten(x) [l] y = Gemm(f, w, b)", (108, 5), 1),
        ("f = Flatten(x) [l] y = Gemm<transB=1>(f, w, b)", (5, 108), 0),
        ("f = Flatten(x) [l] m = MatMul(f, w) y = Add(m, b)", (108, 5), 1),
    ],
)
def test_a_linear_layer_has_its_scales_along_its_outputs(body, shape, axis):
    model = named(body, {"w": shape, "b": (5,)}, {"l": "l"}, outputs="float[a,b] y")
    w, b = (weights_of(model)[name] for name in "wb")
    done = quantize(model, {"l": Layer(IN, None)})
    scale = np.abs(w).max(axis=1 - axis) / 63
    stored = rounded_weight(w if axis == 0 else w.T, scale, 63).T
    assert run(done) == pytest.approx(rounded(X.reshape(2, -1), IN) @ stored + b, abs=1e-2)


def test_layers_that_read_the_same_share_one_pair_and_others_stay():
    body = "[p] a = Conv(x, w) [q] b = Conv(x, v) [r] c = Conv(x, u) d = Sum(a, b, c) y = Relu(d)"
    model = named(body, dict.fromkeys("wvu", (4, 3, 1, 1)), {"p": "p", "q": "q", "r": "r"})
    done = quantize(model, {"p": Layer(IN, None), "q": Layer(IN, None), "gone": Layer(IN, None)})
    assert [node.op_type for node in done.ir.graph].count("QuantizeLinear") == 1
    assert "u" in weights_of(done) and "w" not in weights_of(done)


def test_weights_that_are_nothing_beside_their_bias():
    """The bias fits into int32, and nothing is divided by 0."""
    weight = np.zeros((3, 2), np.float32)
    weight[1] = 1e-12
    weight[2] = 1
    scale = weight_scale(weight, np.array([0.0, 5.0, 1.0], np.float32), 0.01, 63, 0)
    assert (scale > 0).all() and scale[2] == np.float32(1) / np.float32(63)
    assert 5.0 / (0.01 * scale[1]) <= 2**31 - 1


def test_what_is_counted_are_weights_and_not_their_scales():
    weights = {"w": (4, 3, 1, 1), "b": (4,)}
    model = named("[c] y = Conv(x, w, b)", weights, {"c": "conv"})
    done = quantize(model, {"conv": Layer(IN, OUT)})
    assert (count(done).params, count(done).macs) == (count(model).params, count(model).macs) == (16, 12 * 36)


def test_the_reduced_range_never_fills_sixteen_bits():
    assert (largest(8, False), largest(8, True), largest(4, False)) == (127, 63, 7)
    assert 2 * 255 * largest(8, True) <= 2**15 - 1 < 2 * 255 * largest(8, False)


def test_constants_keep_their_bytes():
    """An int8 weight of the file is read back as it was written."""
    model = named("[c] y = Conv(x, w)", {"w": (4, 3, 1, 1)}, {"c": "conv"})
    done = load(to_bytes(quantize(model, {"conv": Layer(IN, OUT)})))
    raw = weights_of(done)["w_quantized"]
    assert raw.dtype == np.int8 and np.abs(raw).max() == 63
