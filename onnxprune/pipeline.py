"""One function a verb: the only place that sees every folder. The command line parses, calls one of these and prints.

ONNX Runtime is imported where something runs, PyTorch only where a module is given.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxprune.errors import DataError, InputError, ModelError, OutputError, RefusedError
from onnxprune.graph import remove as graph_remove
from onnxprune.graph.model import Model
from onnxprune.inspection import Inspection, inspect_model
from onnxprune.progress import Progress, as_one
from onnxprune.runfolder import RunFolder
from onnxprune.shrinking import ShrunkModel, shrink_into

if TYPE_CHECKING:
    from onnxprune.compress import CompressedRun
    from onnxprune.deploy.package import Package
    from onnxprune.deploy.verify import VerifyResult
    from onnxprune.graph.units import Channels, Unit
    from onnxprune.recipe import Recipe
    from onnxprune.runtime.latency import LatencyComparison
    from onnxprune.runtime.validation import Validation

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
    _require_onnxruntime()
    from onnxprune.deploy.report import write_shrink_report

    out = _output_file(out)
    page = None if report is None else _output_file(report)
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


def validate(
    reference: StrPath,
    candidate: StrPath,
    *,
    data: str | None = None,
    metric: str = "top1",
    max_drop: float | None = None,
    min_speedup: float | None = None,
    providers: Sequence[str] = (),
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    seconds: float = 20.0,
    seed: int = 0,
    save: StrPath | None = None,
    progress: Progress | None = None,
) -> "Validation":
    """Accuracy and latency of `candidate` against `reference`. Without `providers` the CPU counts and CUDA is tried.

    `save` names a file for the measurements as JSON.
    """
    _require_onnxruntime()
    from onnxprune.runtime.data import load_dataset
    from onnxprune.runtime.validation import validate as validate_models

    if max_drop is not None and data is None:
        raise DataError("A largest drop can't be checked without data. Give samples with --data, a .npz file.")
    save_to = None if save is None else _output_file(save)
    found = validate_models(
        reference,
        candidate,
        dataset=None if data is None else load_dataset(data),
        metric=metric,
        max_drop=max_drop,
        min_speedup=min_speedup,
        providers=tuple(providers) or ("cpu", "cuda"),
        asked=frozenset(providers or ("cpu",)),
        batches=tuple(batches),
        threads=tuple(threads),
        seconds=seconds,
        seed=seed,
        progress=as_one(progress, "measuring"),
    )
    if save_to is not None:
        found.save(save_to)
    return found


@dataclass(frozen=True)
class Bench:
    """Latency comparisons, one for each provider, batch size and thread count."""

    comparisons: "tuple[LatencyComparison, ...]"

    @property
    def exit_code(self) -> int:
        """3 where something was refused or failed, 4 where a ratio is inconclusive, else 0."""
        if any(comparison.refused or comparison.failures for comparison in self.comparisons):
            return 3
        return 4 if any(r.verdict == "inconclusive" for c in self.comparisons for r in c.ratios) else 0

    def as_dict(self) -> dict[str, Any]:
        """The comparisons as plain JSON types."""
        return {"comparisons": [asdict(comparison) for comparison in self.comparisons]}


def bench(
    models: Sequence[StrPath],
    *,
    providers: Sequence[str] = ("cpu",),
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    seconds: float = 20.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Bench:
    """Latency of two or more models side by side; the first is what the others are compared with."""
    _require_onnxruntime()
    from onnxprune.runtime.latency import compare_latency

    paths = [Path(model) for model in models]
    for path in paths:
        if not path.is_file():
            raise ModelError(f"'{path}' isn't a file. Give the path of an .onnx file.")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    settings = [
        (provider, batch, count)
        for provider in providers
        for batch in batches
        for count in (threads if provider == "cpu" else (1,))
    ]
    return Bench(
        tuple(
            compare_latency(
                dict(zip(names, paths, strict=True)),
                provider=provider,
                batch=batch,
                threads=count,
                seconds=seconds,
                seed=seed,
                progress=as_one(progress, f"{provider}, batch {batch}, threads {count or 'all'}"),
            )
            for provider, batch, count in settings
        )
    )


def package(
    model: StrPath, out: StrPath, *, validation: StrPath | None = None, recipe: StrPath | None = None
) -> "Package":
    """Build the folder to ship: the model, its evidence, a manifest of hashes, and a runner."""
    _require_onnxruntime()
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
    out = _output_file(out or run.report)
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
    _require_onnxruntime()
    from onnxprune.compress import run_recipe

    return run_recipe(recipe, out, resume=resume, progress=progress, **changes)


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


def machine_notes() -> list[str]:
    """Sentences about this machine that whoever runs models on it must know, such as packages that clash."""
    from onnxprune.runtime.environment import environment

    return list(environment()["notes"])


def _require_onnxruntime() -> None:
    """Raises RefusedError with the remedy where ONNX Runtime is missing, or left half there by an uninstallation."""
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:
        state = "isn't installed" if found is None else "is only half there: another package of it was uninstalled"
        raise RefusedError(
            f"ONNX Runtime {state}. Run pip install --force-reinstall --no-deps onnxruntime-gpu on Linux or Windows "
            "x86-64, onnxruntime elsewhere."
        )


def _output_file(path: StrPath) -> Path:
    """Refuse before the work what would replace something that isn't a file of the user's, such as /dev/null."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OutputError(f"'{path}' is {'a folder' if path.is_dir() else 'a device'}. Give a file to write with -o.")
    if not path.parent.is_dir():
        raise OutputError(f"The folder '{path.parent}' isn't there. Make it first, or give another place with -o.")
    return path


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
