"""ONNX files that come inside other packages: topologies without weights, and networks as they are shipped.

rapidocr-onnxruntime and magika depend on onnxruntime, which overwrites onnxruntime-gpu's files. Only their model files
are read here: `pip install --no-deps rapidocr-onnxruntime magika`.
"""

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import onnx

from networks.filling import randomise
from networks.network import BATCHES, Input, Network, NotInstalled, Subject, feeds

SEED = 0


def light_topologies() -> list[Network]:
    """The classic networks of onnx's backend tests, whose weights are ConstantOfShape nodes there; of batch 1."""
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    return [Network(f"onnx/{path.stem}", partial(_light, path)) for path in sorted(folder.glob("*.onnx"))]


def _light(path: Path) -> Subject:
    proto = onnx.load(path)
    given = {tensor.name for tensor in proto.graph.initializer}
    (image,) = (value for value in proto.graph.input if value.name not in given)
    shape = tuple(dim.dim_value for dim in image.type.tensor_type.shape.dim)
    return _filled(proto, Input(image.name, shape), ({}, {}))


def _filled(proto: onnx.ModelProto, value: Input, sizes: tuple[Mapping[str, int], Mapping[str, int]]) -> Subject:
    proto = randomise(proto, feeds((value,), sizes[0], BATCHES[0], SEED))
    return Subject(proto, (value,), sizes)


SHIPPED = {
    "rapidocr/detector": (
        "rapidocr_onnxruntime",
        "models/ch_PP-OCRv4_det_infer.onnx",
        Input("x", ("N", 3, "H", "W")),
        ({"H": 64, "W": 96}, {"H": 96, "W": 64}),
    ),
    "rapidocr/recogniser": (
        "rapidocr_onnxruntime",
        "models/ch_PP-OCRv4_rec_infer.onnx",
        Input("x", ("N", 3, 48, "W")),
        ({"W": 96}, {"W": 160}),
    ),
    "rapidocr/classifier": (
        "rapidocr_onnxruntime",
        "models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        Input("x", ("N", 3, 48, 192)),
        ({}, {}),
    ),
    "magika/file_types": (
        "magika",
        "models/*/model.onnx",
        Input("bytes", ("N", 2048), below=257, dtype="int32"),
        ({}, {}),
    ),
}


def _shipped(package: str, pattern: str, value: Input, sizes: tuple[Mapping[str, int], Mapping[str, int]]) -> Subject:
    found = find_spec(package)
    if found is None:
        name = package.replace("_", "-")
        raise NotInstalled(f"{name} is not installed: pip install --no-deps {name}")
    (path,) = Path(found.origin).parent.glob(pattern)
    return _filled(onnx.load(path), value, sizes)


def networks() -> list[Network]:
    return light_topologies() + [Network(name, partial(_shipped, *about)) for name, about in SHIPPED.items()]
