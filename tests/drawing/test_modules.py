"""Modules and blocks, as different exporters name things."""

import onnx_ir as ir
import pytest

from onnxprune.drawing.modules import SCOPES, blocks, common_prefix, module_of


@pytest.mark.parametrize(
    ("name", "scopes", "module"),
    [
        ("node_conv2d", "['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']", "layer1.0.conv1"),
        ("node_add_3", "['', 'add_3']", ""),
        ("node_conv2d", "['_empty_nn_module_stack_from_metadata_hook', 'conv2d']", None),
        ("node_conv2d", "not a list", None),
        ("/layer1/layer1.0/conv1/Conv", "", "layer1.0.conv1"),
        ("/layer1/layer1.0/Add", "", "layer1.0"),
        ("resnet/block_2/conv/Conv2D", "", "resnet.block_2.conv"),
        ("Conv_17", "", None),
        ("", "", None),
    ],
)
def test_the_module_of_a_node(name, scopes, module):
    node = ir.Node("", "Conv", [], name=name)
    if scopes:
        node.metadata_props[SCOPES] = scopes
    assert module_of(node) == module


def test_blocks_are_elements_of_lists():
    paths = ["conv1", "layer1.0.conv1", "layer1.0.downsample.0", "layer1.0.Add", "layer2.1.conv1", "fc", "head.fc"]
    assert blocks(paths) == ["", "layer1.0", "layer1.0", "layer1.0", "layer2.1", "", ""]


def test_blocks_of_large_stages_are_the_inner_ones():
    stage = [f"layers.{s}.blocks.{b}.{name}" for s in (0, 1) for b in (0, 1) for name in "abcdefgh"]
    found = blocks([*stage, "layers.1.downsample.norm"])
    assert set(found[:-1]) == {f"layers.{s}.blocks.{b}" for s in (0, 1) for b in (0, 1)}
    assert found[-1] == "layers.1"


def test_lists_whose_names_end_in_numbers():
    paths = [f"features.denseblock{b}.denselayer{n}.conv{k}" for b in (1, 2) for n in range(1, 9) for k in (1, 2)]
    assert blocks(paths)[:3] == ["features.denseblock1.denselayer1"] * 2 + ["features.denseblock1.denselayer2"]
    assert blocks(["features.conv0", "features.norm0"]) == ["", ""]


@pytest.mark.parametrize(
    ("paths", "prefix"),
    [
        (["model.a.x", "model.a.y"], "model.a."),
        (["model.a", "model.ab"], "model."),
        (["model.a", "model.a.b"], "model."),
        (["a", "b"], ""),
        (["model.a"], ""),
        ([], ""),
    ],
)
def test_what_all_names_begin_with(paths, prefix):
    assert common_prefix(paths) == prefix
