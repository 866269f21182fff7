"""Which module a layer belongs to: from the exporter's notes, the weights' names or the node's own."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import onnx_ir as ir

from onnxprune.graph.model import Model
from onnxprune.graph.origin import SCOPES, calling_module

#: A module with more layers than this is drawn as its parts, where it has parts.
LARGE = 12


def module_of(node: ir.Node) -> str | None:
    """The dotted path of the innermost module around a node, "" for the network itself; None where nobody noted it."""
    if node.metadata_props.get(SCOPES):
        noted = calling_module(node)
        return noted if noted is not None and "hook" not in noted else None
    path = ""
    for part in (node.name or "").strip("/").split("/")[:-1]:  # /layer1/layer1.0/conv1/Conv
        path = part if not path or part.startswith(f"{path}.") else f"{path}.{part}"
    return path or None


def layer_name(model: Model, node: ir.Node, weights: Sequence[str]) -> str:
    """What a person would call it: `layer1.0.conv1` of `layer1.0.conv1.weight`, else the module, else the node."""
    shared = model.copies.keys() | set(model.copies.values())
    for name in weights:
        module, _, last = name.rpartition(".")
        if module and not last.isdigit() and name not in shared:
            return module
    return module_of(node) or node.name or node.op_type


def common_prefix(paths: Sequence[str]) -> str:
    """What the dotted paths of several layers all begin with, up to a dot.

    >>> common_prefix(["model.encoder.0", "model.head"])
    'model.'
    """
    if len(paths) < 2:
        return ""
    columns = zip(*(path.split(".")[:-1] for path in paths), strict=False)
    shared = [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, columns)]
    return "".join(f"{part}." for part in shared)


def blocks(paths: Sequence[str]) -> list[str]:
    """The block that each layer is drawn in, by the layers' dotted paths; empty for layers that stand alone.

    A block is an element of a list of modules, such as `layer1.0`. Where such elements are large and hold lists
    themselves, as stages do, the blocks are those of the inner lists.
    """
    count = Counter(paths)
    found: dict[str, str] = {}
    waiting = [("", list(count))]
    while waiting:
        inside, members = waiting.pop()
        by_element: dict[str, list[str]] = defaultdict(list)
        for path in members:
            by_element[_element(path, inside)].append(path)
        found |= dict.fromkeys(by_element.pop("", ()), inside)
        by_list: dict[str, list[str]] = defaultdict(list)
        for element in by_element:
            by_list[element.rpartition(".")[0]].append(element)
        for elements in by_list.values():
            size = {e: sum(count[path] for path in by_element[e]) for e in elements}
            inner = any(size[e] > LARGE and any(_element(path, e) for path in by_element[e]) for e in elements)
            for element in elements:
                if inner:
                    waiting.append((element, by_element[element]))
                else:
                    found |= dict.fromkeys(by_element[element], element)
    return [found[path] for path in paths]


def _element(path: str, inside: str) -> str:
    """The outermost element of a list of modules around a layer, below the module `inside`."""
    parts = path.split(".")
    start = len(inside.split(".")) if inside else 0
    for pattern in (r"\d+", r".*\d"):
        for end in range(start, len(parts) - 1):
            if re.fullmatch(pattern, parts[end]):
                return ".".join(parts[: end + 1])
    return ""
