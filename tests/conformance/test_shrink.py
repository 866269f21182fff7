"""Ours on every case: never wrong, at the full fraction, and the same once more."""

import numpy as np
import onnx
import pytest

from onnxprune.graph.model import load, to_bytes, to_proto
from onnxprune.graph.shrink import shrink
from tests.conformance.case import build, elements, kernels, tensors
from tests.conformance.cases import CASES
from tests.conformance.evaluation import error_over_range, interface

#: Largest error, as a fraction of the output's range.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def shrunk():
    """{case: (original, smaller, model)}, each shrunk once."""
    done = {}

    def get(name: str):
        if name not in done:
            original = build(CASES[name])
            model = shrink(load(original))[0]
            done[name] = original, to_proto(model), model
        return done[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_never_wrong(name, shrunk):
    original, smaller, _ = shrunk(name)
    onnx.checker.check_model(smaller, full_check=True)
    empty = {name for name, tensor in tensors(original) if not all(tensor.dims)}
    assert all(all(t.dims) for name, t in tensors(smaller) if name not in empty), "an axis without elements"
    assert interface(smaller) == interface(original)
    assert {p.key: p.value for p in smaller.metadata_props} == CASES[name].metadata
    assert error_over_range(original, smaller) <= TOLERANCE, CASES[name].wrong


@pytest.mark.parametrize("name", CASES)
def test_full_fraction(name, shrunk):
    case = CASES[name]
    original, smaller, _ = shrunk(name)
    removed = elements(original) - elements(smaller)
    if case.may_keep and removed == 0:
        return
    if case.more:
        assert removed >= case.removable, case.argument
    else:
        assert removed == case.removable, case.argument


@pytest.mark.parametrize("name", CASES)
def test_once_is_enough(name, shrunk):
    _, _, model = shrunk(name)
    assert to_bytes(shrink(model)[0]) == to_bytes(model)


def test_the_suite_covers_what_it_should():
    subjects = {subject for case in CASES.values() for subject in case.about.split()}
    invariants = {str(number) for number in range(1, 16)}
    others = {
        "QDQ",
        "fp16",
        "bf16",
        "1d",
        "3d",
        "asymmetric",
        "auto_pad",
        "ceil_mode",
        "dilations",
        "groups",
        "If",
        "Loop",
    }
    assert invariants | others <= subjects
    assert {9, 13, 17, 26} <= {case.opset for case in CASES.values()}
    assert len(CASES) >= 60
    assert all(case.argument and case.wrong for case in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_a_case_holds_what_it_says(name):
    """The same bytes each time, valid, and with at least what is said to go."""
    case = CASES[name]
    original = build(case)
    assert original.SerializeToString() == build(case).SerializeToString()
    if case.ir_version > 3:
        onnx.checker.check_model(original, full_check=True)
    sizes = {tensor_name: int(np.prod(tensor.dims)) for tensor_name, tensor in tensors(original)}
    for tensor_name, count in case.gone.items():
        assert count < 0 or 0 < count <= sizes[tensor_name], tensor_name
    assert 0 <= case.removable_kernels <= kernels(original)
