"""The networks that cuda.py measures: made from a seed with NumPy and onnx alone, so that a bare machine has them too.

The large pair is a ResNet-50 of which three channels in eight hold nothing but zeros, and what `shrink` leaves of it:
two files of one function, the second smaller. The staircase is four 3x3 convolutions in a row, in many widths.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxprune

OPSET, IR_VERSION = 18, 10
CLASSES = 1000
BLOCKS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)
#: The channels that are left: of a block's own, and of what the blocks of a stage have in common.
KEPT_INSIDE, KEPT_BETWEEN = 0.5, 0.75
CALIBRATION = 16  # pictures over which the classes are centred
STAIRCASE_WIDTHS = (32, 33, 36, 40, 44, 46, 48, 50, 52, 56, 60, 62, 63, 64)
STAIRCASE_SIDE, STAIRCASE_LAYERS = 28, 4


class _Writer:
    """Gathers nodes and weights of a network of convolutions whose unused channels are zero."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def kept(self, width: int, share: float) -> np.ndarray:
        """Which of `width` channels are used."""
        chosen = np.zeros(width, bool)
        chosen[self.generator.permutation(width)[: round(width * share)]] = True
        return chosen

    def conv(self, source: str, name: str, inputs: int, used: np.ndarray, size: int, stride: int = 1, gain=1.0) -> str:
        weight = self.generator.standard_normal((len(used), inputs, size, size)).astype(np.float32)
        weight *= np.float32(gain * (2 / (inputs * size * size)) ** 0.5)
        bias = 0.05 * self.generator.standard_normal(len(used)).astype(np.float32)
        weight[~used], bias[~used] = 0, 0
        for part, value in (("weight", weight), ("bias", bias)):
            self.weights.append(numpy_helper.from_array(value, f"{name}.{part}"))
        self.node(
            "Conv",
            [source, f"{name}.weight", f"{name}.bias"],
            name,
            pads=[size // 2] * 4,
            strides=[stride] * 2,
            kernel_shape=[size] * 2,
        )
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def model(self, side: int, output: str, outputs: list[int]) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, side, side])
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", *outputs])
        graph = helper.make_graph(self.nodes, "net", [image], [result], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model


def resnet50(side: int = 224, narrower: int = 1, seed: int = 0) -> onnx.ModelProto:
    """He, Zhang, Ren, Sun: Deep Residual Learning (2015), table 1, normalisation folded in, weights drawn from `seed`.

    narrower: divides every width, to try things out.
    """
    net = _Writer(seed)
    stem = net.kept(WIDTHS[0] // narrower, 1.0)
    x = net.conv("image", "stem", 3, stem, 7, stride=2)
    x = net.node("Relu", [x], "stem.relu")
    x = net.node("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = len(stem)
    for stage, (blocks, width) in enumerate(zip(BLOCKS, (w // narrower for w in WIDTHS), strict=True), 1):
        between = net.kept(4 * width, KEPT_BETWEEN)
        for block in range(blocks):
            name, stride = f"stage{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inside = [net.kept(width, KEPT_INSIDE) for _ in range(2)]
            y = net.node("Relu", [net.conv(x, f"{name}.conv1", inputs, inside[0], 1)], f"{name}.relu1")
            y = net.node("Relu", [net.conv(y, f"{name}.conv2", width, inside[1], 3, stride)], f"{name}.relu2")
            y = net.conv(y, f"{name}.conv3", width, between, 1, gain=0.5)
            shortcut = x if block else net.conv(x, f"{name}.shortcut", inputs, between, 1, stride)
            x = net.node("Relu", [net.node("Add", [y, shortcut], f"{name}.sum")], f"{name}.relu3")
            inputs = 4 * width
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "pooled")], "features")
    weight = net.generator.standard_normal((CLASSES // narrower, inputs)).astype(np.float32) / np.float32(inputs**0.5)
    net.weights += [
        numpy_helper.from_array(weight, "classes.weight"),
        numpy_helper.from_array(np.zeros(len(weight), np.float32), "classes.bias"),
    ]
    net.node("Gemm", [x, "classes.weight", "classes.bias"], "logits", transB=1)
    return net.model(side, "logits", [len(weight)])


def staircase(width: int, seed: int = 0) -> onnx.ModelProto:
    """Four 3x3 convolutions of `width` channels in and out, over 28x28 pictures, behind one that makes the width."""
    net = _Writer(seed)
    x, inputs = "image", 3
    for layer in range(STAIRCASE_LAYERS + 1):
        x = net.conv(x, f"conv{layer}", inputs, net.kept(width, 1.0), 3 if layer else 1)
        x = net.node("Relu", [x], f"relu{layer}")
        inputs = width
    return net.model(STAIRCASE_SIDE, x, [width, STAIRCASE_SIDE, STAIRCASE_SIDE])


def pictures(count: int, side: int, seed: int = 1) -> np.ndarray:
    """Coarse random pictures [n, 3, side, side]: patches of colour under a little noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.standard_normal((count, 3, 8, 8)).astype(np.float32)
    coarse += 2 * generator.standard_normal((count, 3, 1, 1)).astype(np.float32)
    rows = np.arange(side) * 8 // side
    noise = 0.1 * generator.standard_normal((count, 3, side, side)).astype(np.float32)
    return coarse[:, :, rows][:, :, :, rows] + noise


def make_large_pair(folder: Path, *, side: int, narrower: int, samples: int, seed: int = 0) -> None:
    """large-reference.onnx, large-candidate.onnx, and large.npz: pictures with the reference's own decisions (on the
    CPU in float32) as their labels, so that top-1 says how often a decision changed."""
    from onnxprune.runtime.accuracy import record_outputs

    model = resnet50(side, narrower, seed)
    images = pictures(samples + CALIBRATION, side)
    # Classes are centred, else one of them would win on every picture.
    mean = record_outputs(model.SerializeToString(), {"image": images[samples:]})["logits"].mean(axis=0)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "classes.bias")
    bias.CopyFrom(numpy_helper.from_array(-mean, bias.name))
    reference = folder / "large-reference.onnx"
    onnx.save(model, reference)
    smaller, _ = onnxprune.shrink(onnxprune.load(reference))
    onnxprune.save(smaller, folder / "large-candidate.onnx")
    decided = record_outputs(reference, {"image": images[:samples]})["logits"].argmax(axis=1)
    np.savez(folder / "large.npz", image=images[:samples], targets=decided)


def make_halves(folder: Path, pair: str) -> None:
    """float16 versions of both files of a pair, inputs and outputs included (onnxruntime's own converter)."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    for arm in ("reference", "candidate"):
        half = convert_float_to_float16(onnx.load(folder / f"{pair}-{arm}.onnx"))
        onnx.save(half, folder / f"{pair}-{arm}-fp16.onnx")


def make_staircase(folder: Path, widths: tuple[int, ...]) -> None:
    """stairs-WIDTH.onnx and its float16 version for each width."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    for width in widths:
        model = staircase(width)
        onnx.save(model, folder / f"stairs-{width}.onnx")
        onnx.save(convert_float_to_float16(model), folder / f"stairs-{width}-fp16.onnx")


def take_demo(run: Path, folder: Path) -> None:
    """The demo's two files and its test digits, so that another machine needs neither PyTorch nor the digits."""
    from onnxprune.runtime.data import resolve

    made_by = json.loads((run / "validation.json").read_text())
    recipe = (run / "recipe.yaml").read_text()
    data = next(line.split(":", 1)[1].strip() for line in recipe.splitlines() if line.startswith("data:"))
    test = resolve(data)().test
    for arm, name in (("reference", "dense.onnx"), ("candidate", "pruned.onnx")):
        if made_by[arm]["file"] != name:
            raise SystemExit(f"'{run}' isn't a finished run of the demo: its {arm} is {made_by[arm]['file']}.")
        (folder / f"demo-{arm}.onnx").write_bytes((run / name).read_bytes())
    np.savez(folder / "demo.npz", image=test.images, targets=test.labels)
