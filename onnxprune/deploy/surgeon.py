"""The finish, with onnx-graphsurgeon: dead nodes go, constants fold, nodes are sorted.

Names, types and shapes of inputs and outputs stay as they are, dynamic sizes too, and so does all metadata of what
remains. `remove` is the second implementation of deletion, against which the first is tested.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.deploy.bridge import (
    Opened,
    close_graph,
    constants,
    count_elements,
    merge_copies,
    open_graph,
    quiet,
    sizes_of,
)
from onnxprune.deploy.cutting import remove
from onnxprune.errors import ModelError
from onnxprune.graph.model import Model
from onnxprune.runtime.silence import silent_sessions

__all__ = ["remove", "tidy"]

#: What ONNX Runtime and NumPy hand back as it went in. Folding anything else (bfloat16, 8-bit floats) would change it.
_PLAIN = frozenset(map(np.dtype, ("float16", "float32", "float64", "int8", "int16", "int32", "int64")))
_PLAIN |= frozenset(map(np.dtype, ("uint8", "uint16", "uint32", "uint64", "bool")))
#: A constant may grow to this many elements by folding: shapes, scales and masks.
_SMALL_ELEMENTS = 1024


def tidy(model: Model, *, fold: bool = True) -> Model:
    """Return `model` cleaned up, with constants folded (unless not `fold`) and nodes in topological order.

    The function stays the same, up to rounding where constants were folded. Copies that un-sharing made become one
    again, and the result never has more parameters than `model`. Folding runs the constant part on ONNX Runtime.
    Raises ModelError for a graph that onnx-graphsurgeon can't take.
    """
    plain = _tidy(model)
    if not fold:
        return plain
    try:
        folded = _tidy(model, _fold_at_once)
    except ModelError:
        # One constant that ONNX Runtime can't compute: fold one by one, so that only this one stays.
        folded = _tidy(model, _fold_one_by_one)
    return folded if count_elements(folded) <= count_elements(plain) else plain


def _tidy(model: Model, fold: Callable[[Opened], None] | None = None) -> Model:
    opened = open_graph(model)
    graph = opened.graph
    with quiet():
        merge_copies(opened)
        # Bodies of If, Loop and Scan are left alone: what they read from outside keeps its name.
        graph.cleanup(recurse_subgraphs=False).toposort(recurse_subgraphs=False)
        if fold is not None:
            before, ancestors = constants(graph).keys(), _ancestors(graph)
            fold(opened)
            graph.cleanup(recurse_subgraphs=False).toposort(recurse_subgraphs=False)
            _keep_parameter_names(graph, before, ancestors)
    return close_graph(opened)


def _fold_at_once(opened: Opened) -> None:
    try:
        _fold(opened, partitioning=None, error_ok=False)
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        raise ModelError(f"The constants of this graph can't be computed: {error}.") from error


def _fold_one_by_one(opened: Opened) -> None:
    _fold(opened, partitioning="recursive", error_ok=True)


def _fold(opened: Opened, **settings: Any) -> None:
    with silent_sessions():
        opened.graph.fold_constants(
            recurse_subgraphs=False,
            flatten_subgraphs=False,
            should_exclude_node=lambda node: not _may_fold(opened, node),
            **settings,
        )


def _may_fold(opened: Opened, node: gs.Node) -> bool:
    """Whether folding keeps the node's values, is repeatable, and doesn't make a large constant out of a small one."""
    if node.domain not in (None, "", "ai.onnx") or node.op.startswith(("Random", "Bernoulli", "Multinomial")):
        return False
    tensors = [tensor for tensor in [*node.inputs, *node.outputs] if not tensor.is_empty()]
    if not all(_is_plain(tensor) for tensor in tensors):
        return False
    if any(isinstance(value, list) and not value for value in node.attrs.values()):
        return False  # graphsurgeon can't write an empty list
    _, attributes, original = opened.nodes.get(id(node), (None, node.attrs, None))
    if original is not None and len(original.attribute) != len(attributes):
        return False  # an attribute of a type that graphsurgeon doesn't have
    return _elements(node.outputs) <= max(_elements(node.inputs), _SMALL_ELEMENTS)


def _is_plain(tensor: gs.Tensor) -> bool:
    try:
        return tensor.dtype is not None and np.dtype(tensor.dtype) in _PLAIN
    except TypeError:
        return False


def _elements(tensors: Sequence[gs.Tensor]) -> float:
    """Elements of all tensors together; infinite where a shape isn't known."""
    shapes = [sizes_of(tensor.shape) for tensor in tensors if not tensor.is_empty()]
    return float("inf") if None in shapes else float(sum(int(np.prod(shape)) for shape in shapes))


def _ancestors(graph: gs.Graph) -> dict[str, set[str]]:
    """{tensor: the initializers of more than one element that alone it is computed from}, inputs of the graph apart."""
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        names: set[str] = set()
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                is_parameter = np.prod(tensor.shape) > 1 and _is_plain(tensor) and np.dtype(tensor.dtype).kind == "f"
                names |= {tensor.name} if is_parameter else set()
            else:
                names |= found.get(tensor.name, set())
        found.update((tensor.name, names) for tensor in node.outputs)
    return found


def _keep_parameter_names(graph: gs.Graph, before: Set[str], ancestors: Mapping[str, set[str]]) -> None:
    """Give a folded constant the name of the one parameter that it was made of and replaces: a transposed weight."""
    if any(list(node.subgraphs()) for node in graph.nodes):
        return  # a body may read the constant by its name
    left = constants(graph)
    heirs: dict[str, list[gs.Constant]] = {}
    for name in left.keys() - before:
        for parameter in ancestors.get(name, ()):
            heirs.setdefault(parameter, []).append(left[name])
    for parameter, found in heirs.items():
        if parameter not in left and len(found) == 1 and len(ancestors[found[0].name]) == 1:
            found[0].name = parameter
