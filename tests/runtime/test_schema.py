"""Real output fits the schema, and what isn't a validation doesn't."""

import copy
import dataclasses

import jsonschema
import pytest

from onnxprune.errors import InputError
from onnxprune.runtime.schema import schema
from onnxprune.runtime.validation import validate


@pytest.fixture(scope="module")
def real(net_path, wide_path):
    """A validation as it comes, with a provider that isn't here."""
    return validate(wide_path, net_path, tolerance=1e-5, providers=("cpu", "cuda"), asked={"cpu"}, seconds=0.5)


def test_real_output_fits(real):
    jsonschema.validate(real.as_dict(), schema("validation"), jsonschema.Draft202012Validator)
    broken = dataclasses.replace(real, equivalence=dataclasses.replace(real.equivalence, max_error=float("inf")))
    jsonschema.validate(broken.as_dict(), schema(), jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v.pop("latency"),
        lambda v: v.update(verdict="fine"),
        lambda v: v["reference"].update(params="many"),
        lambda v: v["latency"][0]["ratios"][0].pop("low"),
    ],
)
def test_what_is_no_validation_does_not(real, spoil):
    values = copy.deepcopy(real.as_dict())
    spoil(values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema())


def test_every_type_is_described():
    found = schema()
    assert found["$defs"]["LatencyComparison"]["description"].startswith("Arms and their ratios")
    with pytest.raises(InputError, match="Ask for validation"):
        schema("recipe")
