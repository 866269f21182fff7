"""Concrete shapes and shape arithmetic, by probing.

Every symbolic size is given a prime of its own, so that products and sums of sizes stay distinguishable, and onnx's
strict shape inference runs once for the whole graph. A second probe with other primes tells which sizes are dynamic.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import onnx
import onnx_ir as ir
from onnx.shape_inference import InferenceError

from onnxprune.errors import ModelError
from onnxprune.graph.inference import infer_shapes
from onnxprune.graph.tensors import MOST_AXES, MOST_ELEMENTS
from onnxprune.graph.values import constants, evaluate

#: Sizes for symbolic dimensions; those that divide a fixed size of the model are passed over.
PRIMES = tuple(p for p in range(7, 1000) if all(p % d for d in range(2, p)))
_ALL_PRIMES = math.prod(PRIMES)
#: Where the primes begin: of a batch in the first probe, of other sizes, of all in the second. Behind strides and
#: windows no size may come out as 1, nor as the same in both probes.
BATCH_FROM, LENGTH_FROM, SECOND_FROM = 7, 61, 211
#: Where lengths begin instead, in each probe, where a network can't take that much: a table has fewer positions.
SHORTER_FROM = (41, 19)
#: Networks that halve an image several times and join the halves need sizes divisible by a power of two.
SCALES = (1, 2, 4, 8, 16, 32, 64)
#: Operators defined by a function, whose own inference fails in strict mode.
KEEPS_SHAPE = frozenset(("GroupNormalization", "MeanVarianceNormalization"))
#: Operators whose result may be of any length, as far as inference knows.
UNKNOWN = frozenset(("Compress", "NonMaxSuppression", "NonZero", "Unique"))
#: Initializers above this many elements are left out when shapes are inferred: only their shape matters. Of floats
#: inference reads scales and the ends of a range.
_SMALL, _FEW = 1024, 16
#: onnx keeps a record for each element of a one-dimensional tensor while it follows values, and may crash for want of
#: memory rather than say so: beyond this many elements anywhere it isn't asked to follow.
LONGEST_FOLLOWED = 2**20
#: Marks a model in which onnx can't follow values, for want of memory.
_TOO_LARGE = "onnxprune.values_too_large"


@dataclass(frozen=True)
class Shapes:
    """Shape of every value under one probe: {value: sizes}. Values whose shape can't be found are absent.

    `sizes` is what the probe took for each symbolic size.
    """

    shape_of: Mapping[ir.Value, tuple[int, ...]]
    sizes: Mapping[str, int]


def symbols(model: ir.Model) -> list[str]:
    """The names of the symbolic sizes of the graph inputs, in order; an unnamed one is named after its place."""
    found: dict[str, None] = {}
    for value in _real_inputs(model.graph):
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int) or dim <= 0:
                found[_symbol(value, axis, dim)] = None
    return list(found)


def probe(model: ir.Model, number: int = 0) -> Shapes:
    """Shapes under the first (0) or second (1) assignment of primes to symbolic sizes; see `Prober.probe`."""
    return Prober(model).probe(number)


def infer(model: ir.Model, sizes: Mapping[str, int], *, strict: bool = True) -> Shapes:
    """Shapes with each symbolic size replaced by `sizes[name]`; see `Prober.infer`."""
    return Prober(model).infer(sizes, strict=strict)


class Prober:
    """What probing needs of a model, gathered once for several probes."""

    def __init__(self, model: ir.Model):
        self.model = model
        self.names = symbols(model)
        self._skeleton = _Skeleton(model)
        self.constants = constants(model, self._skeleton.stored)
        self._made = [value for node in model.graph for value in node.outputs]
        self._scales = SCALES if self.names else SCALES[:1]
        self._needs_values = False
        inputs = [v for v in _real_inputs(model.graph) if v.shape is not None and len(v.shape)]
        self._batches = {_symbol(value, 0, value.shape[0]) for value in inputs}
        self._taken: dict[str, int] = {}  # what the first probe took

    def probe(self, number: int = 0) -> Shapes:
        """Shapes under the first (0) or second (1) assignment of primes to symbolic sizes.

        Where no assignment passes strict inference (a contradiction, or an operator that it can't handle), shapes that
        can't be found are left out. Small sizes that leave nothing of an image are passed over.
        """
        emptied: Shapes | None = None
        for primes, scale in self._assignments(number):
            try:
                found = self.infer(self._scaled(primes, scale))
            except InferenceError:
                continue
            if not any(0 in found.shape_of.get(out, ()) for out in self._made):
                self._scales = self._scales[self._scales.index(scale) :]  # the next probe needn't try smaller ones
                if not number:
                    self._taken = primes
                return found
            emptied = emptied or found
        if emptied is not None:
            return emptied
        try:
            primes, scale = next(self._assignments(number))
            return self.infer(self._scaled(primes, scale), strict=False)
        except InferenceError as error:
            raise ModelError(
                f"Types or shapes of the model contradict each other: {' '.join(str(error).split())} Check it with "
                "onnx.checker."
            ) from error
        except MemoryError as error:
            raise ModelError(
                "The model's shapes take more memory than any network's. Check them with Netron."
            ) from error

    def _assignments(self, number: int) -> Iterator[tuple[dict[str, int], int]]:
        """({symbolic size: its prime}, the scale of all but the first), in the order in which they are to be tried.

        Larger scales are for pixels. Shorter lengths are for tokens, which are whole numbers, and for the second probe,
        where the first has shown a scale that fits.
        """
        lengths = set(self.names) - self._batches
        first = (self._taken or next(self._assignments(0))[0]) if number else {}
        may_be_shorter = number or not any(
            value.dtype is None or value.dtype.is_floating_point()
            for value in _real_inputs(self.model.graph)
            if any(_symbol(value, axis, dim) in lengths for axis, dim in enumerate(value.shape or ()))
        )
        usual = SECOND_FROM if number else LENGTH_FROM
        others = [(usual, scale) for scale in self._scales[1:]]
        if lengths and may_be_shorter:
            others.insert(0, (SHORTER_FROM[number], self._scales[0]))
        for least, scale in [(usual, self._scales[0]), *others]:
            primes: dict[str, int] = {}
            for name in self.names:
                start = (SECOND_FROM if number else BATCH_FROM) if name in self._batches else least
                primes[name] = self._free_prime(start, [*primes.values(), *first.values()], first.get(name))
            yield primes, scale

    def _scaled(self, primes: Mapping[str, int], scale: int) -> dict[str, int]:
        """The sizes: all but the first, unless it is alone, times `scale`."""
        return {name: p * (scale if i or len(primes) == 1 else 1) for i, (name, p) in enumerate(primes.items())}

    def infer(self, sizes: Mapping[str, int], *, strict: bool = True) -> Shapes:
        """Shapes with each symbolic size replaced by `sizes[name]`. Strict, a contradiction raises InferenceError.

        Many networks need no values. Where values matter, onnx follows shape arithmetic through some operators only;
        where it stops, what `evaluate` finds helps it on.
        """
        proto = self._skeleton.with_sizes(sizes)
        can_follow = True
        if not self._needs_values:
            shape_of, is_derived = self._inferred(proto, sizes, strict, with_values=False)
            if is_derived:
                return Shapes(shape_of, sizes)
            can_follow = all(shape[0] <= LONGEST_FOLLOWED for shape in shape_of.values() if len(shape) == 1)
            self._needs_values = can_follow
        values: dict[ir.Value, np.ndarray] = {}
        while True:
            try:
                shape_of, _ = self._inferred(proto, sizes, strict, with_values=can_follow)
            except InferenceError:  # onnx adds lists of other lengths wrongly; real contradictions show without, too
                if not can_follow:
                    raise
                can_follow = False
                continue
            if all(out in shape_of for out in self._made):
                return Shapes(shape_of, sizes)
            told = len(values)
            for value, array in evaluate(self.model, shape_of, known={**self.constants, **values}).items():
                if value.producer() is not None and array.dtype.kind in "iu":
                    values[value] = array
            if len(values) <= told:
                return Shapes(shape_of, sizes)
            _tell(proto.graph, values)

    def evaluate(self, shape_of: Mapping[ir.Value, tuple[int, ...]]) -> dict[ir.Value, np.ndarray]:
        """Values of small constants and of all shape arithmetic, given concrete shapes."""
        return evaluate(self.model, shape_of, known=self.constants)

    def _inferred(
        self, proto: onnx.ModelProto, sizes: Mapping[str, int], strict: bool, *, with_values: bool
    ) -> tuple[dict[ir.Value, tuple[int, ...]], bool]:
        """Shapes, recorded ones where none can be derived; and whether all were derived."""
        meta = self.model.meta
        with_values = with_values and not meta.get(_TOO_LARGE)
        inferred, follows = infer_shapes(proto, strict=strict, with_values=with_values)
        if with_values and not follows:
            meta[_TOO_LARGE] = True  # trying it takes a second each time
        found: dict[str, tuple[int, ...]] = {}
        for info in [*inferred.graph.value_info, *inferred.graph.output]:
            shape = _concrete(info.type.tensor_type)
            if shape is not None:
                found[info.name] = shape
        shape_of: dict[ir.Value, tuple[int, ...]] = {}
        for value in self.model.graph.inputs:
            shape = _substitute(value, sizes)
            if shape is not None:
                shape_of[value] = shape
        shape_of.update(self._skeleton.stored)
        is_derived = True
        for value in self._made:
            shape = found.get(value.name)
            if shape is None:
                is_derived = False
                shape = _substitute(value, sizes)
            if shape is not None:
                shape_of[value] = shape
        return shape_of, is_derived

    def _free_prime(self, least: int, taken: Collection[int], other: int | None = None) -> int:
        """The first prime from `least` that divides no fixed size and no small constant: nothing fits by chance.

        It is far from `other` and leaves other remainders, so that nothing computed by dividing comes out the same.
        """
        candidates = [p for p in PRIMES if p >= least and p not in taken]
        if not candidates:  # hundreds of symbolic sizes
            return PRIMES[-1] + len(taken)
        free = (p for p in candidates if self._fixed % p)
        if other is None:
            return next(free, candidates[0])
        first = next(free, candidates[0])
        apart = (p for p in (first, *free) if p <= other / 2 or p >= 2 * other)
        far = (p for p in apart if all(p % d != other % d for d in (3, 4, 5, 7)))
        return next(far, first)

    @cached_property
    def _fixed(self) -> int:
        """A product that those primes divide which divide a size, but 0, or a small constant that the model fixes."""
        fixed: set[int] = set()
        for value in self.model.graph.inputs:
            fixed.update([d for d in value.shape or () if isinstance(d, int)])
        for shape in self._skeleton.stored.values():
            fixed.update(shape)
        for array in self.constants.values():
            if array.dtype.kind in "iu" and array.size <= 16:
                fixed.update([abs(v) for v in array.ravel().tolist()])
        return reduce(lambda product, size: product * size % _ALL_PRIMES, fixed - {0}, 1)  # of as many digits always


def _concrete(tensor_type: onnx.TypeProto.Tensor) -> tuple[int, ...] | None:
    """A shape as inference left it; None where a size is unknown, or no tensor can have it."""
    dims = tensor_type.shape.dim
    sizes = tuple([dim.dim_value for dim in dims])
    if not sizes and not tensor_type.HasField("shape"):
        return None
    if len(sizes) > MOST_AXES or any(size < 0 for size in sizes) or math.prod(sizes) > MOST_ELEMENTS:
        return None
    if 0 in sizes and not all(dim.HasField("dim_value") for dim in dims):
        return None
    return sizes


def _tell(graph: onnx.GraphProto, told: Mapping[ir.Value, np.ndarray]) -> None:
    """Put constants in the place of shape arithmetic whose value is known."""
    values = {value.name: array for value, array in told.items()}
    computed = [node for node in graph.node if values.keys().isdisjoint(node.output)]
    constants = [
        onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(array, order="C")))
        for name, array in values.items()
    ]
    del graph.node[:]
    graph.node.extend([*constants, *computed])


def _real_inputs(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.inputs if not value.is_initializer()]


def _symbol(value: ir.Value, axis: int, dim: int | ir.SymbolicDim) -> str:
    name = None if isinstance(dim, int) else dim.value
    return name or f"{value.name}:{axis}"


def _substitute(value: ir.Value, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    if value.shape is None:
        return None
    found = []
    for axis, dim in enumerate(value.shape):
        size = dim if isinstance(dim, int) and dim >= 0 else sizes.get(_symbol(value, axis, dim))
        if size is None:
            return None
        found.append(size)
    return tuple(found)


class _Skeleton:
    """The model without large tensors and without recorded shapes, for inference."""

    def __init__(self, model: ir.Model):
        self._model = model
        #: The shape of every initializer.
        self.stored: dict[ir.Value, tuple[int, ...]] = {}
        self._proto = onnx.ModelProto(ir_version=min(model.ir_version or 8, onnx.IR_VERSION))
        for domain, version in model.graph.opset_imports.items():
            self._proto.opset_import.append(onnx.OperatorSetIdProto(domain=domain, version=version))
        graph = self._proto.graph
        graph.name = model.graph.name or "graph"
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                continue
            shape = self.stored[value] = tensor.shape.numpy()
            if math.prod(shape) <= (_FEW if tensor.dtype.is_floating_point() else _SMALL):
                proto = ir.serde.serialize_tensor(tensor)
                proto.name = value.name
                graph.initializer.append(proto)
            elif value not in model.graph.inputs:
                _describe(graph.input.add(), value, shape, tensor.dtype)
        for node in model.graph:
            _serialize(graph.node.add(), node)

    def with_sizes(self, sizes: Mapping[str, int]) -> onnx.ModelProto:
        """A copy, with concrete inputs."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        model, graph = self._model, proto.graph
        for value in model.graph.inputs:
            _describe(graph.input.add(), value, _substitute(value, sizes), value.dtype)
        for node in model.graph:
            if node.domain or node.op_type in UNKNOWN:  # what the file says of operators that inference doesn't know
                for value in [value for value in node.outputs if value.shape is not None]:
                    _describe(graph.value_info.add(), value, _substitute(value, sizes), value.dtype)
        for value in model.graph.outputs:
            known = _substitute(value, sizes) if value.producer() is None else None
            _describe(graph.output.add(), value, known, value.dtype)
        return proto


def _serialize(proto: onnx.NodeProto, node: ir.Node) -> None:
    """Write a node as inference reads it: without the metadata, which exporters write pages of."""
    inputs = [value.name if value is not None else "" for value in node.inputs]
    outputs = [value.name or "" for value in node.outputs]
    if node.op_type in KEEPS_SHAPE and not node.domain:
        proto.op_type = "Identity"
        proto.input.extend(inputs[:1])
        proto.output.extend(outputs[:1])
        return
    while outputs and not outputs[-1]:
        outputs.pop()
    proto.op_type, proto.domain, proto.overload, proto.name = node.op_type, node.domain, node.overload, node.name or ""
    proto.input.extend(inputs)
    proto.output.extend(outputs)
    for found in node.attributes.data.values():
        ir.serde.serialize_attribute_into(proto.attribute.add(), found)


def _describe(
    info: onnx.ValueInfoProto, value: ir.Value, shape: tuple[int, ...] | None, dtype: ir.DataType | None
) -> None:
    """Write a value's name, type and shape, as far as they are known."""
    info.name = value.name or ""
    if dtype is not None:
        tensor_type = info.type.tensor_type
        tensor_type.elem_type = int(dtype)
        if shape is not None:
            tensor_type.shape.SetInParent()
            for size in shape:
                tensor_type.shape.dim.add(dim_value=size)
