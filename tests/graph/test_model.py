"""Reading what users give, and writing files that are whole or absent."""

import os
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import onnxruntime as ort
import pytest
from google.protobuf.message import EncodeError
from onnx import helper

from onnxprune.errors import ModelError, OutputError
from onnxprune.graph import model as models
from onnxprune.graph.files import write_atomically
from onnxprune.graph.mask import mask
from onnxprune.graph.model import load, save, to_bytes, to_proto
from onnxprune.graph.remove import remove
from onnxprune.graph.units import trace

IMAGE = {"x": "N,3,8,8"}


@pytest.fixture
def proto(oracle):
    source = oracle.parse("a = Conv(x, w0) y = Conv(a, w9)", IMAGE, {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)})
    source.metadata_props.append(onnx.StringStringEntryProto(key="licence", value="MIT"))
    return source


def test_every_source_gives_the_same_model(proto, tmp_path, oracle):
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    sources = [path, str(path), proto.SerializeToString(), proto, ir.from_proto(proto), gs.import_onnx(proto)]
    feeds = oracle.feeds_for(load(proto), 2)
    expected = oracle.run(load(proto), feeds)
    for source in sources:
        assert oracle.error_over_range(expected, oracle.run(load(source), feeds)) == 0
    assert load(path).name == "net"
    assert load(load(path)).name == "net"


def test_sources_are_not_modified(proto):
    before = proto.SerializeToString(deterministic=True)
    as_ir = ir.from_proto(proto)
    before_ir = ir.to_proto(as_ir).SerializeToString(deterministic=True)
    load(proto)
    load(as_ir)
    assert proto.SerializeToString(deterministic=True) == before
    assert ir.to_proto(as_ir).SerializeToString(deterministic=True) == before_ir


def test_names_that_look_like_ours_are_left_alone(oracle):
    body = "a = Conv(x, w0) b = Mul(a, s) c = Add(b, s_copy) d = Mul(c, s) y = Conv(d, w9)"
    weights = {"w0": (8, 3, 1, 1), "s": (8, 1, 1), "s_copy": (8, 1, 1), "w9": (5, 8, 1, 1)}
    source = oracle.parse(body, IMAGE, weights)
    ones = helper.make_tensor("s", 1, [8, 1, 1], [2.0] * 8)
    source.graph.initializer[1].CopyFrom(ones)  # constant, so that it is un-shared
    for value in [*source.graph.initializer]:
        value.name = value.name.replace("s_copy", "s.copy1")
    source.graph.node[2].input[1] = "s.copy1"
    source.graph.node[0].name, source.graph.node[3].name = "Mul_3", ""
    feeds = oracle.feeds_for(load(source), 2)
    expected = ort_run(source, feeds)
    loaded = load(source)
    assert dict(loaded.copies) == {"s.copy1.2": "s"}
    assert oracle.error_over_range(expected, oracle.run(loaded, feeds)) == 0
    assert loaded.ir.graph[0].name == "Mul_3"
    oracle.check(source)


def ort_run(proto, feeds):
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def test_the_other_name_of_the_standard_domain(oracle):
    source = oracle.parse(
        "a = Conv(x, w0) b = Slice(a, s, e) y = Conv(b, w9)",
        IMAGE,
        {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)},
        {"s": np.array([0]), "e": np.array([9])},
        opset=13,
    )
    source.opset_import[0].domain = "ai.onnx"
    assert len(trace(source).units) == 8


def test_metadata_and_dynamic_dimensions_survive(proto):
    saved = to_proto(load(proto))
    assert {p.key: p.value for p in saved.metadata_props} == {"licence": "MIT"}
    assert saved.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert [o.name for o in saved.graph.output] == ["y"]


def _broken(proto, change):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    change(copy)
    return copy


BAD = {
    "negative dimension": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -8), "w0.*negative dimension"),
    "too few bytes": (lambda m: setattr(m.graph.initializer[0], "raw_data", b"123"), "w0.*3 bytes where its shape"),
    "unknown type": (lambda m: setattr(m.graph.initializer[1], "data_type", 99), "w9.*unknown element type 99"),
    "elements missing": (lambda m: m.graph.initializer[0].CopyFrom(_short()), "w0.*2 elements where its shape"),
    "old opset": (lambda m: setattr(m.opset_import[0], "version", 6), "opset 6; 7 is the oldest"),
    "empty graph": (lambda m: m.graph.ClearField("node"), "empty graph"),
    "cycle": (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "broken"),
}


def _short():
    tensor = helper.make_tensor("w0", 1, [2], [1.0, 2.0])
    tensor.dims[:] = [8, 3, 1, 1]
    return tensor


def _external(tensor, location):
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=location))


@pytest.mark.parametrize("name", BAD)
def test_broken_models_are_refused_with_a_sentence(proto, name):
    change, message = BAD[name]
    with pytest.raises(ModelError, match=message):
        load(_broken(proto, change))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty graph"), (b"not a model at all", "not an ONNX file"), (b"\x08\x07" * 3, "empty graph")],
)
def test_files_that_are_no_model(tmp_path, content, message):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load(path)


def test_a_missing_file_and_a_wrong_type():
    with pytest.raises(ModelError, match=r"'nowhere.onnx' can't be read"):
        load("nowhere.onnx")
    with pytest.raises(ModelError, match="int can't be read"):
        load(3)


def test_external_data_is_read_and_a_short_file_refused(proto, tmp_path, oracle):
    path = tmp_path / "net.onnx"
    feeds = oracle.feeds_for(load(proto), 2)
    expected = oracle.run(load(proto), feeds)
    onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert oracle.error_over_range(expected, oracle.run(load(path), feeds)) == 0
    os.truncate(tmp_path / "net.data", 10)
    with pytest.raises(ModelError, match="ends before byte"):
        load(path)


def test_large_models_keep_their_tensors_beside(proto, tmp_path, monkeypatch, oracle):
    monkeypatch.setattr(models, "SINGLE_FILE_LIMIT_BYTES", 100)
    path = tmp_path / "net.onnx"
    save(load(proto), path)
    assert (tmp_path / "net.onnx.data").exists()
    feeds = oracle.feeds_for(load(proto), 2)
    assert oracle.error_over_range(oracle.run(load(proto), feeds), oracle.run(load(path), feeds)) == 0


def test_files_written_piece_by_piece(proto, tmp_path, monkeypatch):
    def parts(model: onnx.ModelProto) -> tuple:
        graph = onnx.GraphProto()
        graph.CopyFrom(model.graph)
        listed = [sorted(field, key=lambda m: m.name) for field in (graph.initializer, graph.value_info)]
        for name in ("initializer", "value_info"):
            graph.ClearField(name)
        rest = onnx.ModelProto()
        rest.CopyFrom(model)
        rest.ClearField("graph")
        return graph, listed, rest

    monkeypatch.setattr(models, "ONE_MESSAGE_BYTES", 0)
    monkeypatch.setattr(models.writing, "LARGE_BYTES", 64)
    model, path = load(proto), tmp_path / "net.onnx"
    save(model, path)
    assert any(value.const_value.nbytes >= 64 for value in model.ir.graph.initializers.values())
    assert parts(onnx.load(path)) == parts(to_proto(model))
    onnx.checker.check_model(path)
    assert path.read_bytes() == b"".join(models.writing.pieces(model.ir))


def test_the_same_model_gives_the_same_bytes(proto):
    assert to_bytes(load(proto)) == to_bytes(load(proto))


def test_what_one_message_does_not_hold_is_refused_with_a_sentence(proto, monkeypatch):
    def too_large(*_: object, **__: object) -> bytes:
        raise EncodeError("Failed to serialize proto")

    monkeypatch.setattr(models.writing, "to_proto", lambda _: SimpleNamespace(SerializeToString=too_large))
    with pytest.raises(OutputError, match="Save it to a path"):
        to_bytes(load(proto))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    write_atomically(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_an_unwritable_place(tmp_path):
    with pytest.raises(OutputError, match="can't be written"):
        write_atomically(tmp_path / "missing" / "out.json", "text")


def test_old_files_list_their_initializers_as_inputs(oracle):
    """IR version 3: weights and shapes are inputs too, and constants are nodes."""
    body = "s = Constant<value_ints=[0, 512]>() a = Conv(x, w0) f = Reshape(a, s) g = Gemm(f, w1) y = Reshape(g, t)"
    weights = {"w0": (8, 3, 1, 1), "w1": (512, 5)}
    source = oracle.parse(body, IMAGE, weights, {"t": np.array([-1, 5, 1, 1])}, opset=13)
    listed = oracle.parse(
        body.replace("s = Constant<value_ints=[0, 512]>()", ""),
        IMAGE,
        weights,
        {"s": np.array([0, 512]), "t": np.array([-1, 5, 1, 1])},
        opset=13,
    )
    for model in (source, listed):
        model.ir_version = 3
        for tensor in model.graph.initializer:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            model.graph.input.append(info)
        channels = trace(model)
        assert len(channels.units) == 8
        smaller = remove(channels.model, channels, [0, 3])
        masked = mask(channels.model, channels, [0, 3])
        feeds = {"x": oracle.feeds_for(load(source), 2)["x"]}
        assert oracle.error_over_range(oracle.run(masked, feeds), oracle.run(smaller, feeds)) <= 1e-5


def test_devices_and_folders_are_not_replaced(tmp_path):
    for place in (tmp_path, "/dev/null"):
        with pytest.raises(OutputError, match="no plain file"):
            write_atomically(place, "text")


def test_missing_biases_are_folded_away(oracle):
    """What torch's unoptimised exports write for a missing bias: Shape, Expand and CastLike of zeros."""
    body = """
        s = Shape<start=0, end=1>(w0) e = Expand(s, one) z = CastLike(zero, x) b = Expand(z, e)
        a = Conv(x, w0, b) y = Conv(a, w9)
    """
    constants = {"one": np.array([1]), "zero": np.float32(0)}
    source = oracle.parse(body, IMAGE, {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}, constants)
    loaded = load(source)
    assert [node.op_type for node in loaded.ir.graph] == ["Conv", "Conv"]
    assert set(loaded.ir.graph.initializers) == {"w0", "w9"}


STANDARDISED = (
    "r = Reshape(w1, flat) m = ReduceMean<keepdims=1>(r, ax) d = Sub(r, m) p = Mul(d, d) v = ReduceMean(p, ax) "
    "e = Add(v, eps) s = Sqrt(e) n = Div(d, s) k = Mul(n, gain) w = Reshape(k, back) a = Conv(x, w0) y = Conv(a, w)"
)
STANDARDISED_CONSTANTS = {
    "flat": np.array([5, -1]),
    "back": np.array([5, 8, 1, 1]),
    "ax": np.array([1]),
    "eps": np.float32(1e-5),
}


def test_standardised_weights_are_what_they_come_to(oracle):
    weights = {"w0": (8, 3, 3, 3), "w1": (5, 8, 1, 1), "gain": (5, 1)}
    source = oracle.parse(STANDARDISED, {"x": "N,3,8,8"}, weights, STANDARDISED_CONSTANTS)
    model, as_module = load(source), load(source, unshare=False)
    assert [node.op_type for node in model.ir.graph] == ["Conv", "Conv"]
    assert "w1" in as_module.ir.graph.initializers, "the module trains it"
    feed = oracle.feeds_for(model, 2)
    assert oracle.error_over_range(oracle.run(as_module, feed), oracle.run(model, feed)) < 1e-6
    assert len(oracle.check(source).units) == 8


def test_standardised_weights_come_in_the_order_of_the_graph(oracle):
    """Whatever the order in memory: the same file gives the same bytes."""
    layers = 12
    body, shapes, last = [], {}, "x"
    for k in range(layers):
        body.append(f"m{k} = ReduceMean(w{k}, ax) c{k} = Sub(w{k}, m{k}) t{k} = Conv({last}, c{k})")
        shapes[f"w{k}"], last = (3, 3, 1, 1), f"t{k}"
    model = load(oracle.parse(f"{' '.join(body)} y = Relu({last})", {"x": "N,3,4,4"}, shapes, {"ax": np.array([1])}))
    folded = [name for name in model.ir.graph.initializers if name.startswith("c")]
    assert folded == [f"c{k}" for k in range(layers)]
