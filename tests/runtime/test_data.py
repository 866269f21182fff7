"""Data from files and Python objects, and a sentence for each way in which they can be wrong."""

import sys

import numpy as np
import pytest

from onnxprune.errors import DataError
from onnxprune.runtime.data import Dataset, load_dataset, sample_hashes

IMAGES = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
LABELS = np.array([0, 1, 2, 1])


def test_npz(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, image=IMAGES, targets=LABELS)
    data = load_dataset(path)
    assert (list(data.inputs), len(data), data.name) == (["image"], 4, "data.npz")
    np.testing.assert_array_equal(data.inputs["image"], IMAGES)
    assert load_dataset(data) is data


def test_python_object(tmp_path, monkeypatch):
    (tmp_path / "own_data_module.py").write_text(
        "import numpy as np\n"
        "from onnxprune.runtime.data import Dataset\n"
        "def pair(): return np.zeros((2, 3)), [0, 1]\n"
        "named = ({'image': np.zeros((2, 3))}, [0, 1])\n"
        "whole = Dataset({'image': np.zeros((2, 3))}, np.zeros(2), 'whole')\n"
        "wrong = 7\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert list(load_dataset("own_data_module:pair").inputs) == ["input"]
    assert list(load_dataset("own_data_module:named").inputs) == ["image"]
    assert load_dataset("own_data_module:whole").name == "whole"
    for reference, words in [("own_data_module:wrong", "gives int"), ("own_data_module:none", "has no 'none'")]:
        with pytest.raises(DataError, match=words):
            load_dataset(reference)


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "doesn't exist"),
        ({"image": IMAGES}, "Name one array 'targets'"),
        ({"targets": LABELS}, "Name one array 'targets'"),
        ({"image": IMAGES, "targets": LABELS[:3]}, "same number of samples"),
        ({"image": IMAGES[:0], "targets": LABELS[:0]}, "at least one"),
        ({"image": np.float32(1), "targets": LABELS}, "first axis"),
        ({"image": np.array([object()] * 4), "targets": LABELS}, "isn't a readable"),
        (b"no archive", "isn't a readable"),
    ],
    ids=["missing", "no targets", "no inputs", "unequal", "empty", "scalar", "pickled", "garbage"],
)
def test_bad_npz(tmp_path, content, words):
    path = tmp_path / "data.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    with pytest.raises(DataError, match=words):
        load_dataset(path)


def test_a_name_that_is_no_data():
    with pytest.raises(DataError, match="module:function"):
        load_dataset("folder/data.csv")


def test_hashes_find_a_shared_sample():
    first, second = Dataset({"image": IMAGES[:3]}, LABELS[:3]), Dataset({"image": IMAGES[2:]}, LABELS[2:])
    assert len(sample_hashes(first)) == 3
    assert len(sample_hashes(first) & sample_hashes(second)) == 1
    as_double = Dataset({"image": IMAGES.astype(np.float64)}, LABELS)
    assert not sample_hashes(first) & sample_hashes(as_double)
    transposed = Dataset({"image": np.asfortranarray(IMAGES)}, LABELS)
    assert sample_hashes(first) < sample_hashes(transposed)
