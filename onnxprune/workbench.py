"""The part of a run that needs PyTorch: train, prune, export, prove. It goes on where it was interrupted."""

import copy
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from onnxprune.deploy import surgeon
from onnxprune.graph.files import write_atomically
from onnxprune.graph.model import Model, save
from onnxprune.progress import Progress, tell
from onnxprune.prune.joint import JOINT
from onnxprune.recipe import Distillation as Teaching
from onnxprune.recipe import Recipe, Training
from onnxprune.runfolder import RunFolder
from onnxprune.runtime.accuracy import find_metric
from onnxprune.runtime.data import resolve
from onnxprune.runtime.equivalence import Equivalence, require
from onnxprune.taskdata import TaskData

if TYPE_CHECKING:
    from onnxprune.prune.schedule import Control
    from onnxprune.prune.weights import SingleWeights
    from onnxprune.training.history import History
    from onnxprune.training.pruner import Pruner
    from onnxprune.training.quantizing import Quantizer
    from onnxprune.training.restructure import Replacement

#: Pruning sees the training data in another order than dense training did, and so does quantisation.
PRUNING_SEED, QUANTIZING_SEED = 1000, 2000
#: Keys of a recipe's training sections that the loop is told in other ways.
NOT_SETTINGS = {"batch", "label_smoothing", "distillation", "bits", "per_channel", "reduce_range"}
#: Validation samples on which the int8 graph is held against its module.
PROOF_SAMPLES = 256


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
        teaches = any(section and section.distillation for section in (self.recipe.finetune, self.recipe.quantize))
        teacher = copy.deepcopy(self.module) if teaches else None
        pruner, history = self.prune(teacher)
        if self.recipe.quantize is None:
            self.write_history([*histories, history], pruner)
            self.export_pruned(pruner)
        else:
            quantizer, last = self.quantize(pruner, teacher)
            self.write_history([*histories, history], pruner, last)
            self.export_quantized(pruner, quantizer)

    def rehearse(self) -> "Pruner":
        """A module that can't be exported and a budget out of reach are better known before hours of training.

        Returns the pruner of a copy that was pruned to the budget, by size, and rounds where the recipe quantises.
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
        if self.recipe.quantize is not None:
            self.quantizer(pruner)
        tell(self.progress, 1, 1, what)
        return pruner

    def foresee(self) -> "Foresight":
        """What the run would come to and how long it would take on this machine, without writing anything."""
        from onnxprune.training import timing

        pruner, recipe = self.rehearse(), self.recipe
        samples = {part: len(getattr(self.task, part)) for part in ("train", "validation", "test")}
        seconds: dict[str, float] = {}
        sections = (
            ("dense training", recipe.dense, self.module),
            ("pruning and fine-tuning", recipe.finetune, self.module),
            ("training in int8", recipe.quantize, pruner.module),
        )
        for stage, section, module in sections:
            if section is not None:
                taught = getattr(section, "distillation", None) is not None
                batch = timing.step_seconds(module, *self.task.arrays("train"), section.batch, self.loss, taught)
                evaluation = timing.evaluation_seconds(module, self.task.arrays("validation")[0])
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
            soft=recipe.soft,
            adjust=recipe.adjust,
            penalty=recipe.penalty.weight,
            penalty_kind=recipe.penalty.kind,
            proximal=recipe.penalty.proximal,
            constraints=recipe.constraints.limits,
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

    def calibration(self, asked: int | None = None) -> Iterable:
        """The first training samples as they are, in batches, for criteria that look at more than gradients."""
        from onnxprune.training.batches import in_order

        inputs, targets = self.task.arrays("train")
        asked = self.recipe.calibration if asked is None else asked
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

    def prune(self, teacher: Any) -> "tuple[Pruner, History]":
        """Prune while training goes on, with the dense network as teacher."""
        recipe = self.recipe
        self.replaced = self.restructure(self.module)
        pruner = self.pruner(self.module)
        self.explained = self.explain(pruner)
        options = {"pruner": pruner, "control": self.control(), **_taught(recipe.finetune.distillation, teacher)}
        seed = recipe.seed + PRUNING_SEED
        return pruner, self.train("prune", recipe.finetune, seed, "pruning and fine-tuning", **options)

    def quantize(self, pruner: "Pruner", teacher: Any) -> "tuple[Quantizer, History]":
        """Train on with weights and activations rounded; what is masked stays at zero."""
        section = self.recipe.quantize
        pruner.settle()
        quantizer = self.quantizer(pruner)
        quantizer.calibrate(self.calibration())
        options = _taught(section.distillation, teacher)
        seed = self.recipe.seed + QUANTIZING_SEED
        with quantizer.holding(pruner.masks):
            return quantizer, self.train("quantize", section, seed, "training in int8", **options)

    def quantizer(self, pruner: "Pruner") -> "Quantizer":
        """The layers of the pruner's module, rounded from now on as the recipe says."""
        from onnxprune.training.quantizing import Quantizer

        section = self.recipe.quantize
        how = {"bits": section.bits, "per_channel": section.per_channel, "reduce_range": section.reduce_range}
        return Quantizer(pruner.module, pruner.channels, **how)

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

    def explain(self, pruner: "Pruner") -> dict[str, Any]:
        """What the report draws of the network before it is pruned: importances, and the layers' sensitivity."""
        from onnxprune.training import explaining

        what = "measuring what each layer minds"
        parts = (self.module, pruner.masks.parameters, pruner.channels, pruner.groups)
        found: dict[str, Any] = {"importance": explaining.importance(*parts)}
        if self.recipe.sensitivity:
            tell(self.progress, 0, 1, what)
            batches = list(self.calibration(self.recipe.sensitivity))
            found["sensitivity"] = explaining.sensitivity(*parts, batches, self.loss)
            tell(self.progress, 1, 1, what)
        return found

    def control(self) -> "Control | None":
        """What judges pruning steps, where the schedule isn't planned."""
        from onnxprune.prune import schedule

        if self.recipe.schedule not in schedule.CONTROLS:
            return None
        return schedule.CONTROLS[self.recipe.schedule](**getattr(self.recipe, self.recipe.schedule).model_dump())

    def train(self, stage: str, section: Training, seed: int, what: str, **options: Any) -> "History":
        """One of the trainings, as its section of the recipe says."""
        from onnxprune.training.batches import shuffled_batches
        from onnxprune.training.finetune import train
        from onnxprune.training.settings import TrainingSettings

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

    def write_history(self, histories: "list[History]", pruner: "Pruner", quantized: "History | None" = None) -> None:
        """history.json: every epoch and step, the widths, and how the chosen point compares with the dense network.

        `quantized` is what followed in int8.
        """
        from onnxprune.training import explaining
        from onnxprune.training.history import as_json, in_phase, join_histories

        last = histories[-1]
        if quantized is not None:
            histories = [*histories, in_phase("quantize", quantized)]
        told = join_histories(histories, pruner.widths(), pruner.decisions())
        for record in told["epochs"]:
            record["validation_metric"] *= self.sign
        for record in told["steps"]:
            record["metric"] *= self.sign
        told["replaced"] = [dataclasses.asdict(replacement) for replacement in self.replaced]
        told |= self.explained
        explaining.mark_gone(told["importance"]["neurons"], pruner.module, pruner.masks.units)
        told["result"] = {
            "baseline": self.sign * last.baseline,
            "metric": self.sign * last.best_metric,
            "tolerance": last.tolerance,
            "within_tolerance": last.within_tolerance,
        }
        if JOINT in pruner.cost:
            told["result"][JOINT] = pruner.cost[JOINT]
        if quantized is not None:
            told["quantized"] = {
                "before": self.sign * last.best_metric,
                "calibrated": self.sign * quantized.baseline,
                "after": self.sign * quantized.best_metric,
            }
            kept = quantized.best_metric >= last.baseline - last.tolerance
            told["result"] |= {"metric": self.sign * quantized.best_metric, "within_tolerance": kept}
        write_atomically(self.run.history, as_json(told))

    def export_pruned(self, pruner: "Pruner") -> None:
        """Remove what was pruned, clean up, and prove the file equal to the module before it is there."""
        what = "removing what was pruned"
        tell(self.progress, 0, 2, what)
        result = surgeon.tidy(pruner.export().model)
        tell(self.progress, 1, 2, what)
        proof = require(pruner.prove(result))
        self._deliver(result, proof)
        tell(self.progress, 2, 2, what)

    def export_quantized(self, pruner: "Pruner", quantizer: "Quantizer") -> None:
        """The same in floating point, then in int8: proved equal to the module that rounds."""
        what = "removing what was pruned, and quantising"
        tell(self.progress, 0, 3, what)
        with quantizer.paused():
            plain = surgeon.tidy(pruner.export().model)
            tell(self.progress, 1, 3, what)
            require(pruner.prove(plain))
        tell(self.progress, 2, 3, what)
        result = quantizer.insert(plain)
        samples = self.task.arrays("validation")[0][:PROOF_SAMPLES]
        feeds = [{self.task.input_name: part} for part in (samples[:1], samples[1:8], samples[8:]) if len(part)]
        proof = require(quantizer.prove(result, feeds))
        self._deliver(result, proof)
        tell(self.progress, 3, 3, what)

    def _deliver(self, result: Model, proof: Equivalence) -> None:
        save(result, self.run.pruned)
        write_atomically(self.run.equivalence, json.dumps(dataclasses.asdict(proof), indent=2) + "\n")


def _own(name: str) -> Any:
    """The object of the user's that `name` refers to, or the name of one of ours."""
    return resolve(name) if ":" in name else name


def _taught(how: Teaching | None, teacher: Any) -> dict[str, Any]:
    """What training is told of a teacher, if it has one."""
    from onnxprune.training.distill import Distillation

    return {"teacher": teacher, "distillation": Distillation(**how.model_dump())} if how else {}


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
