"""Write docs/operators.md from the registry of rules: what deletion does at each ONNX operator, or why it stops there.

python scripts/operators.py
"""

import inspect
from collections import defaultdict
from pathlib import Path

import onnx

from onnxprune.graph.refusals import OLDEST_OPSET
from onnxprune.graph.rules import EXACTNESS, MENDS, REASONS, RULES

DOCUMENT = Path(__file__).parents[1] / "docs" / "operators.md"
HEAD = """# Operators

Written by `python scripts/operators.py` from the registry. *Since* lists the opsets that changed the operator, from
opset {oldest} on; every form of a rule that ONNX Runtime or onnx's reference evaluator runs has a case under
tests/graph/rules. *Exact*: what is left computes what the network with zeros in the deleted places computes, but for
ReduceMean where it takes the statistics of a normalisation that is written out. *Restated*: a normalisation takes its
statistics over what is kept. *Mended*: constants that mention a size, a number of groups or a factor are written anew.
An operator that isn't here, of any domain, pins: what it reads stays, and `inspect` says so. `onnxprune.rule` registers
[one of your own](own-operators.md).

| operator | since | | what deletion does |
|---|---|---|---|
"""


def versions() -> dict[str, list[int]]:
    """{operator: the opsets, from the oldest that is read, whose definition of it is in use}."""
    found: dict[str, set[int]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and not schema.deprecated:
            found[schema.name].add(schema.since_version)
    newest = {name: max((v for v in known if v <= OLDEST_OPSET), default=0) for name, known in found.items()}
    return {name: sorted(v for v in known if v >= newest[name]) for name, known in found.items()}


def document() -> str:
    lines = []
    for name, since in sorted(versions().items()):
        key = ("", name)
        if key in RULES:
            said = inspect.getdoc(RULES[key]).partition("\n\n")[0]
            kind = EXACTNESS[key] + (", mended" if key in MENDS else "")
        else:
            said, kind = f"It {REASONS[key]}.", "pinned"
        text = " ".join(said.split()).replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| {name} | {', '.join(str(max(v, OLDEST_OPSET)) for v in since)} | {kind} | {text} |")
    domains = [
        f"`{domain}`: its operators pin, because each {why}." for (domain, n), why in REASONS.items() if n == "*"
    ]
    return HEAD.format(oldest=OLDEST_OPSET) + "\n".join([*lines, "", *domains]) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
