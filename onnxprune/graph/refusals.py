"""Refuse what onnx itself waves through: a file is a stranger's until it has passed here.

Everything is checked on the message as it was read, before anything is built from it. Each refusal names the place in
the file and the limit that it breaks.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto

from onnxprune.errors import ModelError
from onnxprune.graph.limits import Limits, raise_limit
from onnxprune.graph.tensors import MOST_ELEMENTS, size_bytes, tensor_problem

OLDEST_OPSET = 7
ONNX_DOMAINS = ("", "ai.onnx")
#: Attributes that count or divide: below 1 there is no meaning, and C++ that divides by 0.
AT_LEAST_ONE = frozenset(
    "strides dilations kernel_shape group blocksize hidden_size num_groups num_outputs size".split()
)
#: No window, stride or repeat of a real network comes near.
LARGEST_ATTRIBUTE = 2**31 - 1
_KIND = AttributeProto
_KIND_FIELDS = {
    _KIND.FLOAT: "f",
    _KIND.INT: "i",
    _KIND.STRING: "s",
    _KIND.TENSOR: "t",
    _KIND.GRAPH: "g",
    _KIND.SPARSE_TENSOR: "sparse_tensor",
    _KIND.TYPE_PROTO: "tp",
}

Function = tuple[str, str, str]


def check(proto: onnx.ModelProto, where: str, limits: Limits) -> list[onnx.TensorProto]:
    """Raise ModelError for whatever a model may not be; return its tensors.

    Refused: an empty graph, versions too old or too new, names used twice or never given, cycles, broken tensors,
    attributes of a wrong type, functions that call themselves, and whatever is beyond `limits`.
    """
    return _Check(proto, where, limits).run()


@dataclass
class _Check:
    proto: onnx.ModelProto
    where: str
    limits: Limits
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    total_bytes: int = 0
    functions: Mapping[Function, onnx.FunctionProto] = field(default_factory=dict)

    def run(self) -> list[onnx.TensorProto]:
        graph = self.proto.graph
        if not graph.node:
            raise ModelError(f"{self.where} has an empty graph: no node at all. Export the network again.")
        versions = self._versions(self.proto.opset_import, f"{self.where}")
        if self.proto.ir_version > onnx.IR_VERSION:
            raise ModelError(
                f"{self.where} has IR version {self.proto.ir_version}; {onnx.IR_VERSION} is the newest that is "
                "understood. Upgrade onnx."
            )
        _text([text for p in self.proto.metadata_props for text in (p.key, p.value)], "Metadata", self.where)
        self.functions = self._functions()
        self._count_nodes()
        for function in self.proto.functions:
            self._function(function)
        self._graph(graph, frozenset(), versions, 0, f"the graph of {self.where}")
        for value in [*graph.input, *graph.output]:
            if not value.type.WhichOneof("value") and value in graph.input:
                self._refuse(f"Input '{value.name}'", "has no type")
        return self.tensors

    def _refuse(self, what: str, problem: str, remedy: str = "The file is damaged; export it again.") -> None:
        raise ModelError(f"{what} of {self.where} {problem}. {remedy}")

    def _versions(self, imports: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
        versions: dict[str, int] = {}
        for entry in imports:
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            if versions.setdefault(domain, entry.version) != entry.version:
                raise ModelError(f"{where} asks for two opsets of domain '{domain}'. Export the network again.")
        version = versions.get("")
        if version is not None and version < OLDEST_OPSET:
            raise ModelError(
                f"{where} has opset {version}; {OLDEST_OPSET} is the oldest that is understood. Convert it with "
                "onnx.version_converter first."
            )
        newest = onnx.defs.onnx_opset_version()
        if version is not None and version > newest:
            raise ModelError(
                f"{where} has opset {version}; {newest} is the newest that is understood. Upgrade onnx, or convert "
                "the file with onnx.version_converter first."
            )
        return versions

    # functions

    def _functions(self) -> dict[Function, onnx.FunctionProto]:
        found: dict[Function, onnx.FunctionProto] = {}
        for function in self.proto.functions:
            _text([function.domain, function.name, function.overload, *function.output], "A function", self.where)
            key = (function.domain, function.name, function.overload)
            if key in found:
                self._refuse(f"Function '{function.name}'", "is defined twice")
            found[key] = function
        return found

    def _count_nodes(self) -> None:
        """How many nodes there are once every call of a function is replaced by its body; none may call itself."""
        sizes: dict[Function, int] = {}
        open_calls: list[Function] = []

        def size(key: Function) -> int:
            if key in sizes:
                return sizes[key]
            if key in open_calls:
                self._refuse(f"Function '{key[1]}'", "calls itself", "Functions can't be recursive in ONNX.")
            if len(open_calls) >= self.limits.depth:
                problem = f"is called through more than {self.limits.depth} others"
                self._refuse(f"Function '{key[1]}'", problem, raise_limit("depth"))
            open_calls.append(key)
            sizes[key] = sum(calls(node) for node in _all_nodes(self.functions[key].node, self.limits.depth))
            open_calls.pop()
            return sizes[key]

        def calls(node: onnx.NodeProto) -> int:
            key = (node.domain, node.op_type, node.overload)
            return size(key) if key in self.functions else 1

        for key in self.functions:
            size(key)
        count = sum(calls(node) for node in _all_nodes(self.proto.graph.node, self.limits.depth))
        most = max(count, sum(sizes.values()))
        if most > self.limits.nodes:
            problem = f"has {most} nodes once its functions are put in, more than the limit of {self.limits.nodes}"
            self._refuse("The graph", problem, raise_limit("nodes"))

    def _function(self, function: onnx.FunctionProto) -> None:
        place = f"function '{function.name}' of {self.where}"
        versions = self._versions(function.opset_import, place)
        given = [*function.input]
        self._once(given, "Input", place)
        self._nodes(function.node, set(given), frozenset(), versions, 0, place)
        made = {name for node in function.node for name in node.output} | set(given)
        for name in function.output:
            if name not in made:
                raise ModelError(f"Output '{name}' of {place} is made by no node. Export the network again.")

    # graphs

    def _graph(
        self, graph: onnx.GraphProto, outer: frozenset[str], versions: Mapping[str, int], depth: int, place: str
    ) -> set[str]:
        """Check a graph inside scopes that give the names `outer`; return those of them that it reads."""
        if depth > self.limits.depth:
            problem = f"lies {depth} subgraphs deep, more than the limit of {self.limits.depth}"
            raise ModelError(f"{place} {problem}. {raise_limit('depth')}")
        _text([graph.name], "A graph", self.where)
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise ModelError(
                f"{self.where} holds the sparse initializer '{name}'. Store it as a dense tensor and try again."
            )
        for tensor in graph.initializer:
            self._tensor(tensor, f"Initializer '{tensor.name}'")
        names = [tensor.name for tensor in graph.initializer]
        self._once(names, "Initializer", place)
        inputs = [value.name for value in graph.input]
        self._once(inputs, "Input", place)
        if "" in names or "" in inputs:
            raise ModelError(f"An input or initializer of {place} has no name. Export the network again.")
        for value in [*graph.input, *graph.output, *graph.value_info]:
            self._value(value)
        given = {*names, *inputs}
        captured = self._nodes(graph.node, given, outer, versions, depth, place)
        made = given.union(*(node.output for node in graph.node))
        for value in graph.output:
            if value.name not in made and value.name not in outer:
                raise ModelError(f"Output '{value.name}' of {place} is made by no node. Export the network again.")
            if value.name not in made:
                captured.add(value.name)
        self._once([value.name for value in graph.output], "Output", place)
        return captured

    def _nodes(
        self,
        nodes: Sequence[onnx.NodeProto],
        given: set[str],
        outer: frozenset[str],
        versions: Mapping[str, int],
        depth: int,
        place: str,
    ) -> set[str]:
        """Check nodes, whose order doesn't matter; return the names of `outer` that they read."""
        for node in nodes:
            _text([node.op_type, node.domain, node.overload, node.name, *node.input, *node.output], "A node", place)
        maker: dict[str, int] = {}
        for index, node in enumerate(nodes):
            for name in filter(None, node.output):
                if name in maker or name in given:
                    raise ModelError(f"'{name}' is made twice in {place}. Export the network again.")
                maker[name] = index
        known = frozenset((*maker, *given))
        visible = known | outer
        captured: set[str] = set()
        needs: list[set[int]] = []
        for node in nodes:
            reads = {name for name in node.input if name}
            missing = next((name for name in node.input if name and name not in visible), None)
            if missing is not None:
                raise ModelError(
                    f"{_called(node)} of {place} reads '{missing}', which nothing makes. Export the network again."
                )
            reads |= self._node(node, visible, versions, depth, place)
            captured |= {name for name in reads if name not in known}
            needs.append({maker[name] for name in reads if name in maker})
        self._no_cycle(nodes, needs, place)
        return captured

    def _node(
        self, node: onnx.NodeProto, visible: frozenset[str], versions: Mapping[str, int], depth: int, place: str
    ) -> set[str]:
        """Check one node; return what its subgraphs read of the scopes around them."""
        domain = "" if node.domain in ONNX_DOMAINS else node.domain
        is_call = (node.domain, node.op_type, node.overload) in self.functions
        if not is_call and not domain and "" not in versions:
            raise ModelError(f"{place} names no opset for {_called(node)}. Export the network again.")
        schema = None if is_call else _schema(node.op_type, domain, versions.get(domain))
        if schema is not None:
            _check_operands(node, schema, place)
        self._once([attribute.name for attribute in node.attribute], f"{_called(node)}: attribute", place)
        captured: set[str] = set()
        for attribute in node.attribute:
            expected = schema.attributes.get(attribute.name) if schema is not None else None
            self._attribute(attribute, node, None if expected is None else int(expected.type.value), domain, place)
            graphs = [attribute.g] if attribute.HasField("g") else []
            for graph in [*graphs, *attribute.graphs]:
                inside = f"the subgraph '{attribute.name}' of {_called(node)} in {self.where}"
                captured |= self._graph(graph, visible, versions, depth + 1, inside)
            for tensor in [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]:
                self._tensor(tensor, f"Attribute '{attribute.name}' of {_called(node)}")
        if schema is not None:
            there = {attribute.name for attribute in node.attribute}
            for name, wanted in schema.attributes.items():
                if wanted.required and name not in there:
                    raise ModelError(f"{_called(node)} of {place} has no attribute '{name}'. Export the network again.")
        return captured

    def _attribute(
        self, attribute: AttributeProto, node: onnx.NodeProto, expected: int | None, domain: str, place: str
    ) -> None:
        where = f"Attribute '{attribute.name}' of {_called(node)} of {place}"
        kinds = AttributeProto.AttributeType
        if expected is not None and attribute.type != expected:
            raise ModelError(
                f"{where} is of type {attribute.type}, not {kinds.Name(expected)}. Export the network again."
            )
        if not attribute.name or (attribute.type == _KIND.UNDEFINED and not attribute.ref_attr_name):
            raise ModelError(f"{where} has no name or no type. The file is damaged; export it again.")
        if attribute.ref_attr_name:
            return
        field_name = _KIND_FIELDS.get(attribute.type)
        if field_name in ("t", "g", "sparse_tensor", "tp") and not attribute.HasField(field_name):
            raise ModelError(f"{where} has no value. Export the network again.")
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise ModelError(f"{where} is a sparse tensor. Store it as a dense one and try again.")
        numbers = [attribute.i] if attribute.type == _KIND.INT else list(attribute.ints)
        floats = [attribute.f] if attribute.type == _KIND.FLOAT else list(attribute.floats)
        if not domain and attribute.name in AT_LEAST_ONE and any(number < 1 for number in numbers):
            raise ModelError(f"{where} is {numbers[:8]}, where each must be at least 1. Export the network again.")
        windows = attribute.name in AT_LEAST_ONE or attribute.name in ("pads", "output_padding", "output_shape")
        if not domain and windows and any(abs(number) > LARGEST_ATTRIBUTE for number in numbers):
            raise ModelError(f"{where} is {numbers[:8]}, beyond the limit of {LARGEST_ATTRIBUTE}.")
        if self.limits.finite and any(math.isnan(number) for number in floats):
            raise ModelError(f"{where} is not a number. Train the network again.")

    def _tensor(self, tensor: onnx.TensorProto, what: str) -> None:
        problem = tensor_problem(tensor, self.limits)
        if problem:
            self._refuse(what, problem)
        self.total_bytes += size_bytes(tensor) if tensor.data_type != onnx.TensorProto.STRING else 0
        if self.total_bytes > self.limits.total_bytes:
            self._refuse(
                what,
                f"brings the tensors to more than the limit of {self.limits.total_bytes} bytes",
                raise_limit("total_bytes"),
            )
        self.tensors.append(tensor)

    def _value(self, value: onnx.ValueInfoProto) -> None:
        dims = value.type.tensor_type.shape.dim
        _text([value.name, *(dim.dim_param for dim in dims)], "A value", self.where)
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            return
        tensor = value.type.tensor_type
        if tensor.elem_type not in onnx.TensorProto.DataType.values():
            self._refuse(f"Value '{value.name}'", f"has the unknown element type {tensor.elem_type}")
        sizes = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
        if math.prod(size for size in sizes if size > 0) > MOST_ELEMENTS:
            self._refuse(f"Value '{value.name}'", f"has the shape {sizes}, more elements than can be counted")

    def _once(self, names: Sequence[str], what: str, place: str) -> None:
        _text(names, what, place)
        if len(set(names)) < len(names):
            name = next(name for name, count in Counter(names).items() if count > 1)
            raise ModelError(f"{what} '{name}' is there twice in {place}. Export the network again.")

    def _no_cycle(self, nodes: Sequence[onnx.NodeProto], needs: list[set[int]], place: str) -> None:
        waiting = [len(found) for found in needs]
        readers: list[list[int]] = [[] for _ in nodes]
        for index, found in enumerate(needs):
            for other in found:
                readers[other].append(index)
        ready = [index for index, count in enumerate(waiting) if not count]
        done = 0
        while ready:
            done += 1
            for reader in readers[ready.pop()]:
                waiting[reader] -= 1
                if not waiting[reader]:
                    ready.append(reader)
        if done < len(nodes):
            index = next(i for i, count in enumerate(waiting) if count)
            name = next(iter(nodes[index].output), "")
            raise ModelError(f"{place} is broken: '{name}' of {_called(nodes[index])} follows from itself, in a cycle.")


def _text(names: Sequence[str], what: str, place: str) -> None:
    """A name that isn't UTF-8 comes out of the message as bytes."""
    broken = next((name for name in names if not isinstance(name, str)), None)
    if broken is not None:
        raise ModelError(f"{what} of {place} has a name that is no text: {broken!r}. The file is damaged.")


def _called(node: onnx.NodeProto) -> str:
    name = node.name or next(iter(node.output), "")
    return f"{node.op_type} '{name}'"


def _all_nodes(nodes: Iterable[onnx.NodeProto], depth: int) -> Iterator[onnx.NodeProto]:
    """Nodes and those of their subgraphs, down to one level below the limit, which `_graph` then refuses."""
    for node in nodes:
        yield node
        for attribute in node.attribute if depth >= 0 else ():
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _all_nodes(graph.node, depth - 1)


def _schema(operator: str, domain: str, version: int | None) -> onnx.defs.OpSchema | None:
    """What the specification says of an operator; None where it says nothing."""
    if version is None or version < 1 or version > 2**31 - 1:
        return None
    try:
        return onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return None


def _check_operands(node: onnx.NodeProto, schema: onnx.defs.OpSchema, place: str) -> None:
    for what, names, formal, fewest, most in (
        ("inputs", node.input, schema.inputs, schema.min_input, schema.max_input),
        ("outputs", node.output, schema.outputs, schema.min_output, schema.max_output),
    ):
        if not fewest <= len(names) <= most:
            raise ModelError(
                f"{_called(node)} of {place} has {len(names)} {what}, where there must be {fewest} to {most}. "
                "Export the network again."
            )
        if what == "outputs":
            continue
        single = onnx.defs.OpSchema.FormalParameterOption.Optional
        for name, parameter in zip(names, formal, strict=False):
            if not name and parameter.option != single:
                raise ModelError(
                    f"{_called(node)} of {place} lacks its input '{parameter.name}'. Export the network again."
                )
