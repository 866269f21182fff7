"""Drawings: what is in the file, what has which colour, and that nothing covers anything."""

import re
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import numpy_helper

from onnxprune.drawing.colours import choose
from onnxprune.drawing.draw import draw
from onnxprune.drawing.families import Families
from onnxprune.drawing.layers import find
from onnxprune.graph.labels import spans
from onnxprune.graph.model import load
from onnxprune.graph.units import Channels, trace
from tests.strategies import Network, networks

IMAGE = {"x": "N,3,8,8"}
SVG = "{http://www.w3.org/2000/svg}"


def parse(
    body: str, weights: dict[str, tuple[int, ...]], constants=None, inputs=None, names: dict[str, str] | None = None
) -> Channels:
    """Channels of a network in ONNX text; `names` renames weights to what the text can't spell."""
    listed = ", ".join(f"float[{shape}] {name}" for name, shape in (inputs or IMAGE).items())
    text = f'<ir_version: 8, opset_import: ["" : 20]> g ({listed}) => (float[a,b,c,d] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in weights.items()}
    for name, array in {**arrays, **(constants or {})}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), (names or {}).get(name, name)))
    for node in model.graph.node:
        node.name = f"n{node.output[0]}"
        node.input[:] = [(names or {}).get(name, name) for name in node.input]
    return trace(load(model))


def name_of(group: ElementTree.Element) -> str:
    """What a box is called: its tooltip's first line, up to the operator."""
    return (group.findtext(f"{SVG}title") or "").splitlines()[0].rpartition(": ")[0]


class Drawn:
    """A drawing, read back."""

    def __init__(self, svg: str):
        self.root = ElementTree.fromstring(svg)
        self.groups = list(self.root.iter(f"{SVG}g"))
        self.texts = [element.text or "" for element in self.root.iter(f"{SVG}text")]

    def titles(self, kind: str) -> list[str]:
        """The names of the boxes of a kind, from their tooltips' first words."""
        return [name_of(group) for group in self.groups if group.get("class") == kind]

    def colours(self, style: str) -> dict[str, list[str]]:
        """{layer: the colours of its strip}; `style` is "takes" or "gives"."""
        return {
            name_of(group): [rect.get("fill") for rect in group.iter(f"{SVG}rect") if rect.get("class") == style]
            for group in self.groups
        }

    def boxes(self) -> list[tuple[float, float, float, float]]:
        """(left, top, right, bottom) of every box and circle."""
        found = []
        for group in self.groups:
            for rect in group.iter(f"{SVG}rect"):
                if rect.get("class") == "box":
                    x, y, width, height = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
                    found.append((x, y, x + width, y + height))
            for circle in group.iter(f"{SVG}circle"):
                x, y, r = (float(circle.get(key)) for key in ("cx", "cy", "r"))
                found.append((x - r, y - r, x + r, y + r))
        return found

    def segments(self) -> list[tuple[tuple[float, float], tuple[float, float]]]:
        """The straight stretches of all lines."""
        found = []
        for path in self.root.iter(f"{SVG}path"):
            if path.get("class") == "edge":
                points = re.findall(r"([MLQ])([-\d.]+) ([-\d.]+)(?: ([-\d.]+) ([-\d.]+))?", path.get("d"))
                at = None
                for letter, x, y, x2, y2 in points:
                    end = (float(x2), float(y2)) if letter == "Q" else (float(x), float(y))
                    if letter == "L":
                        found.append((at, end))
                    at = end
        return found


RESIDUAL = "a = Conv(x, w0) c = Conv(a, w1) d = Relu(c) e = Conv(d, w2) b = Add(e, a) y = Conv(b, w9)"
RESIDUAL_WEIGHTS = {"w0": (8, 3, 1, 1), "w1": (4, 8, 1, 1), "w2": (8, 4, 1, 1), "w9": (5, 8, 1, 1)}


def test_layers_that_are_tied_have_one_colour():
    gives = Drawn(draw(parse(RESIDUAL, RESIDUAL_WEIGHTS))).colours("gives")
    assert gives["na"] == gives["ne"] != gives["nc"]
    assert gives["ny"] == ["url(#stays)"]
    takes = Drawn(draw(parse(RESIDUAL, RESIDUAL_WEIGHTS))).colours("takes")
    assert takes["ne"] == gives["nc"] and takes["na"] == ["url(#stays)"]


def test_a_concat_shows_what_it_joins():
    body = "a = Conv(x, w0) b = Conv(x, w1) r = Concat<axis=1>(a, b, x) y = Conv(r, w9)"
    drawn = Drawn(draw(parse(body, {"w0": (4, 3, 1, 1), "w1": (6, 3, 1, 1), "w9": (5, 13, 1, 1)})))
    gives = drawn.colours("gives")
    assert gives["nr"] == [*gives["na"], *gives["nb"], "url(#stays)"] == drawn.colours("takes")["ny"]
    assert {"4", "6", "13", "3"} <= set(drawn.texts)  # widths, at the edges


@pytest.mark.parametrize("name", ['a<b>&"c".weight', "it's.weight", "]]>.weight", "weird\x01.weight", "größe.weight"])
def test_any_name_survives(name):
    drawn = Drawn(draw(parse(RESIDUAL, RESIDUAL_WEIGHTS, names={"w1": name})))
    expected = name.removesuffix(".weight").replace("\x01", "\ufffd")
    assert expected in drawn.titles("layer") and expected in drawn.texts


def test_what_only_moves_or_computes_elements_is_no_box():
    body = (
        "a = Conv(x, w0) n = BatchNormalization(a, s, t, m, vvar) g = Sigmoid(n) h = Mul(n, g) "
        "p = MaxPool<kernel_shape=[2,2]>(h) f = Flatten(p) l = Gemm(f, w1) r = Relu(l) q = Gemm(r, w9) "
        "y = Reshape(q, k)"
    )
    weights = {"w0": (4, 3, 1, 1), "w1": (196, 6), "w9": (6, 5), **dict.fromkeys(("s", "t", "m"), (4,)), "vvar": (4,)}
    drawn = Drawn(draw(parse(body, weights, {"k": np.array([-1, 5, 1, 1])})))
    assert drawn.titles("layer") == ["na", "nl", "nq"]
    assert drawn.titles("merge") == []
    assert (drawn.titles("input"), drawn.titles("output")) == (["x"], ["y"])


def attention_block(number: int, x: str) -> tuple[str, dict[str, tuple[int, ...]], str]:
    """One transformer block on x [N,4,8]: two heads of 4, a residual stream of 8."""
    names = {name: f"{name}{number}" for name in "q k v o u d".split()}
    i = number
    body = " ".join(
        f"p{i}{name} = MatMul({x}, {names[name]}) r{i}{name} = Reshape(p{i}{name}, heads) "
        f"t{i}{name} = Transpose<perm=[0,2,{'3,1' if name == 'k' else '1,3'}]>(r{i}{name})"
        for name in "qkv"
    )
    body += (
        f" m{i} = MatMul(t{i}q, t{i}k) z{i} = Softmax<axis=-1>(m{i}) c{i} = MatMul(z{i}, t{i}v) "
        f"b{i} = Transpose<perm=[0,2,1,3]>(c{i}) e{i} = Reshape(b{i}, flat) f{i} = MatMul(e{i}, {names['o']}) "
        f"g{i} = Add({x}, f{i}) h{i} = MatMul(g{i}, {names['u']}) j{i} = Relu(h{i}) "
        f"l{i} = MatMul(j{i}, {names['d']}) x{i} = Add(g{i}, l{i})"
    )
    weights = {names[name]: (8, 8) for name in "qkvo"} | {names["u"]: (8, 12), names["d"]: (12, 8)}
    return body, weights, f"x{i}"


def transformer(blocks: int) -> Channels:
    body, weights, x = ["x0 = MatMul(x, w0)"], {"w0": (3, 8), "w9": (8, 5)}, "x0"
    for number in range(1, blocks + 1):
        text, more, x = attention_block(number, x)
        body.append(text)
        weights |= more
    body.append(f"y0 = MatMul({x}, w9) y = Unsqueeze(y0, last)")
    names = {
        f"{short}{number}": f"blocks.{number - 1}.{long}.weight"
        for number in range(1, blocks + 1)
        for short, long in zip("qkvoud", "attn.q attn.k attn.v attn.out mlp.up mlp.down".split(), strict=True)
    }
    constants = {"heads": np.array([0, 0, 2, 4]), "flat": np.array([0, 0, 8]), "last": np.array([3])}
    return parse(" ".join(body), weights, constants, {"x": "N,4,3"}, names)


def test_repeats_are_folded_into_one():
    channels = transformer(5)
    folded, whole = Drawn(draw(channels)), Drawn(draw(channels, small=1000))
    assert "× 5" in folded.texts and "blocks.0 – 4" in folded.texts
    assert len(folded.titles("layer")) == 1 + 7 + 1 and len(whole.titles("layer")) == 1 + 5 * 7 + 1
    assert sum(title.startswith("blocks.") for title in folded.titles("layer")) == 6  # attention has no weight's name
    assert not [text for text in whole.texts if text.startswith("× ")]
    tips = "\n".join(group.findtext(f"{SVG}title") or "" for group in folded.groups)
    for number in range(5):
        assert f"blocks.{number}.mlp.up" in tips
    gives = folded.colours("gives")
    assert gives["blocks.0.attn.out"] == gives["blocks.0.mlp.down"] != gives["blocks.0.attn.v"]


def test_small_networks_are_drawn_as_they_are():
    assert len(Drawn(draw(transformer(2))).titles("layer")) == 1 + 2 * 7 + 1


def test_a_drawing_stands_alone_and_is_the_same_every_time():
    svg = draw(transformer(3))
    assert svg == draw(transformer(3))
    for outside in ("href", "<script", "@import", "<image", "<foreignObject", "src="):
        assert outside not in svg
    assert set(re.findall(r"url\(([^)]*)\)", svg)) <= {"#stays"}
    assert re.findall(r"https?://[^\"' ]*", svg) == ["http://www.w3.org/2000/svg"]


def assert_nothing_covers_anything(drawn: Drawn) -> None:
    _, _, width, height = (float(number) for number in drawn.root.get("viewBox").split())
    boxes = drawn.boxes()
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        for a, b, c, d in boxes[:number]:
            assert right <= a or c <= left or bottom <= b or d <= top
    for (x1, y1), (x2, y2) in drawn.segments():
        assert x1 == x2 or y1 == y2
        for left, top, right, bottom in boxes:
            apart = max(x1, x2) <= left or min(x1, x2) >= right or max(y1, y2) <= top or min(y1, y2) >= bottom
            assert apart, ((x1, y1), (x2, y2), (left, top, right, bottom))


@pytest.mark.parametrize("blocks", [1, 3, 12])
def test_lines_run_around_boxes(blocks):
    assert_nothing_covers_anything(Drawn(draw(transformer(blocks), small=1000)))


def test_parallel_branches_and_long_ways():
    """Four branches of different lengths, an early tensor that is read at the end, and two outputs of one box."""
    lines = ["s = Conv(x, w0)"]
    weights = {"w0": (4, 3, 1, 1)}
    ends = []
    for branch in range(4):
        at = "s"
        for step in range(branch + 1):
            weights[f"w{branch}{step}"] = (4, 4, 1, 1)
            lines.append(f"b{branch}{step} = Conv({at}, w{branch}{step})")
            at = f"b{branch}{step}"
        ends.append(at)
    lines.append(f"j = Concat<axis=1>({', '.join(ends)})")
    lines.append("k = Conv(j, wk) m = Mul(k, b00) y0 = Concat<axis=1>(m, s) y = Conv(y0, w9)")
    weights |= {"wk": (4, 16, 1, 1), "w9": (5, 8, 1, 1)}
    assert_nothing_covers_anything(Drawn(draw(parse(" ".join(lines), weights))))


LIGHT = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@LIGHT
@given(net=networks())
def test_every_drawing(net: Network):
    channels = parse(net.body, net.weights, net.constants)
    svg = draw(channels)
    drawn = Drawn(svg)
    assert_nothing_covers_anything(drawn)
    graph = channels.model.ir.graph
    weighted = [node for node in graph if node.op_type in ("Conv", "ConvTranspose", "Gemm")]
    layers = find(channels, Families(channels))
    placed = [node for layer in layers for node in layer.nodes]
    for node in graph:
        computes = not all(out in channels.trace.values for out in node.outputs)
        assert placed.count(node) == computes, node
    starts = [layer.name for layer in layers if layer.kind == "layer"]
    assert sorted(drawn.titles("layer")) == sorted(starts) and len(starts) == len(set(starts))
    assert {node.name for node in weighted} <= set(starts)

    # Colours: two layers share one exactly when they share a channel that can go.
    gives, can_go = drawn.colours("gives"), channels.deletable
    outputs: dict[str, set[int]] = {}
    for node in weighted:
        labels = [f.ravel() for f in channels.facets(node.outputs[0]) if spans(f) == (1,)]
        names = np.unique(channels.channel[np.concatenate(labels)]) if labels else np.empty(0, int)
        outputs[node.name] = set(names[can_go[names]].tolist())
    for one, mine in outputs.items():
        for other, theirs in outputs.items():
            shared = (set(gives[one]) & set(gives[other])) - {"url(#stays)"}
            assert bool(shared) == bool(mine & theirs), (one, other)


def test_colours_are_never_the_same():
    for flags in ([True] * 400, [False] * 400, [True, False] * 300):
        found = choose(flags)
        assert len(set(found)) == len(flags) and all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in found)
