"""Limits of what a file may ask for, as texts and in force."""

import onnx
import pytest

from onnxprune.errors import InputError, ModelError
from onnxprune.graph.limits import Limits, current_limits, limited, parse_limits
from onnxprune.graph.model import load
from onnxprune.graph.tensors import stored_bytes


@pytest.mark.parametrize(
    ("texts", "limits"),
    [
        ((), Limits()),
        (("nodes=7", "depth = 3"), Limits(nodes=7, depth=3)),
        (("total-bytes=64G", "file_bytes=2k"), Limits(total_bytes=64 * 2**30, file_bytes=2048)),
        (("finite=0", "memory_mb=100", "seconds=5"), Limits(finite=False, memory_mb=100, seconds=5)),
    ],
)
def test_texts(texts, limits):
    assert parse_limits(texts) == limits


@pytest.mark.parametrize("text", ["", "nodes", "nodes=", "nodes=-1", "nodes=1.5", "node=1", "nodes=" + "9" * 40])
def test_what_is_no_limit(text):
    with pytest.raises(InputError, match="isn't a limit"):
        parse_limits([text])


def test_limits_hold_inside_only(oracle):
    source = oracle.parse("a = Conv(x, w0) y = Relu(a)", {"x": "N,3,8,8"}, {"w0": (8, 3, 1, 1)})
    with limited(Limits(nodes=1)):
        with pytest.raises(ModelError, match=r"--limit nodes="):
            load(source)
        assert load(source, limits=Limits())
    assert current_limits() == Limits() and load(source)


def test_bytes_beside_the_model_count(oracle, tmp_path):
    source = oracle.parse("a = Conv(x, w0) y = Relu(a)", {"x": "N,3,8,8"}, {"w0": (8, 3, 1, 1)})
    options = {"save_as_external_data": True, "location": "weights.data", "size_threshold": 0}
    onnx.save_model(source, tmp_path / "net.onnx", **options)
    assert stored_bytes(tmp_path / "net.onnx") == (tmp_path / "net.onnx").stat().st_size + 8 * 3 * 4
    assert stored_bytes(tmp_path / "none.onnx") == 0
