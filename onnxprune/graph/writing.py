"""A model as the bytes of one file, tensor by tensor, so that saving takes little more memory than the largest one.

Field numbers are those of onnx.proto: a ModelProto's graph is its field 7, a graph's initializers are its field 5, and
a tensor's bytes its field 9. Each has a length before it, so lengths are added up before anything is written.
"""

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

#: Tensors from this size on are written one by one; the rest of the model is one message.
LARGE_BYTES = 2**14
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9


def pieces(model: ir.Model) -> Iterator[bytes]:
    """The bytes of `model`, in order; large initializers come last and are read when it is their turn."""
    skeleton = model.clone()
    large = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes >= LARGE_BYTES:
            large[name] = tensor
            skeleton.graph.initializers[name].const_value = ir.tensor(np.zeros(0, np.float32), name=name)
    rest = to_proto(skeleton)
    small = [tensor for tensor in rest.graph.initializer if tensor.name not in large]
    del rest.graph.initializer[:]
    rest.graph.initializer.extend(small)
    tensors = [(_head(name, tensor), tensor) for name, tensor in large.items()]
    graph = rest.graph.SerializeToString(deterministic=True)
    rest.ClearField("graph")
    starts = [head + _field(RAW_DATA, tensor.nbytes) for head, tensor in tensors]
    sizes = [len(start) + tensor.nbytes for start, (_, tensor) in zip(starts, tensors, strict=True)]
    labels = [_field(INITIALIZER, size) for size in sizes]
    yield rest.SerializeToString(deterministic=True)
    yield _field(GRAPH, len(graph) + sum(map(len, labels)) + sum(sizes))
    yield graph
    for label, start, (_, tensor) in zip(labels, starts, tensors, strict=True):
        yield label + start
        yield tensor.tobytes()


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one message, every tensor inside."""
    if any(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values()):
        model = model.clone()
        for value in model.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                tensor = value.const_value
                value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
    return ir.to_proto(model)


def _head(name: str, tensor: ir.TensorProtocol) -> bytes:
    """All of a tensor but its elements."""
    head = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=[int(size) for size in tensor.shape])
    if tensor.doc_string:
        head.doc_string = tensor.doc_string
    for key, value in (tensor.metadata_props or {}).items():
        head.metadata_props.add(key=key, value=value)
    return head.SerializeToString(deterministic=True)


def _field(number: int, length: int) -> bytes:
    """What stands before a field of `length` bytes."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the highest bit set."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
