"""The whole road: train, prune, export, prove, measure, package, report.

What a stage finished lies in the run folder, and a resumed run skips it:

    dense training             prune, fine-tune           export, remove, prove   measure          package   report
    stages/dense.safetensors   stages/prune.safetensors   pruned.onnx             validation.json  package/  report.html
"""

import contextlib
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune import recipe as recipes
from onnxprune.deploy.package import build_package
from onnxprune.deploy.report import write_report
from onnxprune.errors import RefusedError
from onnxprune.graph.model import load
from onnxprune.progress import Progress, as_one
from onnxprune.prune.groups import fits
from onnxprune.prune.joint import JOINT
from onnxprune.recipe import UNIT_KINDS, Recipe
from onnxprune.runfolder import RunFolder, open_run
from onnxprune.runtime.data import resolve
from onnxprune.runtime.equivalence import Equivalence
from onnxprune.runtime.results import Gate, Validation
from onnxprune.runtime.validation import validate
from onnxprune.taskdata import TaskData, load_task
from onnxprune.workbench import Foresight, Workbench, check_names

#: Costs that a validation counts in both files.
COUNTED = ("macs", "params")


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
        check_names(recipe)
        run = open_run(out, recipe, resume=resume)
        # Whatever follows a stage that had to be done is done again: it would be about other files.
        due = not run.equivalence.exists()
        if due:
            Workbench(recipe, build, task, run, progress).train_and_export()
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


def foresee(
    source: "str | os.PathLike | Mapping[str, Any] | Recipe", *, progress: Progress | None = None, **changes: Any
) -> Foresight:
    """What `run_recipe` would do and how long it would take, with nothing written; raises what that raises at first."""
    recipe = recipes.load(source, **changes)
    folders = [Path(source).parent] if isinstance(source, str | os.PathLike) and Path(source).is_file() else []
    with _modules_in(folders):
        _require_torch()
        build, task = resolve(recipe.module), load_task(recipe.data)
        check_names(recipe)
        return Workbench(recipe, build, task, None, progress).foresee()


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
    gates = (*validation.gates, *_budget_gates(recipe, run, validation), _tolerance_gate(recipe, run))
    dataclasses.replace(validation, gates=gates).save(run.validation)


def _package(task: TaskData, run: RunFolder, validation: Validation) -> None:
    """The folder to ship, its sample taken from the validation data."""
    example = {task.input_name: task.arrays("validation")[0]}
    recipe = run.recipe.read_text("utf-8")
    build_package(run.pruned, run.package, validation=validation, recipe=recipe, example=example)


def _budget_gates(recipe: Recipe, run: RunFolder, validation: Validation) -> Iterator[Gate]:
    """Was the network pruned as far as was asked? The guard may have stopped before."""
    for name, limit in recipe.limits.items():
        if recipe.single_weights and recipe.single_weights.joint is not None:  # zeros that stay cost a part
            before, after = 1.0, json.loads(run.history.read_text("utf-8"))["result"][JOINT]
        elif name == "bytes":  # of the weights, as the pruner counts: the graph around them doesn't shrink with them
            before, after = _weight_bytes(run.dense), _weight_bytes(run.pruned)
        elif name in UNIT_KINDS:
            widths = [w for w in json.loads(run.history.read_text("utf-8"))["widths"] if w["kind"] == name]
            before, after = (sum(w[key] for w in widths) for key in ("before", "after"))
        elif name in COUNTED:
            before, after = getattr(validation.reference, name), getattr(validation.candidate, name)
        else:  # a pattern over layers, each of which has its limit: the one that kept most counts
            widths = json.loads(run.history.read_text("utf-8"))["widths"]
            rows = [(w["before"], w["after"]) for w in widths if fits(w["group"], name)]
            before, after = max(rows, key=lambda row: row[1] / row[0])
        reached = after <= (limit * before if limit <= 1 else limit)
        yield Gate(
            f"budget, {name}",
            f"at most {limit:.1%}" if limit <= 1 else f"at most {limit:,.0f}",
            f"{after / before:.1%}" if limit <= 1 else f"{after:,}",
            "passed" if reached else "failed",
            "" if reached else "a deeper step cost more of the validation metric than guard allows: see history.json",
        )


def _weight_bytes(path: Path) -> int:
    model = load(path)
    initializers = model.ir.graph.initializers.items()
    return sum(
        v.const_value.nbytes for name, v in initializers if name not in model.copies and v.const_value is not None
    )


def _tolerance_gate(recipe: Recipe, run: RunFolder) -> Gate:
    """Does the network that was chosen keep what the dense one reached on the validation data?"""
    history = json.loads(run.history.read_text("utf-8"))
    result, quantized = history["result"], history.get("quantized")
    note = "" if result["within_tolerance"] else "train longer, ask for less, or allow more: tolerance in the recipe"
    if quantized is not None:
        rounded = (
            f"{quantized['before']:.4f} before quantisation, {quantized['calibrated']:.4f} without training for it"
        )
        note = "; ".join(filter(None, (rounded, note)))
    return Gate(
        f"{recipe.metric} on the validation data",
        f"no worse by more than {result['tolerance']:g}",
        f"{result['metric']:.4f} after {result['baseline']:.4f}",
        "passed" if result["within_tolerance"] else "failed",
        note,
    )


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
