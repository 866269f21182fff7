"""Pictures and datasets stream through a model as an array would, disturbed ones always in the same way."""

import json

import numpy as np
import onnx
import pytest

from onnxprune.errors import DataError
from onnxprune.runtime.accuracy import evaluate, record_outputs
from onnxprune.runtime.data import load_dataset
from onnxprune.runtime.lazy import CONDITIONS, disturb

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def pictures(tmp_path):
    """Three classes of four pictures, 12 x 12."""
    generator = np.random.default_rng(0)
    for label in "cab":
        for k in range(4):
            path = tmp_path / "data" / label / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


def as_array(folder, mean=0.0, std=1.0):
    files = sorted(folder.glob("*/*.png"))
    return np.stack([(np.asarray(Image.open(f)) / 255 - mean) / std for f in files]).transpose(0, 3, 1, 2)


def test_an_image_folder_streams_as_the_array_would(pictures, net_path):
    data = load_dataset(pictures)
    assert len(data) == 12 and data.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    expected = record_outputs(net_path, {"image": as_array(pictures).astype(np.float32)})["logits"]
    np.testing.assert_allclose(record_outputs(net_path, data.inputs, batch=5)["logits"], expected, rtol=1e-5)
    assert evaluate(net_path, data).mean == (expected.argmax(axis=1) == data.targets).mean()


def test_how_pictures_become_inputs(pictures, net_path):
    (pictures / "preprocess.json").write_text(json.dumps({"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}))
    given = as_array(pictures, np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.2, 0.1])).astype(np.float32)
    found = record_outputs(net_path, load_dataset(pictures).inputs)["logits"]
    np.testing.assert_allclose(found, record_outputs(net_path, {"image": given})["logits"], rtol=1e-4, atol=1e-4)


def test_pictures_of_any_size_need_one(pictures, networks, tmp_path):
    model = networks[0]()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    onnx.save(model, tmp_path / "any.onnx")
    with pytest.raises(DataError, match=r"pictures of any size.*preprocess\.json"):
        record_outputs(tmp_path / "any.onnx", load_dataset(pictures).inputs)
    (pictures / "preprocess.json").write_text('{"size": [16, 20]}')
    assert record_outputs(tmp_path / "any.onnx", load_dataset(pictures).inputs)["logits"].shape == (12, 5)


@pytest.mark.parametrize(
    "content, words", [('{"sise": [1, 1]}', "sise is unknown"), ("{", "doesn't say"), ("[]", "doesn't say")]
)
def test_bad_preprocessing(pictures, content, words):
    (pictures / "preprocess.json").write_text(content)
    with pytest.raises(DataError, match=words):
        load_dataset(pictures)


def test_what_is_no_picture(pictures, net_path, tmp_path):
    (pictures / "a" / "9.png").write_text("no picture")
    with pytest.raises(DataError, match=r"9\.png' isn't a readable picture"):
        record_outputs(net_path, load_dataset(pictures).inputs)
    with pytest.raises(DataError, match="no pictures in folders of their classes"):
        load_dataset(tmp_path)


def test_the_split_is_hashed(pictures):
    before = load_dataset(pictures).sha256
    assert load_dataset(pictures).sha256 == before
    (pictures / "a" / "0.png").write_bytes((pictures / "b" / "0.png").read_bytes())
    assert load_dataset(pictures).sha256 != before


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions(condition):
    """The same disturbance for the same sample, alone or in a batch, and a real one."""
    images = np.random.default_rng(0).uniform(size=(6, 3, 8, 8)).astype(np.float32)
    found = disturb({"image": images}, condition)["image"]
    whole = found[np.arange(6)]
    np.testing.assert_array_equal(whole[2:4], found[2:4])
    assert found.shape == whole.shape and whole.dtype == np.float32
    spread = {"noise": np.std(whole - images), "blur": whole.std(), "contrast": whole.std()}[condition]
    level = {"noise": 0.1, "blur": images.std() / 3, "contrast": images.std() / 2}[condition]
    assert spread == pytest.approx(level, rel=0.15)


def test_conditions_that_mean_nothing():
    with pytest.raises(DataError, match="Choose noise, blur, contrast"):
        disturb({"image": np.zeros((2, 3, 4, 4))}, "fog")
    with pytest.raises(DataError, match="No input is a picture"):
        disturb({"tokens": np.zeros((2, 3), int)}, "noise")


def test_a_dataset_of_hugging_face(pictures, net_path, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted(str(file) for file in pictures.glob("*/*.png"))
    columns = {"image": files, "label": [0] * 4 + [1] * 4 + [2] * 4}
    saved = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    saved.save_to_disk(tmp_path / "saved")
    data = load_dataset(tmp_path / "saved")
    expected = record_outputs(net_path, load_dataset(pictures).inputs)["logits"]
    np.testing.assert_allclose(record_outputs(net_path, data.inputs)["logits"], expected, rtol=1e-5)
    assert data.targets.tolist() == columns["label"] and len(data.sha256) == 64
