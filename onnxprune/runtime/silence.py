"""ONNX Runtime without its log, for sessions that somebody else opens with settings of their own."""

import contextlib
from collections.abc import Iterator

import onnxruntime

WARNING, FATAL = 2, 4  # ONNX Runtime's default level, and the one at which it says nothing that we can act on


@contextlib.contextmanager
def silent_sessions() -> Iterator[None]:
    """Sessions opened inside log nothing to stderr: what goes wrong arrives as an exception."""
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
