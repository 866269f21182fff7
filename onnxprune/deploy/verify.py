"""Is a package what it was when it was built? Every file's hash, none missing, none added, no links."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.errors import InputError

FORMAT = "onnxprune-package"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"


class NotAManifest(ValueError):
    """The file isn't the manifest of a package; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a package: which file, and what."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(frozen=True)
class VerifyResult:
    """What `verify_package` found. `exit_code` is 0 for a package as it was built and 1 for one that was changed."""

    path: Path
    files: int
    manifest_sha256: str
    problems: tuple[Problem, ...]

    @property
    def passed(self) -> bool:
        """Whether every file is there, unchanged, and nothing else is."""
        return not self.problems

    @property
    def exit_code(self) -> int:
        """0 passed, 1 changed."""
        return 0 if self.passed else 1

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON types."""
        return {
            "path": str(self.path),
            "passed": self.passed,
            "files": self.files,
            "manifest_sha256": self.manifest_sha256,
            "problems": [{"file": problem.file, "what": problem.what} for problem in self.problems],
        }

    def __str__(self) -> str:
        if self.passed:
            return f"{self.path}: all {self.files} files are as packaged (manifest sha256 {self.manifest_sha256})"
        lines = [f"{self.path}: not as packaged", *(f"  {problem}" for problem in self.problems)]
        return "\n".join([*lines, "Don't use it: copy or build the package again."])


def verify_package(path: str | os.PathLike) -> VerifyResult:
    """Compare every file of a package with its manifest: none changed, missing or added, and no links.

    Raises InputError if `path` isn't a folder with a manifest at all.
    """
    path = Path(path)
    manifest_path = path / MANIFEST
    if not path.is_dir():
        raise InputError(f"'{path}' isn't a folder. Give the folder of a package.")
    if not manifest_path.exists() and not manifest_path.is_symlink():
        raise InputError(f"'{path}' has no {MANIFEST}, so it isn't a package. Build one with `onnxprune package`.")
    problems, folders = [], []
    present = {}
    for name, mode in _walk(path):
        if stat.S_ISREG(mode):
            present[name] = path / name
        elif stat.S_ISDIR(mode):
            folders.append(name)
        else:
            problems.append(Problem(name, "is a link" if stat.S_ISLNK(mode) else "isn't a plain file"))
    if MANIFEST not in present:
        return VerifyResult(path, 0, "", tuple(problems) or (Problem(MANIFEST, "isn't a file"),))
    try:
        listed = read_listed(manifest_path)
    except NotAManifest as error:
        return VerifyResult(path, 0, "", (*problems, Problem(MANIFEST, str(error))))
    not_plain = {problem.file for problem in problems}
    problems += [Problem(name, "isn't in the manifest") for name in folders if not _holds(name, listed)]
    for name in sorted(listed.keys() - not_plain):
        what = _difference(present[name], listed[name]) if name in present else "is missing"
        if what:
            problems.append(Problem(name, what))
    for name in sorted(present.keys() - listed.keys() - {MANIFEST}):
        problems.append(Problem(name, "isn't in the manifest"))
    return VerifyResult(path, len(listed), sha256_of(manifest_path), tuple(problems))


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(name relative to the package, mode) of everything in the folder; links are reported, never followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        mode = entry.stat(follow_symlinks=False).st_mode
        yield prefix + entry.name, mode
        if stat.S_ISDIR(mode):
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/")


def _holds(folder: str, listed: dict[str, tuple[str, int]]) -> bool:
    return any(name.startswith(f"{folder}/") for name in listed)


def _difference(path: Path, expected: tuple[str, int]) -> str:
    try:
        size_bytes = path.stat().st_size
        if size_bytes != expected[1]:
            return f"has {size_bytes} bytes instead of {expected[1]}"
        return "" if sha256_of(path) == expected[0] else "was changed (its sha256 differs)"
    except OSError as error:
        return f"can't be read ({error.strerror})"


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_listed(manifest: Path) -> dict[str, tuple[str, int]]:
    """{name: (sha256, size in bytes)} of the files that a manifest lists. Raises NotAManifest."""
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        kind = (found["format"], found["format_version"])
        listed = {str(name): (entry["sha256"], entry["size_bytes"]) for name, entry in found["files"].items()}
    except OSError as error:
        raise NotAManifest(f"can't be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotAManifest("isn't the manifest of a package") from error
    if kind != (FORMAT, FORMAT_VERSION):
        raise NotAManifest(f"is of format {kind[0]!r} version {kind[1]!r}, not {FORMAT!r} version {FORMAT_VERSION}")
    if MODEL not in listed:
        raise NotAManifest(f"doesn't list {MODEL}")
    return listed
