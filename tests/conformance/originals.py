"""PyTorch originals of some cases, for tools that work on modules: {case: module with the case's weights}.

Only torch's own layers, as anybody would write them; the functions that have no layer are modules of a line.
"""

import numpy as np
import torch
from torch import nn

from tests.conformance.case import arrays
from tests.conformance.cases import CASES


class Elementwise(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Sum(nn.Module):
    """Two convolutions of one input, added, or multiplied."""

    def __init__(self, times: bool = False):
        super().__init__()
        self.w0, self.w1 = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.w9 = nn.Conv2d(8, 5, 1)
        self.times = times

    def forward(self, x):
        a, c = self.w0(x), self.w1(x)
        return self.w9(torch.relu(a * c if self.times else a + c))


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self):
        super().__init__()
        self.w0, self.w9 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.w1, self.w2 = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        a = self.w0(x)
        return self.w9(a + self.w2(torch.relu(self.w1(a))))


class Excited(nn.Module):
    """Squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.w0, self.w9 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.w1, self.w2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        a = self.w0(x)
        gate = self.w2(torch.relu(self.w1(a.mean((2, 3), keepdim=True))))
        return self.w9(a * torch.sigmoid(gate))


class Joined(nn.Module):
    """Two convolutions, concatenated."""

    def __init__(self):
        super().__init__()
        self.w0, self.w1, self.w9 = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x):
        return self.w9(torch.relu(torch.cat([self.w0(x), self.w1(x)], 1)))


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.w0, self.w1, self.w9 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.w9(torch.relu(self.w1(torch.relu(self.w1(torch.relu(self.w0(x)))))))


class Recurrent(nn.Module):
    """An LSTM over [time, batch, features], and a linear layer at every step."""

    def __init__(self):
        super().__init__()
        self.lstm, self.w9 = nn.LSTM(3, 4), nn.Linear(4, 5)

    def forward(self, x):
        return self.w9(self.lstm(x)[0])


def chain(*middle: nn.Module, bias: bool = True, first: int = 1, last: int = 1, outputs: int = 5, padding: int = 0):
    """A convolution, layers, and a convolution that reads them; `padding` is the second one's."""
    layers = {"w0": nn.Conv2d(3, 8, first, padding=first // 2)}
    layers |= {f"m{number}": layer for number, layer in enumerate(middle)}
    layers["w9"] = nn.Conv2d(8, outputs, last, padding=padding, bias=bias)
    return lambda: nn.Sequential(_named(layers))


def normed():
    return chain(nn.BatchNorm2d(8), nn.ReLU())


def linear(*middle: nn.Module, features: int, first: int = 1):
    """A convolution, layers, and a linear layer that reads them."""
    layers = {"w0": nn.Conv2d(3, 8, first, padding=first // 2)}
    layers |= {f"m{number}": layer for number, layer in enumerate(middle)}
    return lambda: nn.Sequential(_named(layers | {"w9": nn.Linear(features, 5)}))


def _named(layers: dict[str, nn.Module]):
    from collections import OrderedDict

    return OrderedDict(layers)


MODULES = {
    "zero filters": chain(nn.ReLU()),
    "a filter that cancels": chain(nn.ReLU()),
    "a filter with one tap": chain(nn.ReLU(), first=3),
    "a bias that saves": chain(Elementwise(torch.sin)),
    "sigmoid": chain(nn.Sigmoid()),
    "exponential": chain(Elementwise(torch.exp)),
    "cosine": chain(Elementwise(torch.cos)),
    "softplus": chain(nn.Softplus()),
    "nobody reads it": chain(nn.Sigmoid()),
    "a bias without a filter": chain(nn.ReLU()),
    "a bias below relu": chain(nn.ReLU()),
    "a reader without a bias": chain(nn.ReLU(), bias=False, outputs=50),
    "a padless 3x3 reader": chain(nn.ReLU(), last=3),
    "a constant under zero padding": chain(nn.ReLU(), last=3, padding=1),
    "two constants under zero padding": chain(nn.ReLU(), last=3, padding=1),
    "duplicate filters": chain(nn.Sigmoid(), first=3, last=3, padding=1),
    "batch norm shift": normed(),
    "batch norm, scale and shift 0": normed(),
    "zero before batch norm": normed(),
    "behind global average pooling": linear(
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), features=8, first=3
    ),
    "flattened": linear(nn.ReLU(), nn.Flatten(), features=512),
    "depthwise": chain(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.ReLU()),
    "one input of each group": lambda: nn.Sequential(
        _named({
            "w0": nn.Conv2d(3, 8, 1), "w1": nn.Conv2d(8, 6, 3, padding=1, groups=2), "m": nn.ReLU(),
            "w9": nn.Conv2d(6, 5, 1),
        })
    ),
    "one input in all": lambda: nn.Sequential(
        _named({
            "w0": nn.Conv2d(3, 8, 1), "w1": nn.Conv2d(8, 6, 3, padding=1, groups=2), "m": nn.ReLU(),
            "w9": nn.Conv2d(6, 5, 1),
        })
    ),
    "all dead": chain(nn.ReLU()),
    "an output of the graph": lambda: nn.Sequential(_named({"w0": nn.Conv2d(3, 8, 1)})),
    "residual, both producers dead": Sum,
    "residual, one producer dead": Sum,
    "residual, constants": Sum,
    "a dead branch": Sum,
    "product, one factor dead": lambda: Sum(times=True),
    "a dead block": Block,
    "squeeze and excitation": Excited,
    "concat": Joined,
    "a kernel used twice": Twice,
    "a kernel used twice, dead at both": Twice,
    "a dead unit of an LSTM": Recurrent,
}  # fmt: skip
#: What the weights of a case are called in its module, where "w9" isn't simply w9.weight and "b9" its bias.
_OTHER_NAMES = {"wd": "m0.weight", "s": "m0.weight", "t": "m0.bias", "m": "m0.running_mean", "v_var": "m0.running_var"}


def module(name: str) -> nn.Module:
    """The case's module in eval mode, with the case's weights in place of its own."""
    made = MODULES[name]().eval()
    values = dict(made.named_parameters()) | dict(made.named_buffers())
    for tensor, array in arrays(CASES[name]).items():
        if isinstance(made, Recurrent) and tensor in ("wi", "wr", "bi"):
            _recurrent(made.lstm, tensor, array)
            continue
        target = _OTHER_NAMES.get(tensor) or (f"w{tensor[1:]}.bias" if tensor[0] == "b" else f"{tensor}.weight")
        wanted = values[target]
        array = array.T if array.ndim == 2 and array.shape != tuple(wanted.shape) else array
        wanted.data = torch.from_numpy(np.ascontiguousarray(array))
    return made


def _recurrent(lstm: nn.LSTM, tensor: str, array: np.ndarray) -> None:
    """ONNX stacks the gates as input, output, forget, cell; torch as input, forget, cell, output."""
    stacked = array[0].reshape(2 if tensor == "bi" else 1, 4, 4, -1)[:, [0, 2, 3, 1]].reshape(-1, *array.shape[2:])
    if tensor == "bi":
        lstm.bias_ih_l0.data, lstm.bias_hh_l0.data = torch.from_numpy(stacked.copy()).split(16)
    else:
        getattr(lstm, "weight_ih_l0" if tensor == "wi" else "weight_hh_l0").data = torch.from_numpy(stacked.copy())


def kernels(made: nn.Module) -> int:
    """Elements of the weights of convolutions, linear and recurrent layers."""
    layers = (nn.Conv2d, nn.Linear, nn.LSTM)
    weights = {
        id(p): p.numel()
        for layer in made.modules()
        if isinstance(layer, layers)
        for key, p in layer.named_parameters(recurse=False)
        if key.startswith("weight")
    }
    return sum(weights.values())
