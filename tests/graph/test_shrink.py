"""What shrink may take and what it must leave, each with the argument in a line."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from onnxprune.graph.model import load, to_bytes, to_proto
from onnxprune.graph.shrink import shrink

Arrays = dict[str, np.ndarray]


@dataclass
class Case:
    argument: str
    body: str
    weights: dict[str, tuple[int, ...]]
    zero: Callable[[Arrays], None]
    removed: int
    constants: Arrays = field(default_factory=dict)


def kill(*places: tuple[str, object]) -> Callable[[Arrays], None]:
    """Set places of weights to zero: ("w0", 3) is row 3 of w0."""

    def change(arrays: Arrays) -> None:
        for name, index in places:
            arrays[name][index] = 0

    return change


def two(name: str) -> str:
    return f"a = Conv(x, w0) b = {name}(a) y = Conv(b, w9)"


PLAIN = {"w0": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}
COLUMN = (slice(None), 2)
BN = {"s": (8,), "t": (8,), "m": (8,), "var": (8,)}
NORMED = "a = Conv(x, w0) n = BatchNormalization(a, s, t, m, var) b = Relu(n) y = Conv(b, w9)"
STREAM = {"w0": (8, 3, 1, 1), "w1": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}
SUM = "a = Conv(x, w0) c = Conv(x, w1) b = Add(a, c) y = Conv(b, w9)"
DEEP = {"w0": (8, 3, 1, 1), "w1": (6, 8, 1, 1), "w9": (5, 6, 1, 1)}
GROUPED = {"w0": (8, 3, 1, 1), "w1": (6, 4, 1, 1), "w9": (5, 6, 1, 1)}

PADDED = "a = Conv(x, w0, b0) b = Relu(a) y = Conv<pads=[1,1,1,1]>(b, w9)"
WIDE = {"w0": (8, 3, 1, 1), "b0": (8,), "w9": (5, 8, 3, 3)}

# fmt: off
CASES = {
    "zero filter": Case("0 through Relu is 0", two("Relu"), PLAIN, kill(("w0", 2), ("w0", 5)), 2),
    "filters that cancel": Case("a filter that sums to 0 isn't 0", two("Relu"), PLAIN, lambda w: w["w0"].__setitem__(2, np.array([1, -1, 0]).reshape(3, 1, 1)), 0),
    "a group or a part of it": Case("Split keeps one of a's last three: a whole group is 2 inputs, an output and itself; one input of each group 2", "a = Conv(x, w0) t, u = Split<axis=1>(a, k) c = Concat<axis=1>(u, t) d = Conv<group=2>(c, w1) y = Conv(d, w9)",
        {"w0": (4, 3, 1, 1), "w1": (2, 2, 1, 1), "w9": (5, 2, 1, 1)}, kill(("w0", slice(0, 3)), ("w1", (0, 1))), 4, {"k": np.array([1, 3])}),
    "a group, and a channel that would go with one of its": Case("without all three of b the groups of w15 would differ: the group goes, b[0] stays",
        "a = Conv(x, w1) b = Conv<group=2>(a, w8) c = Concat<axis=1>(a, b) d = Conv(c, w11) e = Concat<axis=1>(c, d) f = Conv<group=2>(e, w15) y = Conv(f, w9)",
        {"w1": (4, 3, 1, 1), "w8": (4, 2, 1, 1), "w11": (4, 8, 1, 1), "w15": (4, 6, 1, 1), "w9": (5, 4, 1, 1)}, kill(("w1", 2), ("w1", 3), ("w8", 0)), 5),
    "below 0 beside a border too": Case("-1 - up to 9 times 1: another number at the border, and 0 behind Relu everywhere", "a = Conv(x, w0, b0) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w1, b1) d = Relu(c) y = Conv(d, w9)",
        {"w0": (4, 3, 1, 1), "b0": (4,), "w1": (6, 4, 3, 3), "b1": (6,), "w9": (5, 6, 1, 1)}, lambda w: (kill(("w0", 0), ("w1", 2))(w), w["w1"][2].__setitem__(0, -1.0), w["b0"].__setitem__(0, 1.0), w["b1"].__setitem__(2, -1.0)), 1),
    "two constants in each group under padding": Case("in each group one stands in for the other, though at different places", PADDED.replace("Conv<pads", "Conv<group=2, pads"),
        {"w0": (8, 3, 1, 1), "b0": (8,), "w9": (6, 4, 3, 3)}, lambda w: (kill(("w0", [2, 3, 5, 6]))(w), w["b0"].__setitem__([2, 3, 5, 6], [1, 2, 1, 3])), 2),
    "bias": Case("0 x + b is b: it folds", "a = Conv(x, w0, b0) b = Relu(a) y = Conv(b, w9)", PLAIN | {"b0": (8,)}, lambda w: (kill(("w0", 2))(w), w["b0"].__setitem__(2, 1.0)), 1),
    "bias, dead too": Case("0 x + 0 is 0", "a = Conv(x, w0, b0) b = Relu(a) y = Conv(b, w9)", PLAIN | {"b0": (8,)}, kill(("w0", 2), ("b0", 2)), 1),
    "bias below Relu": Case("Relu(-1) is 0", "a = Conv(x, w0, b0) b = Relu(a) y = Conv(b, w9)", PLAIN | {"b0": (8,)}, lambda w: (kill(("w0", 2))(w), w["b0"].__setitem__(2, -1.0)), 1),
    "sigmoid": Case("Sigmoid(0) is 0.5 and folds", two("Sigmoid"), PLAIN, kill(("w0", 2)), 1),
    "cosine": Case("cos(0) is 1 and folds", two("Cos"), PLAIN, kill(("w0", 2)), 1),
    "exponential": Case("exp(0) is 1 and folds", two("Exp"), PLAIN, kill(("w0", 2)), 1),
    "softplus": Case("Softplus(0) is ln 2 and folds", two("Softplus"), PLAIN, kill(("w0", 2)), 1),
    "hard sigmoid": Case("HardSigmoid(0) is 0.5 and folds", two("HardSigmoid"), PLAIN, kill(("w0", 2)), 1),
    "tanh": Case("tanh(0) is 0", two("Tanh"), PLAIN, kill(("w0", 2)), 1),
    "clip above 0": Case("Clip(0) is the lower bound and folds", "a = Conv(x, w0) b = Clip(a, lo) y = Conv(b, w9)", PLAIN, kill(("w0", 2)), 1, {"lo": np.float32(0.5)}),
    "clip around 0": Case("Clip(0) is 0", "a = Conv(x, w0) b = Clip(a, lo) y = Conv(b, w9)", PLAIN, kill(("w0", 2)), 1, {"lo": np.float32(-0.5)}),
    "nobody reads it": Case("a live channel that every reader weighs with 0", two("Sigmoid"), PLAIN, kill(("w9", COLUMN)), 1),
    "one of two reads it": Case("the other reader weighs it", "a = Conv(x, w0) c = Conv(a, w1) d = Conv(a, w9) y = Add(c, d)", PLAIN | {"w1": (5, 8, 1, 1)}, kill(("w9", COLUMN)), 0),
    "neither of two reads it": Case("both weigh it with 0", "a = Conv(x, w0) c = Conv(a, w1) d = Conv(a, w9) y = Add(c, d)", PLAIN | {"w1": (5, 8, 1, 1)}, kill(("w9", COLUMN), ("w1", COLUMN)), 1),
    "chain": Case("its only readers are dead themselves", "a = Conv(x, w0) c = Conv(a, w1) b = Relu(c) y = Conv(b, w9)", DEEP, kill(("w1", (slice(1, None), 2)), ("w1", 0)), 2),
    "batch norm": Case("scale and shift 0", NORMED, PLAIN | BN, kill(("s", 2), ("t", 2)), 1),
    "batch norm shift": Case("scale 0 leaves the shift, which folds", NORMED, PLAIN | BN, lambda w: (kill(("s", 2))(w), w["t"].__setitem__(2, 1.0)), 1),
    "zero before batch norm": Case("the mean is taken off: another constant, which folds", NORMED, PLAIN | BN, lambda w: (kill(("w0", 2))(w), w["t"].__setitem__(2, 3.0)), 1),
    "residual, one side": Case("the other producer lives", SUM, STREAM, kill(("w0", 2)), 0),
    "residual, both sides": Case("0 + 0", SUM, STREAM, kill(("w0", 2), ("w1", 2)), 1),
    "product, one side": Case("one factor 0 is enough", SUM.replace("Add", "Mul"), STREAM, kill(("w0", 2)), 1),
    "depthwise": Case("0 times a kernel", "a = Conv(x, w0) b = Conv<group=8, pads=[1,1,1,1]>(a, w1) y = Conv(b, w9)", PLAIN | {"w1": (8, 1, 3, 3)}, kill(("w0", 2)), 1),
    "depthwise kernel": Case("a kernel of 0", "a = Conv(x, w0) b = Conv<group=8>(a, w1) y = Conv(b, w9)", PLAIN | {"w1": (8, 1, 3, 3)}, kill(("w1", 2)), 1),
    "groups, one each": Case("each group loses one input, its own choice", "a = Conv(x, w0) b = Conv<group=2>(a, w1) y = Conv(b, w9)", GROUPED, kill(("w0", 2), ("w0", 4)), 2),
    "groups, one in all": Case("groups must stay equal", "a = Conv(x, w0) b = Conv<group=2>(a, w1) y = Conv(b, w9)", GROUPED, kill(("w0", 2)), 0),
    # 4 inputs, 3 outputs and the group's own name
    "a whole group": Case("no output of it is read, so no input matters", "a = Conv(x, w0) b = Conv<group=2>(a, w1) y = Conv(b, w9)", GROUPED, kill(("w9", (slice(None), slice(0, 3)))), 4 + 3 + 1),
    "concat": Case("a dead piece of a concatenation", "a = Conv(x, w0) c = Conv(x, w1) b = Concat<axis=1>(a, c) y = Conv(b, w9)", {"w0": (8, 3, 1, 1), "w1": (4, 3, 1, 1), "w9": (5, 12, 1, 1)}, kill(("w1", 1), ("w0", 7)), 2),
    "pooled": Case("pools of 0 are 0, and so are reductions over positions", "a = Conv(x, w0) c = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a) d = AveragePool<kernel_shape=[2,2]>(c) b = ReduceSum(d, ax) y = Conv(b, w9)", PLAIN, kill(("w0", 2)), 1, {"ax": np.array([2, 3])}),
    "moved": Case("0 stays 0 wherever it is moved", "a = Conv(x, w0) c = Transpose<perm=[0,2,3,1]>(a) d = Reshape(c, s) e = MatMul(d, w1) y = Reshape(e, t)", {"w0": (8, 3, 1, 1), "w1": (8, 5)}, kill(("w0", 2)), 1, {"s": np.array([-1, 64, 8]), "t": np.array([0, 8, 8, 5])}),
    "flattened": Case("its places in the row are read with weights, but hold 0", "a = Conv(x, w0) f = Flatten(a) g = Gemm(f, w1) y = Reshape(g, s)", {"w0": (8, 3, 1, 1), "w1": (512, 5)}, kill(("w0", 2)), 1, {"s": np.array([-1, 5, 1, 1])}),
    "padded with 1": Case("a border of 1 around zeros is read", "a = Conv(x, w0) b = Pad(a, p, one) y = Conv(b, w9)", PLAIN, kill(("w0", 2)), 0, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.float32(1)}),
    "padded with 0": Case("a border of 0 around zeros", "a = Conv(x, w0) b = Pad(a, p) y = Conv(b, w9)", PLAIN, kill(("w0", 2)), 1, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "a constant padded with 0": Case("cos of the border is not cos of the constant", "a = Conv(x, w0) c = Add(a, one) d = Pad(c, p) e = Cos(d) b = Floor(e) y = Conv(b, w9)", PLAIN, kill(("w0", 2)), 0, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.float32(1)}),
    "depth to space": Case("one dead place of a block says nothing of the others", "a = Conv(x, w0) b = DepthToSpace<blocksize=2>(a) y = Conv(b, w9)", {"w0": (8, 3, 1, 1), "w9": (5, 2, 1, 1)}, kill(("w0", 0)), 0),
    "gemm with a row": Case("0 x + c, c a row of the table", "f = Flatten(x) a = Gemm(f, w0, c0) r = Relu(a) g = Gemm(r, w9, c9) y = Reshape(g, s)", {"w0": (192, 8), "c0": (1, 8), "w9": (8, 5), "c9": (1, 5)}, kill(("w0", (slice(None), 2)), ("c0", (0, 2))), 1, {"s": np.array([-1, 5, 1, 1])}),
    "all dead": Case("one channel stays where all could go", two("Relu"), PLAIN, kill(("w0", slice(None))), 7),
    "divided by 0": Case("0 / 0 is no number", "a = Conv(x, w0) c = Div(a, a) d = IsNaN(c) e = Cast<to=1>(d) b = Add(a, e) y = Conv(b, w9)", PLAIN, kill(("w0", 2)), 0),
    "a constant that a half holds": Case("0.5 in float16 is 0.5", "a = Conv(x, w0, b0) c = Cast<to=10>(a) b = Cast<to=1>(c) y = Conv(b, w9)", PLAIN | {"b0": (8,)}, lambda w: (kill(("w0", 2))(w), w["b0"].__setitem__(2, 0.5)), 1),
    "a constant that a half rounds": Case("0.1 in float16 is another number", "a = Conv(x, w0, b0) c = Cast<to=10>(a) b = Cast<to=1>(c) y = Conv(b, w9)", PLAIN | {"b0": (8,)}, lambda w: (kill(("w0", 2))(w), w["b0"].__setitem__(2, 0.1)), 0),
    "divided by": Case("0 / c is 0", "a = Conv(x, w0) b = Div(a, var) y = Conv(b, w9)", PLAIN | {"var": (8, 1, 1)}, kill(("w0", 2)), 1),
    "power of 0": Case("anything to the power of 0 is 1: all fold but one", "a = Conv(x, w0) b = Pow(a, p) y = Conv(b, w9)", PLAIN, lambda w: None, 7, {"p": np.float32(0)}),
    "softmax": Case("0 has a share in a softmax over the channels", "a = Conv(x, w0) b = Softmax<axis=1>(a) y = Conv(b, w9)", PLAIN, kill(("w0", 2)), 0),
    "one constant under padding": Case("borders read 0, the inside 1", PADDED, WIDE, lambda w: (kill(("w0", 2))(w), w["b0"].__setitem__(2, 1.0)), 0),
    "constants under padding": Case("one of three stands for the others", PADDED, WIDE, lambda w: (kill(("w0", slice(2, 5)))(w), w["b0"].__setitem__(slice(2, 5), [1, 2, 3])), 2),
    "equal filters": Case("the reader's columns are summed", PADDED, WIDE, lambda w: (w["w0"].__setitem__(5, w["w0"][2]), w["b0"].__setitem__(5, w["b0"][2])), 1),
    "equal filters, other biases": Case("they differ by more than a factor", PADDED, WIDE, lambda w: w["w0"].__setitem__(5, w["w0"][2]), 0),
    "equal filters behind other scales": Case("the scale sets them apart", "a = Conv(x, w0) c = Mul(a, s) b = Relu(c) y = Conv(b, w9)", PLAIN | {"s": (8, 1, 1)}, lambda w: w["w0"].__setitem__(5, w["w0"][2]), 0),
    "output": Case("the graph's own output keeps its shape", "y = Conv(x, w0)", {"w0": (8, 3, 1, 1)}, kill(("w0", 2)), 0),
}
# fmt: on


def build(oracle, case: Case):
    source = oracle.parse(case.body, {"x": "N,3,8,8"}, case.weights, case.constants)
    arrays = {t.name: np.array(numpy_helper.to_array(t)) for t in source.graph.initializer}
    case.zero(arrays)
    for tensor in source.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return load(source)


@pytest.mark.parametrize("name", CASES)
def test_shrink_takes_what_changes_nothing_and_no_more(oracle, name):
    case = CASES[name]
    model = build(oracle, case)
    smaller, report = shrink(model)
    gone = sum(report.verdicts[verdict] for verdict in ("removed", "folded", "merged"))
    assert gone == case.removed, case.argument
    for batch in (1, 3):
        feeds = oracle.feeds_for(model, batch, seed=batch)
        assert oracle.error_over_range(oracle.run(model, feeds), oracle.run(smaller, feeds)) <= 1e-5
    again, second = shrink(smaller)
    assert not second.gone and to_bytes(again) == to_bytes(smaller)
    assert (oracle.parameters(smaller) < oracle.parameters(model)) == bool(case.removed)


def test_a_product_of_two_vectors_stays_a_scalar(oracle):
    """What folds is added as a scalar."""
    source = oracle.parse(
        "a = MatMul(x, w0) b = Add(a, b0) y = MatMul(b, w9)",
        {"x": "3"},
        {"w0": (3, 8), "b0": (8,), "w9": (8,)},
        outputs="float y",
    )
    weight = source.graph.initializer[0]
    array = np.array(numpy_helper.to_array(weight))
    array[:, 2] = 0
    weight.CopyFrom(numpy_helper.from_array(array, "w0"))
    smaller, report = shrink(load(source))
    assert report.verdicts["folded"] == 1
    feeds = {"x": np.ones(3, np.float32)}
    expected, found = oracle.run(load(source), feeds)[0], oracle.run(smaller, feeds)[0]
    assert found.shape == expected.shape == () and abs(found - expected) < 1e-5


def test_a_constant_that_stays_says_why(oracle):
    report = shrink(build(oracle, CASES["one constant under padding"]))[1]
    (entry,) = report.kept_dead
    assert (entry.tensor, entry.axis, entry.index) == ("a", 1, 2)
    assert entry.node == "Conv 'Conv_2'"
    assert entry.reason == "holds 1 here; Conv 'Conv_2' reads it through zero padding"
    assert report.as_dict()["kept_dead"][0]["index"] == 2


def test_what_inference_does_not_know_is_left_alone(oracle):
    """Operators of other domains, inputs that are outputs, missing shapes: nothing is claimed of them."""
    source = oracle.parse("a = Conv(x, w0) b = my.Foo(a) y = Conv(b, w9)", {"x": "N,3,8,8"}, PLAIN)
    source.opset_import.append(helper.make_opsetid("my", 1))
    passing = oracle.parse("a = Conv(x, w0) y = Conv(a, w9)", {"x": "N,3,8,8"}, PLAIN)
    passing.graph.output.append(passing.graph.input[0])
    for model, removed in ((source, 0), (passing, 1)):
        arrays = {t.name: np.array(numpy_helper.to_array(t)) for t in model.graph.initializer}
        kill(("w0", 2))(arrays)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
        assert shrink(model)[1].verdicts["removed"] == removed


def test_a_model_with_nothing_dead_does_not_grow(oracle):
    body = "a = Conv(x, w0) b = Mul(a, s) c = Conv(b, w1) d = Mul(c, s) y = Conv(d, w9)"
    shared = {"s": np.ones((1, 8, 1, 1), np.float32)}
    source = oracle.parse(body, {"x": "N,3,8,8"}, {"w0": (8, 3, 1, 1), "w1": (8, 8, 1, 1), "w9": (5, 8, 1, 1)}, shared)
    assert set(shrink(source)[0].ir.graph.initializers) == {"w0", "w1", "w9", "s"}


@pytest.mark.parametrize(("activation", "opset", "tiny"), [("Sigmoid", 17, -30.0), ("Gelu", 20, -5.2)])
def test_what_is_all_but_zero_stands_in_for_nothing(oracle, activation, opset, tiny):
    """Runtimes round Sigmoid(-30) to some 1e-8, 100,000 times what it is: nothing may be divided by it."""
    source = oracle.parse(PADDED.replace("Relu", activation), {"x": "N,3,8,8"}, WIDE, opset=opset)
    for tensor in source.graph.initializer:
        array = np.array(numpy_helper.to_array(tensor))
        if tensor.name == "w0":
            array[[2, 5]] = 0
        if tensor.name == "b0":
            array[2], array[5] = tiny, 2
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    model = load(source)
    smaller, report = shrink(model)
    assert report.verdicts["merged"] == 1
    feeds = oracle.feeds_for(model, 3)
    assert oracle.error_over_range(oracle.run(model, feeds), oracle.run(smaller, feeds)) <= 1e-5


def test_a_recorded_shape_that_can_not_be_is_dropped(oracle):
    source = oracle.parse("a = Conv(x, w0) b = Relu(a) y = Conv(b, w9)", {"x": "N,3,8,8"}, PLAIN, infos="float[8] a")
    for tensor in source.graph.initializer:
        if tensor.name == "w0":
            array = np.array(numpy_helper.to_array(tensor))
            array[2] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, "w0"))
    smaller, report = shrink(source)
    assert report.verdicts["removed"] == 1
    assert next(v.shape for node in smaller.ir.graph for v in node.outputs if v.name == "a") is None


def test_the_same_input_gives_the_same_bytes(oracle):
    case = CASES["chain"]
    assert to_bytes(shrink(build(oracle, case))[0]) == to_bytes(shrink(build(oracle, case))[0])


def test_halves_that_would_round_are_the_reason(oracle):
    source = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float16[N,3,8,8] x) => (float16[N,5,8,8] y)'
        "{ a = Conv(x, w0, b0) b = Relu(a) y = Conv(b, w9, b9) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (8, 3, 1, 1), "b0": (8,), "w9": (5, 8, 1, 1), "b9": (5,)}.items():
        array = rng.normal(size=shape).astype(np.float16)
        if name == "w0":
            array[2] = 0
        if name == "b0":
            array[2] = 0.3
        source.graph.initializer.append(numpy_helper.from_array(array, name))
    (entry,) = shrink(source)[1].kept_dead
    assert (entry.tensor, entry.index) == ("a", 2)
    assert "computes in halves, which round what it would take over" in entry.reason


def test_a_mean_that_shrinks_twice_has_a_factor_for_each_time(oracle):
    """Two nodes of one name are no valid file."""
    source = oracle.parse(
        "a = Conv(x, w0) b = Relu(a) m = ReduceMean(b, ax) y = Conv(m, w9)",
        {"x": "N,3,8,8"},
        {"w0": (8, 3, 1, 1), "w9": (5, 1, 1, 1)},
        {"ax": np.array([1])},
    )
    model = load(source)
    smaller = model
    for row in (1, 2):
        tensor = smaller.ir.graph.initializers["w0"]
        array = tensor.const_value.numpy().copy()
        array[row] = 0
        tensor.const_value = ir.tensor(array, name="w0")
        smaller, report = shrink(load(to_proto(smaller)))
        assert report.verdicts["removed"] == 1
    onnx.checker.check_model(to_bytes(smaller), full_check=True)
    names = [node.name for node in smaller.ir.graph]
    assert len(set(names)) == len(names)
    oracle.run(smaller, oracle.feeds_for(smaller, 2))
