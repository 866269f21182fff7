"""Quantisation-aware training: the module rounds as its int8 graph does, and learns all the same."""

import copy
import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from onnxprune.errors import NotEquivalentError, RecipeError
from onnxprune.graph.model import to_bytes
from onnxprune.runtime.equivalence import require
from onnxprune.training.pruner import Pruner
from onnxprune.training.quantizing import MOMENTUM, Quantizer, Range


class Convolutions(nn.Module):
    """BatchNorm after each, residual, depthwise, grouped, ReLU and ReLU6 and none, pooling, Flatten into a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.deep, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16, affine=False)
        self.back, self.norm3 = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 24, 3, groups=2)
        self.head = nn.Linear(24 * 9, 5)

    def forward(self, x):
        x = torch.relu(self.norm1(self.stem(x)))
        y = functional.relu6(self.norm2(self.deep(x)))
        x = torch.relu(self.norm3(self.back(y)) + x)
        x = functional.max_pool2d(functional.silu(self.last(x)), 2)
        return self.head(x.flatten(1))


class Attention(nn.Module):
    """Linear layers over positions, three of which read the same, LayerNorm that deletion restates."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Linear(6, 24), nn.LayerNorm(24), nn.LayerNorm(24)
        self.query, self.key, self.value, self.out = (nn.Linear(24, 24) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(24, 32), nn.Linear(32, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.embed(x)
        y = self.norm1(x)
        q, k, v = (part(y).unflatten(-1, (2, 12)).transpose(1, 2) for part in (self.query, self.key, self.value))
        heads = functional.scaled_dot_product_attention(q, k, v, scale=12**-0.5)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


IMAGES, TEXTS = (torch.randn(32, *shape, generator=torch.Generator().manual_seed(0)) for shape in ((3, 8, 8), (7, 6)))
CLASSES = torch.arange(32) % 5


def randomised(build):
    """A network with weights and statistics as after training."""
    torch.manual_seed(0)
    module = build()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return module.eval()


@functools.cache
def channels_of_convolutions():
    return Pruner(Convolutions(), (IMAGES[:2],), budget={"params": 0.6}, criterion="magnitude").channels


def pruned(module, x):
    pruner = Pruner(module, (x[:2],), budget={"params": 0.6}, criterion="magnitude", round_to=4)
    pruner.prune(1.0)
    return pruner


def train(module, x, steps=3, rate=1e-3):
    optimizer = torch.optim.AdamW(module.parameters(), rate)
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(module(x), CLASSES[: len(x)]).backward()
        optimizer.step()
    module.eval()


def fused(model, path):
    """The operators that ONNX Runtime's CPU provider runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


def apart(module, model, x):
    """The share of samples that the graph answers otherwise than the module, by more than a tenth of a step in 255."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(x).numpy()
    error = np.abs(session.run(None, {"input": x.numpy()})[0] - expected)
    return np.mean(error.max(1) > 0.1 / 255 * np.ptp(expected))


def weight_bytes(model):
    return sum(value.const_value.nbytes for value in model.ir.graph.initializers.values())


@pytest.mark.parametrize(
    ("build", "x", "how", "expected"),
    [
        (Convolutions, IMAGES, {}, {"QLinearConv": 4, "QGemm": 1, "Conv": 0}),
        (Convolutions, IMAGES, {"per_channel": False, "bits": 7, "reduce_range": False}, {"QLinearConv": 4, "Conv": 0}),
        (Attention, TEXTS, {}, {"MatMulIntegerToFloat": 7, "QGemm": 1}),
    ],
    ids=["convolutions", "one scale for a weight", "attention"],
)
def test_the_int8_graph_is_the_module_that_was_trained(build, x, how, expected, tmp_path):
    module = randomised(build)
    pruner = pruned(module, x)
    zeros = {name: parameter == 0 for name, parameter in module.named_parameters()}
    quantizer = Quantizer(module, pruner.channels, **how)
    quantizer.calibrate([(x, CLASSES)])
    with quantizer.holding(pruner.masks):
        train(module, x)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter == 0, zeros[name]), name
    with quantizer.paused():
        result = pruner.export()
    assert result.equivalence.passed
    model = quantizer.insert(result.model)
    feeds = [{"input": part.numpy()} for part in (x[:1], x[1:])]
    proof = require(quantizer.prove(model, feeds))
    assert proof.agreement == 1.0 and proof.comparisons == 4
    assert apart(module, model, x) <= 0.2  # those in which a value fell on the next step
    kinds = fused(model, tmp_path / "optimized.onnx")
    assert {kind: kinds.count(kind) for kind in expected} == expected
    assert weight_bytes(model) < 0.5 * weight_bytes(result.model)
    # The proof sees a scale that is a fifth off.
    next(iter(quantizer.layers.values())).reads.high *= 1.2
    next(iter(quantizer.layers.values())).reads.low *= 1.2
    with pytest.raises(NotEquivalentError):
        require(quantizer.prove(model, [{"input": 3 * x.numpy()}]))


def test_in_between_the_module_is_what_it_was():
    module = randomised(Convolutions)
    before, state = module(IMAGES), copy.deepcopy(module.state_dict())
    channels = channels_of_convolutions()
    quantizer = Quantizer(module, channels)
    quantizer.calibrate([(IMAGES, CLASSES)])
    rounded = module(IMAGES)
    assert 0 < (rounded - before).abs().max() < 0.2 * before.abs().max()
    assert torch.equal(copy.deepcopy(module)(IMAGES), rounded)
    with quantizer.paused():
        assert torch.equal(module(IMAGES), before)
    assert torch.equal(module(IMAGES), rounded)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())
    # The ranges are part of the state, so that a checkpoint has them.
    kept = copy.deepcopy(module.state_dict())
    train(module, IMAGES)
    assert not torch.equal(module(IMAGES), rounded)
    assert all(torch.equal(part.running_mean, state[f"{name}.running_mean"]) for name, part in norms(module))
    module.load_state_dict(kept)
    assert torch.equal(module(IMAGES), rounded)


def norms(module):
    """Those that are folded; one without a scale and a shift isn't, and stays as it is."""
    return [(name, part) for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d) and part.affine]


def test_training_on_the_grid_learns():
    torch.manual_seed(0)
    module = Convolutions()
    channels = channels_of_convolutions()
    quantizer = Quantizer(module, channels, bits=4)
    quantizer.calibrate([(IMAGES, CLASSES)])
    before = functional.cross_entropy(module.eval()(IMAGES), CLASSES).item()
    train(module, IMAGES, steps=40, rate=1e-2)
    assert functional.cross_entropy(module(IMAGES), CLASSES).item() < 0.2 * before


def test_a_range_by_hand():
    found = Range()
    found.widens = True
    found(torch.tensor([-1.0, 2.0]))
    found(torch.tensor([0.5, 1.0]))
    found.widens = False
    assert (found.low.item(), found.high.item()) == (-1.0, 2.0)
    found.eval()
    x = torch.tensor([-5.0, -1.0, 0.0, 0.006, 1.0, 9.0], requires_grad=True)
    y = found(x)
    scale = 3 / 255
    assert y.tolist() == pytest.approx([-85 * scale, -85 * scale, 0, scale, 85 * scale, 170 * scale])
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]
    assert (found.low.item(), found.high.item()) == (-1.0, 2.0)
    found.train()(torch.tensor([1.0, 4.0]))
    assert found.low.item() == pytest.approx(-1 + MOMENTUM)
    assert found.high.item() == pytest.approx(2 + 2 * MOMENTUM)
    assert found.stored().zero_point == round(255 * (1 - MOMENTUM) / (3 + MOMENTUM))


def test_a_range_behind_a_relu_starts_at_zero():
    found = Range((0.0, 6.0)).train()
    found.widens = True
    found(torch.tensor([-3.0, 9.0]))
    assert (found.low.item(), found.high.item(), found.stored().zero_point) == (0.0, 6.0, 0)


def test_a_range_of_nothing_is_still_a_range():
    found = Range().eval()
    assert torch.equal(found(torch.zeros(3)), torch.zeros(3))
    assert found.stored().scale > 0


class Peculiar(nn.Module):
    """What isn't called as the module it is, or isn't followed by a plain BatchNorm, stays as it was."""

    class Norm(nn.BatchNorm2d):
        def forward(self, x):
            return functional.silu(super().forward(x))

    def __init__(self):
        super().__init__()
        self.plain, self.odd, self.twice = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.norm, self.function = self.Norm(8), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.norm(self.odd(torch.relu(self.plain(x))))
        x = self.twice(torch.relu(self.twice(x)))
        return functional.conv2d(torch.relu(x), self.function.weight).mean((2, 3))


def test_what_cannot_be_followed_stays_in_floating_point():
    module = randomised(Peculiar)
    channels = Pruner(module, (IMAGES[:2],), budget={"params": 0.9}, criterion="magnitude", round_to=1).channels
    assert list(Quantizer(module, channels).layers) == ["plain"]


def test_a_network_without_layers_is_refused():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.other = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8, 5))

        def forward(self, x):
            return torch.relu(x @ self.weight) @ self.other

    module = Scale()
    channels = Pruner(module, (TEXTS[:2, 0],), budget={"params": 0.9}, criterion="magnitude", round_to=1).channels
    with pytest.raises(RecipeError, match="Scale has no convolution or linear layer to quantise"):
        Quantizer(module, channels)


def test_what_is_not_a_number_is_not_hidden():
    module = randomised(Convolutions)
    channels = channels_of_convolutions()
    quantizer = Quantizer(module, channels)
    quantizer.calibrate([(IMAGES, CLASSES)])
    with torch.no_grad():
        module.head.bias[0] = np.nan
    assert torch.isnan(module(IMAGES)).any()
