"""onnx's shape inference, kept from taking the machine.

It follows values as well as shapes, and keeps a record for each element of any one-dimensional tensor that it meets: a
Range of 9 billion numbers costs terabytes. It runs with a bound on what the process may take, and again without values
where that isn't enough.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import onnx

#: What inference may take beyond what the process has. Shapes of a network of 50,000 nodes take a tenth of it.
HEADROOM_BYTES = 2**30
#: The same while values are followed, which is dispensable.
VALUES_HEADROOM_BYTES = 2**28
_LOCK = threading.RLock()


def infer_shapes(proto: onnx.ModelProto, *, strict: bool, with_values: bool = True) -> tuple[onnx.ModelProto, bool]:
    """The model with shapes, and whether values could be followed. Raises onnx's InferenceError; MemoryError."""
    if with_values:
        with contextlib.suppress(MemoryError), headroom(VALUES_HEADROOM_BYTES):
            return _infer(proto, strict, True), True
    with headroom(HEADROOM_BYTES):
        return _infer(proto, strict, False), False


def _infer(proto: onnx.ModelProto, strict: bool, with_values: bool) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=strict, data_prop=with_values)


@contextlib.contextmanager
def headroom(size_bytes: int) -> Iterator[None]:
    """Let the process take this much more address space meanwhile, where the system has such a limit (Linux)."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    with _LOCK:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min([taken + size_bytes, *limits]), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
