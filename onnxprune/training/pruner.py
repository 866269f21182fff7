"""Prune a network while it trains: what is masked here is what the exported graph loses.

    pruner = Pruner(module, (x,), budget={"macs": 0.2}, total_steps=epochs * len(loader) // 2)
    for epoch in range(epochs):
        for x, y in loader:
            loss = criterion(module(x), y) + pruner.penalty()
            optimizer.zero_grad(); loss.backward(); optimizer.step(); pruner.step()
    result = pruner.export("pruned.onnx")

Who wants to say when a pruning step comes, to judge it and perhaps to take it back, leaves `total_steps` out and calls
`prune(progress)`, with `snapshot()` before and `restore()` after; `onnxprune.training.finetune` does.

The module is exported once, unoptimised, so that every parameter keeps its name, and that graph is traced. Each unit
therefore owns a mask over each parameter, and there is no second analysis of dependencies to disagree with removal.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxprune.errors import DataError, ExportError, InputError, RecipeError
from onnxprune.graph.model import Model, load, save, to_bytes
from onnxprune.graph.remove import remove
from onnxprune.graph.shrink import ShrinkReport, shrink
from onnxprune.graph.units import Channels, trace
from onnxprune.prune import criteria
from onnxprune.prune import schedule as schedules
from onnxprune.prune.kinds import Planners, rate_of
from onnxprune.prune.plan import Plan, Width, fits, width_of
from onnxprune.prune.saliency import Saliency
from onnxprune.prune.weights import SingleWeights
from onnxprune.runtime.equivalence import Equivalence, compare_outputs, random_feeds, require
from onnxprune.training import adjusting
from onnxprune.training.export import evaluation_mode, export_module, optimized
from onnxprune.training.regularize import Penalty
from onnxprune.training.scoring import Batches, Loss, Scorer
from onnxprune.training.single import WeightPruner


@dataclass(frozen=True)
class ExportResult:
    """A pruned network as it is deployed, what shrinking found besides, and the proof against the module."""

    model: Model
    units: int
    shrink: ShrinkReport
    equivalence: Equivalence


class Pruner:
    """Masks over a module's parameters that follow a budget.

    Parameters
    ----------
    module: the network; trained in place by the caller.
    example_inputs: tensors [N, ...], as the network takes them.
    budget: {"macs" | "params" | "bytes": what may be left}, or a kind of unit such as "channel" or "head", or a pattern
        over layers, each of which is to have so much of its width left; up to 1 a fraction of the dense network, above
        a figure. Single weights don't count; with `weights` it may be empty.
    weights: single weights that go besides, see `onnxprune.prune.weights.SingleWeights`; they are chosen among those
        that the units leave.
    criterion: a name of `onnxprune.prune.criteria`, such as "taylor"; a weighted sum of ranks, such as "0.5*taylor +
        0.5*magnitude"; or a callable (weight, gradient) -> saliency, arrays of one shape.
    ranking: "global" weighs all units against each other; "layer" takes the same share of every layer, "isomorphic" of
        layers that are built alike.
    schedule: a name of `onnxprune.prune.schedule`, such as "cubic", or a callable (progress, budget) -> fraction that
        may be left.
    total_steps: training steps after which the budget is reached; `step()` then prunes by itself, evenly,
        `pruning_steps` times. None leaves pruning to calls of `prune`.
    keep: patterns over parameter names, or parts of names, that stay whole.
    min_width: units that every layer keeps.
    round_to: "cpu" for widths that ONNX Runtime's CPU provider runs fast, or a number whose multiples are taken.
    penalty: weight of what `penalty()` returns. `penalty_kind` is "l1" of all prunable parameters, "group" for a group
        lasso over channels, or "batchnorm" for L1 of BatchNorms' weights; see `onnxprune.training.regularize`.
    adjust: what is done to the readers of what was cut: "none", "rescale", "norm", "bias", "batchnorm" or
        "least_squares", see `onnxprune.training.adjusting`.
    calibration: gives batches (inputs, targets) whenever it is called, for criteria that look at activations, second
        derivatives or the network with parts of it off, and for adjustments that look at what layers read; a tuple of
        inputs is passed as several arguments.
    loss: (outputs, targets) -> scalar, which second derivatives are of.
    retention: with the criterion "error_rate", a unit whose absence raises it by more than this isn't pruned.
    seed: of everything that is drawn at random.
    channels: `channels` of another pruner whose module is built alike, so that this one needn't be exported to be
        traced: for many runs of one network.

    Raises ExportError for a module that can't be exported, RecipeError for a budget, a name or steps that don't fit,
    BudgetUnreachable for a budget below the smallest legal network.
    """

    def __init__(
        self,
        module: nn.Module,
        example_inputs: Sequence[torch.Tensor],
        *,
        budget: Mapping[str, float],
        weights: SingleWeights | None = None,
        criterion: "str | Callable" = "taylor",
        ranking: str = "global",
        schedule: "str | schedules.Schedule" = "cubic",
        total_steps: int | None = None,
        pruning_steps: int = 10,
        keep: Sequence[str] = (),
        min_width: int = 1,
        round_to: "int | str" = "cpu",
        penalty: float = 0.0,
        penalty_kind: str = "l1",
        adjust: str = "none",
        calibration: Callable[[], Batches] | None = None,
        loss: Loss = nn.functional.cross_entropy,
        retention: float | None = None,
        seed: int = 0,
        channels: Channels | None = None,
        input_names: Sequence[str] = ("input",),
        output_names: Sequence[str] = ("output",),
    ):
        self.module = module
        self.example_inputs = tuple(example_inputs)
        self._names = {"input_names": tuple(input_names), "output_names": tuple(output_names)}
        terms = criteria.find(criterion)
        if retention is not None and [term.name for _, term in terms] != ["error_rate"]:
            raise RecipeError("A retention threshold goes with the criterion 'error_rate' only.")
        self._retention = retention
        self._calibration, self._loss = calibration, loss
        self._schedule = schedules.find(schedule, pruning_steps)
        if (total_steps is not None and total_steps < pruning_steps) or pruning_steps < 1:
            raise RecipeError(
                f"{pruning_steps} pruning steps don't fit into {total_steps} training steps. Give at least as many."
            )
        self._total_steps, self._pruning_steps = total_steps, pruning_steps
        self._steps = 0
        # LayerNorm trains with the statistics of all its channels; deleting some would restate them.
        self._planning: dict[str, Any] = {
            "keep": tuple(keep),
            "round_to": round_to,
            "min_width": min_width,
            "ranking": ranking,
            "names": tuple(budget),
            "restated": False,
        }
        self.channels = channels or self._trace()
        self._parameters = self._traced_parameters()
        self._planner = Planners(self.channels, **self._planning)
        self._budget = self._planner.fractions(budget) if budget or weights is None else {}
        self._planner.check(self._budget)
        self._layer_by_layer = schedule == "hierarchical"
        if self._layer_by_layer and any(not name.startswith(width_of("")) for name in self._budget):
            raise RecipeError(
                "The schedule hierarchical takes layers one by one. Give the budget as patterns over layers, such as "
                "{'*': 0.5} for half of each."
            )
        self._penalty = Penalty(penalty_kind, penalty, module, self._parameters, self.channels)
        self._deleted = np.zeros(self.channels.count, bool)
        self._masks: dict[str, torch.Tensor] = {}
        self._held: dict[str, torch.Tensor] = {}
        self._adjuster = adjusting.Adjuster(adjusting.check(adjust), module, self._parameters, seed)
        self._scorer = Scorer(criterion, module, self._parameters, loss, seed, self.channels)
        self._rule = weights
        self._weights = weights and WeightPruner(weights, module, self._matrices(), loss, seed)

    def __repr__(self) -> str:
        left = ", ".join(f"{value:.1%} of {name}" for name, value in self.cost.items())
        return f"Pruner({type(self.module).__name__}: {len(self.channels.units)} units, {left} left)"

    # ---- in the training loop ---------------------------------------------------------------------------------------

    def penalty(self) -> torch.Tensor:
        """What drives prunable weights to zero, times its weight; add it to the loss. Scalar."""
        return self._penalty()

    def step(self, optimizer: torch.optim.Optimizer | None = None, *, saliency: Saliency | None = None) -> None:
        """After every `optimizer.step()`: gather saliency from the gradients and keep masked weights at zero.

        With `optimizer` its momenta are masked too. With `total_steps` this is where pruning happens. `saliency`, which
        several sites agreed upon, takes the place of what was gathered. Raises InputError for one that doesn't fit.
        """
        with torch.no_grad():
            if saliency is None:
                self._scorer.gather()
            else:
                self._scorer.take(saliency)
            if self._weights is not None:
                self._weights.scorer.gather()
            self._prune_if_due()
            self._apply_masks()
            if optimizer is not None:
                self._mask_state(optimizer)

    def saliency(self) -> Saliency:
        """What was gathered so far: to be saved, and merged with other sites' by `onnxprune.average`.

        Raises InputError where the criterion gathers nothing while training, or nothing was gathered yet.
        """
        return self._scorer.gathered()

    def _prune_if_due(self) -> None:
        self._steps += 1
        if self._total_steps is None or self._steps > self._total_steps:
            return
        due, before = (n * self._pruning_steps // self._total_steps for n in (self._steps, self._steps - 1))
        if due > before:
            self.prune(due / self._pruning_steps)

    @property
    def rates(self) -> tuple[str, ...]:
        """What can go one step further by itself: "cost", each kind of unit that has a budget, single weights."""
        of_budget = tuple(dict.fromkeys(self._rate_of(name) for name in self._budget))
        if self._layer_by_layer:
            of_budget = of_budget[::-1]  # the graph's order is from the input on
        return of_budget if self._weights is None else (*of_budget, *self._weights.rule.rates)

    def _rate_of(self, name: str) -> str:
        return name if self._layer_by_layer else rate_of(name)

    def prune(self, progress: "float | Mapping[str, float]") -> Plan:
        """One pruning step: mask as much as the schedule wants at `progress`, 0 to 1, or {rate: 0 to 1} for each rate.

        Single weights' thresholds come with the step to 1, unless they have a progress of their own, which is then the
        part of the threshold that is taken. Raises InputError where the criterion needs gradients and none were
        gathered, or batches and there is no `calibration`, or gives something that isn't a number.
        """
        of_rate = dict(progress) if isinstance(progress, Mapping) else dict.fromkeys(self.rates, progress)
        if not of_rate.keys() >= set(self.rates) or any(not 0 <= value <= 1 for value in of_rate.values()):
            raise InputError(
                f"Progress is {progress}. Give a number from 0, nothing pruned, to 1, the budget; or one for each of "
                f"{', '.join(self.rates)}."
            )
        target = {
            name: self._schedule(of_rate[self._rate_of(name)], fraction) for name, fraction in self._budget.items()
        }
        for number in range(len(self._planner.stages)):
            scores = self.score()
            stage = self._planner.stages[number]
            wanted = self._planner.of(stage, target)
            plan = stage.plan(scores, wanted, self._deleted_units(), self._staying(scores))
            self._cut(plan)
        if self._weights is not None:
            part = of_rate.get("parameters", 0.0)
            of_weights = of_rate.get("connections", part)
            self._prune_weights(of_weights, part if isinstance(progress, Mapping) else float(part >= 1))
        if len(self._planner.stages) == 1:
            return plan
        widths = tuple(Width(w["group"], w["kind"], w["before"], w["after"]) for w in self.widths())
        return Plan(self._deleted_units(), self.cost, widths)

    def prune_below(self, theta: float) -> float:
        """One pruning step: mask the units whose score isn't above `theta`, down to the budget and no further.

        Returns the progress: the smallest part of the way to its limit that any cost of the budget has come.
        """
        if self._planner.second is not None:
            raise RecipeError(
                f"A threshold can't take heads and their dimensions at once. Leave '{self._planner.inner}' out of the "
                "budget, or take another schedule."
            )
        scores, budget = self.score(), self._budget
        plan = self._planner.main.plan_below(scores, theta, budget, self._deleted_units(), self._staying(scores))
        self._cut(plan)
        ways = [(1 - plan.cost[name], 1 - limit) for name, limit in budget.items()]
        progress = min((1.0 if gone >= whole - 1e-9 else gone / whole for gone, whole in ways), default=1.0)
        self._prune_weights(progress, float(progress >= 1))
        return progress

    def threshold_at(self, share: float) -> float:
        """The score that `share` of the units that are left don't exceed."""
        scores, gone = self.score(), set(self._deleted_units())
        alive = [int(u) for group in self._planner.main.groups for u in group.units if int(u) not in gone]
        return float(np.quantile(scores[alive], share)) if alive else 0.0

    def _staying(self, scores: np.ndarray) -> np.ndarray | None:
        return None if self._retention is None else scores > self._retention

    def score(self) -> np.ndarray:
        """The saliency of each of `channels.units`, as the criterion has it now.

        Units that consist of several channels are put together anew, the least salient members first.
        """
        batches = self._observe()
        self._use(self.channels.ranked(self._scorer.channels(self.channels), first=self._deleted))
        groups = [group.units for group in self._planner.groups]
        return self._scorer.units(self.channels, groups, self._planner.compared, batches)

    def _observe(self) -> list:
        batches = self._look_at("criterion") if self._scorer.needs_data else []
        self._scorer.observe(batches)
        return batches

    def _cut(self, plan: Plan) -> None:
        """Mask what a plan deletes, and mend what read it."""
        if self._adjuster.name == "none":
            self._delete(plan.units)
            return
        batches = self._look_at("adjustment") if self._adjuster.name in adjusting.NEEDS_DATA else []
        before = {name: mask.cpu().numpy() for name, mask in self._masks.items()}
        self._adjuster.look(batches)
        self._delete(plan.units)
        after = {name: mask.cpu().numpy() for name, mask in self._masks.items()}
        self._adjuster.mend(before, after, batches)

    def _look_at(self, who: str) -> list:
        if self._calibration is None:
            raise InputError(
                f"The {who} looks at what the network makes of data, and there are none to look at. Give the pruner "
                "`calibration`, a function that returns batches (inputs, targets)."
            )
        return list(self._calibration())

    @property
    def density(self) -> float:
        """The share of the matrices' and kernels' weights that no mask holds at zero; those of `keep` count as well."""
        total = sum(self._parameters[name].numel() for name in self._scorer.layouts)
        left = sum(
            int(self._held[name].sum()) if name in self._held else self._parameters[name].numel()
            for name in self._scorer.layouts
        )
        return left / max(total, 1)

    @property
    def cost(self) -> dict[str, float]:
        """What is left of the dense network: {"macs": fraction, "params": ..., "bytes": ...}."""
        return self._planner.cost(self._deleted_units(), self._deleted)

    def widths(self) -> list[dict[str, Any]]:
        """Every group of tied channels: {"group": its first weight, "kind", "before": units, "after": units left}."""
        gone = set(self._deleted_units())
        return [
            {
                "group": g.name,
                "kind": g.kind,
                "before": len(g.units),
                "after": len(g.units) - sum(int(u) in gone for u in g.units),
            }
            for g in self._planner.groups
        ]

    # ---- state ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Which channels are deleted and which single weights stay; the weights are in the module's own state."""
        single = {} if self._weights is None else self._weights.snapshot()
        return {"deleted": torch.from_numpy(self._deleted.copy()), "single": single}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go back to a snapshot. Restore the module's weights before: masked ones are zero."""
        if self._weights is not None:
            self._weights.restore(snapshot["single"])
        self._set_deleted(snapshot["deleted"].numpy().copy())

    def state_dict(self) -> dict[str, Any]:
        """Masks and gathered saliency, as tensors."""
        deleted = torch.from_numpy(self._deleted.copy())
        state = {"deleted": deleted, "saliency": self._scorer.state_dict(), "steps": self._steps}
        return state if self._weights is None else {**state, "single": self._weights.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises DataError for the state of another network."""
        if len(state["deleted"]) != self.channels.count:
            raise DataError("This pruner state belongs to another network. Give the network it was saved from.")
        self._scorer.load_state_dict(state["saliency"])
        if self._weights is not None:
            self._weights.load_state_dict(state["single"])
        self._steps = int(state["steps"])
        self._set_deleted(state["deleted"].numpy().copy())

    # ---- deployment -------------------------------------------------------------------------------------------------

    def export(self, path: "str | os.PathLike | None" = None) -> ExportResult:
        """Export, remove what is masked, shrink what else died, fold BatchNorm, prove, and save to `path`.

        The proof runs the module and the result side by side. Raises ExportError where the module has changed since it
        was traced, NotEquivalentError where outputs differ by more than 1e-5 of their range, OutputError.
        """
        channels = self._trace()
        channels, units = channels.covering(self._deleted) if channels.count == len(self._deleted) else (channels, ())
        wanted = {name: mask.cpu().numpy() for name, mask in self._masks.items()}
        found = {name: m for name, m in channels.keep_masks(units).items() if name in self._parameters}
        if wanted.keys() != found.keys() or any((wanted[n] != found[n]).any() for n in wanted):
            raise ExportError(
                f"{type(self.module).__name__} exports to another graph than when it was traced, so its masks don't "
                "fit. Don't change layers or control flow while pruning."
            )
        smaller, report = shrink(remove(channels.model, channels, units))
        result = optimized(smaller)
        proof = require(self.prove(result))
        if path is not None:
            save(result, path)
        return ExportResult(result, len(units), report, proof)

    def prove(self, model: Model) -> Equivalence:
        """Compare `model` with the module itself, on random, border and large inputs at batch 1 and 7."""
        data = to_bytes(model)
        device = next(self.module.parameters()).device

        def run(feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            with evaluation_mode(self.module), torch.no_grad():
                inputs = [torch.from_numpy(feed[name]).to(device) for name in self._names["input_names"]]
                outputs = self.module(*inputs)
            outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
            return [y.cpu().numpy() for y in outputs]

        return compare_outputs(run, data, random_feeds(data, (1, 7)))

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _trace(self) -> Channels:
        exported = export_module(self.module, self.example_inputs, **self._names)
        # Parameters are shared on purpose here: identity decides.
        return trace(load(exported, unshare=False))

    def _traced_parameters(self) -> dict[str, nn.Parameter]:
        initializers = self.channels.model.ir.graph.initializers
        found = {name: p for name, p in self.module.named_parameters() if name in initializers}
        if not found:
            raise ExportError(f"{type(self.module).__name__} has no parameter that reaches the exported graph.")
        if any(tuple(p.shape) != self.channels.shape(name) for name, p in found.items()):
            raise InputError("The channels belong to another network than the module. Leave them out.")
        return found

    def _deleted_units(self) -> tuple[int, ...]:
        return tuple(self.channels.units.within(self._deleted).tolist())

    def _delete(self, units: Sequence[int]) -> None:
        deleted = self._deleted.copy()
        for index in units:
            deleted[list(self.channels.units[index].channels)] = True
        self._set_deleted(deleted)

    def _set_deleted(self, deleted: np.ndarray) -> None:
        self._deleted = deleted
        channels, units = self.channels.covering(deleted)
        self._use(channels)
        masks = self.channels.keep_masks(units)
        self._masks = {
            name: torch.from_numpy(masks[name]).to(parameter.device)
            for name, parameter in self._parameters.items()
            if name in masks
        }
        self._hold()

    def _hold(self) -> None:
        """Put units' and single weights' masks together, and apply them."""
        self._held = dict(self._masks) if self._weights is None else self._weights.with_units(self._masks)
        with torch.no_grad():
            self._apply_masks()

    def _matrices(self) -> dict[str, nn.Parameter]:
        """The matrices and kernels that `keep` says nothing about, of those that single weights may go of."""
        only = self._rule.only if self._rule else ()
        found = {
            name: parameter
            for name, parameter in self._parameters.items()
            if name in self._scorer.layouts
            and not any(fnmatch(name, f"*{pattern}*") for pattern in self._planning["keep"])
            and (not only or any(fits(name, pattern) for pattern in only))
        }
        if not found and only:
            raise RecipeError(f"No matrix or kernel is named like {', '.join(only)}. Name modules or parameters.")
        return found

    def _prune_weights(self, progress: float, part: float) -> None:
        if self._weights is not None:
            self._weights.choose(self._schedule, progress, part, self._masks, lambda: self._look_at("criterion"))
            self._hold()

    def _use(self, channels: Channels) -> None:
        if channels is not self.channels:
            self.channels, self._planner = channels, Planners(channels, **self._planning)

    def _apply_masks(self) -> None:
        if self._weights is not None:
            self._weights.clip()
        for name, mask in self._held.items():
            parameter = self._parameters[name]
            parameter.mul_(mask)
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    def _mask_state(self, optimizer: torch.optim.Optimizer) -> None:
        for name, mask in self._held.items():
            for entry in optimizer.state.get(self._parameters[name], {}).values():
                if isinstance(entry, torch.Tensor) and entry.shape == mask.shape:
                    entry.mul_(mask)
