"""All cases, by subject."""

from tests.conformance.case import Case
from tests.conformance.cases import (
    constants,
    mixing,
    padding,
    quantized,
    recurrent,
    sharing,
    structure,
    values,
    versions,
)

CASES: dict[str, Case] = {}
for part in (values, constants, padding, sharing, mixing, structure, quantized, recurrent, versions):
    for case in part.CASES:
        if case.name in CASES:
            raise ValueError(f"Two cases are called '{case.name}'.")
        CASES[case.name] = case
