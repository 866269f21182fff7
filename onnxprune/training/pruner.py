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

Where several processes train together (torch.distributed), each makes a pruner and calls it alike. They share what they
saw before each pruning step, all have the same masks, and the first one writes files. `step()` expects gradients that
are averaged already, as DistributedDataParallel leaves them. A module that is sharded (`fully_shard`) is sharded before
its pruner is made; pruning steps and the export then put the whole network together on every rank.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from onnxprune.errors import DataError, ExportError, InputError, RecipeError
from onnxprune.graph.model import Model, load, save
from onnxprune.graph.units import BLOCK, Channels, trace
from onnxprune.prune import criteria, joint
from onnxprune.prune import schedule as schedules
from onnxprune.prune.decisions import Decisions, Step
from onnxprune.prune.groups import Group, fits
from onnxprune.prune.joint import JOINT
from onnxprune.prune.kinds import Planners, rate_of
from onnxprune.prune.plan import Plan, Width, width_of
from onnxprune.prune.saliency import Saliency
from onnxprune.prune.weights import SingleWeights
from onnxprune.runtime.equivalence import Equivalence, require
from onnxprune.training import adjusting, deployment, distributed, sharding
from onnxprune.training.blocks import Blocks
from onnxprune.training.constraints import SparseSteps
from onnxprune.training.deployment import ExportResult
from onnxprune.training.export import export_module
from onnxprune.training.masks import Masks
from onnxprune.training.regularize import Penalty
from onnxprune.training.restating import Restating
from onnxprune.training.scoring import Batches, Loss, Scorer
from onnxprune.training.single import WeightPruner


class Pruner:
    """Masks over a module's parameters that follow a budget.

    Parameters
    ----------
    module: the network; trained in place by the caller.
    example_inputs: tensors [N, ...], as the network takes them.
    budget: {"macs" | "params" | "bytes": what may be left}, or a kind of unit such as "channel" or "head", or "block"
        for whole residual blocks (see `onnxprune.training.blocks`), or a pattern
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
        lasso over channels, "batchnorm" for L1 of BatchNorms' weights, or "growing" for L2 of what is about to go, with
        a factor that grows by `penalty` a step; see `onnxprune.training.regularize`.
    proximal: `penalty()` is 0, and `step(optimizer)` takes proximal steps instead, which reach exact zeros.
    constraints: {"l1": the sum of |w| that each matrix or kernel may have, "units": the units of each layer that may be
        alive}, each up to 1 a fraction, above a figure, projected upon in every step; see
        `onnxprune.training.constraints`. Units whose every weight these two made zero count as pruned.
    adjust: what is done to the readers of what was cut: "none", "rescale", "norm", "bias", "batchnorm" or
        "least_squares", see `onnxprune.training.adjusting`.
    calibration: gives batches (inputs, targets) whenever it is called, for criteria that look at activations, second
        derivatives or the network with parts of it off, and for adjustments that look at what layers read; a tuple of
        inputs is passed as several arguments.
    loss: (outputs, targets) -> scalar, which second derivatives are of.
    retention: with the criterion "error_rate", a unit whose absence raises it by more than this isn't pruned.
    soft: masked units are zeroed when they are chosen but go on training, so that they may come back at the next step;
        with progress 1, with `settle()` and in an export masks become hard. See `onnxprune.training.masks`.
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
        proximal: bool = False,
        constraints: Mapping[str, float] | None = None,
        adjust: str = "none",
        calibration: Callable[[], Batches] | None = None,
        loss: Loss = nn.functional.cross_entropy,
        retention: float | None = None,
        soft: bool = False,
        seed: int = 0,
        channels: Channels | None = None,
        input_names: Sequence[str] = ("input",),
        output_names: Sequence[str] = ("output",),
    ):
        self.module = module
        self.example_inputs = tuple(example_inputs)
        self._names = {"input_names": tuple(input_names), "output_names": tuple(output_names)}
        sharding.require_supported(module)
        terms = criteria.find(criterion)
        if retention is not None and [term.name for _, term in terms] != ["error_rate"]:
            raise RecipeError("A retention threshold goes with the criterion 'error_rate' only.")
        self._retention = retention
        if soft and adjust not in ("none", "batchnorm"):
            raise RecipeError(
                f"The adjustment '{adjust}' makes up for units that are gone for good, and with soft masks they "
                "may come back. Take adjust none or batchnorm, or hard masks."
            )
        self._calibration, self._loss = calibration, loss
        self._schedule = schedules.find(schedule, pruning_steps)
        if (total_steps is not None and total_steps < pruning_steps) or pruning_steps < 1:
            raise RecipeError(
                f"{pruning_steps} pruning steps don't fit into {total_steps} training steps. Give at least as many."
            )
        self._total_steps, self._pruning_steps = total_steps, pruning_steps
        self._steps = 0
        self._planning: dict[str, Any] = {
            "keep": tuple(keep),
            "round_to": round_to,
            "min_width": min_width,
            "ranking": ranking,
            "names": tuple(budget),
        }
        self.channels = channels or self._trace()
        with sharding.whole(module):
            self._restating = Restating(module, self.channels, self.example_inputs)
        self._planning["stays"] = self._restating.stays
        self._parameters = self._traced_parameters()
        self.blocks = Blocks(self.channels, self._parameters, keep, wanted=BLOCK in budget)
        self._planner = Planners(self.channels, **self._planning)
        self._budget = self._fractions(budget, weights is None)
        is_joint = weights is not None and weights.joint is not None
        if is_joint:
            joint.check(self._budget)
            if soft:
                raise RecipeError("Where units and weights compete, masks are hard. Leave soft out, or joint.")
        else:
            self._planner.check(self._budget)
        self._layer_by_layer = schedule == "hierarchical"
        if self._layer_by_layer and any(name != BLOCK and not name.startswith(width_of("")) for name in self._budget):
            raise RecipeError(
                "The schedule hierarchical takes layers one by one. Give the budget as patterns over layers, such as "
                "{'*': 0.5} for half of each."
            )
        self._penalty = Penalty(penalty_kind, penalty, module, self._parameters, self.channels, proximal)
        if self._penalty.grows and not self._budget:
            raise RecipeError("The growing penalty is for units that are about to go, and the budget names none.")
        self._adjuster = adjusting.Adjuster(adjusting.check(adjust), module, self._parameters, seed)
        self._scorer = Scorer(
            weights.criterion if is_joint else criterion,
            module,
            self._parameters,
            loss,
            seed,
            None if is_joint else self.channels,
            self.blocks.parameters,
        )
        if (constraints or proximal) and any(sharding.is_sharded(p) for p in self._parameters.values()):
            raise InputError(
                "Constraints and proximal steps need whole parameters, and the module's are sharded. Leave them out."
            )
        self._sparse = SparseSteps(
            self._penalty,
            constraints or {},
            self._parameters,
            self._scorer.layouts,
            self.channels,
            keep=tuple(keep),
            least=min_width,
        )
        self._decisions = Decisions()
        self._rule = weights
        self._weights = weights and WeightPruner(weights, module, self._matrices(), loss, seed)
        self.masks = Masks(self._parameters, self.channels, self._weights, self._scorer.layouts, self._restating, soft)

    def __repr__(self) -> str:
        left = ", ".join(f"{value:.1%} of {name}" for name, value in self.cost.items())
        return f"Pruner({type(self.module).__name__}: {len(self.channels.units)} units, {left} left)"

    # ---- in the training loop ---------------------------------------------------------------------------------------

    def penalty(self) -> torch.Tensor:
        """What drives prunable weights to zero, times its weight; add it to the loss. Scalar."""
        return self._penalty()

    def step(self, optimizer: torch.optim.Optimizer | None = None, *, saliency: Saliency | None = None) -> None:
        """After every `optimizer.step()`: gather saliency from the gradients and keep masked weights at zero.

        With `optimizer` its momenta are masked too; proximal steps need it. With `total_steps` this is where pruning
        happens. `saliency`, which several sites agreed upon, takes the place of what was gathered. Raises InputError
        for one that doesn't fit.
        """
        with torch.no_grad():
            if saliency is None:
                self._scorer.gather()
            else:
                self._scorer.take(saliency)
            if self._weights is not None:
                self._weights.scorer.gather()
            if self._sparse.active:
                self._sparse.take(optimizer, self.channels, self._groups)
                self._count_dead()
            self._prune_if_due()
            if self._penalty.grows and self._penalty.grow():
                self._choose_growing()
            self.masks.apply()
            if optimizer is not None:
                self.masks.apply_to_state(optimizer)

    def attach(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Call `step` after each step of an optimizer, also of one that Lightning Fabric or accelerate wrapped.

        A loop then needs no line for it: steps that accumulate gradients, or that a gradient scaler leaves out, are no
        steps. Returns a handle whose `remove()` ends it.
        """
        while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            optimizer = optimizer.optimizer
        return optimizer.register_step_post_hook(lambda stepped, *_: self.step(stepped))

    def saliency(self) -> Saliency:
        """What was gathered so far: to be saved, and merged with other sites' by `onnxprune.average`.

        Raises InputError where the criterion gathers nothing while training, or nothing was gathered yet.
        """
        self._scorer.agree()
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
            # The graph's order is from the input on; whole residual blocks come before any layer.
            layers = [name for name in reversed(of_budget) if name != BLOCK]
            of_budget = (*(name for name in of_budget if name == BLOCK), *layers)
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
        earlier = self._gone()
        self.masks.reopen()
        if self._rule is not None and self._rule.joint is not None:
            return self._prune_jointly(target, self._rule.joint)
        if BLOCK in target:
            self._drop_blocks(target[BLOCK])
        for number in range(len(self._planner.stages) if self._planner.plans_units else 0):
            scores = self.score()
            stage = self._planner.stages[number]
            wanted = self._planner.of(stage, target)
            alive = ~self._gone()
            plan = stage.plan(scores, wanted, self._deleted_units(), self._staying(scores))
            self._cut(plan)
            before = earlier if number == 0 and BLOCK not in target else ~alive
            self._note(scores, before, alive, wanted, stage.compared, goes_on=number > 0 or BLOCK in target)
        if self._weights is not None:
            part = of_rate.get("parameters", 0.0)
            of_weights = of_rate.get("connections", part)
            self._prune_weights(of_weights, part if isinstance(progress, Mapping) else float(part >= 1))
        if all(value >= 1 for value in of_rate.values()):
            self.settle()
        self._choose_growing()
        if len(self._planner.stages) == 1 and not self.blocks:
            return plan
        widths = tuple(Width(w["group"], w["kind"], w["before"], w["after"]) for w in self.widths())
        return Plan(self._deleted_units(), self.cost, widths)

    def prune_below(self, theta: float) -> float:
        """One pruning step: mask the units whose score isn't above `theta`, down to the budget and no further.

        Returns the progress: the smallest part of the way to its limit that any cost of the budget has come.
        """
        if self._rule is not None and self._rule.joint is not None:
            raise RecipeError("A threshold can't take units and weights jointly. Take another schedule with 'joint'.")
        if self.blocks:
            raise RecipeError("A threshold can't take whole residual blocks. Take another schedule for 'block'.")
        if self._planner.second is not None:
            raise RecipeError(
                f"A threshold can't take heads and their dimensions at once. Leave '{self._planner.inner}' out of the "
                "budget, or take another schedule."
            )
        before = self._gone()
        self.masks.reopen()
        scores, budget, alive = self.score(), self._budget, ~self._gone()
        plan = self._planner.main.plan_below(scores, theta, budget, self._deleted_units(), self._staying(scores))
        self._cut(plan)
        # A threshold that took nothing is raised at once, see `finetune`.
        again = self._decisions.when == self._steps
        self._note(scores, before, alive, budget, self._planner.compared, theta=theta, goes_on=again)
        ways = [(1 - plan.cost[name], 1 - limit) for name, limit in budget.items()]
        progress = min((1.0 if gone >= whole - 1e-9 else gone / whole for gone, whole in ways), default=1.0)
        self._prune_weights(progress, float(progress >= 1))
        if progress >= 1:
            self.settle()
        self._choose_growing()
        return progress

    def settle(self) -> None:
        """End the choice: soft masks become hard, and what they hold is zero from now on."""
        self.masks.settle()

    def masked(self) -> AbstractContextManager[None]:
        """Within, all that is masked is zero, as it will be deployed; soft masks give it back afterwards."""
        return self.masks.applied()

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
        self._require_same_parameters()
        self._scorer.agree()
        with sharding.whole(self.module, self._parameters):
            batches = self._observe()
            self._use(self.channels.ranked(self._scorer.channels(self.channels), first=self.masks.deleted))
            return self._scorer.units(self.channels, self._groups, self._planner.compared, batches)

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
        before = {name: mask.cpu().numpy() for name, mask in self.masks.units.items()}
        with sharding.whole(self.module, self._parameters):
            self._adjuster.look(batches)
        self._delete(plan.units)
        after = {name: mask.cpu().numpy() for name, mask in self.masks.units.items()}
        with sharding.whole(self.module, self._parameters):
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
        """The share of the matrices' and kernels' weights that aren't zero or masked; those of `keep` count as well."""
        left = total = 0
        with self.masked():
            for name in self._scorer.layouts:
                left += int(sharding.full(self._parameters[name]).count_nonzero())
                total += self._parameters[name].numel()
        return left / max(total, 1)

    @property
    def cost(self) -> dict[str, float]:
        """What is left of the dense network: {"macs": fraction, "params": ..., "bytes": ...}."""
        left = self._planner.cost(self._deleted_units(), self.masks.deleted)
        if self._rule is not None and self._rule.joint is not None:
            there = {name: mask.cpu().numpy() for name, mask in self.masks.units.items()}
            alive = {name: mask.cpu().numpy() for name, mask in self.masks.held.items()}
            (cost,) = self._budget
            left[JOINT] = joint.left_of(self._planner.main, cost, self._rule.joint, there, alive)
        return {**left, BLOCK: self.blocks.left} if self.blocks else left

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of units that get narrower together."""
        return self._planner.groups

    def widths(self) -> list[dict[str, Any]]:
        """Every group of tied channels: {"group": its first weight, "kind", "before": units, "after": units left}.

        All whole residual blocks together come last, where the budget names them.
        """
        gone = self._gone()
        groups = (*self._planner.groups, self.blocks.group) if self.blocks else self._planner.groups
        return [
            {"group": g.name, "kind": g.kind, "before": len(g.units), "after": int((~gone[g.units]).sum())}
            for g in groups
        ]

    def decisions(self) -> list[dict[str, Any]]:
        """What became of every unit: its score and rank at each pruning step, and why it is there or isn't.

        See `onnxprune.prune.decisions` for the form, which is that of the key `units` in history.json.
        """
        return self._decisions.table(
            self.channels,
            {**self._planning, "without": self.blocks.dropped_weights},
            self._gone(),
            self._retention,
            self.blocks,
        )

    def _note(
        self, scores: np.ndarray, before: np.ndarray, alive: np.ndarray, asked: Mapping, compared: Sequence, **how: Any
    ) -> None:
        """Write down a step, or a part of one; `scores` of units, or of units and residual blocks.

        Of the units that were deleted `before`, those that are `alive` stood for choice again.
        """
        told = np.concatenate([scores, np.full(len(before) - len(scores), np.nan)])
        step = Step(told, told, before, self._gone(), dict(asked), how.pop("theta", None), self._steps)
        self._decisions.note(step, [units[alive[units]] for units in compared], **how)

    # ---- state ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Which channels are deleted and which single weights stay; the weights are in the module's own state."""
        blocks = {"blocks": torch.from_numpy(self.blocks.dropped.copy())}
        return {**self.masks.snapshot(), **blocks, **self._penalty_state()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go back to a snapshot. Restore the module's weights before: those that hard masks hold become zero."""
        self._load_penalty(snapshot)
        self._decisions.close()
        self._drop(snapshot["blocks"].numpy().copy())
        self._use(self.masks.restore(snapshot, self.channels))

    def state_dict(self) -> dict[str, Any]:
        """Masks and gathered saliency, as tensors."""
        deleted = torch.from_numpy(self.masks.deleted.copy())
        state = {"deleted": deleted, "saliency": self._scorer.state_dict(), "steps": self._steps}
        state |= {"open": self.masks.open, "radii": dict(self._sparse.radii), **self._penalty_state()}
        state["blocks"] = torch.from_numpy(self.blocks.dropped.copy())
        state["decisions"] = self._decisions.state_dict()
        return state if self._weights is None else {**state, "single": self._weights.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises DataError for the state of another network."""
        if len(state["deleted"]) != self.channels.count:
            raise DataError("This pruner state belongs to another network. Give the network it was saved from.")
        self._scorer.load_state_dict(state["saliency"])
        if self._weights is not None:
            self._weights.load_state_dict(state["single"])
        self._steps = int(state["steps"])
        self._decisions.load_state_dict(state["decisions"])
        self._drop(state["blocks"].numpy().copy())
        self._load_penalty(state)
        self._sparse.radii |= state.get("radii", {})
        self.masks.open = bool(state.get("open", False))
        deleted = state["deleted"].numpy().copy()
        self._use(self.masks.delete(deleted, self.channels, zero=not self.masks.open))

    def _penalty_state(self) -> dict[str, Any]:
        return {"penalty": self._penalty.state_dict()} if self._penalty.grows else {}

    def _load_penalty(self, state: Mapping[str, Any]) -> None:
        if self._penalty.grows and "penalty" in state:
            self._penalty.load_state_dict(state["penalty"])

    # ---- deployment -------------------------------------------------------------------------------------------------

    def export(self, path: "str | os.PathLike | None" = None) -> ExportResult:
        """Export, remove what is masked, shrink what else died, fold BatchNorm, prove, and save to `path`.

        Soft masks become hard. The proof runs the module and the result side by side. Raises ExportError where the
        module has changed since it was traced, NotEquivalentError where outputs differ by more than 1e-5 of their
        range, OutputError.
        """
        self.settle()
        distributed.average_(self.module.buffers())
        with self._restating.paused():
            channels = self._trace()
        result, units, report = deployment.without_masked(self.module, channels, self.masks, self.blocks.dropped_units)
        proof = require(self.prove(result))
        if path is not None:
            distributed.by_first(lambda: save(result, path))
        return ExportResult(result, units, report, proof)

    def prove(self, model: Model) -> Equivalence:
        """Compare `model` with the module itself, on random, border and large inputs at batch 1 and 7."""
        with sharding.whole(self.module):
            return deployment.compare(self.module, model, self._names["input_names"])

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _trace(self) -> Channels:
        with sharding.whole(self.module):
            exported = export_module(self.module, self.example_inputs, **self._names)
            # Parameters are shared on purpose here: identity decides.
            return trace(load(exported, unshare=False))

    def _traced_parameters(self) -> dict[str, nn.Parameter]:
        initializers = self.channels.model.ir.graph.initializers
        # Of the names of a tied parameter the exporter takes the last.
        every = self.module.named_parameters(remove_duplicate=False)
        found = {name: p for name, p in every if name in initializers}
        if not found:
            raise ExportError(f"{type(self.module).__name__} has no parameter that reaches the exported graph.")
        if any(tuple(p.shape) != self.channels.shape(name) for name, p in found.items()):
            raise InputError("The channels belong to another network than the module. Leave them out.")
        return found

    def _require_same_parameters(self) -> None:
        for name, parameter in self._parameters.items():
            if self.module.get_parameter(name) is not parameter:
                raise InputError(
                    f"The parameter '{name}' was replaced since the pruner was made, by fully_shard or the like. Make "
                    "the pruner afterwards."
                )

    def _deleted_units(self) -> tuple[int, ...]:
        return tuple(np.flatnonzero(self._gone()[: len(self.channels.units)]).tolist())

    def _fractions(self, budget: Mapping[str, float], is_all: bool) -> dict[str, float]:
        """The budget with every figure as a fraction; where it `is_all` that goes it mustn't be empty."""
        found = {BLOCK: self.blocks.fraction(budget[BLOCK])} if BLOCK in budget else {}
        others = {name: value for name, value in budget.items() if name != BLOCK}
        if others or (is_all and not found):
            found |= self._planner.fractions(others)
        return found

    def _prune_jointly(self, target: Mapping[str, float], zero_cost: float) -> Plan:
        """One pruning step in which units and single weights compete, see `onnxprune.prune.joint`."""
        self._scorer.agree()
        with sharding.whole(self.module, self._parameters):
            self._observe()
            scores = self._scorer.weights()
        ((cost, limit),) = target.items()
        saliency = {
            name: np.where(self.masks.held[name].cpu().numpy(), score, 0.0) if name in self.masks.held else score
            for name, score in scores.items()
        }
        self._use(self.channels.ranked(saliency, first=self.masks.deleted))
        before, masks = self._gone(), self._weights.masks
        single = {
            name: masks[name].cpu().numpy() if name in masks else np.ones(saliency[name].shape, bool)
            for name in self._weights.parameters
            if name in saliency
        }
        how = {"cost": cost, "limit": limit, "zero_cost": zero_cost, "deleted": before}
        found = joint.choose(self._planner.main, saliency, single, **how)
        self._weights.take(found.masks)
        self._cut(found.plan)
        self._note(found.worth, before, ~before, target, self._planner.compared)
        return found.plan

    def _drop_blocks(self, left: float) -> None:
        """Take whole residual blocks, the least salient first, until the share `left` is left."""
        self._scorer.agree()
        with sharding.whole(self.module, self._parameters):
            scores = self.blocks.scores(self._scorer, self.channels, self._observe())
        before = self._gone()
        chosen = self.blocks.choose(scores, left, self._staying(scores))
        self._drop(distributed.from_first(chosen))
        self.masks.hold()
        units = np.full(len(self.channels.units), np.nan)
        self._note(np.concatenate([units, scores]), before, ~before, {BLOCK: left}, [self.blocks.group.units])

    def _drop(self, dropped: np.ndarray) -> None:
        """Hold exactly these residual blocks at zero, bool [blocks], once masks are applied."""
        self.blocks.dropped = dropped
        self.masks.off = self.blocks.dropped_parameters
        self._use(self.channels)

    def _gone(self) -> np.ndarray:
        """Which units are deleted, or lie within a residual block that is, and which residual blocks are: bool."""
        gone = self.channels.units.sets.all(self.masks.deleted) | self.blocks.units_inside(self.channels)
        return np.concatenate([gone, self.blocks.dropped])

    def _delete(self, units: Sequence[int]) -> None:
        deleted = self.masks.deleted.copy()
        inside = self.blocks.units_inside(self.channels)
        for index in units:
            if not inside[index]:
                deleted[list(self.channels.units[index].channels)] = True
        self._use(self.masks.delete(deleted, self.channels))

    def _count_dead(self) -> None:
        """Units whose every weight is zero count as pruned."""
        dead = self._sparse.newly_dead(self.masks.deleted)
        if dead is not None:
            self._use(self.channels.covering(dead)[0])
            self._delete(self._sparse.to_delete(dead, self.masks.deleted, self.channels, self._groups))

    @property
    def _groups(self) -> list[np.ndarray]:
        return [group.units for group in self._planner.groups]

    def _choose_growing(self) -> None:
        """What the whole budget would take by the scores of now is what is about to go."""
        if not self._penalty.grows:
            return
        going = self.masks.deleted.copy()
        for number in range(len(self._planner.stages)):
            scores = self.score()
            stage = self._planner.stages[number]
            wanted = self._planner.of(stage, self._budget)
            plan = stage.plan(scores, wanted, self._deleted_units(), self._staying(scores))
            for unit in plan.units:
                going[list(self.channels.units[unit].channels)] = True
        self._penalty.choose(going & ~self.masks.deleted)

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
            self._weights.choose(self._schedule, progress, part, self.masks.units, lambda: self._look_at("criterion"))
            self.masks.hold()

    def _use(self, channels: Channels) -> None:
        if channels is not self.channels or self._planner.main.without != self.blocks.dropped_weights:
            self.channels = channels
            self._planner = Planners(channels, **self._planning, without=self.blocks.dropped_weights)
