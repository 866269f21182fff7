"""How long work tells how far it is: a callback `(done, total, what)`, called or left out."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]


def tell(progress: Progress | None, done: int, total: int, what: str) -> None:
    """Tell whoever listens."""
    if progress:
        progress(done, total, what)


def as_one(progress: Progress | None, what: str) -> Progress | None:
    """Parts that share one clock told as one piece of work, called `what`."""
    return progress and (lambda done, total, _: progress(done, total, what))
