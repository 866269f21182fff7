"""The JSON schema of what is saved, made from the types themselves so that the two can't disagree."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from onnxprune.errors import InputError
from onnxprune.runtime.results import EXIT_CODES, SCHEMA_VERSION, Validation

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NOT_IN_JSON = ("NaN", "Infinity", "-Infinity")


def schema(name: str = "validation") -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) of the JSON called `name`. Raises: InputError naming those that there are."""
    if name != "validation":
        raise InputError(f"There is no schema '{name}'. Ask for validation.")
    found = _with_words(TypeAdapter(Validation).json_schema(mode="serialization"))
    found["properties"] = {
        "version": {"const": SCHEMA_VERSION},
        "verdict": {"enum": list(EXIT_CODES)},
        "exit_code": {"enum": list(EXIT_CODES.values())},
        **found["properties"],
    }
    # What later versions added has a default: files of earlier ones are still validations.
    found["required"] = ["version", "verdict", "exit_code", *found["required"]]
    return {"$schema": DIALECT, **found}


def _with_words(node: Any) -> Any:
    """Descriptions taken from docstrings; numbers that JSON doesn't have are words."""
    if isinstance(node, list):
        return [_with_words(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _with_words(value) for key, value in node.items() if key not in ("title", "default")}
    if isinstance(found.get("description"), str):
        found["description"] = " ".join(found["description"].split())
    if found.get("type") == "number":
        return {"anyOf": [{"type": "number"}, {"enum": list(NOT_IN_JSON)}]}
    return found
