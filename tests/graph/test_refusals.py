"""Whatever a stranger's file may hold, it ends in a sentence that names the place and the limit."""

import os

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.graph.inference import headroom
from onnxprune.graph.limits import Limits
from onnxprune.graph.model import load
from onnxprune.graph.shrink import shrink
from onnxprune.graph.units import trace

BODY = "a = Conv<strides=[1,1]>(x, w0, b0) b = Relu(a) y = Conv(b, w9)"


@pytest.fixture
def proto(oracle):
    return oracle.parse(BODY, {"x": "N,3,8,8"}, {"w0": (8, 3, 1, 1), "b0": (8,), "w9": (5, 8, 1, 1)})


def weight(name: str, place: tuple, value: float):
    """Write one number into an initializer."""

    def change(model):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        array = np.array(numpy_helper.to_array(tensor))
        array[place] = value
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


def node(operator: str, inputs: list[str], outputs: list[str], **attributes):
    """Add a node; `domain` and subgraphs are given like attributes."""
    return lambda model: model.graph.node.append(helper.make_node(operator, inputs, outputs, **attributes))


def attribute(**values):
    """Give the first convolution an attribute of any type."""

    def change(model):
        for name, value in values.items():
            kept = [a for a in model.graph.node[0].attribute if a.name != name]
            del model.graph.node[0].attribute[:]
            model.graph.node[0].attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def nested(depth: int):
    """Branches inside branches."""

    def change(model):
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["d"])], "g", [], [])
        graph.output.add().name = "d"
        for level in range(depth):
            inner = helper.make_node("If", ["flag"], [f"d{level}"], then_branch=graph, else_branch=_leaf())
            graph = helper.make_graph([inner], "g", [], [])
            graph.output.add().name = f"d{level}"
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
        model.graph.node.extend(graph.node)

    return change


def _leaf():
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "g", [], [])
    graph.output.add().name = "e"
    return graph


def functions(*callees: str, calls: int = 1):
    """Functions F0, F1, ..., each calling the one named, so many times."""

    def change(model):
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
        model.opset_import.append(imports[1])
        for level, callee in enumerate(callees):
            domain = "f" if callee.startswith("F") else ""
            body = [
                helper.make_node(callee, [f"v{k}" if k else "u"], [f"v{k + 1}"], domain=domain) for k in range(calls)
            ]
            model.functions.append(helper.make_function("f", f"F{level}", ["u"], [f"v{calls}"], body, imports))
        model.graph.node.append(helper.make_node("F0", ["x"], ["called"], domain="f"))

    return change


def first_tensor(**fields):
    def change(model):
        for name, value in fields.items():
            setattr(model.graph.initializer[0], name, value)

    return change


def dims(*sizes: int):
    return lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), sizes)


REFUSED = {
    "NaN": (weight("w0", (1, 2, 0, 0), np.nan), "Initializer 'w0' of the model holds NaN at element 5"),
    "infinite weight": (weight("w9", (0, 1, 0, 0), np.inf), "Initializer 'w9' .* holds infinity at element 1"),
    "more elements than memory": (dims(2**40, 2**40), "more than the limit of 8589934592"),
    "too many axes": (dims(*(1,) * 40), "40 axes, more than the limit of 32"),
    "an initializer twice": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "Initializer 'w0' is there"),
    "an input twice": (lambda m: m.graph.input.append(m.graph.input[0]), "Input 'x' is there twice"),
    "an output twice": (lambda m: m.graph.output.append(m.graph.output[0]), "Output 'y' is there twice"),
    "made twice": (node("Relu", ["x"], ["a"]), "'a' is made twice"),
    "a weight that a node makes": (node("Relu", ["x"], ["w0"]), "'w0' is made twice"),
    "a dangling input": (node("Relu", ["nothing"], ["c"]), "Relu 'c' of .* reads 'nothing', which nothing makes"),
    "an output that nothing makes": (lambda m: m.graph.output.add(name="z"), "Output 'z' .* is made by no node"),
    "a cycle": (lambda m: m.graph.node[0].input.__setitem__(0, "b"), "'a' of Conv 'a' follows from itself"),
    "a missing operand": (lambda m: m.graph.node[0].input.__setitem__(1, ""), "Conv 'a' .* lacks its input 'W'"),
    "too few operands": (lambda m: m.graph.node[0].input.__delitem__(slice(1, None)), "has 1 inputs, .* 2 to 3"),
    "a name that is no text": (
        lambda m: m.ParseFromString(m.SerializeToString().replace(b"Relu", b"Re\xffu")),
        "no text|not an ONNX file",
    ),
    "a graph's name that is no text": (
        lambda m: m.ParseFromString(m.SerializeToString().replace(b"\x12\x01g", b"\x12\x01\xff")),
        "A graph of .* no text|not an ONNX file",
    ),
    "a stride of 0": (
        attribute(strides=[0, 1]),
        r"'strides' of Conv 'a' .* is \[0, 1\], where each must be at least 1",
    ),
    "a group of 0": (attribute(group=0), "'group' .* must be at least 1"),
    "a stride beyond all": (attribute(strides=[2**40, 1]), "beyond the limit of 2147483647"),
    "an attribute of a wrong type": (attribute(group="two"), "'group' of Conv 'a' .* is of type 3, not INT"),
    "an attribute without a type": (
        lambda m: m.graph.node[0].attribute.add(name="note"),
        "'note' of Conv 'a' .* has no name or no type",
    ),
    "an attribute twice": (
        lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0]),
        "attribute 'strides' is there twice",
    ),
    "an attribute that is missing": (node("Cast", ["x"], ["c"]), "Cast 'c' .* has no attribute 'to'"),
    "an empty attribute": (
        lambda m: m.graph.node.add(
            op_type="Constant", output=["c"], attribute=[AttributeProto(name="value", type=AttributeProto.TENSOR)]
        ),
        "'value' of Constant 'c' .* has no value",
    ),
    "an opset of the future": (lambda m: setattr(m.opset_import[0], "version", 999), "opset 999; .* is the newest"),
    "two opsets": (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 12)), "two opsets of domain ''"),
    "no opset": (lambda m: m.ClearField("opset_import"), "names no opset for Conv 'a'"),
    "an IR of the future": (lambda m: setattr(m, "ir_version", 10**6), "IR version 1000000"),
    "deep subgraphs": (nested(26), "subgraphs deep, more than the limit of 24"),
    "a function that calls itself": (functions("F0"), "Function 'F0' of the model calls itself"),
    "functions in a circle": (functions("F1", "F2", "F0"), "calls itself"),
    "functions that multiply": (functions(*(f"F{k}" for k in range(1, 9)), "Relu", calls=10), "more than the limit of"),
    "a chain of functions": (functions(*(f"F{k}" for k in range(1, 40)), "Relu"), "through more than 24 others"),
    "a sparse initializer": (lambda m: m.graph.sparse_initializer.add(), "sparse initializer"),
    "an unknown type of an input": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77),
        "Value 'x' .* unknown element type 77",
    ),
    "raw text": (first_tensor(data_type=TensorProto.STRING), "raw bytes where its type is text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_strangers_file_is_refused_with_its_place(proto, name):
    change, message = REFUSED[name]
    change(proto)
    with pytest.raises(ModelError, match=message):
        load(proto)


LIMITED = {
    "elements": (Limits(tensor_elements=23), "more than the limit of 23"),
    "bytes": (Limits(total_bytes=200), "Initializer 'w9' .* more than the limit of 200 bytes"),
    "nodes": (Limits(nodes=2), "has 3 nodes .* more than the limit of 2"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_limits_are_settable(proto, name):
    limits, message = LIMITED[name]
    with pytest.raises(ModelError, match=message):
        load(proto, limits=limits)
    assert load(proto, limits=Limits()).ir.graph.num_nodes() == 3


def test_a_large_file_is_not_even_read(proto, tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    with pytest.raises(ModelError, match="more than the limit of 100"):
        load(path, limits=Limits(file_bytes=100))


def test_masks_may_hold_minus_infinity_and_numbers_may_be_let_in(oracle, proto):
    masked = oracle.parse("a = Conv(x, w0) y = Add(a, m)", {"x": "N,3,8,8"}, {"w0": (8, 3, 1, 1), "m": (8, 8)})
    weight("m", (0, 1), -np.inf)(masked)
    load(masked)
    weight("m", (0, 1), np.nan)(masked)
    with pytest.raises(ModelError, match="'m' of the model holds NaN at element 1"):
        load(masked)
    load(masked, limits=Limits(finite=False))


@pytest.mark.parametrize("special", ["/dev/zero", "."])
def test_devices_and_folders_are_no_models(special):
    with pytest.raises(ModelError, match=r"no plain file|can't be read"):
        load(special)


# external data


@pytest.fixture
def beside(proto, tmp_path):
    """A model whose w0 lies in a file beside it, and a function that changes one entry of that and saves it."""
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    model = onnx.load(tmp_path / "net.onnx", load_external_data=False)

    def change(**entries: str):
        for entry in model.graph.initializer[0].external_data:
            entry.value = entries.get(entry.key, entry.value)
        (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
        return tmp_path / "net.onnx"

    return change


ELSEWHERE = {
    "another folder": ({"location": "../net.data"}, "not a plain file beside the model"),
    "an absolute path": ({"location": "/etc/passwd"}, "not a plain file beside the model"),
    "Windows": ({"location": "..\\net.data"}, "not a plain file beside the model"),
    "the folder itself": ({"location": "."}, "not a plain file beside the model"),
    "nowhere": ({"location": ""}, "not a plain file beside the model"),
    "not there": ({"location": "gone.data"}, "can't be read"),
    "before the start": ({"offset": "-4"}, "'-4', which is no number of bytes"),
    "no number": ({"offset": "1e3"}, "'1e3', which is no number of bytes"),
    "behind the end": ({"offset": "4611686018427387904"}, "ends before byte 4611686018427388000"),
    "another length": ({"length": "92"}, "has 92 bytes of external data where its shape"),
    "into another": ({"offset": "48"}, "overlap in 'net.data'"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_external_data_is_a_plain_file_beside_the_model(beside, name):
    entries, message = ELSEWHERE[name]
    assert load(beside()).ir.graph.num_nodes() == 3
    with pytest.raises(ModelError, match=message):
        load(beside(**entries))


@pytest.mark.skipif(os.name != "posix", reason="links and pipes as POSIX has them")
def test_links_and_pipes_are_no_data(beside, tmp_path):
    path = beside()
    data = tmp_path / "net.data"
    os.link(data, tmp_path / "second")
    with pytest.raises(ModelError, match="hard link"):
        load(path)
    (tmp_path / "second").unlink()
    data.rename(tmp_path / "real")
    data.symlink_to(tmp_path / "real")
    with pytest.raises(ModelError, match="not a plain file"):
        load(path)
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(ModelError, match="not a plain file"):
        load(path)


def test_external_data_needs_a_path(beside):
    path = beside()
    for source in (path.read_bytes(), onnx.load(path, load_external_data=False)):
        with pytest.raises(ModelError, match="a model without a path has no folder"):
            load(source)


# small files that ask for much


BOMBS = {
    "constant of shape": "s = ConstantOfShape(n) c = Cast<to=1>(s) e = ReduceSum(c) y = Add(x, e)",
    "range": "r = Range(zero, m, one) c = Cast<to=1>(r) e = ReduceSum(c) y = Add(x, e)",
    "expand": "s = Expand(one, n) c = Cast<to=1>(s) e = ReduceSum(c) y = Add(x, e)",
    "tile": "s = Tile(v, n) c = Cast<to=1>(s) e = ReduceSum(c) y = Add(x, e)",
    "pad": "s = Pad(v, p) c = Cast<to=1>(s) e = ReduceSum(c) y = Add(x, e)",
    "sum of two long ones": "a = Expand(h, r) b = Expand(h, q) s = Add(a, b) e = ReduceSum(s) y = Add(x, e)",
    "channels": "t = Tile(w, k) u = Reshape(t, z) y = MatMul(x, u)",
}
NUMBERS = {
    "n": np.array([2**40]),
    "m": np.int64(2**40),
    "zero": np.int64(0),
    "one": np.int64(1),
    "v": np.array([1]),
    "h": np.float32(0.5),
    "p": np.array([2**40, 2**40]),
    "r": np.array([2**16, 1]),
    "q": np.array([1, 2**16]),
    "k": np.array([1, 2**31]),
    "z": np.array([4, -1]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_does_not_take_the_machine(oracle, name):
    """Under a limit of its own the whole road ends in a result or a sentence; nothing large is allocated."""
    source = oracle.parse(BOMBS[name], {"x": "N,4"}, {"w": (4, 8)}, NUMBERS, outputs="float[ya,yb] y")
    with headroom(2**30):
        try:
            model = load(source)
            trace(model)
            shrink(model)
        except ModelError as error:
            assert str(error)
