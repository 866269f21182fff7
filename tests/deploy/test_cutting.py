"""Two implementations of one deletion: whatever the first removes, the second removes too, and nothing else."""

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from onnxprune.deploy.cutting import remove
from onnxprune.deploy.cutting.flags import compact, cut, sizes_left
from onnxprune.deploy.cutting.tensors import Tensors
from onnxprune.errors import EmptyAxisError, InputError, ModelError
from onnxprune.graph import remove as first
from onnxprune.graph.mask import mask
from onnxprune.graph.model import load, to_bytes, to_proto
from onnxprune.graph.units import trace
from tests.graph import conftest as oracle
from tests.graph.rules.test_laws import CASES
from tests.graph.test_residual import CASES as BLOCKS
from tests.graph.test_residual import IMAGE, STREAM


def shapes(model):
    """Shapes of float initializers; integers are shapes written anew, under names of their own."""
    found = {name: value.const_value for name, value in model.ir.graph.initializers.items()}
    return {name: tuple(map(int, t.shape)) for name, t in found.items() if t.dtype.is_floating_point()}


def sized(model, known):
    """The same without scalars written anew, which each backend names and places as it likes."""
    return {name: shape for name, shape in shapes(model).items() if name in known or shape != ()}


def compare(model, channels, units, feeds):
    """Both backends leave the same shapes and the function of the masked network."""
    expected, found = first.remove(model, channels, units), remove(model, channels, units)
    onnx.checker.check_model(to_bytes(found), full_check=oracle.infers(to_proto(model)))
    known = shapes(model)
    assert sized(found, known) == sized(expected, known)
    masked = mask(model, channels, units)
    for feed in feeds:
        outputs = oracle.run(found, feed)
        assert oracle.error_over_range(oracle.run(expected, feed), outputs) <= 1e-6
        assert oracle.error_over_range(oracle.run(masked, feed), outputs) <= oracle.TOLERANCE
    return found


#: Cases that this backend refuses so far, naming the node.
NOT_FOLLOWED = {
    "another tensor tiled by its size",
    "channels beside a computed start",
    "crop and pad around the middle",
    "compress all elements",
    "cumprod",
    "determinants",
    "displaced convolution",
    "displacements from channels pin them",
    "grid sample",
    "grid sample by computed coordinates",
    "rois",
    "rois of the largest",
    "swiglu",
    "zeros like another tensor",
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_operator(case):
    if case.name in NOT_FOLLOWED:
        with pytest.raises(ModelError, match="Remove these units with the backend onnx-ir"):
            check(case)
    else:
        check(case)


def check(case):
    generator = np.random.default_rng(1)
    for opset in (case.opset, *case.opsets):
        model = load(
            oracle.parse(case.body, case.inputs, case.weights, case.constants, case.outputs, opset, infos=case.infos)
        )
        before, channels = to_bytes(model), trace(model)
        for trial in range(2 if channels.units or channels.blocks else 0):
            chosen = channels.ranked(oracle.random_saliency(channels, generator)) if trial else channels
            feed = oracle.feeds_for(model, 3 - trial, 8 + 4 * trial, trial)
            compare(model, chosen, oracle.legal(chosen, generator, 0.4), [feed])
        assert to_bytes(model) == before, "the input was modified"


def test_nothing_to_delete():
    model = load(small())
    feed = oracle.feeds_for(model, 2)
    assert oracle.error_over_range(oracle.run(model, feed), oracle.run(remove(model, trace(model), []), feed)) == 0


@pytest.mark.parametrize("body", [case[1] for case in BLOCKS], ids=[case[0] for case in BLOCKS])
def test_blocks(body):
    model = load(oracle.parse(body, IMAGE, {name: shape for name, shape in STREAM.items() if name in body}))
    channels = trace(model)
    chosen = [[block.index] for block in channels.blocks]
    for units in [*chosen, [*range(0, len(channels.units), 3), *(index for (index,) in chosen)]]:
        compare(model, channels, units, [oracle.feeds_for(model, 3)])


def test_the_table_has_cases_to_compare():
    """The test above deletes nothing where there are no units: most cases have some."""
    assert sum(case.units > 0 for case in CASES) > 0.7 * len(CASES) > 50


SQUEEZENET = Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx"


def test_a_real_topology():
    """SqueezeNet: branches that meet in Concat, dropout, global pooling; random weights instead of constant ones."""
    proto = onnx.load(SQUEEZENET)
    generator = np.random.default_rng(0)
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = sizes[node.input[0]]
            array = generator.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
            proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), node.output[0]))
        else:
            nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.ir_version = 8
    inputs = [value for value in proto.graph.input if value.name not in sizes]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    model = load(proto)
    channels = trace(model)
    units = oracle.legal(channels, generator, 0.3)
    feed = {inputs[0].name: generator.random((1, 3, 224, 224), np.float32)}
    found = compare(model, channels, units, [feed])
    assert sum(map(np.prod, shapes(found).values())) < 0.7 * sum(map(np.prod, shapes(model).values()))


def small(extra: str = "") -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,6,6] x{extra}) => (float[ya,yb,yc,yd] y) '
        "{ a = Conv(x, w) b = Relu(a) y = Conv(b, v) }"
    )
    generator = np.random.default_rng(0)
    for name, shape in {"w": (8, 3, 1, 1), "v": (5, 8, 1, 1)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name))
    return proto


def test_weights_that_are_also_inputs():
    """As in files from before IR version 4: weights shrink, and the inputs that they are defaults of with them."""
    model = load(small(", float[8,3,1,1] w, float[5,8,1,1] v"))
    channels = trace(model)
    found = remove(model, channels, [0, 3])
    sizes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in to_proto(found).graph.input
    }
    assert sizes == {"x": [0, 3, 6, 6], "w": [6, 3, 1, 1], "v": [5, 6, 1, 1]}
    feed = {"x": np.random.default_rng(0).random((2, 3, 6, 6), np.float32)}
    expected = oracle.run(mask(model, channels, [0, 3]), feed)
    assert oracle.error_over_range(expected, oracle.run(found, feed)) <= oracle.TOLERANCE


def test_metadata_and_names_survive():
    proto = small()
    proto.graph.node[0].metadata_props.add(key="came from", value="layer 1")
    proto.graph.initializer[0].metadata_props.add(key="trained", value="yes")
    proto.metadata_props.add(key="licence", value="MIT")
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, ["N", 8, 6, 6]))
    model = load(proto)
    found = to_proto(remove(model, trace(model), [2]))
    assert [(p.key, p.value) for p in found.metadata_props] == [("licence", "MIT")]
    assert [(p.key, p.value) for p in found.graph.node[0].metadata_props] == [("came from", "layer 1")]
    assert ("trained", "yes") in [(p.key, p.value) for p in found.graph.initializer[0].metadata_props]
    assert [(t.name, list(t.dims)) for t in found.graph.initializer] == [("w", [7, 3, 1, 1]), ("v", [5, 7, 1, 1])]
    (info,) = [value for value in found.graph.value_info if value.name == "b"]
    assert [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim] == ["N", 7, 6, 6]


def test_recorded_sizes_that_depend_on_the_batch():
    """Batch and heads as one axis: what is recorded of it is no number, before and after."""
    body = (
        "q0 = MatMul(x, wq) q1 = Reshape(q0, s4) q2 = Transpose<perm=[0,2,1,3]>(q1) q3 = Reshape(q2, s3) "
        "k = Transpose<perm=[0,2,1]>(q3) s = MatMul(q3, k) q4 = MatMul(s, q3) "
        "q5 = Reshape(q4, t4) q6 = Transpose<perm=[0,2,1,3]>(q5) q7 = Reshape(q6, t3) y = MatMul(q7, wo)"
    )
    constants = {"s4": [0, 5, 3, 4], "s3": [-1, 5, 4], "t4": [-1, 3, 5, 4], "t3": [0, 5, 12]}
    arrays = {name: np.array(sizes) for name, sizes in constants.items()}
    proto = oracle.parse(body, {"x": "N,5,6"}, {"wq": (6, 12), "wo": (12, 5)}, arrays, "float[a,b,c] y")
    model = load(onnx.shape_inference.infer_shapes(proto))
    channels = trace(model)
    heads = [unit for unit in channels.units if unit.kind == "head"]
    assert heads
    for unit in heads:
        found = compare(model, channels, [unit], [oracle.feeds_for(model, batch) for batch in (1, 3)])
        (joined,) = (info for info in to_proto(found).graph.value_info if info.name == "q4")
        assert [dim.dim_value for dim in joined.type.tensor_type.shape.dim] == [0, 5, 4]


def test_what_can_not_be_asked():
    model = load(small())
    channels = trace(model)
    with pytest.raises(EmptyAxisError):
        remove(model, channels, range(8))
    with pytest.raises(InputError, match="another model"):
        remove(load(small()), channels, [0])


def flow(operator, inputs, output, goes, opset=20, domain=None, **attributes):
    """Flags of one node's output. `inputs`: {name: shape, or an array of constants}."""
    shapes = {name: x.shape if isinstance(x, np.ndarray) else x for name, x in inputs.items()} | {"y": output}
    tensors = [gs.Constant(n, x) if isinstance(x, np.ndarray) else gs.Variable(n) for n, x in inputs.items()]
    node = gs.Node(operator, "it", attributes, tensors, [gs.Variable("y")], domain)
    graph = gs.Graph([node], opset=opset)
    found = Tensors(graph, {name: np.array(flags) for name, flags in goes.items()}, shapes, shapes)
    found.flow(node)
    return found.goes.get("y")


ROW = [[False, True, False]]
COLUMN = [[False], [True]]
REFUSED = {
    "no rule": ("NonZero", {"a": (2, 3)}, (2, 6), {"a": ROW}, {}),
    "another domain's operator": ("Relu", {"a": (2, 3)}, (2, 3), {"a": ROW}, {"domain": "com.example"}),
    "operands of other places": (
        "Add",
        {"a": (2, 3), "b": (2, 3)},
        (2, 3),
        {"a": ROW, "b": [[True, False, False]]},
        {},
    ),
    "an operand that stays": ("Add", {"a": (2, 3), "b": (3,)}, (2, 3), {"a": ROW}, {}),
    "maximum of what goes in part": ("ReduceMax", {"a": (2, 3), "ax": np.array([1])}, (2, 1), {"a": ROW}, {}),
    "sum over rows that choose": (
        "ReduceSum",
        {"a": (2, 3), "ax": np.array([0])},
        (1, 3),
        {"a": [[True, False, False], [False, True, False]]},
        {},
    ),
    "softmax of what goes in part": ("Softmax", {"a": (2, 3)}, (2, 3), {"a": ROW}, {}),
    "product over other places": (
        "MatMul",
        {"a": (2, 3), "b": (3, 4)},
        (2, 4),
        {"a": ROW, "b": [[True], [False], [False]]},
        {},
    ),
    "product with one that stays": ("MatMul", {"a": (2, 3), "b": (3, 4)}, (2, 4), {"a": ROW}, {}),
    "einsum over other places": ("Einsum", {"a": (2, 3), "b": (3, 4)}, (4, 2), {"a": ROW}, {"equation": "ab,bc->ca"}),
    "einsum of a diagonal": ("Einsum", {"a": (3, 3)}, (3,), {"a": ROW}, {"equation": "aa->a"}),
    "col2im of half a block": (
        "Col2Im",
        {"a": (1, 4, 9), "s": np.array([4, 4]), "k": np.array([1, 2])},
        (1, 2, 4, 4),
        {"a": [[[True], [False], [False], [False]]]},
        {},
    ),
    "scatter to an axis that shrinks": (
        "ScatterND",
        {"a": (2, 3), "i": np.array([[1]]), "u": (1, 3)},
        (2, 3),
        {"a": COLUMN},
        {},
    ),
    "scatter of what stays": ("ScatterND", {"a": (2, 3), "i": np.array([[1]]), "u": (1, 3)}, (2, 3), {"a": ROW}, {}),
    "group norm scaled by groups": (
        "GroupNormalization",
        {"a": (2, 4, 3), "s": (2,), "t": (2,)},
        (2, 4, 3),
        {"a": [[[True], [False], [True], [False]]]},
        {"num_groups": 2},
    ),
    "filters that read what goes": (
        "Conv",
        {"a": (1, 3, 4), "w": (2, 3, 1)},
        (1, 2, 4),
        {"a": [[[False], [True], [False]]]},
        {},
    ),
    "lookup at computed places": ("Gather", {"a": (2, 3), "i": (2,)}, (2, 2), {"a": ROW}, {"axis": 1}),
    "elements at computed places": ("GatherElements", {"a": (2, 3), "i": (2, 3)}, (2, 3), {"a": ROW}, {"axis": 1}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused(case):
    operator, inputs, output, goes, attributes = REFUSED[case]
    with pytest.raises(ModelError, match=f"What {operator} 'it' .* isn't known"):
        flow(operator, inputs, output, goes, **attributes)


def test_einsum_flags():
    goes = {"a": ROW, "b": [[False], [True], [False]]}
    inputs = {"a": (2, 3), "b": (3, 4)}
    assert flow("Einsum", inputs, (2, 4), goes, equation="nk,kc") is None
    assert flow("Einsum", inputs, (), goes, equation="nk,kc->") is None
    assert flow("Einsum", {"b": (3, 4)}, (4, 3), {"b": goes["b"]}, equation="kc->ck").tolist() == ROW
    assert flow("Einsum", {"b": (3, 4)}, (4, 3), {"b": goes["b"]}, equation="k...->...k").tolist() == ROW


def test_scale_that_two_norms_share_stays_what_it_is():
    """The factor that a mean square over fewer places asks for is applied where each norm is."""
    body = "a = MatMul(x, w0) b = RMSNormalization(a, s) c = RMSNormalization(b, s) y = MatMul(c, w9)"
    weights = {"w0": (6, 8), "s": (8,), "w9": (8, 5)}
    model = load(oracle.parse(body, {"x": "N,6"}, weights, None, "float[a,b] y", 23))
    channels = trace(model)
    compare(model, channels, [1, 4], [oracle.feeds_for(model, 3)])


# ---- cutting one array ----

T, F = True, False
GRID = np.array([[F, T, F], [T, F, F], [T, T, T]])  # row 2 goes, the others keep two places each


def test_a_grid_keeps_each_rows_own_choice():
    array = np.arange(9).reshape(3, 3)
    assert cut(array, GRID).tolist() == [[0, 2], [4, 5]]
    deep = np.arange(36).reshape(3, 2, 3, 2)
    assert (
        cut(deep, GRID[:, None, :, None]).tolist() == deep[[0, 1]][:, :, [[0, 2], [1, 2]]][[0, 1], :, [0, 1]].tolist()
    )


def test_a_box_is_cut_along_its_axes():
    array = np.random.default_rng(0).normal(size=(4, 2, 5))
    flags = np.array([F, T, F, F])[:, None, None] | np.array([T, F, F, T, F])[None, None, :]
    np.testing.assert_array_equal(cut(array, flags), array[np.ix_([0, 2, 3], [0, 1], [1, 2, 4])])


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ModelError, match=r"rows of \[1, 2\] places"):
        sizes_left(np.array([[F, T, F], [T, T, F]]), (3, 3))


def test_compact_keeps_only_axes_that_differ():
    flags = np.broadcast_to(np.array([F, T])[None, :, None], (3, 2, 4))
    assert compact(flags).shape == (1, 2, 1)
    assert compact(np.zeros((3, 2), bool)).tolist() == [[F]]
