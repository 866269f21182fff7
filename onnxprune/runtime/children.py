"""Work in a fresh child process, so that a crash, a hang or a memory hog ends in a sentence.

The child is a new interpreter (`python -m onnxprune.runtime.child_main`), not a fork and not multiprocessing's spawn:
nothing of the parent's state leaks into it, and the caller's script isn't run a second time.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from onnxprune.errors import OnnxPruneError, RefusedError
from onnxprune.graph.limits import current_limits

REQUEST, REPLY = "request.pickle", "reply.pickle"
MEGABYTE = 1 << 20
#: A process that runs a model on the CPU may take this much beyond its start, or so many times the model's size.
MODEL_MEMORY_MB = 8192
MODEL_SIZES = 12


class RuntimeFailure(RefusedError):
    """Work in a child process crashed, hung or ran out of memory; the message says which."""


def memory_limit_note() -> str | None:
    """The sentence that belongs into every report where this system can't limit a child's memory, else None."""
    if sys.platform.startswith("linux"):
        return None
    return f"{sys.platform} offers no memory limit for a child process: models ran with a timeout only."


def memory_for(*models: str | os.PathLike) -> int:
    """What a process that runs these models on the CPU may take, in MB: the limit in force, or what their size asks."""
    given = current_limits().memory_mb
    if given is not None:
        return given
    # Not above: every child would import it too, and take several times as long to start.
    from onnxprune.graph.tensors import stored_bytes

    return max(MODEL_MEMORY_MB, MODEL_SIZES * max(map(stored_bytes, models)) // MEGABYTE)


def patience_s(usual_s: float) -> float:
    """How long a process that runs models may live: the limit in force, or as long as is usual."""
    return float(current_limits().seconds or usual_s)


def run_in_child(
    function: Callable, /, *args: object, memory_mb: int | None = None, timeout_s: float, **kwargs: object
) -> object:
    """Call `function(*args, **kwargs)` in a fresh process and return what it returns.

    `function`, its arguments and its result must be picklable and importable by name (nothing from `__main__`).
    `memory_mb` bounds what the child may take beyond its size at the start (address space; Linux only, see
    `memory_limit_note`), `timeout_s` its life in seconds. The limits in force for files hold there too.

    Raises: the function's own OnnxPruneError; RuntimeFailure for everything else that goes wrong.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as name:
        folder = Path(name)
        request = {"function": function, "args": args, "kwargs": kwargs, "memory_mb": memory_mb, "timeout_s": timeout_s}
        request["limits"] = current_limits()
        (folder / REQUEST).write_bytes(pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL))
        with (folder / "stderr.txt").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "onnxprune.runtime.child_main", name],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=_child_environment(),
            )
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise RuntimeFailure(
                    f"was stopped after {timeout_s:g} s without a result (--limit seconds=... gives it more)"
                ) from None
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        reply = folder / REPLY
        if code != 0 or not reply.exists():
            said = (folder / "stderr.txt").read_text(errors="replace")
            raise _with_note(RuntimeFailure(_death(code, memory_mb, said)), said)
        kind, value, note = pickle.loads(reply.read_bytes())
    if kind == "result":
        return value
    if kind == "error" and isinstance(value, OnnxPruneError):
        raise _with_note(value, note)
    raise _with_note(RuntimeFailure(value), note)


def _child_environment() -> dict[str, str]:
    """The parent's environment with its module search path, so that the child imports the same code."""
    path = [str(Path(entry or ".").resolve()) for entry in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


#: Signals that end a process which couldn't have the memory it asked for.
_FOR_WANT_OF_MEMORY = ("SIGABRT", "SIGBUS", "SIGSEGV")


def _death(code: int, memory_mb: int | None, said: str) -> str:
    """What an exit code without a reply means, as the end of a sentence that starts with what ran."""
    limit = f" (its memory limit was {memory_mb} MB: --limit memory_mb=... sets it)" if memory_mb else ""
    if code >= 0:
        last = (said.strip().splitlines() or [""])[-1].strip()
        return f"ended with exit code {code} and no result{limit}{f', saying {last!r}' if last else ''}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        return f"was killed by the system (SIGKILL), most likely for lack of memory{limit}"
    return f"crashed ({name}){limit if name in _FOR_WANT_OF_MEMORY else ''}"


def _with_note(error: OnnxPruneError, note: str) -> OnnxPruneError:
    """The error with the child's own words attached; only a traceback shows them."""
    if note.strip():
        error.add_note("in the child process:\n" + note.strip()[-4000:])
    return error
