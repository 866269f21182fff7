"""The command line: one command a verb; parse, call the pipeline, print, exit code. No logic.

Exit codes: 0 done or passed, 1 a gate failed, 2 usage or bad input, 3 refused, 4 inconclusive, 130 Ctrl-C.
What is heavy is imported by the verb that needs it: `onnxprune --help` is there at once.
"""

import functools
import inspect
import itertools
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import onnxprune
from onnxprune.errors import OnnxPruneError, RecipeError

INTERRUPTED = 130
INTERNAL_ERROR = 2
ONE = [1]
ONE_THREAD = ["1"]
#: Commands that open models, which may be a stranger's, and so can be given limits.
READ_MODELS = frozenset(("bench", "inspect_", "package", "record", "shrink", "validate"))

app = typer.Typer(
    name="onnxprune",
    epilog="Exit codes: 0 done, 1 a gate failed, 2 bad usage or input, 3 refused, 4 inconclusive, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ProviderName(StrEnum):
    """Where a model runs."""

    cpu = "cpu"
    cuda = "cuda"


Data = Annotated[
    str | None,
    typer.Option(
        help="Samples: a .npz file (inputs by name, and targets), a folder of pictures by class or of a Hugging Face "
        "dataset, or package.module:object.",
        show_default=False,
    ),
]
MetricName = Annotated[
    str,
    typer.Option(
        help="top1, top5, error_rate, precision, recall, f1, map, miou, rmse, loss, cosine, cer, wer, raw_pitch or "
        "package.module:function."
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(min=0, help="The drop that must be ruled out: 0.01 is one point.", show_default=False),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="The outputs have to agree this well, as a share of their range: 1e-5 for models that are to be the same.",
        show_default=False,
    ),
]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL.onnx", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunOut = Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="The folder of the run.", show_default=False)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that is there, or show it if it is finished.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Replaces the recipe's seed.", show_default=False)]
Providers = Annotated[
    list[ProviderName] | None, typer.Option("--provider", help="May be repeated.", show_default=False)
]
Batches = Annotated[list[int], typer.Option("--batch", min=1, help="Batch size; may be repeated.")]
Threads = Annotated[
    list[str],
    typer.Option(
        parser=lambda text: _thread_counts(text),
        metavar="N[,N]",
        help="Numbers of threads on the CPU: 1,all measures with one and with one for each core.",
        show_default=False,
    ),
]
CudaGraph = Annotated[
    bool, typer.Option("--cuda-graph", help="On CUDA, capture the work once and replay it, for every model.")
]
Seconds = Annotated[
    float | None,
    typer.Option(
        *("--for", "--seconds"),
        parser=lambda text: _duration(text),
        metavar="TIME",
        help="How long each latency comparison measures: 60s, 2m; 20s without it, at most 5m with --until.",
        show_default=False,
    ),
]
Until = Annotated[
    float | None,
    typer.Option(
        "--until",
        parser=lambda text: _share(text),
        metavar="SHARE",
        help="Stop as soon as every interval is this narrow: 1% of the time to either side.",
        show_default=False,
    ),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=NUMBER",
        help="What a file may ask for: total_bytes=64G, nodes=1000000, memory_mb=16000 or seconds=60 of a process that "
        "runs it, ...; may be repeated.",
        show_default=False,
    ),
]
ReportFile = Annotated[Path | None, typer.Option(metavar="R.html", help="Write a page too.", show_default=False)]
MeasureSeed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn at random.")]


def _thread_counts(text: str | list[int]) -> list[int]:
    """[1, 0] of "1,all"; 0 stands for all cores."""
    if isinstance(text, list):
        return text
    words = [word.strip() for word in str(text).split(",")]
    if not all(word == "all" or word.isdecimal() for word in words):
        raise typer.BadParameter(f"{text!r} isn't a number of threads such as 1, or 1,all")
    return [0 if word == "all" else int(word) for word in words]


def _duration(text: str | float) -> float:
    """Seconds of "60s", "2m", "1h" or "1.5"."""
    words = str(text).strip()
    scale = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(words[-1:], 0.0)
    value = _positive(words[:-1] if scale else words, "a time such as 60s or 2m") * (scale or 1.0)
    if not 0.1 <= value <= 86_400:
        raise typer.BadParameter("give between 0.1s and 24h")
    return value


def _share(text: str | float) -> float:
    """0.01 of "1%" or "0.01"."""
    words = str(text).strip()
    value = _positive(words.removesuffix("%"), "a share such as 1%") / (100 if words.endswith("%") else 1)
    if value >= 1:
        raise typer.BadParameter("give less than 100%")
    return value


def _positive(text: str, wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{text!r} isn't {wanted}")
    return value


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, `arguments` or the process's own, and leave with its exit code."""
    if arguments is None and not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries tell developers; python -W default shows it
    if sys.platform == "win32":
        sys.stdout.reconfigure(encoding="utf-8")
    app(args=arguments, prog_name="onnxprune")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"onnxprune {onnxprune.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Prunes neural networks, removes what was pruned from the ONNX graph, and proves the smaller model."""


def verb(function: Callable[..., int | None]) -> Callable[..., None]:
    """Register a command. It returns its exit code; what it raises becomes one sentence on stderr and a code."""

    @functools.wraps(function)
    def command(*args: Any, debug: bool, limit: list[str] | None = None, **kwargs: Any) -> None:
        raise typer.Exit(_run(function, args, kwargs, debug, limit or ()))

    signature = inspect.signature(function)
    added = {"debug": (False, Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")])}
    if function.__name__ in READ_MODELS:
        added = {"limit": (None, Limit), **added}
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (default, annotation) in added.items()
    ]
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *flags])
    command.__annotations__ = function.__annotations__ | {flag.name: flag.annotation for flag in flags}
    return app.command(name=function.__name__.rstrip("_"))(command)


def _run(
    function: Callable[..., int | None], args: tuple, kwargs: dict[str, Any], debug: bool, limits: Sequence[str] = ()
) -> int:
    logging.disable(logging.NOTSET if debug else logging.CRITICAL)  # an error is one sentence, ours
    try:
        from onnxprune import pipeline

        with pipeline.within(limits):
            return function(*args, **kwargs) or 0
    except OnnxPruneError as error:
        if debug:
            raise
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted; what was finished is kept. A run goes on with --resume.")
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        _say(f"internal error, {type(error).__name__}: {error}. Please report it with what --debug shows.")
        return INTERNAL_ERROR
    finally:
        logging.disable(logging.NOTSET)


def _say(sentence: str) -> None:
    """One line on stderr, whatever the message holds."""
    print("onnxprune:", " ".join(sentence.split()), file=sys.stderr)


def _warn(notes: list[str]) -> None:
    for note in notes:
        _say(f"note: {note}")


def _show(code: int, as_json: dict[str, Any] | None, show: Callable[[], None]) -> int:
    """Print a result as JSON or for people. A reader that has gone away, as `head` does, changes nothing."""
    try:
        if as_json is not None:
            print(json.dumps(as_json, indent=2))
        else:
            show()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


@verb
def demo(
    out: RunOut,
    quick: Annotated[
        bool, typer.Option("--quick", help="The whole road on 8x8 digits, in less than a minute.")
    ] = False,
    resume: Resume = False,
    seed: Seed = None,
    as_json: AsJson = False,
) -> int:
    """The whole road on 5,000 real digits, in minutes."""
    from onnxprune import display, pipeline

    changes = {} if seed is None else {"seed": seed}
    with display.ProgressBars() as progress:
        run = pipeline.demo(out, quick=quick, resume=resume, progress=progress, **changes)
    _warn(pipeline.machine_notes())
    return _show(run.exit_code, run.as_dict() if as_json else None, lambda: display.print_run(run))


@verb
def compress(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file or a built-in recipe.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="RUN", help="The folder of the run.", show_default=False)
    ] = None,
    resume: Resume = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen and how long it would take; write nothing.")
    ] = False,
    seed: Seed = None,
    as_json: AsJson = False,
) -> int:
    """Train, prune, prove and package a network by a recipe."""
    from onnxprune import display, pipeline

    changes = {} if seed is None else {"seed": seed}
    if dry_run:
        with display.ProgressBars() as progress:
            foresight = pipeline.foresee(recipe, progress=progress, **changes)
        return _show(0, foresight.as_dict() if as_json else None, lambda: display.print_foresight(foresight))
    if out is None:
        raise RecipeError("Say where the run's files go: -o RUN. (--dry-run writes none.)")
    with display.ProgressBars() as progress:
        run = pipeline.compress(recipe, out, resume=resume, progress=progress, **changes)
    _warn(pipeline.machine_notes())
    return _show(run.exit_code, run.as_dict() if as_json else None, lambda: display.print_run(run))


@verb
def recipe(
    name: Annotated[str | None, typer.Argument(help="A built-in recipe to print.", show_default=False)] = None,
    template: Annotated[bool, typer.Option("--template", help="Print a commented recipe with every key.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the built-in recipes.")] = False,
) -> int:
    """Print a recipe to start from."""
    from onnxprune import pipeline

    text = pipeline.recipe_text(name, template=template, names=list_)
    return _show(0, None, lambda: print(text, end=""))


@verb
def inspect_(
    model: ModelFile,
    explain: Annotated[
        str | None,
        typer.Option(metavar="TENSOR", help="Why this tensor's axes can or can't shrink.", show_default=False),
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            metavar="NET.svg", help="Draw the network, in one colour what is tied together.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """What is in a model, and what of it could go."""
    from onnxprune import display, pipeline

    found = pipeline.inspect(model, explain=explain, graph=graph)
    return _show(0, found.as_dict() if as_json else None, lambda: display.print_inspection(found))


@verb
def shrink(
    model: ModelFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="SMALL.onnx", help="The file to write.", show_default=False)
    ],
    verify: Annotated[
        bool, typer.Option(help="Run both models and compare their outputs before anything is written.")
    ] = True,
    keep_denormals: Annotated[
        bool, typer.Option("--keep-denormals", help="Leave weights below 2^-126 as they are; else they become 0.")
    ] = False,
    zero_below: Annotated[
        float | None,
        typer.Option(min=0, help="Take smaller weights for 0, and bound what that changes.", show_default=False),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="R.html", help="Write what was done as a page too.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Remove every channel that provably changes nothing."""
    from onnxprune import display, pipeline

    with display.ProgressBars() as progress:
        done = pipeline.shrink(
            model,
            out,
            verify=verify,
            keep_denormals=keep_denormals,
            zero_below=zero_below,
            report=report,
            progress=progress,
        )
    _warn(pipeline.machine_notes())
    return _show(done.exit_code, done.as_dict() if as_json else None, lambda: display.print_shrunk(done))


@verb
def validate(
    reference: Annotated[Path, typer.Argument(metavar="REF.onnx", show_default=False)],
    candidate: Annotated[Path, typer.Argument(metavar="NEW.onnx", show_default=False)],
    data: Data = None,
    metric: MetricName = "top1",
    max_drop: MaxDrop = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="How many times as fast it must be.", show_default=False)
    ] = None,
    tolerance: Tolerance = None,
    provider: Providers = None,
    batch: Batches = ONE,
    threads: Threads = ONE_THREAD,
    seconds: Seconds = None,
    until: Until = None,
    cuda_graph: CudaGraph = False,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="TIMINGS.json",
            help="Latency as a package's run.py --benchmark --json wrote it on another device, in place of measuring "
            "here; once for each model.",
            show_default=False,
        ),
    ] = None,
    under: Annotated[
        list[str] | None,
        typer.Option(help="Accuracy under noise, blur or contrast too; may be repeated.", show_default=False),
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option(help="What the models were trained on, for the generalisation gap.", show_default=False),
    ] = None,
    seed: MeasureSeed = 0,
    save: Annotated[Path | None, typer.Option(help="Write the measurements as JSON.", show_default=False)] = None,
    report: ReportFile = None,
    as_json: AsJson = False,
    markdown: AsMarkdown = False,
) -> int:
    """Is a new model as good as a reference, and faster?"""
    from onnxprune import display, pipeline

    with display.ProgressBars() as progress:
        found = pipeline.validate(
            reference,
            candidate,
            data=data,
            metric=metric,
            max_drop=max_drop,
            min_speedup=min_speedup,
            tolerance=tolerance,
            providers=[p.value for p in provider or ()],
            batches=batch,
            threads=list(dict.fromkeys(itertools.chain(*threads))),
            cuda_graph=cuda_graph,
            seconds=seconds,
            until=until,
            measured=measured or (),
            conditions=under or (),
            train_data=train_data,
            seed=seed,
            save=save,
            report=report,
            progress=progress,
            note=lambda sentence: _warn([sentence]),
        )
    _warn(pipeline.machine_notes())
    return _show_validation(found, as_json, markdown)


def _show_validation(found: Any, as_json: bool, markdown: bool) -> int:
    from onnxprune import display

    def show() -> None:
        if markdown:
            print(found.as_markdown(), end="")
        else:
            display.print_validation(found)

    return _show(found.exit_code, found.as_dict() if as_json else None, show)


@verb
def bench(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL.onnx", help="Two or more; the first is the reference.", show_default=False),
    ],
    provider: Providers = None,
    batch: Batches = ONE,
    threads: Threads = ONE_THREAD,
    seconds: Seconds = None,
    until: Until = None,
    cuda_graph: CudaGraph = False,
    seed: MeasureSeed = 0,
    report: ReportFile = None,
    as_json: AsJson = False,
) -> int:
    """Time models side by side; the first is the reference."""
    from onnxprune import display, pipeline

    with display.ProgressBars() as progress:
        found = pipeline.bench(
            models,
            providers=[p.value for p in provider or (ProviderName.cpu,)],
            batches=batch,
            threads=list(dict.fromkeys(itertools.chain(*threads))),
            cuda_graph=cuda_graph,
            seconds=seconds,
            until=until,
            seed=seed,
            report=report,
            progress=progress,
        )
    _warn(pipeline.machine_notes())
    return _show(found.exit_code, found.as_dict() if as_json else None, lambda: display.print_bench(found))


@verb
def doctor(as_json: AsJson = False) -> int:
    """What this machine can measure, and what it lacks."""
    from onnxprune import display, pipeline

    found = pipeline.doctor()
    return _show(found.exit_code, found.as_dict() if as_json else None, lambda: display.print_doctor(found))


@verb
def record(
    model: ModelFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUTPUTS.npz", help="The file to write.", show_default=False)
    ],
    data: Data = None,
    provider: Annotated[ProviderName, typer.Option(help="Where to run.")] = ProviderName.cpu,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 64,
) -> int:
    """Write a model's outputs on data, to be compared here or on another machine."""
    from onnxprune import display, pipeline

    if data is None:
        raise typer.BadParameter("give the samples to run on with --data")
    found = pipeline.record(model, out, data=data, provider=provider.value, batch=batch)
    nodes = ", ".join(f"{count} nodes on {name}" for name, count in found.nodes_per_provider.items())
    return _show(0, None, lambda: display.print_lines(f"{out}: {found.samples:,} samples, {nodes}"))


@verb
def compare(
    reference: Annotated[Path, typer.Argument(metavar="REF.npz", show_default=False)],
    candidate: Annotated[Path, typer.Argument(metavar="NEW.npz", show_default=False)],
    data: Data = None,
    metric: MetricName = "top1",
    max_drop: MaxDrop = None,
    tolerance: Tolerance = None,
    save: Annotated[Path | None, typer.Option(help="Write the measurements as JSON.", show_default=False)] = None,
    as_json: AsJson = False,
    markdown: AsMarkdown = False,
) -> int:
    """Compare outputs that `record` wrote, of two models or of two machines."""
    from onnxprune import pipeline

    found = pipeline.compare(
        reference, candidate, data=data, metric=metric, max_drop=max_drop, tolerance=tolerance, save=save
    )
    return _show_validation(found, as_json, markdown)


@verb
def schema(
    name: Annotated[str, typer.Argument(help="validation.")] = "validation",
) -> int:
    """Print the JSON schema of what --json and --save write."""
    from onnxprune import pipeline

    return _show(0, pipeline.schema(name), lambda: None)


@verb
def package(
    model: ModelFile,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.", show_default=False)],
    validation: Annotated[
        Path | None, typer.Option(help="Its validation.json, to go along.", show_default=False)
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe it was made by, to go along.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Build the folder to ship: model, evidence, runner."""
    from onnxprune import pipeline

    built = pipeline.package(model, out, validation=validation, recipe=recipe)
    return _show(0, built.as_dict() if as_json else None, lambda: print(built))


@verb
def verify(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", show_default=False)],
    as_json: AsJson = False,
) -> int:
    """Check that a package is byte for byte what was built."""
    from onnxprune import pipeline

    found = pipeline.verify(package)
    return _show(found.exit_code, found.as_dict() if as_json else None, lambda: print(found))


@verb
def report(
    source: Annotated[Path, typer.Argument(metavar="RUN|VALIDATION.json", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="REPORT.html", help="The file to write; a run's own by default.", show_default=False
        ),
    ] = None,
) -> int:
    """Write what was measured as one HTML page."""
    from onnxprune import pipeline

    written = pipeline.report(source, out)
    return _show(0, None, lambda: print(written))
