"""What each position of a layer's output is computed from, as rows of a matrix."""

import torch
from torch import nn
from torch.nn import functional


def patches(part: nn.Module, x: torch.Tensor) -> torch.Tensor | None:
    """[rows, I * K]: what each position of a layer's output is computed from; None for layers of another sort."""
    if isinstance(part, nn.Linear):
        return x.movedim(1, -1).reshape(-1, x.shape[1]) if x.ndim > 2 else x
    if isinstance(part, nn.Conv2d) and part.padding_mode == "zeros" and not isinstance(part.padding, str):
        unfolded = functional.unfold(x, part.kernel_size, part.dilation, part.padding, part.stride)
        return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])
    return None
