"""What the pruner asks of a module's layers: which axis is which, what feeds them, how they are run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from onnxprune.prune.channelwise import Layout

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def layouts(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, Layout]:
    """{parameter: which of its axes is which}, for every parameter of two axes or more."""
    found = {name: Layout() for name, parameter in parameters.items() if parameter.ndim > 1}
    for name, part in weighted(module):
        if name not in found:
            continue
        if isinstance(part, CONVOLUTIONS):
            found[name] = Layout(0, 1, part.groups)
        elif isinstance(part, TRANSPOSED):
            found[name] = Layout(1 if part.groups == 1 else None, 0)
        elif isinstance(part, nn.Linear):
            found[name] = Layout(0, 1)
        elif isinstance(part, nn.Embedding):
            found[name] = Layout(1)
    return found


def scales(module: nn.Module) -> list[str]:
    """The names of BatchNorms' weights."""
    return [name for name, part in weighted(module) if isinstance(part, BATCHNORMS) and part.weight is not None]


def weighted(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name of its weight, layer) of every layer that has a weight."""
    for prefix, part in module.named_modules():
        if isinstance(getattr(part, "weight", None), torch.Tensor):
            yield f"{prefix}.weight" if prefix else "weight", part


def call(module: nn.Module, inputs: Any) -> Any:
    """Run a module on a batch, which is a tensor or a tuple of them, on the module's device."""
    device = next(module.parameters()).device
    if isinstance(inputs, tuple | list):
        return module(*(x.to(device) for x in inputs))
    return module(inputs.to(device))


@contextmanager
def reading(module: nn.Module, see: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Within, `see(name of the weight, x[N,C,*S])` gets what every convolution and linear layer reads."""
    hooks = []
    for name, part in weighted(module):
        if isinstance(part, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
            last = isinstance(part, nn.Linear)

            def hook(_: nn.Module, inputs: tuple, name: str = name, last: bool = last) -> None:
                x = inputs[0].detach()
                see(name, x.movedim(-1, 1) if last and x.ndim > 2 else x)

            hooks.append(part.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
