"""Tidying up: less graph, the same function, and nothing lost that somebody put there."""

import copy

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.deploy.surgeon import tidy
from onnxprune.errors import ModelError
from onnxprune.graph.model import Model, load, to_bytes, to_proto

OPSET = '<ir_version: 10, opset_import: ["" : 20, "own" : 1]>'


def run(model: Model, seed: int = 0, **sizes: int) -> list[np.ndarray]:
    """Outputs on random inputs; a symbolic size is 3 unless given."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(seed)
    feeds = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else sizes.get(size, 3) for size in value.shape]
        feeds[value.name] = generator.normal(size=shape).astype(np.float32)
    return session.run(None, feeds)


def operators(model: Model) -> list[str]:
    return sorted(node.op_type for node in model.ir.graph)


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


#: (text of the graph, weights, operators that are left)
CASES = {
    "dead node": ("y = Relu(x) z = Exp(x) u = Add(z, w)", weights(w=(4,)), ["Relu"]),
    "identical to its input": ("y = Identity(x)", {}, ["Identity"]),
    "constant arithmetic": ("a = Mul(w, v) y = Add(x, a)", weights(w=(4,), v=(4,)), ["Add"]),
    "transposed weight": ("a = Transpose<perm=[1,0]>(w) y = MatMul(x, a)", weights(w=(4, 4)), ["MatMul"]),
    "chain": ("a = Transpose<perm=[1,0]>(w) b = Neg(a) c = Exp(b) y = MatMul(x, c)", weights(w=(4, 4)), ["MatMul"]),
    "shared weight": (
        "a = Transpose<perm=[1,0]>(w) b = Neg(w) c = Abs(w) p = MatMul(x, a) q = MatMul(p, b) r = MatMul(q, c) "
        "y = MatMul(r, w)",
        weights(w=(40, 40)),
        ["Abs", "MatMul", "MatMul", "MatMul", "MatMul", "Neg", "Transpose"],
    ),
    "grows by Expand": ("a = Expand(w, s) y = MatMul(x, a)", weights(w=(1, 50)) | {"s": np.array([40, 50])}, None),
    "grows by an outer sum": ("a = Add(w, v) y = MatMul(x, a)", weights(w=(40, 1), v=(1, 50)), None),
    "random": ("a = RandomNormal<shape=[3,4]>() b = Mul(a, w) y = Add(x, b)", {"w": np.zeros(1, np.float32)}, None),
    "quantised weight": (
        "a = DequantizeLinear(w, s) y = Add(x, a)",
        {"w": np.ones(4, np.int8), "s": np.float32(2)},
        None,
    ),
    "empty list": (
        "a = ReduceSum<keepdims=0>(w, e) y = Add(x, a)",
        weights(w=(4,)) | {"e": np.zeros(0, np.int64)},
        ["Add"],
    ),
    "two outputs": (
        "a, b = Split<axis=0, num_outputs=2>(w) c = Add(x, a) y = Mul(c, b)",
        weights(w=(2, 4)),
        ["Add", "Mul"],
    ),
}
#: Sizes of x's second axis that aren't 4.
WIDTHS = {"shared weight": 40, "grows by Expand": 40, "grows by an outer sum": 40}


@pytest.mark.parametrize("name", CASES)
def test_the_function_stays(network_from_text, name):
    body, arrays, left = CASES[name]
    width = WIDTHS.get(name, 4)
    text = f"{OPSET} g (float[N,{width}] x) => (float[ya,yb] y) {{ {body} }}"
    model = load(network_from_text(text, **{k: np.asarray(v) for k, v in arrays.items()}))
    before = to_bytes(model)
    tidied = tidy(model)
    assert operators(tidied) == (operators(model) if left is None else left)
    assert elements(tidied) <= elements(model)
    onnx.checker.check_model(to_bytes(tidied), full_check=True)
    for expected, got in zip(run(model), run(tidied), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert to_bytes(model) == before


def elements(model):
    return sum(value.const_value.size for value in model.ir.graph.initializers.values())


def test_a_folded_parameter_keeps_its_name(network_from_text):
    body = "a = Transpose<perm=[1,0]>(w) b = Mul(a, two) p = MatMul(x, b) c = Mul(v, u) y = MatMul(p, c)"
    text = f"{OPSET} g (float[N,4] x) => (float[N,4] y) {{ {body} }}"
    arrays = weights(w=(4, 4), v=(4, 4), u=(4, 4)) | {"two": np.full(1, 2, np.float32)}
    tidied = tidy(load(network_from_text(text, **arrays)))
    left = {name: value.const_value.numpy() for name, value in tidied.ir.graph.initializers.items()}
    np.testing.assert_allclose(left.pop("w"), 2 * arrays["w"].T)
    assert list(left) == ["c"]  # made of two parameters: the name of neither


def test_without_folding_only_the_dead_go(network_from_text):
    text = f"{OPSET} g (float[N,4] x) => (float[N,4] y) {{ a = Mul(w, v) z = Neg(x) y = Add(x, a) }}"
    tidied = tidy(load(network_from_text(text, **weights(w=(4,), v=(4,)))), fold=False)
    assert operators(tidied) == ["Add", "Mul"]


def annotated() -> onnx.ModelProto:
    """A model with metadata wherever ONNX has room for it."""
    nodes = [
        helper.make_node("Mul", ["w", "v"], ["folded"], name="folds"),
        helper.make_node("Conv", ["x", "k"], ["h"], name="conv", doc_string="why this is here", kernel_shape=[1, 1]),
        helper.make_node("Add", ["h", "folded"], ["y"], name="add"),
        helper.make_node("Exp", ["h"], ["unused"], name="dead"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph name",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", 5], "the image")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, "height", 5])],
        [numpy_helper.from_array(array, name) for name, array in weights(w=(1,), v=(1,), k=(4, 3, 1, 1)).items()],
        doc_string="about the graph",
        value_info=[helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 4, "height", 5])],
    )
    model = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 19)], producer_name="somebody", model_version=7
    )
    holders = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for holder in [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]:
        holder.metadata_props.add(key="of", value=getattr(holder, "name", "model"))
    for holder in [*model.graph.value_info, *model.graph.initializer]:
        holder.metadata_props.add(key="of", value=holder.name)
    assert len(holders) == 12
    return model


def test_metadata_survives_at_every_level():
    given = to_proto(load(annotated()))
    tidied = to_proto(tidy(load(annotated())))
    assert [node.name for node in tidied.graph.node] == ["conv", "add"]
    assert {t.name for t in tidied.graph.initializer} == {"folded", "k"}

    def props(holders):
        return {
            (type(h).__name__, getattr(h, "name", "")): [(p.key, p.value) for p in h.metadata_props] for h in holders
        }

    def everything(model, names):
        graph = model.graph
        holders = [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
        return props([model, graph, *(holder for holder in holders if holder.name in names)])

    names = {"conv", "add", "x", "y", "h", "k"}
    assert everything(tidied, names) == everything(given, names)
    assert sum(map(bool, everything(tidied, names).values())) == 8
    assert tidied.graph.node[0].doc_string == "why this is here"
    assert (tidied.producer_name, tidied.model_version, tidied.graph.doc_string) == ("somebody", 7, "about the graph")
    assert tidied.ir_version == 10 and tidied.opset_import[0].version == 19


def test_inputs_and_outputs_stay_as_they_are():
    given, tidied = to_proto(load(annotated())), to_proto(tidy(load(annotated())))
    assert list(tidied.graph.input) == list(given.graph.input)
    assert list(tidied.graph.output) == list(given.graph.output)
    assert tidied.graph.input[0].type.tensor_type.shape.dim[2].dim_param == "height"


def test_a_default_is_not_a_constant(network_from_text):
    """The caller may feed another value, so nothing is computed from the default."""
    body = "a = Neg(w) b = Neg(v) c = Add(x, a) y = Add(c, b)"
    text = f"{OPSET} g (float[N,4] x, float[4] w) => (float[N,4] y) {{ {body} }}"
    tidied = tidy(load(network_from_text(text, **weights(w=(4,), v=(4,)))))
    assert operators(tidied) == ["Add", "Add", "Neg"]
    proto = to_proto(tidied)
    assert [value.name for value in proto.graph.input] == ["x", "w"]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(to_bytes(tidied), options, providers=["CPUExecutionProvider"])
    x, w = np.ones((1, 4), np.float32), np.full((4,), 5, np.float32)
    (by_default,), (fed,) = session.run(None, {"x": x}), session.run(None, {"x": x, "w": w})
    np.testing.assert_allclose(by_default - fed, [w - weights(w=(4,))["w"]], atol=1e-5)


def test_types_that_numpy_does_not_have_stay(tmp_path):
    bfloat = helper.make_tensor("w", TensorProto.BFLOAT16, [4], [1.0, 2.0, 3.0, 4.0])
    nodes = [
        helper.make_node("Mul", ["w", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "b"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [bfloat])
    model = load(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]))
    tidied = tidy(model)
    assert operators(tidied) == ["Add", "Cast", "Mul"]
    assert to_proto(tidied).graph.initializer[0] == to_proto(model).graph.initializer[0]


def test_attributes_that_graphsurgeon_does_not_have_stay(network_from_text):
    text = f"{OPSET} g (float[N,4] x) => (float[N,4] y) {{ y = own.Something <kept = 1> (x) }}"
    proto = network_from_text(text)
    proto.graph.node[0].attribute.append(helper.make_attribute("none", [], attr_type=onnx.AttributeProto.INTS))
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    proto.graph.node[0].attribute.append(helper.make_attribute("type", kind))
    node = to_proto(tidy(load(proto))).graph.node[0]
    assert sorted(a.name for a in node.attribute) == ["kept", "none", "type"]
    assert {a.name: a for a in node.attribute}["type"].tp == kind


def test_a_constant_that_can_not_be_computed_stays_alone(network_from_text, capfd):
    """An index out of range: the rest is folded all the same, and nothing is printed about it."""
    body = "a = Gather(w, far) b = Mul(v, v) c = Add(x, b) y = Add(c, a)"
    text = f"{OPSET} g (float[N,4] x) => (float[N,4] y) {{ {body} }}"
    model = load(network_from_text(text, far=np.array(9), **weights(w=(4,), v=(4,))))
    assert operators(tidy(model)) == ["Add", "Add", "Gather"]
    assert capfd.readouterr() == ("", "")


def test_bodies_see_what_they_saw(network_from_text):
    body = """
        a = Transpose<perm=[1,0]>(w)
        s = ReduceSum<keepdims=0>(x)
        zero = Constant<value_float = 0.0>()
        c = Greater(s, zero)
        y = If (c) <
            then_branch = g1 () => (float[ya,yb] t) { t = MatMul(x, a) },
            else_branch = g2 () => (float[ya,yb] e) { d = Neg(a) e = MatMul(x, d) }
        >
    """
    text = f"{OPSET} g (float[N,4] x) => (float[ya,yb] y) {{ {body} }}"
    model = load(network_from_text(text, **weights(w=(4, 4))))
    tidied = tidy(model)
    assert "Transpose" not in operators(tidied)
    signs = set()
    for seed in range(6):
        (expected,), (got,) = run(model, seed), run(tidied, seed)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        signs.add(bool(np.random.default_rng(seed).normal(size=(3, 4)).sum() > 0))
    assert signs == {True, False}


def test_copies_become_one_again(network_from_text):
    text = f"{OPSET} g (float[N,4] x) => (float[N,4] y) {{ a = Add(x, w) b = Relu(a) c = Mul(b, w) y = Sub(c, w) }}"
    model = load(network_from_text(text, **weights(w=(4,))))
    assert len(model.copies) == 2
    tidied = tidy(model)
    assert (list(tidied.ir.graph.initializers), dict(tidied.copies)) == (["w"], {})
    np.testing.assert_array_equal(run(tidied)[0], run(model)[0])


def test_external_data(network, tmp_path):
    onnx.save(copy.deepcopy(network), tmp_path / "m.onnx", save_as_external_data=True, location="d", size_threshold=0)
    tidied = tidy(load(tmp_path / "m.onnx"))
    (tmp_path / "d").unlink()
    sizes = {"image": np.zeros((2, 3, 8, 8), np.float32)}
    session = ort.InferenceSession(to_bytes(tidied), providers=["CPUExecutionProvider"])
    assert session.run(None, sizes)[0].shape == (2, 5)


def test_what_graphsurgeon_can_not_take_is_a_sentence(network_from_text):
    text = f"{OPSET} g (float[N,4] x) => (float[N,4] y) {{ y = own.Something (x) }}"
    proto = network_from_text(text)
    proto.graph.node[0].attribute.append(helper.make_attribute("raw", b"\xff\xfe"))
    with pytest.raises(ModelError, match="onnx-graphsurgeon can't take this graph"):
        tidy(load(proto))
