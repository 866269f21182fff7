"""Gathers what a criterion reads, while training or in a pass over some batches, and scores units with it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from onnxprune.errors import InputError, RecipeError
from onnxprune.graph.units import Channels
from onnxprune.prune import criteria
from onnxprune.prune.channelwise import ChannelScores, squares_of_inputs, squares_of_outputs
from onnxprune.prune.saliency import Saliency
from onnxprune.training import distributed, layers, probing, sharding
from onnxprune.training.contributions import Contributions
from onnxprune.training.export import evaluation_mode
from onnxprune.training.patches import patches

#: Saliency is the mean over training steps; after the first 50 a running one, of which each step renews this share.
RENEWED = 0.02
#: Where the mean of what belongs to channels lies, among those of parameters.
OF_CHANNELS = ""
#: The same for residual blocks.
OF_BLOCKS = "(blocks)"
#: What a criterion says nothing about counts as this many times the best that it speaks of.
UNSEEN = 2.0

Batches = Iterable[tuple[Any, torch.Tensor]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Scorer:
    """The scores of one network's units by a criterion, or by a weighted sum of several ones' ranks."""

    def __init__(
        self,
        criterion: "str | Callable | criteria.Criterion",
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        loss: Loss,
        seed: int = 0,
        channels: Channels | None = None,
        blocks: Sequence[Sequence[str]] = (),
    ):
        """`channels` are those of the units to score; without them single weights are. `blocks` name the parameters of
        each residual block that is to be scored too.
        """
        self._blocks = blocks
        self.terms = criteria.find(criterion)
        self.module, self.parameters, self.loss, self.seed = module, parameters, loss, seed
        self._contributions = channels and Contributions(channels, parameters)
        self._steps = 0
        self.layouts = layers.layouts(module, parameters)
        self.scales = set(layers.scales(module))
        self._means: list[dict[str, np.ndarray]] = [{} for _ in self.terms]

    @property
    def reads_gradients(self) -> bool:
        """Whether `gather` has to be called while training."""
        return any(_is_gathered(term) for _, term in self.terms)

    @property
    def needs_data(self) -> bool:
        """Whether `observe` has to be called before units are scored."""
        return any(criteria.IN_A_PASS & set(term.reads) for _, term in self.terms)

    # ---- gathering --------------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Take this batch's gradients into the means. Call it without gradient tracking."""
        if not self.reads_gradients or all(p.grad is None for p in self.parameters.values()):
            return
        self._steps += 1
        rate = max(1 / self._steps, RENEWED)
        for means, (_, term) in zip(self._means, self.terms, strict=True):
            if not _is_gathered(term):
                continue
            for name, now in self._of_batch(term):
                mean = means.get(name)
                if mean is None:
                    means[name] = np.array(now, dtype=np.float32)
                else:
                    mean += rate * (now - mean)

    def _of_batch(self, term: criteria.Criterion) -> Iterator[tuple[str, np.ndarray]]:
        """(parameter, the score of each of its weights), or (OF_CHANNELS, the score of each channel)."""
        together = "contribution" in term.reads
        if together and self._contributions is not None:
            yield OF_CHANNELS, term(contribution=self._contributions.sums())
            if self._blocks:
                yield OF_BLOCKS, term(contribution=self._contributions.of_sets(self._blocks))
            return
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            weight, gradient = array(sharding.full(parameter)), array(sharding.full(parameter.grad))
            yield name, term(contribution=weight * gradient) if together else term(weight=weight, gradient=gradient)

    def agree(self) -> None:
        """Under torch.distributed: go on with the mean of what all ranks gathered while training."""
        for number, (_, term) in enumerate(self.terms):
            if _is_gathered(term):
                self._means[number] = distributed.mean(self._means[number])

    def observe(self, batches: Sequence[tuple[Any, torch.Tensor]]) -> None:
        """Take the means over `batches` of what needs a pass of its own: second derivatives and activations.

        Under torch.distributed over the batches of all ranks.
        """
        for number, (_, term) in enumerate(self.terms):
            if "activation" in term.reads:
                self._means[number] = self._activations(term, batches)
            elif "gram" in term.reads:
                self._means[number] = self._of_grams(term, batches)
            elif "curvature" in term.reads:
                self._means[number] = self._curvatures(term, batches)

    def _activations(self, term: criteria.Criterion, batches: Batches) -> dict[str, np.ndarray]:
        sums: dict[str, np.ndarray] = {}
        count: dict[str, int] = {}

        def see(name: str, x: torch.Tensor) -> None:
            if name in self.parameters:
                sums[name] = sums.get(name, 0.0) + len(x) * term(activation=array(x)).astype(np.float64)
                count[name] = count.get(name, 0) + len(x)

        with evaluation_mode(self.module), torch.no_grad(), layers.reading(self.module, see):
            for x, _ in batches:
                layers.call(self.module, x)
        counts = distributed.total({name: np.float64(number) for name, number in count.items()})
        return {name: value / counts[name] for name, value in distributed.total(sums).items()}

    def _of_grams(self, term: criteria.Criterion, batches: Batches) -> dict[str, np.ndarray]:
        """Scores of the inputs of layers without groups, from what each gives to the outputs at all positions."""
        parts = {n: p for n, p in layers.weighted(self.module) if n in self.parameters and getattr(p, "groups", 1) == 1}
        squares: dict[str, torch.Tensor] = {}

        def see(name: str, x: torch.Tensor) -> None:
            rows = patches(parts[name], x.float()) if name in parts else None
            if rows is not None:
                squares[name] = squares.get(name, 0.0) + rows.T.double() @ rows.double()

        with evaluation_mode(self.module), torch.no_grad(), layers.reading(self.module, see):
            for x, _ in batches:
                layers.call(self.module, x)
        found = {}
        for name, of_rows in distributed.total({name: value.cpu().numpy() for name, value in squares.items()}).items():
            weight = array(parts[name].weight).astype(np.float64)
            inputs, flat = weight.shape[1], weight.reshape(len(weight), -1)
            blocks = (of_rows * (flat.T @ flat)).reshape(inputs, flat.shape[1] // inputs, inputs, -1)
            found[name] = term(gram=blocks.sum(axis=(1, 3)))
        return found

    def _curvatures(self, term: criteria.Criterion, batches: Batches) -> dict[str, np.ndarray]:
        """Hutchinson's estimate of the Hessian's diagonal, E[v Hv] with v of random signs, one v a batch."""
        signs = torch.Generator().manual_seed(self.seed)
        trained = {name: p for name, p in self.parameters.items() if p.requires_grad}
        sums: dict[str, np.ndarray] = {}
        seen = 0
        # Of attention's implementations the written out one alone can be differentiated twice.
        with evaluation_mode(self.module), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for x, y in batches:
                outputs = layers.call(self.module, x)
                objective = self.loss(outputs, y.to(outputs.device))
                first = torch.autograd.grad(objective, list(trained.values()), create_graph=True, allow_unused=True)
                used = [(n, p, g) for (n, p), g in zip(trained.items(), first, strict=True) if g is not None]
                v = [torch.randint(0, 2, p.shape, generator=signs).to(p) * 2 - 1 for _, p, _ in used]
                product = sum((g * s).sum() for (_, _, g), s in zip(used, v, strict=True))
                try:
                    second = torch.autograd.grad(product, [p for _, p, _ in used], allow_unused=True)
                except RuntimeError as error:
                    if "not implemented" not in str(error):  # such as too little memory
                        raise
                    raise InputError(
                        f"{type(self.module).__name__} has no second derivatives, which the criterion reads: {error}. "
                        "Take a criterion that reads first ones, such as fisher."
                    ) from error
                seen += 1
                for (name, p, g), s, hv in zip(used, v, second, strict=True):
                    curvature = np.zeros(p.shape, np.float32) if hv is None else array(s * hv)
                    now = term(weight=array(p), gradient=array(g), curvature=curvature)
                    sums[name] = sums.get(name, 0.0) + now.astype(np.float64)
        batches_of_all = distributed.total({"": np.float64(seen)})[""]
        return {name: value / batches_of_all for name, value in distributed.total(sums).items()}

    def gathered(self) -> Saliency:
        """The means of what was gathered while training. Raises InputError where there are none."""
        if not self.reads_gradients:
            raise InputError(f"The criterion '{self._name}' gathers nothing while training: there is nothing to share.")
        for number in range(len(self.terms)):
            self._gathered(number)
        named = {f"{number}/{name}": v for number, means in enumerate(self._means) for name, v in means.items()}
        return Saliency(self._name, {name: value.copy() for name, value in named.items()}, self._steps)

    def take(self, saliency: Saliency) -> None:
        """Put `saliency` in the place of what was gathered. Raises InputError for another criterion's or network's."""
        means: list[dict[str, np.ndarray]] = [{} for _ in self.terms]
        for name, array in saliency.arrays.items():
            number, _, where = name.partition("/")
            known = where in self.parameters or (where in (OF_CHANNELS, OF_BLOCKS) and self._contributions is not None)
            if saliency.criterion != self._name or not known or int(number) >= len(means):
                raise InputError(
                    f"{saliency} belongs to another criterion or network than the pruner's '{self._name}'. Give one "
                    "that pruner.saliency() of the same network made."
                )
            means[int(number)][where] = np.array(array)
        self._means, self._steps = means, saliency.steps

    @property
    def _name(self) -> str:
        return " + ".join(term.name if weight == 1 else f"{weight:g}*{term.name}" for weight, term in self.terms)

    # ---- scores -----------------------------------------------------------------------------------------------------

    def channels(self, channels: Channels) -> np.ndarray:
        """[channels]: what decides within grids which members go together: by the first criterion that can tell."""
        for number, (_, term) in enumerate(self.terms):
            if term.scope != "units":
                return self.of_channels(channels, number).total
        return channels.weigh({name: np.abs(array(p)) for name, p in self.parameters.items()})

    def units(
        self, channels: Channels, groups: Sequence[np.ndarray], sets: Sequence[np.ndarray], batches: Sequence = ()
    ) -> np.ndarray:
        """[units]: the scores, at least 0. `groups` are the units of each layer, `sets` those that are compared.

        Several criteria are summed by their ranks within a set. `batches` are for criteria that switch units off.
        """
        parts = [
            (weight, _at_least_nothing(self._of_units(channels, groups, number, batches)))
            for number, (weight, _) in enumerate(self.terms)
        ]
        if len(parts) == 1:
            return parts[0][1]
        combined = np.zeros(len(channels.units))
        for members in sets:
            combined[members] = criteria.combine([(weight, scores[members]) for weight, scores in parts])
        return combined

    def require_weights(self) -> None:
        """Raises RecipeError for a criterion that has no scores of single weights."""
        for _, term in self.terms:
            of_weights = term.scope == "weights" or "contribution" in term.reads
            if not of_weights or "scale" in term.reads or len(self.terms) > 1:
                raise RecipeError(
                    f"The criterion '{term.name}' doesn't score single weights by itself. Give one that does, such as "
                    "magnitude, taylor or obd."
                )

    def weights(self) -> dict[str, np.ndarray]:
        """{parameter: the score of each of its weights, at least 0}."""
        found = self.of_weights(0)
        criteria.require_finite(found)
        return found

    def of_weights(self, number: int) -> dict[str, np.ndarray]:
        """{parameter: the score of each of its weights, at least 0} by one of the criteria, which has such."""
        term, means = self._gathered(number)
        if not (criteria.WHILE_TRAINING | criteria.IN_A_PASS) & set(term.reads):
            means = {name: self._from_weight(term, name, p) for name, p in self.parameters.items()}
        return {name: np.maximum(value, 0) for name, value in means.items() if value is not None}

    def _gathered(self, number: int) -> tuple[criteria.Criterion, dict[str, np.ndarray]]:
        term, means = self.terms[number][1], self._means[number]
        if criteria.WHILE_TRAINING & set(term.reads) and not means:
            raise InputError(
                f"No gradient was seen yet, and the criterion '{term.name}' needs some. Call step() after backward() "
                "before prune()."
            )
        return term, means

    def of_blocks(self, number: int) -> np.ndarray:
        """[blocks]: the mean of what was gathered of each block by one of the criteria."""
        return self._gathered(number)[1][OF_BLOCKS].astype(np.float64)

    def of_channels(self, channels: Channels, number: int) -> ChannelScores:
        """[channels]: the scores by one of the criteria."""
        scores = ChannelScores(channels)
        term, means = self._gathered(number)
        if OF_CHANNELS in means and self._contributions is not None:
            scores.total, scores.seen = means[OF_CHANNELS].astype(np.float64), self._contributions.seen
            criteria.require_finite({"the module's parameters": scores.total})
            return scores
        if term.scope == "channels":
            return self._through(channels, term)
        if not (criteria.WHILE_TRAINING | criteria.IN_A_PASS) & set(term.reads):
            means = {name: self._from_weight(term, name, p) for name, p in self.parameters.items()}
        found = {name: np.maximum(value, 0) for name, value in means.items() if value is not None}
        criteria.require_finite(found)
        if term.scope == "weights":
            scores.add_weights(found)
            return scores
        add = scores.add_outputs if term.scope == "outputs" else scores.add_inputs
        for name, vector in found.items():
            add(name, vector, self.layouts[name])
        return scores

    def _from_weight(self, term: criteria.Criterion, name: str, parameter: nn.Parameter) -> np.ndarray | None:
        if "scale" in term.reads:
            return term(scale=array(parameter)) if name in self.scales else None
        if term.scope == "weights":
            return term(weight=array(parameter))
        layout = self.layouts.get(name)
        if layout is None or layout.outputs is None:
            return None
        return term(weight=np.moveaxis(array(parameter), layout.outputs, 0))

    def _through(self, channels: Channels, term: criteria.Criterion) -> ChannelScores:
        """What goes into each channel and what comes out of it."""
        into, out_of = ChannelScores(channels), ChannelScores(channels)
        for name, layout in self.layouts.items():
            weight = array(self.parameters[name])
            squares = squares_of_outputs(weight, layout), squares_of_inputs(weight, layout)
            if squares[0] is not None:
                into.add_outputs(name, squares[0], layout)
            if squares[1] is not None:
                out_of.add_inputs(name, squares[1], layout)
        into.total = term(incoming=into.total, outgoing=out_of.total)
        into.seen &= out_of.seen
        return into

    def _of_units(self, channels: Channels, groups: Sequence, number: int, batches: Sequence) -> np.ndarray:
        term = self.terms[number][1]
        if term.scope != "units":
            return self.of_channels(channels, number).of_units()
        weights = {name: array(p) for name, p in self.parameters.items()}
        evidence: dict[str, Any] = {
            "magnitude": channels.importance({name: np.abs(w) for name, w in weights.items()}),
            "squares": channels.importance({name: np.square(w) for name, w in weights.items()}),
            "sizes": channels.importance({name: np.ones_like(w) for name, w in weights.items()}),
            "generator": np.random.default_rng(self.seed),
        }
        if "wrong" in term.reads:
            members = np.concatenate([*groups, np.zeros(0, np.int64)]).astype(np.int64)
            evidence["wrong"] = probing.wrong_without(self.module, self.parameters, channels, members, batches)
        if "curve" in term.reads:
            evidence["curve"] = probing.loss_curves(
                self.module, self.parameters, channels, groups, evidence["magnitude"], batches, self.loss
            )
        return term(**evidence)

    # ---- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was gathered, as tensors, and over how many steps."""
        gathered = {
            str(number): {name: torch.from_numpy(np.array(value)) for name, value in means.items()}
            for number, means in enumerate(self._means)
        }
        return {**gathered, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = int(state["steps"])
        self._means = [
            {name: tensor.numpy().copy() for name, tensor in state.get(str(number), {}).items()}
            for number in range(len(self.terms))
        ]


def array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's values as float32, in memory of its own device where that is the CPU."""
    return tensor.detach().cpu().float().numpy()


def _is_gathered(term: criteria.Criterion) -> bool:
    reads = set(term.reads)
    return bool(criteria.WHILE_TRAINING & reads) and not criteria.IN_A_PASS & reads


def _at_least_nothing(scores: np.ndarray) -> np.ndarray:
    """Scores with what wasn't seen behind everything that was."""
    seen = np.isfinite(scores)
    if seen.all():
        return np.maximum(scores, 0)
    last = UNSEEN * float(scores[seen].max(initial=0)) or 1.0
    return np.where(seen, np.maximum(np.nan_to_num(scores, posinf=0, neginf=0), 0), last)
