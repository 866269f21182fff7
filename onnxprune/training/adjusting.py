"""After a cut: repair the layers that read what went, before training goes on. Off unless it is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxprune.errors import RecipeError
from onnxprune.prune import adjust
from onnxprune.training import distributed, layers
from onnxprune.training.export import evaluation_mode
from onnxprune.training.patches import patches

ADJUSTMENTS = ("none", "rescale", "norm", "bias", "batchnorm", "least_squares")
#: Those that look at what layers read.
NEEDS_DATA = frozenset({"bias", "batchnorm", "least_squares"})
#: Rows of a least-squares problem; more positions than this are sampled.
MOST_ROWS = 8192

Masks = Mapping[str, np.ndarray]


def check(name: str) -> str:
    """`name` itself. Raises RecipeError for an adjustment that isn't there."""
    if name not in ADJUSTMENTS:
        raise RecipeError(f"There is no adjustment '{name}'. Choose one of: {', '.join(ADJUSTMENTS)}.")
    return name


@dataclass
class Adjuster:
    """One adjustment of one network. Call `look` before the cut and `mend` after it.

    rescale, norm   weights that are left grow: see `onnxprune.prune.adjust`
    bias            the reader's bias takes over what the lost inputs gave on average; without one, nothing
    batchnorm       BatchNorm's statistics are taken anew
    least_squares   the reader's weights are fitted to give what they gave before
    """

    name: str
    module: nn.Module
    parameters: Mapping[str, nn.Parameter]
    seed: int = 0
    _read: dict[str, torch.Tensor] = field(default_factory=dict)
    _weights: dict[str, np.ndarray] = field(default_factory=dict)

    def look(self, batches: Sequence[tuple[Any, torch.Tensor]]) -> None:
        """Remember the weights as they are before the cut, and what every reader reads."""
        self._weights = {name: p.detach().cpu().float().numpy().copy() for name, p in self.parameters.items()}
        self._read = {}
        if self.name not in ("bias", "least_squares"):
            return
        found: dict[str, list[torch.Tensor]] = {}

        def see(name: str, x: torch.Tensor) -> None:
            found.setdefault(name, []).append(x)

        with evaluation_mode(self.module), torch.no_grad(), layers.reading(self.module, see):
            for x, _ in batches:
                layers.call(self.module, x)
        self._read = {name: torch.cat(parts) for name, parts in found.items() if len({p.shape[1:] for p in parts}) == 1}

    def mend(self, before: Masks, after: Masks, batches: Sequence[tuple[Any, torch.Tensor]]) -> None:
        """Repair what lost inputs between the two sets of masks; tensors that lost nothing have none."""
        if self.name == "batchnorm":
            reestimate(self.module, [x for x, _ in batches])
            return
        with torch.no_grad():
            for name, part in layers.weighted(self.module):
                if name not in after or not isinstance(part, (*layers.CONVOLUTIONS, nn.Linear)):
                    continue
                if getattr(part, "groups", 1) == 1:
                    whole = np.ones(after[name].shape, bool)
                    self._mend_layer(name, part, before.get(name, whole), after[name])

    def _mend_layer(self, name: str, part: nn.Module, before: np.ndarray, after: np.ndarray) -> None:
        lost = adjust.lost_inputs(before, after)
        if not lost.any():
            return
        weight = self._weights[name]
        if self.name in ("rescale", "norm"):
            mended = (adjust.rescale if self.name == "rescale" else adjust.preserve_norm)(weight, before, after)
            part.weight.copy_(torch.from_numpy(mended).to(part.weight))
        elif self.name == "bias" and name in self._read and part.bias is not None:
            read = self._read[name].float()
            axes = [axis for axis in range(read.ndim) if axis != 1]
            count = np.float64(read.numel() // read.shape[1])
            of_all = distributed.total({"sum": read.double().sum(dim=axes).cpu().numpy(), "count": count})
            means = of_all["sum"] / of_all["count"]
            alive = after.reshape(len(after), -1).any(axis=1)
            part.bias.add_(torch.from_numpy(adjust.bias_shift(weight * before, lost, means) * alive).to(part.bias))
        elif self.name == "least_squares" and name in self._read:
            self._fit(name, part, weight * before, after)

    def _fit(self, name: str, part: nn.Module, weight: np.ndarray, after: np.ndarray) -> None:
        rows = patches(part, self._read[name].float())
        if rows is None:
            return
        most = MOST_ROWS // distributed.ranks()
        if len(rows) > most:
            chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))[:most]
            rows = rows[chosen]
        read = distributed.stacked(rows.cpu().numpy())
        flat = after.reshape(len(after), -1)
        outputs, columns = flat.any(axis=1), flat.any(axis=0)
        wanted = read @ weight.reshape(len(weight), -1)[outputs].T
        fitted = np.zeros(flat.shape)
        fitted[np.ix_(outputs, columns)] = adjust.least_squares(read[:, columns], wanted)
        part.weight.copy_(torch.from_numpy((fitted * flat).reshape(after.shape)).to(part.weight))


def reestimate(module: nn.Module, inputs: Sequence[Any]) -> None:
    """Take every BatchNorm's running mean and variance anew: the averages over `inputs`, batches of the network.

    Under torch.distributed over the batches of all ranks.
    """
    norms = [part for part in module.modules() if isinstance(part, layers.BATCHNORMS) and part.track_running_stats]
    momenta = [part.momentum for part in norms]
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        for part in norms:
            part.reset_running_stats()
            part.momentum = None  # a plain average
            part.train()
        with torch.no_grad():
            for x in inputs:
                layers.call(module, x)
        _average_statistics(norms, len(inputs))
    finally:
        for part, momentum in zip(norms, momenta, strict=True):
            part.momentum = momentum
        for part, training in modes.items():
            part.training = training


@torch.no_grad()
def _average_statistics(norms: Sequence[nn.Module], batches: int) -> None:
    """The mean over the ranks, each counted by its batches."""
    if distributed.ranks() == 1:
        return
    buffers = {f"{k}/{name}": b for k, part in enumerate(norms) for name, b in part.named_buffers(recurse=False)}
    weighted = {name: batches * buffer.double().cpu().numpy() for name, buffer in buffers.items()}
    of_all = distributed.total({**weighted, "": np.float64(batches)})
    for name, buffer in buffers.items():
        if buffer.is_floating_point():
            buffer.copy_(torch.from_numpy(of_all[name] / max(float(of_all[""]), 1.0)))
