"""What can be wrong with a model file: changes of its bytes, and of the parts of its message."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests.conformance.case import build
from tests.conformance.cases import CASES

Rng = np.random.Generator
Change = Callable[[Rng, onnx.ModelProto], None]

ONNX_ERRORS = (onnx.defs.SchemaError, onnx.checker.ValidationError)
NUMBERS = [0, 1, -1, 2, 3, 7, 255, 4096, 2**16, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"), 0.5]
NAMES = ["", "x", "y", "a", "b", "w0", "b0", "w9", "nothing", "\0", "é" * 50, "../x", "y.copy1", "a.folded"]
LOCATIONS = [
    "weights.data",
    "../weights.data",
    "/etc/passwd",
    "/dev/zero",
    "",
    ".",
    "net.onnx",
    "gone.data",
    "a/b",
    "\0",
]
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})


@lru_cache(maxsize=1)
def corpus() -> tuple[bytes, ...]:
    """The conformance suite's graphs, and some that compute their shapes."""
    models = [build(case) for case in CASES.values()]
    models += [onnx.parser.parse_model(text) for text in SHAPE_MODELS]
    return tuple(model.SerializeToString(deterministic=True) for model in models)


_HEADER = '<ir_version: 8, opset_import: ["" : 17]> graph (float[N,3,8,8] x) => (float[P,Q,R,S] y) '
SHAPE_MODELS = [
    _HEADER + "<int64[2] s = {3,4}, int64 k = {2}> { r = Shape(x) n = Gather(r, k) c = ConstantOfShape(s) e = ReduceSum(c)"
    " f = Cast<to=1>(n) g = Mul(e, f) y = Mul(x, g) }",
    _HEADER + "<int64 lo = {0}, int64 hi = {8}, int64 by = {1}, int64[4] t = {1,3,8,8}> { i = Range(lo, hi, by) f = Cast<to=1>(i)"
    " e = Expand(f, t) y = Add(x, e) }",
    _HEADER + "<float[1,3,1,1] c = {1,2,3}, int64[4] r = {1,1,8,8}, int64[4] z = {0,0,0,0}> { t = Tile(c, r) q = Add(x, t)"
    " s = Shape(q) m = Add(s, z) y = Reshape(q, m) }",
    _HEADER + "<int64[8] p = {0,0,1,1,0,0,1,1}, int64[1] b = {1}, int64[1] e = {9}, int64[1] d = {2}> { q = Pad(x, p)"
    " s = Slice(q, b, e, d) u = Unsqueeze(s, b) y = Squeeze(u, b) }",
    _HEADER + "<int64[2] k = {1,2}, int64[3] i = {2,1,0}> { a, b = Split<axis=1>(x, k) c = Concat<axis=1>(b, a) y = Gather<axis=1>(c, i) }",
    _HEADER + "<int64[1] one = {1}> { s = Shape(x) h = ConstantOfShape(one) w = Where(c, s, s) n = Concat<axis=0>(h, one)"
    " c = Equal(s, s) v = Add(h, n) y = Expand(x, w) }",
]  # fmt: skip


def mutate(rng: Rng, models: tuple[bytes, ...]) -> bytes:
    """One of the models with one to four things wrong."""
    content = models[rng.integers(len(models))]
    if rng.random() < 0.7:
        model = onnx.ModelProto()
        model.ParseFromString(content)
        for _ in range(rng.integers(1, 5)):
            change = STRUCTURAL[rng.integers(len(STRUCTURAL))]
            try:
                change(rng, model)
            except (ValueError, IndexError, TypeError, KeyError, AttributeError, *ONNX_ERRORS):
                continue  # nothing there to change, or the message itself refuses
        content = model.SerializeToString(deterministic=True)
        if rng.random() < 0.8:
            return content
    for _ in range(rng.integers(1, 5)):
        content = BYTES[rng.integers(len(BYTES))](rng, content, models)
    return content


# bytes


def flip(rng: Rng, content: bytes, models) -> bytes:
    array = bytearray(content)
    for place in rng.integers(0, max(len(array), 1), rng.integers(1, 9)) if array else ():
        array[place] ^= 1 << int(rng.integers(8))
    return bytes(array)


def overwrite(rng: Rng, content: bytes, models) -> bytes:
    start, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 17))
    return content[:start] + rng.bytes(length) + content[start + length :]


def cut_out(rng: Rng, content: bytes, models) -> bytes:
    start, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 65))
    return content[:start] + content[start + length :]


def repeat(rng: Rng, content: bytes, models) -> bytes:
    start, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 257))
    return content[:start] + content[start : start + length] * int(rng.integers(2, 9)) + content[start + length :]


def truncate(rng: Rng, content: bytes, models) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def splice(rng: Rng, content: bytes, models) -> bytes:
    other = models[rng.integers(len(models))]
    return content[: int(rng.integers(len(content) + 1))] + other[int(rng.integers(len(other))) :]


def both(rng: Rng, content: bytes, models) -> bytes:
    """Two messages one after the other are their union."""
    return content + models[rng.integers(len(models))]


BYTES = [flip, flip, overwrite, cut_out, repeat, truncate, splice, both]


# parts of the message


def _pick(rng: Rng, items):
    return items[rng.integers(len(items))]


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    found, graphs = [], [model.graph]
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            found.append(node)
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found + [node for function in model.functions for node in function.node]


def dims_of_a_tensor(rng: Rng, model: onnx.ModelProto) -> None:
    tensor = _pick(rng, model.graph.initializer)
    if tensor.dims and rng.random() < 0.6:
        tensor.dims[rng.integers(len(tensor.dims))] = _pick(rng, NUMBERS)
    elif rng.random() < 0.5:
        tensor.dims.append(_pick(rng, NUMBERS))
    else:
        del tensor.dims[:]


def another_valid_shape(rng: Rng, model: onnx.ModelProto) -> None:
    """As many elements in another shape, or fewer of both."""
    tensor = _pick(rng, model.graph.initializer)
    array = numpy_helper.to_array(tensor)
    choice = rng.integers(4)
    if choice == 0:
        array = array.reshape(-1)
    elif choice == 1:
        array = array.reshape((*array.shape, *(1,) * int(rng.integers(1, 70))))
    elif choice == 2:
        array = array[..., : int(rng.integers(array.shape[-1] + 1))]
    else:
        array = np.transpose(array)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def type_of_a_tensor(rng: Rng, model: onnx.ModelProto) -> None:
    _pick(rng, model.graph.initializer).data_type = int(rng.integers(0, 32))


def type_with_its_bytes(rng: Rng, model: onnx.ModelProto) -> None:
    tensor = _pick(rng, model.graph.initializer)
    array = numpy_helper.to_array(tensor)
    dtype = _pick(
        rng, [np.float16, np.float32, np.float64, np.int8, np.int32, np.int64, np.bool_, np.complex64, np.uint16]
    )
    with np.errstate(all="ignore"):
        tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), tensor.name))


def text_tensor(rng: Rng, model: onnx.ModelProto) -> None:
    tensor = _pick(rng, model.graph.initializer)
    tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.STRING, [2], [b"a", b"\xff"]))


def bytes_of_a_tensor(rng: Rng, model: onnx.ModelProto) -> None:
    tensor = _pick(rng, model.graph.initializer)
    tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))] + rng.bytes(int(rng.integers(5)))


def numbers_of_a_tensor(rng: Rng, model: onnx.ModelProto) -> None:
    """Nasty values of the right type: a shape, an axis, a limit, a weight."""
    tensor = _pick(rng, model.graph.initializer)
    array = np.array(numpy_helper.to_array(tensor))
    flat = array.reshape(-1)
    place = rng.integers(flat.size)
    flat[place] = _pick(rng, FLOATS) if array.dtype.kind == "f" else np.array(_pick(rng, NUMBERS)).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def external_data(rng: Rng, model: onnx.ModelProto) -> None:
    tensor = _pick(rng, model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": _pick(rng, LOCATIONS)}
    if rng.random() < 0.7:
        entries["offset"] = str(_pick(rng, [0, 0, 4, 4096, -1, 2**62, "x", ""]))
    if rng.random() < 0.5:
        entries["length"] = str(_pick(rng, [0, 4, 96, -1, 2**62, "1e3"]))
    for key, value in entries.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))


def name_of_a_tensor(rng: Rng, model: onnx.ModelProto) -> None:
    _pick(rng, model.graph.initializer).name = _pick(rng, NAMES)


def tensor_gone(rng: Rng, model: onnx.ModelProto) -> None:
    del model.graph.initializer[rng.integers(len(model.graph.initializer))]


def sparse_tensor(rng: Rng, model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.name = _pick(rng, NAMES)


def attribute_value(rng: Rng, model: onnx.ModelProto) -> None:
    attribute = _pick(rng, [a for node in _nodes(model) for a in node.attribute])
    if attribute.type == AttributeProto.INTS and attribute.ints:
        attribute.ints[rng.integers(len(attribute.ints))] = _pick(rng, NUMBERS)
    elif attribute.type == AttributeProto.INT:
        attribute.i = _pick(rng, NUMBERS)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = _pick(rng, FLOATS)
    elif attribute.type == AttributeProto.FLOATS:
        attribute.floats[:] = [_pick(rng, FLOATS) for _ in attribute.floats]
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.bytes(int(rng.integers(9)))


def attribute_length(rng: Rng, model: onnx.ModelProto) -> None:
    attribute = _pick(rng, [a for node in _nodes(model) for a in node.attribute if a.ints])
    attribute.ints[:] = [_pick(rng, [0, 1, 2, 3]) for _ in range(rng.integers(0, 10))]


def attribute_type(rng: Rng, model: onnx.ModelProto) -> None:
    _pick(rng, [a for node in _nodes(model) for a in node.attribute]).type = int(rng.integers(0, 16))


def attribute_from_the_specification(rng: Rng, model: onnx.ModelProto) -> None:
    """One that the operator knows, with a nasty value of the right type."""
    node = _pick(rng, _nodes(model))
    schema = onnx.defs.get_schema(node.op_type, 17, "") if node.op_type in OPERATORS else None
    name = _pick(rng, sorted(schema.attributes))
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    kind = int(schema.attributes[name].type.value)
    length = int(rng.integers(0, 9))
    values = {
        AttributeProto.INT: lambda: int(_pick(rng, NUMBERS)),
        AttributeProto.INTS: lambda: [int(_pick(rng, [*NUMBERS, 0, 1, 1, 2])) for _ in range(length)],
        AttributeProto.FLOAT: lambda: float(_pick(rng, FLOATS)),
        AttributeProto.FLOATS: lambda: [float(_pick(rng, FLOATS)) for _ in range(length)],
        AttributeProto.STRING: lambda: _pick(rng, ["", "SAME_UPPER", "VALID", "reflect", "linear", "cubic", "\0"]),
    }
    node.attribute.append(helper.make_attribute(name, values[kind](), attr_type=kind))


def attribute_gone(rng: Rng, model: onnx.ModelProto) -> None:
    node = _pick(rng, [node for node in _nodes(model) if node.attribute])
    del node.attribute[rng.integers(len(node.attribute))]


def attribute_again(rng: Rng, model: onnx.ModelProto) -> None:
    node = _pick(rng, [node for node in _nodes(model) if node.attribute])
    node.attribute.append(_pick(rng, node.attribute))


def operator(rng: Rng, model: onnx.ModelProto) -> None:
    _pick(rng, _nodes(model)).op_type = _pick(rng, OPERATORS)


def domain(rng: Rng, model: onnx.ModelProto) -> None:
    _pick(rng, _nodes(model)).domain = _pick(rng, ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "local", "\0"])


def operand(rng: Rng, model: onnx.ModelProto) -> None:
    node = _pick(rng, [node for node in _nodes(model) if node.input])
    names = NAMES + [name for other in model.graph.node for name in [*other.input, *other.output]]
    node.input[rng.integers(len(node.input))] = _pick(rng, names)


def operands_added(rng: Rng, model: onnx.ModelProto) -> None:
    names = [name for other in model.graph.node for name in [*other.input, *other.output]]
    _pick(rng, _nodes(model)).input.extend(_pick(rng, names) for _ in range(rng.integers(1, 4)))


def operands_gone(rng: Rng, model: onnx.ModelProto) -> None:
    node = _pick(rng, [node for node in _nodes(model) if node.input])
    del node.input[rng.integers(len(node.input)) :]


def outputs(rng: Rng, model: onnx.ModelProto) -> None:
    node = _pick(rng, _nodes(model))
    if rng.random() < 0.5:
        node.output.append(_pick(rng, [*NAMES, "second"]))
    else:
        node.output[0] = _pick(rng, NAMES)


def node_gone(rng: Rng, model: onnx.ModelProto) -> None:
    del model.graph.node[rng.integers(len(model.graph.node))]


def node_again(rng: Rng, model: onnx.ModelProto) -> None:
    node = onnx.NodeProto()
    node.CopyFrom(_pick(rng, model.graph.node))
    if rng.random() < 0.7:
        node.output[:] = [f"{name}.again" for name in node.output]
    model.graph.node.append(node)


def nodes_in_another_order(rng: Rng, model: onnx.ModelProto) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in rng.permutation(len(nodes)))


def node_put_in(rng: Rng, model: onnx.ModelProto) -> None:
    """Any operator between a value and one of its readers."""
    reader = _pick(rng, [node for node in model.graph.node if node.input])
    place = int(rng.integers(len(reader.input)))
    name = f"put{rng.integers(10**6)}"
    chosen = _pick(rng, OPERATORS)
    count = max(onnx.defs.get_schema(chosen, 17, "").min_input, 1)
    values = [value for node in model.graph.node for value in node.input if value]
    inputs = [reader.input[place], *(_pick(rng, values) for _ in range(count - 1))]
    model.graph.node.insert(0, helper.make_node(chosen, inputs, [name]))
    reader.input[place] = name


def bomb(rng: Rng, model: onnx.ModelProto) -> None:
    """Shape arithmetic whose result would be enormous, in the place of a weight or a shape."""
    reader = _pick(rng, [node for node in model.graph.node if node.input])
    place = int(rng.integers(len(reader.input)))
    size = int(_pick(rng, [2**13, 2**20, 2**27, 2**33, 2**40, 2**62]))
    tag = f"bomb{rng.integers(10**6)}"

    def constant(name: str, values, dtype=np.int64) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), f"{tag}.{name}"))
        return f"{tag}.{name}"

    kind = rng.integers(7)
    if kind == 0:
        nodes = [helper.make_node("ConstantOfShape", [constant("s", [size])], [tag])]
    elif kind == 1:
        nodes = [helper.make_node("Range", [constant("a", 0), constant("b", size), constant("c", 1)], [tag])]
    elif kind == 2:
        nodes = [helper.make_node("Expand", [constant("a", [1.0], np.float32), constant("b", [size, 3])], [tag])]
    elif kind == 3:
        nodes = [helper.make_node("Tile", [constant("a", [1, 2]), constant("b", [size])], [tag])]
    elif kind == 4:
        nodes = [helper.make_node("Pad", [constant("a", [1, 2]), constant("b", [size, size])], [tag])]
    elif kind == 5:  # a small sum of two long ones
        half = [constant("r", [2**15, 1]), constant("c", [1, 2**15])]
        nodes = [
            helper.make_node("ConstantOfShape", [half[0]], [f"{tag}.x"]),
            helper.make_node("ConstantOfShape", [half[1]], [f"{tag}.y"]),
            helper.make_node("Add", [f"{tag}.x", f"{tag}.y"], [tag]),
        ]
    else:  # doubled over and over
        nodes = [helper.make_node("ConstantOfShape", [constant("s", [2])], [f"{tag}.0"])]
        nodes += [helper.make_node("Concat", [f"{tag}.{i}"] * 8, [f"{tag}.{i + 1}"], axis=0) for i in range(12)]
        nodes.append(helper.make_node("Identity", [f"{tag}.12"], [tag]))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    reader.input[place] = tag


def tiled_channels(rng: Rng, model: onnx.ModelProto) -> None:
    """Activations blown up between layers: shapes that are inferred, never computed."""
    reader = _pick(rng, [node for node in model.graph.node if node.input])
    name = f"tiled{rng.integers(10**6)}"
    repeats = [int(_pick(rng, [1, 1, 2, 2**20, 2**40])) for _ in range(4)]
    model.graph.initializer.append(numpy_helper.from_array(np.array(repeats, np.int64), f"{name}.r"))
    kind = _pick(rng, ["Tile", "Expand", "Reshape"])
    model.graph.node.insert(0, helper.make_node(kind, [reader.input[0], f"{name}.r"], [name]))
    reader.input[0] = name


def graph_input(rng: Rng, model: onnx.ModelProto) -> None:
    value = _pick(rng, [*model.graph.input, *model.graph.output])
    dims = value.type.tensor_type.shape.dim
    choice = rng.integers(7)
    if choice == 0:
        _pick(rng, dims).dim_value = _pick(rng, NUMBERS)
    elif choice == 1:
        _pick(rng, dims).dim_param = _pick(rng, [*NAMES, "2*h", "N"])
    elif choice == 2:
        del dims[rng.integers(len(dims)) :]
    elif choice == 3:
        dims.add().dim_value = _pick(rng, NUMBERS)
    elif choice == 4:
        value.type.tensor_type.elem_type = int(rng.integers(0, 32))
    elif choice == 5:
        value.type.tensor_type.ClearField("shape")
    else:
        value.ClearField("type")


def value_kind(rng: Rng, model: onnx.ModelProto) -> None:
    value = _pick(rng, [*model.graph.input, *model.graph.output])
    value.type.sequence_type.elem_type.tensor_type.elem_type = 1


def value_name(rng: Rng, model: onnx.ModelProto) -> None:
    _pick(rng, [*model.graph.input, *model.graph.output]).name = _pick(rng, NAMES)


def value_again(rng: Rng, model: onnx.ModelProto) -> None:
    values = _pick(rng, [model.graph.input, model.graph.output])
    values.append(_pick(rng, [*model.graph.input, *model.graph.output]))


def recorded_shape(rng: Rng, model: onnx.ModelProto) -> None:
    names = [name for node in model.graph.node for name in node.output]
    shape = [int(_pick(rng, NUMBERS)) for _ in range(rng.integers(0, 5))]
    model.graph.value_info.append(helper.make_tensor_value_info(_pick(rng, names), int(rng.integers(0, 17)), shape))


def opset(rng: Rng, model: onnx.ModelProto) -> None:
    choice = rng.integers(3)
    if choice == 0:
        _pick(rng, model.opset_import).version = _pick(rng, [*NUMBERS, *range(6, 30)])
    elif choice == 1:
        model.opset_import.append(helper.make_opsetid(_pick(rng, ["", "ai.onnx", "x"]), int(_pick(rng, NUMBERS))))
    else:
        del model.opset_import[:]


def ir_version(rng: Rng, model: onnx.ModelProto) -> None:
    model.ir_version = _pick(rng, [*NUMBERS, *range(3, 15)])


def deep_subgraphs(rng: Rng, model: onnx.ModelProto) -> None:
    graph = helper.make_graph([helper.make_node("Identity", [model.graph.input[0].name], ["deep"])], "g", [], [])
    graph.output.add().name = "deep"
    for level in range(int(_pick(rng, [1, 5, 30, 40]))):
        inner = helper.make_node("If", ["flag"], [f"deep{level}"], then_branch=graph, else_branch=graph)
        if len(graph.SerializeToString()) > 100_000:
            break
        graph = helper.make_graph([inner], "g", [], [])
        graph.output.add().name = f"deep{level}"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    model.graph.node.extend(graph.node)


def functions(rng: Rng, model: onnx.ModelProto) -> None:
    """Functions that call each other, in a circle or ten at a time."""
    levels = int(_pick(rng, [1, 3, 8, 40]))
    wide = int(_pick(rng, [1, 2, 10]))
    circle = rng.random() < 0.3
    model.opset_import.append(helper.make_opsetid("f", 1))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    for level in range(levels):
        last = level == levels - 1
        callee = ("F0", "f") if circle and last else (("Relu", "") if last else (f"F{level + 1}", "f"))
        body = [
            helper.make_node(callee[0], ["u" if k == 0 else f"v{k - 1}"], [f"v{k}"], domain=callee[1])
            for k in range(wide)
        ]
        model.functions.append(helper.make_function("f", f"F{level}", ["u"], [f"v{wide - 1}"], body, imports))
    node = _pick(rng, model.graph.node)
    name = f"called{rng.integers(10**6)}"
    model.graph.node.append(helper.make_node("F0", [node.output[0]], [name], domain="f"))


def metadata(rng: Rng, model: onnx.ModelProto) -> None:
    model.metadata_props.append(
        onnx.StringStringEntryProto(key=_pick(rng, NAMES), value="v" * int(_pick(rng, [0, 1, 10**5])))
    )


STRUCTURAL: list[Change] = [
    dims_of_a_tensor, another_valid_shape, another_valid_shape, type_of_a_tensor, type_with_its_bytes, text_tensor,
    bytes_of_a_tensor, numbers_of_a_tensor, numbers_of_a_tensor, numbers_of_a_tensor, external_data, name_of_a_tensor,
    tensor_gone, sparse_tensor, attribute_value, attribute_value, attribute_value, attribute_length, attribute_length,
    attribute_type, attribute_from_the_specification, attribute_from_the_specification, attribute_gone, attribute_again,
    operator, operator, domain, operand, operand, operands_added, operands_gone, outputs, node_gone, node_again,
    nodes_in_another_order, node_put_in, node_put_in, node_put_in, bomb, bomb, tiled_channels, tiled_channels,
    graph_input, graph_input, value_kind, value_name, value_again, recorded_shape, opset, ir_version, deep_subgraphs,
    functions, metadata,
]  # fmt: skip
