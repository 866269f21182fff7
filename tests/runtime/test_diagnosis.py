"""What the optimised graph says about speed, without a stopwatch."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxprune.runtime.diagnosis import block_size, diagnose, operator_times

needs_blocks = pytest.mark.skipif(block_size() != 16, reason="widths are those of a processor with AVX-512")


def chain(*widths, scale=1.0, depthwise=False):
    """Convolutions of these widths one after the other, each with a Relu: layer0, layer1 ..."""
    lines, weights, source, before = [], {}, "image", 16
    for k, width in enumerate(widths):
        group = before if depthwise and k else 1
        width = before if group > 1 else width
        lines.append(f"c{k} = Conv <pads = [1, 1, 1, 1], group = {group}> ({source}, w{k}) r{k} = Relu (c{k})")
        shape = (width, before // group, 3, 3)
        weights[f"w{k}"] = (scale * np.random.default_rng(k).standard_normal(shape)).astype(np.float32)
        source, before = f"r{k}", width
    text = f'<ir_version: 10, opset_import: ["" : 18]> net (float[N, 16, 8, 8] image) => (float[N, C, 8, 8] {source}) '
    model = parser.parse_model(text + "{" + "\n".join(lines) + "}")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    for node in model.graph.node:
        node.name = f"layer{node.output[0][1:]}" if node.op_type == "Conv" else ""
    return model


@pytest.fixture
def written(tmp_path):
    def write(model, name="net.onnx"):
        onnx.save(model, tmp_path / name)
        return str(tmp_path / name)

    return write


@needs_blocks
@pytest.mark.parametrize(
    "widths, blocked, advice",
    [
        ((48, 48, 48), 3, {}),
        ((48, 50, 48), 2, {"layer1": 48}),
        ((63, 48, 48), 2, {"layer0": 64}),
        ((36, 40, 44), 3, {}),
        ((48, 48, 50), 3, {}),  # nobody reads the odd width
        ((10, 48, 48), 3, {}),  # narrow inputs are padded
    ],
)
def test_widths_that_leave_the_blocked_layout(written, widths, blocked, advice):
    found = diagnose(written(chain(*widths)))
    assert (found.convolutions, found.blocked, found.block) == (3, blocked, 16)
    assert {name: width for conv in found.plain for name, width in conv.round.items()} == advice
    assert found.subnormal_weights == 0


@needs_blocks
def test_what_was_lost_against_the_reference_is_called_out(written):
    before, after = diagnose(written(chain(64, 64, 64, 64))), diagnose(written(chain(50, 50, 50, 48)))
    assert before.sentences() == []
    (lost, *_) = after.sentences(before)
    assert lost == "3 convolutions lost the blocked layout: round layer0, layer1, layer2 to 48."
    assert after.sentences(after) == []


@needs_blocks
def test_depthwise(written):
    found = diagnose(written(chain(50, 50, depthwise=True)))
    assert [(conv.name, conv.reason) for conv in found.plain] == [
        ("layer1", "50 depthwise channels aren't a multiple of 4")
    ]
    assert found.plain[0].round == {"layer0": 48}


def test_a_net_full_of_denormals_is_diagnosed(written):
    found = diagnose(written(chain(16, 16, scale=1e-40)))
    assert found.subnormal_weights > 4000 and found.subnormal_tensors == ("w0", "w1")
    (sentence,) = [words for words in found.sentences() if "denormals" in words]
    assert "w0, w1" in sentence and "onnxprune shrink" in sentence


def test_operators_are_matched_by_the_tensor_they_give(written):
    paths = [written(chain(48, 48, 48), "a.onnx"), written(chain(48, 50, 48), "b.onnx")]
    rows = operator_times(paths, {"image": np.ones((1, 16, 8, 8), np.float32)})
    both = {row.name for row in rows if row.reference_ms is not None and row.candidate_ms is not None}
    assert {"r0", "r1"} <= both
    changes = [abs((row.candidate_ms or 0) - (row.reference_ms or 0)) for row in rows]
    assert changes == sorted(changes, reverse=True)
