"""The part of a run that needs PyTorch: train, prune, export, prove. It goes on where it was interrupted."""

import copy
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from onnxprune.deploy import surgeon
from onnxprune.graph.files import write_atomically
from onnxprune.graph.model import save
from onnxprune.progress import Progress, tell
from onnxprune.recipe import Recipe, Training
from onnxprune.runfolder import RunFolder
from onnxprune.runtime.accuracy import find_metric
from onnxprune.runtime.data import resolve
from onnxprune.runtime.equivalence import require
from onnxprune.taskdata import TaskData

if TYPE_CHECKING:
    from onnxprune.prune.schedule import Control
    from onnxprune.prune.weights import SingleWeights
    from onnxprune.training.history import History
    from onnxprune.training.pruner import Pruner
    from onnxprune.training.restructure import Replacement

#: Pruning sees the training data in another order than dense training did.
PRUNING_SEED = 1000
#: Keys of a recipe's training sections that the loop is told in other ways.
NOT_SETTINGS = {"batch", "label_smoothing", "distillation"}


def check_names(recipe: Recipe) -> None:
    """Raises DataError for a metric, a loss or a criterion that isn't there."""
    find_metric(recipe.metric)
    for name in (recipe.loss, recipe.criterion):
        _own(name)


@dataclasses.dataclass(frozen=True)
class Foresight:
    """What a run would come to: `left` of the dense network, widths (group, kind, before, after), seconds by stage.

    Widths are those that the weights' sizes give before training; time is what single steps take now.
    """

    name: str
    samples: dict[str, int]
    left: dict[str, float]
    widths: tuple[tuple[str, str, int, int], ...]
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return dataclasses.asdict(self)


class Workbench:
    """A network in training. Leaves dense.onnx, pruned.onnx, history.json and the proof in the run's folder.

    Raises ProviderRefused, RecipeError, DataError where the parts don't fit; see `train_and_export`.
    """

    def __init__(
        self, recipe: Recipe, build: Callable, task: TaskData, run: RunFolder | None, progress: Progress | None
    ):
        from onnxprune.training import trainee

        self.recipe, self.task, self.progress = recipe, task, progress
        self.run: RunFolder = run  # type: ignore[assignment] - none where nothing is to be written
        device = trainee.pick_device(recipe.device)
        self.module = trainee.build_module(build, recipe.module, device, recipe.seed)
        self.example = trainee.example_of(task.arrays("train")[0], device)
        self.loss = trainee.cross_entropy if recipe.loss == "cross_entropy" else _own(recipe.loss)
        metric = find_metric(recipe.metric)
        self.sign = 1.0 if metric.higher_is_better else -1.0  # training maximises
        validation = task.arrays("validation")
        self.evaluate = trainee.evaluator(metric.score, *validation, loss=self.loss, sign=self.sign)
        self.names = {"input_names": (task.input_name,), "output_names": (task.output_name,)}

    def train_and_export(self) -> None:
        """All of it, from where it was interrupted.

        Raises ExportError and BudgetUnreachable before anything is trained, GateError where training explodes,
        NotEquivalentError where the result doesn't compute what the module does, OutputError.
        """
        if not self.run.checkpoint("dense").exists():
            self.rehearse()
        histories = [self.train_dense()] if self.recipe.dense else []
        if not self.run.dense.exists():
            self.export_dense()
        pruner, history = self.prune()
        self.write_history([*histories, history], pruner)
        self.export_pruned(pruner)

    def rehearse(self) -> "Pruner":
        """A module that can't be exported and a budget out of reach are better known before hours of training.

        Returns the pruner of a copy that was pruned to the budget, by size.
        """
        what = "rehearsing export and pruning"
        tell(self.progress, 0, 1, what)
        weights = self.weights()
        once = {"criterion": "magnitude", "schedule": "one-shot", "retention": None}
        once["weights"] = weights and dataclasses.replace(weights, criterion="magnitude")
        module = copy.deepcopy(self.module)
        self.restructure(module)
        pruner = self.pruner(module, **once)
        pruner.prune(1.0)
        tell(self.progress, 1, 1, what)
        return pruner

    def foresee(self) -> "Foresight":
        """What the run would come to and how long it would take on this machine, without writing anything."""
        from onnxprune.training import timing

        pruner, recipe = self.rehearse(), self.recipe
        samples = {part: len(getattr(self.task, part)) for part in ("train", "validation", "test")}
        seconds: dict[str, float] = {}
        teaches = recipe.finetune.distillation is not None
        evaluation = timing.evaluation_seconds(self.module, self.task.arrays("validation")[0])
        sections = (("dense training", recipe.dense, False), ("pruning and fine-tuning", recipe.finetune, teaches))
        for stage, section, taught in sections:
            if section is not None:
                batch = timing.step_seconds(self.module, *self.task.arrays("train"), section.batch, self.loss, taught)
                batches = max(1, samples["train"] // section.batch)
                seconds[stage] = section.epochs * (batches * batch + evaluation)
        measured = len(recipe.measure.batches) * len(recipe.measure.threads) * len(recipe.providers_asked)
        seconds["measuring"] = measured * recipe.measure.seconds
        widths = tuple((w["group"], w["kind"], w["before"], w["after"]) for w in pruner.widths())
        return Foresight(recipe.name, samples, dict(pruner.cost), widths, seconds)

    def pruner(self, module: Any, **how: Any) -> "Pruner":
        """A pruner of `module` with the recipe's budget."""
        from onnxprune.training.pruner import Pruner

        recipe = self.recipe
        asked = {
            "criterion": _own(recipe.criterion),
            "ranking": recipe.ranking,
            "schedule": recipe.schedule,
            "retention": recipe.retention,
            "weights": self.weights(),
        }
        return Pruner(
            module,
            self.example,
            budget=recipe.limits or ({} if recipe.single_weights else {"macs": 1.0}),
            pruning_steps=recipe.steps,
            adjust=recipe.adjust,
            penalty=recipe.penalty.weight,
            penalty_kind=recipe.penalty.kind,
            keep=recipe.keep,
            min_width=recipe.min_width,
            round_to=recipe.round_to,
            calibration=self.calibration,
            loss=self.loss,
            seed=recipe.seed,
            **{**asked, **how},
            **self.names,
        )

    def weights(self) -> "SingleWeights | None":
        """The rule for single weights."""
        from onnxprune.prune.thresholds import Threshold
        from onnxprune.prune.weights import SingleWeights

        asked = self.recipe.single_weights
        if asked is None:
            return None
        threshold = asked.threshold and Threshold(**asked.threshold.model_dump())
        return SingleWeights(**{**asked.model_dump(), "threshold": threshold})

    def calibration(self) -> Iterable:
        """The first training samples as they are, in batches, for criteria that look at more than gradients."""
        from onnxprune.training.batches import in_order

        inputs, targets = self.task.arrays("train")
        asked = self.recipe.calibration
        return in_order(inputs[:asked], targets[:asked], batch_size=self.recipe.finetune.batch)

    def train_dense(self) -> "History":
        """The network as it is before pruning."""
        return self.train("dense", self.recipe.dense, self.recipe.seed, "training the dense network")

    def export_dense(self) -> None:
        """What the result is compared with, cleaned up in the same way."""
        from onnxprune.training.export import deployed

        tell(self.progress, 0, 1, "exporting the dense network")
        save(surgeon.tidy(deployed(self.module, self.example, **self.names)), self.run.dense)
        tell(self.progress, 1, 1, "exporting the dense network")

    def prune(self) -> "tuple[Pruner, History]":
        """Prune while training goes on, with the dense network as teacher."""
        from onnxprune.training.distill import Distillation

        recipe, teaching = self.recipe, self.recipe.finetune.distillation
        options: dict[str, Any] = {}
        if teaching:
            options = {"teacher": copy.deepcopy(self.module), "distillation": Distillation(**teaching.model_dump())}
        self.replaced = self.restructure(self.module)
        pruner = self.pruner(self.module)
        options |= {"pruner": pruner, "control": self.control()}
        seed = recipe.seed + PRUNING_SEED
        return pruner, self.train("prune", recipe.finetune, seed, "pruning and fine-tuning", **options)

    def restructure(self, module: Any) -> "list[Replacement]":
        """What templates replace and drop, before anything is pruned."""
        from onnxprune.training import restructure

        replaced: list[Replacement] = []
        for template in self.recipe.templates.values():
            if template.replace == "low rank":
                data = self.calibration if template.data_aware else None
                replaced += restructure.low_rank(module, template.match, energy=template.energy, calibration=data)
            elif template.replace == "depthwise":
                replaced += restructure.depthwise(module, template.match)
            elif template.drop:
                replaced += restructure.drop_every_second(module, template.match, self.example)
        return replaced

    def control(self) -> "Control | None":
        """What judges pruning steps, where the schedule isn't planned."""
        from onnxprune.prune import schedule

        if self.recipe.schedule not in schedule.CONTROLS:
            return None
        return schedule.CONTROLS[self.recipe.schedule](**getattr(self.recipe, self.recipe.schedule).model_dump())

    def train(self, stage: str, section: Training, seed: int, what: str, **options: Any) -> "History":
        """One of the two trainings, as its section of the recipe says."""
        from onnxprune.training.batches import shuffled_batches
        from onnxprune.training.finetune import TrainingSettings, train

        recipe, task, smoothing = self.recipe, self.task, section.label_smoothing
        batches = shuffled_batches(*task.arrays("train"), batch_size=section.batch, seed=seed, augment=task.augment)
        settings = TrainingSettings(
            **section.model_dump(exclude=NOT_SETTINGS),
            prune_steps=recipe.steps,
            guard=recipe.guard,
            tolerance=recipe.tolerance,
            noise=recipe.noise,
        )
        return train(
            self.module,
            _counted(batches, section.epochs, max(1, len(task.train) // section.batch), what, self.progress),
            settings=settings,
            evaluate=self.evaluate,
            loss=partial(self.loss, label_smoothing=smoothing) if smoothing else self.loss,
            checkpoint=self.run.checkpoint(stage),
            resume=True,
            seed=seed,
            **options,
        )

    def write_history(self, histories: "list[History]", pruner: "Pruner") -> None:
        """history.json: every epoch and step, the widths, and how the chosen point compares with the dense network."""
        from onnxprune.training.history import join_histories

        told, last = join_histories(histories, pruner.widths()), histories[-1]
        for record in told["epochs"]:
            record["validation_metric"] *= self.sign
        for record in told["steps"]:
            record["metric"] *= self.sign
        told["replaced"] = [dataclasses.asdict(replacement) for replacement in self.replaced]
        told["result"] = {
            "baseline": self.sign * last.baseline,
            "metric": self.sign * last.best_metric,
            "tolerance": last.tolerance,
            "within_tolerance": last.within_tolerance,
        }
        write_atomically(self.run.history, json.dumps(told, indent=2, allow_nan=False) + "\n")

    def export_pruned(self, pruner: "Pruner") -> None:
        """Remove what was pruned, clean up, and prove the file equal to the module before it is there."""
        what = "removing what was pruned"
        tell(self.progress, 0, 2, what)
        result = surgeon.tidy(pruner.export().model)
        tell(self.progress, 1, 2, what)
        proof = require(pruner.prove(result))
        save(result, self.run.pruned)
        write_atomically(self.run.equivalence, json.dumps(dataclasses.asdict(proof), indent=2) + "\n")
        tell(self.progress, 2, 2, what)


def _own(name: str) -> Any:
    """The object of the user's that `name` refers to, or the name of one of ours."""
    return resolve(name) if ":" in name else name


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
