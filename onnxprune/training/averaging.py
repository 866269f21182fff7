"""A running average of a module's weights, which is often better than any of the points it passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Average:
    """decay * average + (1 - decay) * weights after each step; buffers too. Polyak and Juditsky 1992.

    Over the first steps the plain mean is taken as long as it forgets faster, so that the start counts for no more than
    its share.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the weights as they are now into the average; what isn't a floating-point number is taken as it is."""
        self.steps += 1
        rate = max(1 - self.decay, 1 / self.steps)
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, rate)
            else:
                self.values[name].copy_(value)

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """Within, the module has the average's weights."""
        own = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.values)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": {name: value.clone() for name, value in self.values.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        for name, value in self.values.items():
            value.copy_(state["values"][name])
