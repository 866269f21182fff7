"""A model in float64 computes what ONNX Runtime does in float32, for whatever attributes its windows have."""

import itertools

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxprune.errors import ModelError
from onnxprune.runtime.doubles import doubled, in_float64
from tests.conformance.case import build
from tests.conformance.cases import CASES
from tests.conformance.evaluation import NEWEST_OPSET, error_over_range, feeds, opset, runner, widen

WINDOWS = [
    ", ".join(filter(None, parts))
    for parts in itertools.product(
        ("", "pads=[1,0,1,1]", 'auto_pad="SAME_UPPER"', 'auto_pad="SAME_LOWER"', 'auto_pad="VALID"'),
        ("", "strides=[2,3]"),
        ("", "dilations=[2,1]"),
    )
    if not ("SAME" in parts[0] and parts[2])  # ONNX Runtime refuses it for convolutions
]


REFUSED = {"opset 7": "Upsample"}
#: Where rounding decides, float64 decides otherwise.
STEPS = {"a step that rounding decides"}


def on_onnxruntime(model: onnx.ModelProto, feed):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feed)


def agree(body: str, weights=(), size: int = 9):
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 22]> g (float[N,4,A,B] x) => (float[n,c,h,w] y) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    for name, shape in dict(weights).items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    feed = {"x": rng.normal(size=(2, 4, size, size + 1)).astype(np.float32)}
    (expected,), found = on_onnxruntime(model, feed), in_float64(model)(feed)["y"]
    assert found.dtype == np.float64 and found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


@pytest.mark.parametrize("attributes", WINDOWS)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_convolutions(attributes, group):
    agree(
        f"y = Conv<group={group}, {attributes}>(x, w, b)".replace(", >", ">"), {"w": (8, 4 // group, 3, 2), "b": (8,)}
    )


@pytest.mark.parametrize(
    ("attributes", "more"),
    [
        (attributes, more)
        for attributes in WINDOWS
        if "strides" in attributes and "SAME" not in attributes
        for more in ("", ", output_padding=[1,0]", ", output_shape=[19,31]")
        if not ("output_shape" in more and "pads" in attributes)  # one says what the other does
    ],
)
def test_transposed_convolutions(attributes, more):
    agree(f"y = ConvTranspose<group=2, {attributes}{more}>(x, w, b)", {"w": (4, 3, 3, 2), "b": (6,)})


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("attributes", WINDOWS)
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "AveragePool<count_include_pad=1>"])
def test_pooling(operator, attributes, ceil):
    name, _, more = operator.rstrip(">").partition("<")
    parts = ", ".join(filter(None, ("kernel_shape=[3,3]", f"ceil_mode={ceil}", more, attributes)))
    agree(f"y = {name}<{parts}>(x)", size=9)
    agree(f"y = {name}<{parts}>(x)", size=8)


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pooling(operator):
    agree(f"y = {operator}(x)")


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.opset <= NEWEST_OPSET and n not in STEPS])
def test_the_conformance_suite(name):
    model = widen(build(CASES[name]))
    if name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name]):
            in_float64(model)(next(iter(feeds(model))))
        return
    narrow, wide = runner(model), in_float64(model)
    for feed in feeds(model):
        expected, found = narrow(feed), wide(feed)
        for output, array in expected.items():
            assert found[output].shape == array.shape
            assert np.abs(array - found[output]).max() <= 1e-5 * max(np.ptp(array), 1e-6)


def test_constants_and_casts_are_widened():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[N,3] i, float[N,3] x) => (float[N,3] y, float[K] z) {'
        " f = Cast<to=1>(i) k = Constant<value_floats=[1.5,2.5,3.5]>() a = Mul(f, k) b = Add(a, x) h = Cast<to=10>(b)"
        " y = Cast<to=1>(h) n = Constant<value_ints=[2]>() z = ConstantOfShape(n) }"
    )
    found = in_float64(model)({"i": np.ones((1, 3), np.int64), "x": np.full((1, 3), 1e-9)})
    assert found["y"].tolist() == [[1.5 + 1e-9, 2.5 + 1e-9, 3.5 + 1e-9]]
    assert found["z"].dtype == np.float64
    assert model.graph.input[1].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert doubled(model).graph.input[1].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE


def test_an_operator_that_is_unknown_there():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,3] x) => (float[N,3] y)'
        " { y = com.microsoft.QuickGelu(x) }"
    )
    with pytest.raises(ModelError, match="can't compute the model in float64"):
        in_float64(model)({"x": np.ones((1, 3), np.float32)})


def test_a_shrunk_case_in_float64_is_its_case_there():
    """What folding writes down is rounded to float32, nothing else differs."""
    from onnxprune.graph.model import load, to_proto
    from onnxprune.graph.shrink import shrink

    original = build(CASES[next(iter(CASES))])
    smaller = to_proto(shrink(load(original))[0])
    assert opset(original) == opset(smaller) and error_over_range(original, smaller) <= 1e-5
    for feed in feeds(original):
        expected, found = in_float64(original)(feed), in_float64(smaller)(feed)
        assert all(np.abs(expected[n] - found[n]).max() <= 1e-6 * np.ptp(expected[n]) for n in expected)
