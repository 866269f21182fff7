"""Weights that leave nothing vacuous: no layer scale of 1e-6, no zero-initialised head, no statistics of 0 and 1."""

from collections.abc import Sequence
from zlib import crc32

import torch
from torch import nn

#: The smallest and the largest magnitude that a constant parameter's random values are drawn around.
LEAST, MOST = 0.3, 3.0
SPREAD = 0.2
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def randomise(module: nn.Module, example_inputs: Sequence[torch.Tensor], seed: int = 0, deviation: float = 1.0) -> None:
    """Give every parameter and running statistic random values, the same for the same seed, in place.

    Constant ones (normalisation scales, layer scales) are drawn from half to one and a half times their value, zeros
    are normal; anything else is normal with the deviation that it had. Then every layer's weight is scaled so that its
    output has `deviation` on `example_inputs`, which keeps activations in range however deep the network is.
    """
    module.eval()
    named = [*module.named_parameters(), *((n, b) for n, b in module.named_buffers() if _is_statistic(n))]
    with torch.no_grad():
        for name, tensor in named:
            if tensor.is_floating_point():
                tensor.copy_(_drawn(name, tensor, seed))
        _scale_layers(module, example_inputs, deviation)


def _is_statistic(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in ("running_mean", "running_var")


def _drawn(name: str, tensor: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(crc32(f"{seed}:{name}".encode()))
    low, high = tensor.min().item(), tensor.max().item()
    if low == high == 0:
        return torch.randn(tensor.shape, generator=generator) * SPREAD
    if low == high:
        magnitude = min(max(abs(low), LEAST), MOST)
        factor = torch.rand(tensor.shape, generator=generator) + 0.5
        return factor * (magnitude if low > 0 else -magnitude)
    return torch.randn(tensor.shape, generator=generator) * max(tensor.std().item(), 0.02)


def _deviation(output: torch.Tensor) -> torch.Tensor:
    """By how much samples differ; but no less than half the deviation of all elements, or a quarter of their size."""
    among = (output - output.mean(0)).std() if len(output) > 1 else output.std()
    return torch.stack([among, output.std() / 2, output.square().mean().sqrt() / 4]).max()


def _scale_layers(module: nn.Module, example_inputs: Sequence[torch.Tensor], wanted: float) -> None:
    done: set[nn.Module] = set()

    def scale(layer: nn.Module, arguments: tuple, output: object):
        weight = layer.weight
        if layer in done or not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return None
        done.add(layer)
        deviation = _deviation(output)
        if not torch.isfinite(deviation) or deviation < 1e-12:
            return None
        weight.mul_(wanted / deviation)
        if getattr(layer, "bias", None) is not None:
            layer.bias.mul_(wanted / deviation)
        return layer.forward(*arguments)

    layers = [
        layer
        for layer in module.modules()
        if isinstance(getattr(layer, "weight", None), nn.Parameter)
        and layer.weight.ndim >= 2
        and not isinstance(layer, EMBEDDINGS)
    ]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    try:
        module(*example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
