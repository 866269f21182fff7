"""How much a file may ask for, and what it takes to run it."""

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace

from onnxprune.errors import InputError

_SUFFIXES = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Limits:
    """What `load` refuses to go beyond, so that a stranger's file can't take the machine.

    file_bytes: the .onnx file itself; total_bytes: all tensors together, those in a file beside the model too;
    tensor_elements: one tensor; nodes: all nodes, those of subgraphs and of every call of a function too; depth:
    subgraphs inside subgraphs, and functions that call functions; finite: refuse NaN, and weights that are infinite.

    A process that runs a model on the CPU may take memory_mb (None: 8 GB, or 12 times the model where that is more),
    and lives for at most seconds (None: as its task says).
    """

    file_bytes: int = 2**31
    total_bytes: int = 32 * 2**30
    tensor_elements: int = 2**33
    nodes: int = 500_000
    depth: int = 24
    finite: bool = True
    memory_mb: int | None = None
    seconds: int | None = None


_DEFAULT = Limits()
_CURRENT: ContextVar[Limits] = ContextVar("limits", default=_DEFAULT)


def current_limits() -> Limits:
    """The limits in force, unless a call is given others."""
    return _CURRENT.get()


@contextlib.contextmanager
def limited(limits: Limits) -> Iterator[None]:
    """Everything inside works within `limits`, child processes too."""
    token = _CURRENT.set(limits)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def raise_limit(name: str) -> str:
    """How to go beyond a limit, as a sentence."""
    return f"Raise the limit if you trust the file: --limit {name}=..., or Limits({name}=...)."


def parse_limits(texts: Iterable[str], base: Limits | None = None) -> Limits:
    """Limits of "name=number" texts, "total_bytes=64G" for one; `base` (the defaults) has the others.

    Raises InputError for what isn't a limit.
    """
    names = [field.name for field in fields(Limits)]
    changes: dict[str, int] = {}
    for text in texts:
        name, _, words = text.partition("=")
        name = name.strip().replace("-", "_")
        words = words.strip().lower()
        scale = _SUFFIXES.get(words[-1:], 0)
        digits = words[:-1] if scale else words
        if name not in names or not digits.isascii() or not digits.isdecimal() or len(digits) > 18:
            raise InputError(
                f"{text!r} isn't a limit. Give one of {', '.join(names)} and a whole number, such as total_bytes=64G."
            )
        changes[name] = int(digits) * (scale or 1)
    if "finite" in changes:
        changes["finite"] = bool(changes["finite"])
    return replace(base or Limits(), **changes)
