"""The verbs that measure: validate, bench, record, compare, doctor, schema. ONNX Runtime is imported where one runs."""

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.errors import DataError, ModelError, OutputError, RefusedError
from onnxprune.progress import Progress, as_one

if TYPE_CHECKING:
    from onnxprune.runtime.doctor import Doctor
    from onnxprune.runtime.latency import LatencyComparison
    from onnxprune.runtime.recording import Recording
    from onnxprune.runtime.validation import Validation

StrPath = str | os.PathLike

#: With a precision to reach and no time said, a comparison takes at most this long.
LONGEST_S = 300.0
USUAL_S = 20.0
RECORD_TIMEOUT_S = 3600.0


def validate(
    reference: StrPath,
    candidate: StrPath,
    *,
    data: str | None = None,
    metric: str = "top1",
    max_drop: float | None = None,
    min_speedup: float | None = None,
    tolerance: float | None = None,
    providers: Sequence[str] = (),
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    seconds: float | None = None,
    until: float | None = None,
    cuda_graph: bool = False,
    measured: Sequence[StrPath] = (),
    conditions: Sequence[str] = (),
    train_data: str | None = None,
    latency: bool = True,
    seed: int = 0,
    save: StrPath | None = None,
    report: StrPath | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> "Validation":
    """Accuracy and latency of `candidate` against `reference`. Without `providers` the CPU counts and CUDA is tried.

    `save` and `report` name files for the measurements as JSON and as a page. See `runtime.validation.validate` for the
    rest.
    """
    require_onnxruntime()
    from onnxprune.runtime.data import load_dataset
    from onnxprune.runtime.validation import validate as validate_models

    if max_drop is not None and data is None:
        raise DataError("A largest drop can't be checked without data. Give samples with --data, a .npz file.")
    save_to = None if save is None else output_file(save)
    report_to = None if report is None else output_file(report)
    found = validate_models(
        reference,
        candidate,
        dataset=None if data is None else load_dataset(data),
        metric=metric,
        max_drop=max_drop,
        min_speedup=min_speedup,
        tolerance=tolerance,
        providers=tuple(providers) or ("cpu", "cuda"),
        asked=frozenset(providers or ("cpu",)),
        batches=tuple(batches),
        threads=tuple(threads),
        seconds=_seconds(seconds, until),
        until=until,
        cuda_graph=cuda_graph,
        measured=tuple(measured),
        conditions=tuple(conditions),
        train_data=train_data,
        latency=latency,
        seed=seed,
        progress=as_one(progress, "measuring"),
        note=note,
    )
    if save_to is not None:
        found.save(save_to)
    if report_to is not None:
        from onnxprune.deploy.report import write_report

        write_report(report_to, validation=found, title=f"{found.candidate.file} against {found.reference.file}")
    return found


@dataclass(frozen=True)
class Bench:
    """Latency comparisons, one for each provider, batch size and thread count, and why models are (not) faster."""

    comparisons: "tuple[LatencyComparison, ...]"
    findings: tuple[str, ...] = ()
    created: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """3 where something was refused or failed, 4 where a ratio is inconclusive, else 0."""
        if any(comparison.refused or comparison.failures for comparison in self.comparisons):
            return 3
        return 4 if any(r.verdict == "inconclusive" for c in self.comparisons for r in c.ratios) else 0

    def as_dict(self) -> dict[str, Any]:
        """The comparisons as plain JSON types."""
        return {
            "created": self.created,
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "findings": list(self.findings),
            "environment": dict(self.environment),
        }


def bench(
    models: Sequence[StrPath],
    *,
    providers: Sequence[str] = ("cpu",),
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    seconds: float | None = None,
    until: float | None = None,
    cuda_graph: bool = False,
    seed: int = 0,
    report: StrPath | None = None,
    progress: Progress | None = None,
) -> Bench:
    """Latency of two or more models side by side; the first is what the others are compared with.

    `report` names a file for a page.
    """
    require_onnxruntime()
    from onnxprune.runtime.children import memory_for
    from onnxprune.runtime.environment import environment
    from onnxprune.runtime.latency import compare_latency
    from onnxprune.runtime.validation import explain_speed

    report_to = None if report is None else output_file(report)
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
    comparisons = tuple(
        compare_latency(
            dict(zip(names, paths, strict=True)),
            provider=provider,
            batch=batch,
            threads=count,
            seconds=_seconds(seconds, until),
            until=until,
            cuda_graph=cuda_graph,
            seed=seed,
            memory_mb=memory_for(*paths),
            progress=as_one(progress, f"{provider}, batch {batch}, threads {count or 'all'}"),
        )
        for provider, batch, count in settings
    )
    found = Bench(
        comparisons,
        tuple(explain_speed(dict(zip(names, map(str, paths), strict=True)))),
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment(),
    )
    if report_to is not None:
        from onnxprune.deploy.report import write_bench_report

        title = f"{' and '.join(names[1:])} against {names[0]}"
        write_bench_report(report_to, title=title, **vars(found))
    return found


def record(
    model: StrPath,
    out: StrPath,
    *,
    data: str,
    provider: str = "cpu",
    batch: int = 64,
) -> "Recording":
    """Run `model` on all of `data` and write its outputs to `out`, for `compare` on this or another machine."""
    require_onnxruntime()
    from onnxprune.runtime.children import memory_for, patience_s, run_in_child
    from onnxprune.runtime.data import load_dataset
    from onnxprune.runtime.environment import environment
    from onnxprune.runtime.recording import record as record_model
    from onnxprune.runtime.session import SessionSettings
    from onnxprune.runtime.validation import measure_figures

    out = output_file(out)
    found = run_in_child(
        record_model,
        os.fspath(model),
        load_dataset(data),
        SessionSettings(provider=provider, threads=0),
        batch,
        memory_mb=memory_for(model) if provider == "cpu" else None,
        timeout_s=patience_s(RECORD_TIMEOUT_S),
    )
    found = replace(found, model=asdict(measure_figures(model)), environment=environment())
    found.save(out)
    return found


def compare(
    reference: StrPath,
    candidate: StrPath,
    *,
    data: str | None = None,
    metric: str = "top1",
    max_drop: float | None = None,
    tolerance: float | None = None,
    save: StrPath | None = None,
) -> "Validation":
    """Compare two recordings that `record` made: outputs within `tolerance`, and accuracy on the same `data`."""
    require_onnxruntime()
    from onnxprune.runtime.comparing import compare_recordings
    from onnxprune.runtime.data import load_dataset
    from onnxprune.runtime.recording import Recording

    save_to = None if save is None else output_file(save)
    found = compare_recordings(
        Recording.load(reference),
        Recording.load(candidate),
        dataset=None if data is None else load_dataset(data),
        metric=metric,
        max_drop=max_drop,
        tolerance=tolerance,
    )
    if save_to is not None:
        found.save(save_to)
    return found


def doctor() -> "Doctor":
    """What this machine can measure, and what it lacks."""
    require_onnxruntime()
    from onnxprune.runtime.doctor import examine

    return examine()


def schema(name: str) -> dict[str, Any]:
    """The JSON schema of what `--save` and `--json` write."""
    require_onnxruntime()
    from onnxprune.runtime.schema import schema as make_schema

    return make_schema(name)


def require_onnxruntime() -> None:
    """Raises RefusedError with the remedy where ONNX Runtime is missing, or left half there by an uninstallation."""
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:
        state = "isn't installed" if found is None else "is only half there: another package of it was uninstalled"
        raise RefusedError(
            f"ONNX Runtime {state}. Run pip install --force-reinstall --no-deps onnxruntime-gpu on Linux or Windows "
            "x86-64, onnxruntime elsewhere."
        )


def output_file(path: StrPath, option: str = "-o") -> Path:
    """Refuse before the work what would replace something that isn't a file of the user's, such as /dev/null."""
    path = Path(path)
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a device"
        raise OutputError(f"'{path}' is {what}. Give a file to write with {option}.")
    if not path.parent.is_dir():
        raise OutputError(
            f"The folder '{path.parent}' isn't there. Make it first, or give another place with {option}."
        )
    return path


def _seconds(seconds: float | None, until: float | None) -> float:
    return seconds or (USUAL_S if until is None else LONGEST_S)
