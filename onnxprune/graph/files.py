"""Read files that may be a stranger's, and write files that are whole or absent."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxprune.errors import ModelError, OutputError


def read_file(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a plain file. Raises ModelError for devices and pipes, and for a file above the limit."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ModelError(f"'{path}' is no plain file. Give the path of an .onnx file.")
            if found.st_size > limit_bytes:
                raise ModelError(
                    f"'{path}' has {found.st_size} bytes, more than the limit of {limit_bytes}. Keep its tensors in a "
                    "file beside it."
                )
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"'{path}' can't be read: {reason}. Give the path of an .onnx file.") from error


def plain_sibling(folder: Path, location: str) -> Path | str:
    """The file that external data `location` names beside a model in `folder`, or what is wrong with it.

    It must be a plain file with one name: a link could lead to any file of this machine.
    """
    if not location or location in (".", "..") or any(sign in location for sign in ("/", "\\", "\0")):
        return "which is not a plain file beside the model"
    if os.path.splitdrive(location)[0]:
        return "which is not a plain file beside the model"
    path = folder / location
    try:
        found = path.lstat()
    except OSError as error:
        return f"which can't be read ({error.strerror})"
    if not stat.S_ISREG(found.st_mode):
        return "which is not a plain file"
    if found.st_nlink > 1:
        return "which is a hard link: another name of some file"
    return path


def write_atomically(path: str | os.PathLike, content: bytes | str | Iterable[bytes]) -> None:
    """Write a file beside its place, then rename it into place. Raises OutputError naming the path and the reason.

    `content` may come in pieces, which are made when it is their turn.
    """
    path = Path(path)
    whole = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        raise OutputError(
            f"'{path}' is no plain file, and would be replaced by one. Choose another place for the output."
        )
    with output_errors(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines([whole] if isinstance(whole, bytes) else whole)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """What the system says about writing to `path`, as an OutputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"'{path}' can't be written: {reason}. Free space, or choose another place for the output."
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
