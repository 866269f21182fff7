"""Layers of a module replaced before it is pruned: by two of a low rank, by depthwise and 1x1, or by nothing at all.

Everything happens in place, on a trained module, and needs training afterwards. What is replaced is named by patterns
over module names (`layer1.*`, `*.conv2`), as `named_modules` has them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxprune.errors import InputError
from onnxprune.prune import factors
from onnxprune.training import layers
from onnxprune.training.export import evaluation_mode
from onnxprune.training.patches import patches

#: Their forward pass reads the weights of the layers inside without calling them.
READ_DIRECTLY = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)

Batches = Iterable[tuple[Any, torch.Tensor]]


@dataclass(frozen=True)
class Replacement:
    """One layer and what became of it: `after` counts the weights of the two new layers; `energy` is what is kept."""

    name: str
    how: str
    before: int
    after: int
    rank: int | None = None
    energy: float | None = None


def matching(module: nn.Module, patterns: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """(name, part) of every part whose name fits a pattern, in the module's order. Raises InputError for none."""
    found = [(n, p) for n, p in module.named_modules() if n and any(fnmatchcase(n, pattern) for pattern in patterns)]
    if not found:
        names = ", ".join(n for n, _ in module.named_modules() if n)
        raise InputError(f"No part of {type(module).__name__} is named like {', '.join(patterns)}: it has {names}.")
    return found


def low_rank(
    module: nn.Module,
    patterns: Sequence[str] = ("*",),
    *,
    energy: float = 0.95,
    calibration: Callable[[], Batches] | None = None,
) -> list[Replacement]:
    """Put two thin layers in the place of every linear layer and convolution that gets smaller by it.

    The rank is the lowest that keeps the share `energy`: of the squared weights, or, with `calibration` batches, of the
    variance of what the layer gives for them. A convolution k x k becomes one to r outputs and a 1x1 convolution.
    Grouped convolutions, and layers that share their weight, stay as they are. Raises InputError.
    """
    own = {id(p) for parent in module.modules() if isinstance(parent, READ_DIRECTLY) for p in parent.modules()}
    parts = [(n, p) for n, p in matching(module, patterns) if _can_be_two(p) and id(p) not in own]
    parts = [(n, p) for n, p in parts if not _is_shared(module, p)]
    moments = _moments(module, {f"{name}.weight" for name, _ in parts}, calibration) if calibration else {}
    replaced = []
    for name, part in parts:
        weight = part.weight.detach().cpu().double().flatten(1).numpy()
        covariance, mean = moments.get(f"{name}.weight", (None, None))
        found = factors.factorize(weight, energy, covariance=covariance, mean=mean)
        if factors.pays(found, weight):
            _replace(module, name, _two_layers(part, found))
            after = found.first.size + found.second.size
            replaced.append(Replacement(name, "low rank", weight.size, after, found.rank, found.energy))
    return replaced


def depthwise(module: nn.Module, patterns: Sequence[str]) -> list[Replacement]:
    """Put a depthwise and a 1x1 convolution in the place of every k x k convolution, as close to it as can be.

    Howard et al. 2017, "MobileNets", arXiv:1704.04861. Raises InputError.
    """
    replaced = []
    for name, part in matching(module, patterns):
        if type(part) is not nn.Conv2d or part.groups != 1 or part.kernel_size == (1, 1) or _is_shared(module, part):
            continue
        filters, points = factors.depthwise(part.weight.detach().cpu().numpy())
        of_inputs = nn.Conv2d(
            part.in_channels,
            part.in_channels,
            part.kernel_size,
            part.stride,
            part.padding,
            part.dilation,
            groups=part.in_channels,
            bias=False,
            padding_mode=part.padding_mode,
        )
        across = nn.Conv2d(part.in_channels, part.out_channels, 1, bias=part.bias is not None)
        _set(of_inputs.weight, filters[:, None])
        _set(across.weight, points[:, :, None, None])
        if part.bias is not None:
            _set(across.bias, part.bias.detach().cpu().numpy())
        _replace(module, name, nn.Sequential(of_inputs, across).to(part.weight))
        replaced.append(Replacement(name, "depthwise", part.weight.numel(), filters.size + points.size))
    return replaced


def drop_every_second(
    module: nn.Module, patterns: Sequence[str], example_inputs: Sequence[torch.Tensor]
) -> list[Replacement]:
    """Put the identity in the place of every second block that fits: the second, the fourth and so on.

    A block fits whose output has the shape of its input; only those are counted. Raises InputError where fewer than two
    fit.
    """
    blocks = _that_keep_their_shape(module, matching(module, patterns), example_inputs)
    if len(blocks) < 2:
        raise InputError(
            f"{len(blocks)} of the parts named like {', '.join(patterns)} keep the shape of what they read; it takes "
            "two to drop every second one. Name the blocks themselves, such as 'layer1.*'."
        )
    replaced = []
    for name, part in blocks[1::2]:
        _replace(module, name, nn.Identity())
        replaced.append(Replacement(name, "dropped", sum(p.numel() for p in part.parameters()), 0))
    return replaced


def _that_keep_their_shape(
    module: nn.Module, parts: list[tuple[str, nn.Module]], example_inputs: Sequence[torch.Tensor]
) -> list[tuple[str, nn.Module]]:
    """Those whose output is shaped like their only input, none inside another."""
    fit: set[str] = set()
    hooks = []
    for name, part in parts:

        def hook(_: nn.Module, inputs: tuple, output: Any, name: str = name) -> None:
            tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
            if tensors and isinstance(output, torch.Tensor) and tensors[0].shape == output.shape:
                fit.add(name)

        hooks.append(part.register_forward_hook(hook))
    try:
        with evaluation_mode(module), torch.no_grad():
            module(*example_inputs)
    finally:
        for handle in hooks:
            handle.remove()
    outer = [(n, p) for n, p in parts if n in fit and not isinstance(p, nn.Identity)]
    return [(n, p) for n, p in outer if not any(n.startswith(f"{other}.") for other, _ in outer)]


def _can_be_two(part: nn.Module) -> bool:
    return type(part) is nn.Linear or (type(part) is nn.Conv2d and part.groups == 1)


def _is_shared(module: nn.Module, part: nn.Module) -> bool:
    """Whether another part holds the same weight."""
    holders = [p for p in module.modules() if getattr(p, "weight", None) is part.weight]
    names = [n for n, p in module.named_modules(remove_duplicate=False) if p is part]
    return len(holders) > 1 or len(names) > 1


def _moments(module: nn.Module, names: set[str], calibration: Callable[[], Batches]) -> dict[str, tuple]:
    """{weight: (covariance, mean) of what the layer reads}, over all positions of all batches."""
    parts = dict(layers.weighted(module))
    sums: dict[str, list] = {}

    def see(name: str, x: torch.Tensor) -> None:
        rows = patches(parts[name], x.float()) if name in names else None
        if rows is not None:
            found = sums.setdefault(name, [0, 0.0, 0.0])
            rows = rows.double()
            found[0] += len(rows)
            found[1] = found[1] + rows.sum(0)
            found[2] = found[2] + rows.T @ rows

    with evaluation_mode(module), torch.no_grad(), layers.reading(module, see):
        for x, _ in calibration():
            layers.call(module, x)
    found = {}
    for name, (count, total, squares) in sums.items():
        mean = (total / count).cpu().numpy()
        found[name] = ((squares / count).cpu().numpy() - np.outer(mean, mean), mean)
    return found


def _two_layers(part: nn.Module, found: factors.Factors) -> nn.Module:
    has_bias = part.bias is not None or bool(found.shift.any())
    if isinstance(part, nn.Linear):
        first = nn.Linear(part.in_features, found.rank, bias=False)
        second = nn.Linear(found.rank, part.out_features, bias=has_bias)
    else:
        first = nn.Conv2d(
            part.in_channels,
            found.rank,
            part.kernel_size,
            part.stride,
            part.padding,
            part.dilation,
            bias=False,
            padding_mode=part.padding_mode,
        )
        second = nn.Conv2d(found.rank, part.out_channels, 1, bias=has_bias)
    _set(first.weight, found.first.reshape(first.weight.shape))
    _set(second.weight, found.second.reshape(second.weight.shape))
    if has_bias:
        before = 0.0 if part.bias is None else part.bias.detach().cpu().numpy()
        _set(second.bias, before + found.shift)
    return nn.Sequential(first, second).to(part.weight)


def _set(parameter: nn.Parameter, array: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    new.train(module.get_submodule(name).training)
    setattr(module.get_submodule(parent) if parent else module, last, new)
