"""The child's side of `children.run_in_child`: read a request, call the function, write the reply."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from pathlib import Path

from onnxprune.errors import OnnxPruneError
from onnxprune.graph.limits import limited
from onnxprune.runtime.children import MEGABYTE, REPLY, REQUEST

# How ONNX Runtime and the C++ library say that an allocation failed.
OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate memory", "out of memory", "cannot allocate memory")


def main(folder: Path) -> int:
    """Serve the one request in `folder`; the exit status is 0 whenever a reply was written."""
    request = pickle.loads((folder / REQUEST).read_bytes())
    _die_with_the_parent(request["timeout_s"])
    memory_mb = request["memory_mb"]
    if memory_mb:
        limit_memory(memory_mb)
    try:
        with limited(request["limits"]):
            reply = ("result", request["function"](*request["args"], **request["kwargs"]), "")
    except OnnxPruneError as error:
        reply = ("error", error, "".join(traceback.format_exception(error)))
        if _is_out_of_memory(error):
            reply = ("failure", _out_of_memory(memory_mb), reply[2])
    except MemoryError as error:
        reply = ("failure", _out_of_memory(memory_mb), str(error))
    except Exception as error:  # noqa: BLE001 - the parent raises it again, as a RuntimeFailure
        words = _out_of_memory(memory_mb) if _is_out_of_memory(error) else _one_line(error)
        reply = ("failure", words, "".join(traceback.format_exception(error)))
    # Written beside and renamed: a child that dies while it writes leaves no reply at all.
    beside = folder / (REPLY + ".part")
    beside.write_bytes(pickle.dumps(reply, protocol=pickle.HIGHEST_PROTOCOL))
    os.replace(beside, folder / REPLY)
    return 0


def limit_memory(memory_mb: int) -> bool:
    """Let this process take `memory_mb` more address space than it has now; False where the system can't."""
    if not sys.platform.startswith("linux"):
        return False
    import resource  # not on Windows

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_mb * MEGABYTE
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    return True


def _die_with_the_parent(timeout_s: float) -> None:
    """End this process soon after its time is up, for the case that the parent isn't there any more to do it."""
    timer = threading.Timer(timeout_s + 5, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


def _is_out_of_memory(error: BaseException) -> bool:
    words = str(error).lower()
    return any(sign in words for sign in OUT_OF_MEMORY)


def _out_of_memory(memory_mb: int | None) -> str:
    limit = f" (its limit was {memory_mb} MB: --limit memory_mb=... sets it)" if memory_mb else ""
    return f"ran out of memory{limit}"


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return f"failed: {lines[0]} ({type(error).__name__})"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
