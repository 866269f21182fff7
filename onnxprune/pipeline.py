"""One function a verb: the only place that sees every folder. The command line parses, calls one of these and prints.

ONNX Runtime is imported where something runs, PyTorch only where a module is given.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxprune.errors import InputError, OutputError
from onnxprune.graph import remove as graph_remove
from onnxprune.graph.limits import limited, parse_limits
from onnxprune.graph.model import Model
from onnxprune.inspection import Inspection, inspect_model
from onnxprune.measuring import (
    Bench,
    bench,
    compare,
    doctor,
    output_file,
    record,
    require_onnxruntime,
    schema,
    validate,
)
from onnxprune.progress import Progress
from onnxprune.runfolder import RunFolder
from onnxprune.shrinking import ShrunkModel, shrink_into

if TYPE_CHECKING:
    from onnxprune.compress import CompressedRun, Foresight
    from onnxprune.deploy.package import Package
    from onnxprune.deploy.verify import VerifyResult
    from onnxprune.graph.units import Channels, Unit
    from onnxprune.recipe import Recipe

__all__ = [
    "Bench",
    "ShrunkModel",
    "bench",
    "compare",
    "compress",
    "demo",
    "doctor",
    "foresee",
    "inspect",
    "machine_notes",
    "package",
    "recipe_text",
    "record",
    "remove",
    "report",
    "schema",
    "shrink",
    "validate",
    "verify",
    "within",
]

StrPath = str | os.PathLike


def inspect(path: StrPath, *, explain: str | None = None, graph: StrPath | None = None) -> Inspection:
    """What is in the model, and what of it could go; `explain` adds a tensor's ties and pins, `graph` draws an SVG."""
    return inspect_model(path, explain, graph)


def remove(
    model: Model,
    channels: "Channels",
    units: "Iterable[Unit | int]",
    *,
    backend: Literal["onnx-ir", "graphsurgeon"] = "onnx-ir",
) -> Model:
    """Delete `units` of `channels` from `model`. Both backends give the same function.

    Raises EmptyAxisError where nothing of an axis would be left, InputError for units of another model.
    """
    if backend == "onnx-ir":
        return graph_remove.remove(model, channels, units)
    if backend == "graphsurgeon":
        from onnxprune.deploy import surgeon

        return surgeon.remove(model, channels, units)
    raise InputError(f"Unknown backend {backend!r}: choose onnx-ir or graphsurgeon.")


def shrink(
    path: StrPath,
    out: StrPath,
    *,
    verify: bool = True,
    keep_denormals: bool = False,
    zero_below: float | None = None,
    report: StrPath | None = None,
    progress: Progress | None = None,
) -> ShrunkModel:
    """Write `path` to `out` without the channels that provably change nothing, and prove it by running both.

    Weights below 2^-126 become 0 first, unless `keep_denormals`; with `zero_below` all below that do. `report` is an
    HTML page to write as well. Nothing is written unless the proof holds. Raises ModelError, OutputError,
    NotEquivalentError.
    """
    require_onnxruntime()
    from onnxprune.deploy.report import write_shrink_report

    out = output_file(out)
    page = None if report is None else output_file(report, "--report")
    if page is not None and any(_is_same_file(page, other) for other in (out, Path(path))):
        raise OutputError(f"The report would take the place of the model '{page}'. Give it another name with --report.")
    with _beside(out) as scratch:
        done = shrink_into(
            Path(path),
            scratch / out.name,
            verify=verify,
            keep_denormals=keep_denormals,
            zero_below=zero_below,
            progress=progress,
        )
    done = replace(done, path=out)
    if page is not None:
        write_shrink_report(
            page,
            report=done.report.as_dict(),
            before=done.before,
            after=done.after,
            equivalence=done.equivalence,
            title=f"Exact removal: {Path(path).name}",
        )
    return done


def _is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, or would if they were there."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def package(
    model: StrPath, out: StrPath, *, validation: StrPath | None = None, recipe: StrPath | None = None
) -> "Package":
    """Build the folder to ship: the model, its evidence, a manifest of hashes, and a runner."""
    require_onnxruntime()
    from onnxprune.deploy.package import build_package
    from onnxprune.runtime.validation import Validation

    return build_package(
        Path(model),
        Path(out),
        validation=None if validation is None else Validation.load(Path(validation)),
        recipe=None if recipe is None else _read_text(Path(recipe)),
    )


def verify(path: StrPath) -> "VerifyResult":
    """Whether a package is byte for byte what was built."""
    from onnxprune.deploy.verify import verify_package

    return verify_package(Path(path))


def report(source: StrPath, out: StrPath | None = None) -> Path:
    """Write the HTML report of a run folder or a validation.json; a run's goes into the run by default."""
    from onnxprune.deploy.report import write_report
    from onnxprune.runtime.validation import Validation

    source = Path(source)
    run = RunFolder(source) if source.is_dir() else None
    if run is not None and not run.validation.exists():
        raise InputError(f"'{source}' holds no validation.json. Finish the run first: onnxprune compress --resume.")
    if run is None and out is None:
        raise InputError("Name the file to write with -o, for example -o report.html.")
    history = run.read_history() if run else None
    out = output_file(out or run.report)
    write_report(
        out,
        validation=Validation.load(run.validation if run else source),
        history=None if history is None else json.loads(history),
        recipe=_read_text(run.recipe) if run and run.recipe.exists() else None,
        title=f"onnxprune: {source.resolve().name}",
    )
    return out


def compress(
    recipe: "StrPath | Mapping[str, Any] | Recipe",
    out: StrPath,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> "CompressedRun":
    """Train, prune, export, prove, measure, package and report as the recipe says; see `onnxprune.compress`."""
    require_onnxruntime()
    from onnxprune.compress import run_recipe

    return run_recipe(recipe, out, resume=resume, progress=progress, **changes)


def foresee(
    recipe: "StrPath | Mapping[str, Any] | Recipe", *, progress: Progress | None = None, **changes: Any
) -> "Foresight":
    """What `compress` would do and how long it would take, with nothing written."""
    require_onnxruntime()
    from onnxprune import compress

    return compress.foresee(recipe, progress=progress, **changes)


def demo(
    out: StrPath, *, quick: bool = False, resume: bool = False, progress: Progress | None = None, **changes: Any
) -> "CompressedRun":
    """`compress` with the built-in recipe `digits`, or `digits-quick`."""
    return compress("digits-quick" if quick else "digits", out, resume=resume, progress=progress, **changes)


def recipe_text(name: str | None = None, *, template: bool = False, names: bool = False) -> str:
    """The commented template, the names of the built-in recipes a line each, or the text of the one called `name`."""
    from onnxprune import recipe

    if (name is not None) + template + names != 1:
        raise InputError("Say what to print: the name of a built-in recipe, --list or --template.")
    if names:
        return "".join(f"{known}\n" for known in recipe.built_in())
    return recipe.template() if template else recipe.built_in_text(name or "")


def within(limits: Iterable[str]) -> contextlib.AbstractContextManager[None]:
    """Do what follows within limits of files and of the processes that run them: texts such as "nodes=1000000"."""
    return limited(parse_limits(limits))


def machine_notes() -> list[str]:
    """Sentences about this machine that whoever runs models on it must know, such as packages that clash."""
    from onnxprune.runtime.environment import environment

    return list(environment()["notes"])


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder beside `out` whose files move to their places at the end; nothing stays of it where something fails."""
    try:
        scratch = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise _cannot_write(out, error) from error
    with scratch as folder:
        try:
            yield Path(folder)
        except OutputError as error:  # it names the place that was asked for
            raise OutputError(str(error).replace(str(Path(folder) / out.name), str(out))) from error
        try:  # a data file first: a model is there only when everything that it points to is
            for written in sorted(Path(folder).iterdir(), key=lambda file: file.name == out.name):
                os.replace(written, out.parent / written.name)
        except OSError as error:
            raise _cannot_write(out, error) from error


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"'{path}' can't be written: {error.strerror or error}. Give another place with -o.")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' can't be read: {error}. Give the path of a text file.") from error
