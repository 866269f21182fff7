"""A child process gives back its result, its own errors, or a sentence about how it died."""

import math
import os
import sys
import time

import pytest

from onnxprune.errors import DataError
from onnxprune.runtime import children
from onnxprune.runtime.children import RuntimeFailure, memory_limit_note, run_in_child
from onnxprune.runtime.data import resolve

LINUX = sys.platform.startswith("linux")


def test_result_and_fresh_process():
    assert run_in_child(math.hypot, 3, 4, timeout_s=60) == 5.0
    assert run_in_child(os.getpid, timeout_s=60) != os.getpid()


def test_our_own_errors_keep_their_type():
    with pytest.raises(DataError, match="no_such_module"):
        run_in_child(resolve, "no_such_module:f", timeout_s=60)


@pytest.mark.parametrize(
    "function, arguments, memory_mb, sentence",
    [
        (math.sqrt, (-1,), None, r"failed: .* \(ValueError\)"),
        (os.abort, (), None, r"crashed \(SIGABRT\)"),
        (os._exit, (3,), None, "ended with exit code 3 and no result"),
        (
            exec,
            ("import os; os.write(2, b'no disk'); os._exit(1)",),
            None,
            "exit code 1 and no result, saying 'no disk'",
        ),
        (exec, ("import os; os.kill(os.getpid(), 9)",), None, r"killed by the system \(SIGKILL\)"),
        (exec, ("import os; os.kill(os.getpid(), 8)",), 4096, r"crashed \(SIGFPE\)(?! \(its memory)"),
        (exec, ("import os; os.kill(os.getpid(), 11)",), 4096, r"crashed \(SIGSEGV\) \(its memory limit was 4096 MB"),
        (bytearray, (1 << 31,), 256, r"ran out of memory \(its limit was 256 MB: --limit memory_mb="),
    ],
    ids=["exception", "crash", "exit", "exit with a word", "killed", "arithmetic", "address", "memory"],
)
def test_death_becomes_a_sentence(function, arguments, memory_mb, sentence):
    if memory_mb and not LINUX:
        pytest.skip("this system has no memory limit")
    with pytest.raises(RuntimeFailure, match=sentence) as caught:
        run_in_child(function, *arguments, memory_mb=memory_mb, timeout_s=60)
    assert caught.value.exit_code == 3


def test_hang_is_stopped():
    start = time.monotonic()
    with pytest.raises(RuntimeFailure, match=r"stopped after 0\.5 s"):
        run_in_child(time.sleep, 60, timeout_s=0.5)
    assert time.monotonic() - start < 30


def test_memory_limit_leaves_room_for_what_fits():
    assert len(run_in_child(bytes, 1 << 20, memory_mb=256, timeout_s=60)) == 1 << 20


def test_where_there_is_no_memory_limit_a_note_says_so(monkeypatch):
    monkeypatch.setattr(children.sys, "platform", "darwin")
    assert "timeout only" in memory_limit_note()
    monkeypatch.setattr(children.sys, "platform", "linux")
    assert memory_limit_note() is None
