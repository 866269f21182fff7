"""The whole road: train, prune, export, prove, measure, package, report. What a stage finished, a resumed run skips.

stages/dense.pt   stages/prune.pt          pruned.onnx            validation.json   package/   report.html
dense training -> prune and fine-tune -> export, tidy, prove -> measure --------> package -> report
"""

import contextlib
import copy
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from onnxprune import recipe as recipes
from onnxprune.deploy import surgeon
from onnxprune.deploy.package import build_package
from onnxprune.deploy.report import write_report
from onnxprune.errors import RefusedError
from onnxprune.graph.model import save, write_atomically
from onnxprune.progress import Progress, as_one, tell
from onnxprune.recipe import Recipe
from onnxprune.runfolder import RunFolder, open_run
from onnxprune.runtime.accuracy import find_metric
from onnxprune.runtime.data import resolve
from onnxprune.runtime.equivalence import Equivalence, require
from onnxprune.runtime.results import Gate, Validation
from onnxprune.runtime.validation import validate
from onnxprune.taskdata import TaskData, load_task

#: Pruning sees the training data in another order than dense training did.
PRUNING_SEED = 1000
#: Keys of a recipe's training sections that the loop is told in other ways.
NOT_SETTINGS = {"batch", "label_smoothing", "distillation"}
BUDGET_FIGURES = {"macs": "macs", "params": "params", "bytes": "size_bytes"}


@dataclass(frozen=True)
class CompressedRun:
    """A finished run: its folder and what was measured."""

    path: Path
    validation: Validation

    @property
    def exit_code(self) -> int:
        """That of the validation: 0 passed, 1 failed, 3 refused, 4 inconclusive."""
        return self.validation.exit_code

    def as_dict(self) -> dict[str, Any]:
        """The run as plain JSON types."""
        return {"run": str(self.path), "validation": self.validation.as_dict()}


def run_recipe(
    source: "str | os.PathLike | Mapping[str, Any] | Recipe",
    out: str | os.PathLike,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> CompressedRun:
    """Run the recipe `source` (see `recipe.load`; `changes` replace its keys) in the folder `out`.

    Raises RecipeError and DataError before anything is trained, OutputError, ExportError, BudgetUnreachable, GateError
    (training that explodes, a model that isn't equal to its module). Gates that the result misses don't raise; they are
    in the validation, and in `exit_code`.
    """
    recipe = recipes.load(source, **changes)
    folders = [Path(source).parent] if isinstance(source, str | os.PathLike) and Path(source).is_file() else []
    if resume and RunFolder(Path(out)).report.exists():
        run = open_run(out, recipe, resume=True)
        return CompressedRun(run.path, Validation.load(run.validation))
    with _modules_in(folders):
        _require_torch()
        build, task = resolve(recipe.module), load_task(recipe.data)
        find_metric(recipe.metric)
        _own(recipe.loss), _own(recipe.criterion)
        run = open_run(out, recipe, resume=resume)
        # Whatever follows a stage that had to be done is done again: it would be about other files.
        due = not run.equivalence.exists()
        if due:
            _train_and_export(recipe, build, task, run, progress)
        due = due or not run.validation.exists()
        if due:
            _measure(recipe, task, run, progress)
        validation = Validation.load(run.validation)
        due = due or not run.package.exists()
        if due:
            _package(task, run, validation)
        write_report(
            run.report,
            validation=validation,
            history=json.loads(run.history.read_text("utf-8")),
            recipe=run.recipe.read_text("utf-8"),
            title=f"onnxprune: {recipe.name}",
        )
    return CompressedRun(run.path, validation)


def _train_and_export(
    recipe: Recipe, build: Callable, task: TaskData, run: RunFolder, progress: Progress | None
) -> None:
    """Everything that needs torch: dense.onnx, pruned.onnx, history.json and the proof."""
    from onnxprune.training.batches import shuffled_batches
    from onnxprune.training.distill import Distillation
    from onnxprune.training.export import deployed
    from onnxprune.training.finetune import TrainingSettings, train
    from onnxprune.training.history import join_histories
    from onnxprune.training.pruner import Pruner
    from onnxprune.training.trainee import build_module, cross_entropy, evaluator, example_of, pick_device

    device = pick_device(recipe.device)
    module = build_module(build, recipe.module, device, recipe.seed)
    metric = find_metric(recipe.metric)
    loss = cross_entropy if recipe.loss == "cross_entropy" else _own(recipe.loss)
    sign = 1.0 if metric.higher_is_better else -1.0
    evaluate = evaluator(metric.score, *task.arrays("validation"), loss=loss, sign=sign)
    example = example_of(task.arrays("train")[0], device)
    histories = []

    def options(section: recipes.Training, stage: str, seed: int, what: str) -> dict[str, Any]:
        """What both trainings are told alike."""
        batches = shuffled_batches(*task.arrays("train"), batch_size=section.batch, seed=seed, augment=task.augment)
        smoothing = section.label_smoothing
        return {
            "batches": _counted(batches, section.epochs, max(1, len(task.train) // section.batch), what, progress),
            "loss": partial(loss, label_smoothing=smoothing) if smoothing else loss,
            "evaluate": evaluate,
            "checkpoint": run.checkpoint(stage),
            "resume": True,
            "seed": seed,
        }

    names = {"input_names": (task.input_name,), "output_names": (task.output_name,)}
    pruning = {"budget": recipe.budget.limits, "keep": recipe.keep, "round_to": recipe.round_to, **names}
    if not run.checkpoint("dense").exists():
        # A module that can't be exported and a budget out of reach are better known before hours of training.
        tell(progress, 0, 1, "rehearsing export and pruning")
        Pruner(copy.deepcopy(module), example, criterion="magnitude", schedule="one-shot", **pruning).prune(1.0)
        tell(progress, 1, 1, "rehearsing export and pruning")
    if recipe.dense:
        section = recipe.dense
        histories.append(
            train(
                module,
                settings=TrainingSettings(**section.model_dump(exclude=NOT_SETTINGS), noise=recipe.noise),
                **options(section, "dense", recipe.seed, "training the dense network"),
            )
        )
    if not run.dense.exists():
        tell(progress, 0, 1, "exporting the dense network")
        save(surgeon.tidy(deployed(module, example, **names)), run.dense)
        tell(progress, 1, 1, "exporting the dense network")

    section, teaching = recipe.finetune, recipe.finetune.distillation
    teacher = copy.deepcopy(module) if teaching else None
    pruner = Pruner(module, example, criterion=_own(recipe.criterion), schedule=recipe.schedule, **pruning)
    histories.append(
        train(
            module,
            settings=TrainingSettings(
                **section.model_dump(exclude=NOT_SETTINGS),
                prune_steps=recipe.steps,
                guard=recipe.guard,
                tolerance=recipe.tolerance,
                noise=recipe.noise,
            ),
            pruner=pruner,
            teacher=teacher,
            distillation=Distillation(**teaching.model_dump()) if teaching else None,
            **options(section, "prune", recipe.seed + PRUNING_SEED, "pruning and fine-tuning"),
        )
    )
    last = histories[-1]
    history = _with_sign(join_histories(histories, pruner.widths()), sign)
    history["result"] = {
        "baseline": sign * last.baseline,
        "metric": sign * last.best_metric,
        "tolerance": last.tolerance,
        "within_tolerance": last.within_tolerance,
    }
    write_atomically(run.history, json.dumps(history, indent=2, allow_nan=False) + "\n")

    tell(progress, 0, 2, "removing what was pruned")
    result = surgeon.tidy(pruner.export().model)
    tell(progress, 1, 2, "removing what was pruned")
    proof = require(pruner.prove(result))
    save(result, run.pruned)
    write_atomically(run.equivalence, json.dumps(dataclasses.asdict(proof), indent=2) + "\n")
    tell(progress, 2, 2, "removing what was pruned")


def _measure(recipe: Recipe, task: TaskData, run: RunFolder, progress: Progress | None) -> None:
    """Write validation.json; the only place that looks at the test data."""
    proof = Equivalence(**json.loads(run.equivalence.read_text("utf-8")))
    validation = validate(
        run.dense,
        run.pruned,
        dataset=task.test,
        metric=recipe.metric,
        max_drop=recipe.gates.max_drop,
        min_speedup=recipe.gates.min_speedup,
        equivalence=proof,
        providers=recipe.providers_measured,
        asked=recipe.providers_asked,
        batches=recipe.measure.batches,
        threads=recipe.measure.threads,
        seconds=recipe.measure.seconds,
        seed=recipe.seed,
        progress=as_one(progress, "measuring on the test data"),
    )
    gates = (*validation.gates, *_budget_gates(recipe, validation), _tolerance_gate(recipe, run))
    dataclasses.replace(validation, gates=gates).save(run.validation)


def _package(task: TaskData, run: RunFolder, validation: Validation) -> None:
    """The folder to ship, its sample taken from the validation data."""
    example = {task.input_name: task.arrays("validation")[0]}
    recipe = run.recipe.read_text("utf-8")
    build_package(run.pruned, run.package, validation=validation, recipe=recipe, example=example)


def _budget_gates(recipe: Recipe, validation: Validation) -> Iterator[Gate]:
    """Was the network pruned as far as was asked? The guard may have stopped before."""
    for name, limit in recipe.budget.limits.items():
        before, after = (getattr(side, BUDGET_FIGURES[name]) for side in (validation.reference, validation.candidate))
        reached = after <= (limit * before if limit <= 1 else limit)
        yield Gate(
            f"budget, {name}",
            f"at most {limit:.1%}" if limit <= 1 else f"at most {limit:,.0f}",
            f"{after / before:.1%}" if limit <= 1 else f"{after:,}",
            "passed" if reached else "failed",
            "" if reached else "a deeper step cost more of the validation metric than guard allows: see history.json",
        )


def _tolerance_gate(recipe: Recipe, run: RunFolder) -> Gate:
    """Does the network that was chosen keep what the dense one reached on the validation data?"""
    result = json.loads(run.history.read_text("utf-8"))["result"]
    return Gate(
        f"{recipe.metric} on the validation data",
        f"no worse by more than {result['tolerance']:g}",
        f"{result['metric']:.4f} after {result['baseline']:.4f}",
        "passed" if result["within_tolerance"] else "failed",
        "" if result["within_tolerance"] else "train longer, ask for less, or allow more: tolerance in the recipe",
    )


def _own(name: str) -> Any:
    """The object of the user's that `name` refers to, or the name of one of ours."""
    return resolve(name) if ":" in name else name


def _with_sign(history: dict[str, Any], sign: float) -> dict[str, Any]:
    """Training maximises; a metric of which less is better is told as it is."""
    for record in history["epochs"]:
        record["validation_metric"] *= sign
    for record in history["steps"]:
        record["metric"] *= sign
    return history


def _counted(
    batches: Callable[[int], Iterable], epochs: int, per_epoch: int, what: str, progress: Progress | None
) -> Callable[[int], Iterable]:
    """The same batches, with a word to `progress` before each and after the last."""

    def of_epoch(epoch: int) -> Iterator:
        for number, batch in enumerate(batches(epoch)):
            tell(progress, epoch * per_epoch + number, epochs * per_epoch, what)
            yield batch
        tell(progress, (epoch + 1) * per_epoch, epochs * per_epoch, what)

    return of_epoch


def _require_torch() -> None:
    # By default PyTorch's threads spin long while they wait. A training step of the demo took 59 ms so on two idle
    # cores and 1,170 ms with one busy neighbour; it takes 63 and 166 ms with this. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        importlib.import_module("onnxprune.training.pruner")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("onnxprune"):
            raise
        raise RefusedError(
            f"Training needs {error.name}, which isn't installed: pip install 'onnxprune[train]'."
        ) from error


@contextlib.contextmanager
def _modules_in(folders: Iterable[Path]) -> Iterator[None]:
    """Let the recipe's objects be imported from `folders` too, in child processes as well."""
    added = [str(folder.resolve()) for folder in folders if str(folder.resolve()) not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)
