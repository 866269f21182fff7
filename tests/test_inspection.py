"""What `inspect` says of a model: every unit with its cuts, every pin with its node, in print and as JSON."""

import json
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxprune import cli
from onnxprune.graph.cuts import cuts
from onnxprune.graph.model import load
from onnxprune.graph.units import trace
from onnxprune.inspection import inspect_model

NET = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 4, 8, 8] image, float[N, 2, 8, 8] other) => (float[N, 3, 1, 1] scores) {
    a = Conv (image, w0, b0)
    c = Conv <group = 2, pads = [1, 1, 1, 1]> (a, w1)
    r = Relu (c)
    b = Conv <pads = [1, 1, 1, 1]> (r, w2)
    sum = Add (a, b)
    m = Conv (image, wm)
    mixed = Softmax <axis = 1> (m)
    joined = Concat <axis = 1> (sum, mixed, other)
    pooled = GlobalAveragePool (joined)
    scores = Conv (pooled, w9, b9)
}
"""
WEIGHTS = {
    "w0": (8, 4, 1, 1),
    "b0": (8,),
    "w1": (6, 4, 3, 3),
    "w2": (8, 6, 3, 3),
    "wm": (4, 4, 1, 1),
    "w9": (3, 14, 1, 1),
    "b9": (3,),
}


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A residual branch with a grouped convolution, beside a Softmax over channels and a second input."""
    model = parser.parse_model(NET)
    for node in model.graph.node:
        node.name = f"the {node.output[0]}"
    generator = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        array = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    path = tmp_path_factory.mktemp("inspected") / "net.onnx"
    onnx.save(model, path)
    return path


def test_units_of_every_kind_are_counted(net):
    found = inspect_model(net)
    channels = trace(load(net))
    units = [*channels.units, *channels.blocks]
    kinds = {(unit.kind, unit.exactness) for unit in units}
    assert {(k.kind, k.exactness) for k in found.kinds} == kinds and {"channel", "conv group", "block"} <= {
        k for k, _ in kinds
    }
    for kind in found.kinds:
        sizes = [unit.size for unit in units if (unit.kind, unit.exactness) == (kind.kind, kind.exactness)]
        assert (kind.units, kind.weights) == (len(sizes), sum(sizes))
        assert (kind.smallest, kind.largest) == (min(sizes), max(sizes))
    assert found.weights == sum(int(np.prod(shape)) for shape in WEIGHTS.values())


def test_a_units_cuts_are_what_it_deletes(net):
    """Mark every place of every cut; as many weights are marked as the unit says it deletes."""
    channels = trace(load(net))
    found = cuts(channels)
    units = [*channels.units, *channels.blocks]
    assert len(found) == len(units)
    for unit, taken in zip(units, found, strict=True):
        marked = 0
        for tensor in {cut.tensor for cut in taken}:
            gone = np.zeros(WEIGHTS[tensor], bool)
            for cut in (cut for cut in taken if cut.tensor == tensor):
                index = [slice(None)] * gone.ndim
                for axis, places in zip(cut.axes, cut.places, strict=True):
                    index[axis] = np.array(places)
                gone[tuple(index)] = True
            marked += gone.sum()
        assert marked == unit.size, unit


def test_json_holds_all_of_it(net, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["inspect", str(net), "--json", "--explain", "w9"])
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    channels = trace(load(net))
    assert len(found["units"]) == len(channels.units) + len(channels.blocks)
    assert all(unit["cuts"] for unit in found["units"])
    softmax = next(pin for pin in found["pinned"] if pin["operator"] == "Softmax")
    assert (softmax["node"], softmax["weights"]) == ("the mixed", 16)
    assert softmax["reason"] == "Softmax 'the mixed' mixes the places of the axis"
    assert softmax["axes"] == [{"tensor": "wm", "axes": [0], "size": 4, "places": [[0, 4]]}]
    assert sum(pin["weights"] for pin in found["pinned"]) == sum(channels.pinned.values())
    joined = next(pin for pin in found["pinned"] if pin["operator"] == "Concat")
    assert joined["axes"] == [{"tensor": "w9", "axes": [1], "size": 14, "places": [[8, 14]]}]
    parts = found["explanation"]["axes"][1]["parts"]
    assert [part["places"] for part in parts if part["cause"]] == [[[8, 14]]]
    assert found["explanation"]["text"].startswith("w9 [3, 14, 1, 1]\n")


@pytest.mark.parametrize("columns", ["80", "200"])
def test_what_is_printed_fits_a_terminal(net, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("onnxprune.display.FILE_WIDTH", int(columns))
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(net)])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines[1:]) <= int(columns)  # the first is the path
    text = " ".join(" ".join(lines).split())
    for words in (
        "of the weights can go",
        "conv group",
        "block",
        "Softmax 'the mixed'",
        "mixes the places of the axis",
    ):
        assert words in text, words
    assert "float[N,2,8,8]" in text and "input other" in text


def test_many_pins_are_summed_up(tmp_path, capsys):
    """Thirty Softmaxes: twelve are listed, the others counted."""
    body, weights = [], {}
    for i in range(30):
        body.append(f"a{i} = Conv(x, w{i}) s{i} = Softmax<axis=1>(a{i})")
        weights[f"w{i}"] = (4, 4, 1, 1)
    joined = ", ".join(f"s{i}" for i in range(30))
    text = f'<ir_version: 8, opset_import: ["" : 20]> g (float[N,4,2,2] x) => (float[N,a,b,c] y) {{ {" ".join(body)} '
    model = parser.parse_model(text + f"y = Concat<axis=1>({joined}) }}")
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(tmp_path / "net.onnx")])
    out = capsys.readouterr().out
    assert out.count("Softmax '") == 12
    assert f"and 18 more pins of {18 * 16} weights" in out


def test_a_drawing_is_written_beside_what_is_printed(net, tmp_path, capsys):
    path = tmp_path / "net.svg"
    with pytest.raises(SystemExit) as end:
        cli.main(["inspect", str(net), "--graph", str(path)])
    assert not end.value.code
    assert f"drawn in {path}" in capsys.readouterr().out
    root = ElementTree.fromstring(path.read_text())
    assert root.tag.endswith("svg") and "the scores" in path.read_text()
    assert inspect_model(net).drawing is None
