"""Names that nothing else in a graph has."""

import onnx_ir as ir


def free_name(wanted: str, taken: "set[str] | ir.Graph") -> str:
    """`wanted`, or with a number behind it where a value of the graph has that name already."""
    names = taken if isinstance(taken, set) else value_names(taken)
    number, candidate = 1, wanted
    while candidate in names:
        number += 1
        candidate = f"{wanted}.{number}"
    return candidate


def value_names(graph: ir.Graph) -> set[str]:
    """The names of all values of a graph, those in subgraphs too."""
    return _names(graph, of_nodes=False)


def all_names(graph: ir.Graph) -> set[str]:
    """The names of all values and all nodes of a graph, those in subgraphs too."""
    return _names(graph, of_nodes=True)


def _names(graph: ir.Graph, *, of_nodes: bool) -> set[str]:
    names = {value.name or "" for value in [*graph.inputs, *graph.initializers.values()]}
    for node in graph:
        names.update([value.name or "" for value in node.outputs])
        if of_nodes:
            names.add(node.name or "")
        for attribute in node.attributes.data.values():
            if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                bodies = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else attribute.value
                for body in bodies:
                    names |= _names(body, of_nodes=of_nodes)
    return names
