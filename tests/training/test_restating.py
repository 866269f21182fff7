"""Normalisations over the kept channels: the module with masks is the graph without the channels."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from onnxprune.training.pruner import Pruner


class Encoder(nn.Module):
    """PyTorch's own encoder, behind an embedding and before a head."""

    def __init__(self, **how):
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 3, 32, batch_first=True, **how)
        self.embed = nn.Linear(6, 24)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


class Vision(nn.Module):
    """A small ViT: patches, a class token, places, attention with LayerNorm before it, the token into a head."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(16) for _ in range(3))
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.place
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        heads = functional.scaled_dot_product_attention(q, k, v, scale=8**-0.5)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class Groups(nn.Module):
    """GroupNorm of several groups and of one, LayerNorm as a function and as a module that runs twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16)
        self.second, self.norm2 = nn.Conv2d(16, 12, 3), nn.GroupNorm(1, 12, affine=False)
        self.third, self.norm3, self.head = nn.Conv2d(12, 12, 1), nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.norm2(self.second(torch.relu(self.norm1(self.first(x)))))
        x = (x + self.third(torch.relu(x))).permute(0, 2, 3, 1)
        x = self.norm3(1 + functional.layer_norm(self.norm3(x), (12,)))
        return self.head(x.mean((1, 2)))


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.inner = nn.Linear(6, 12), nn.Linear(12, 5), nn.Linear(12, 8)
        self.back = nn.Linear(8, 12)

    def forward(self, x):
        x = self.first(x)
        x = x + self.back(torch.relu(self.inner(x)))
        centred = x - x.mean(-1, keepdim=True)
        return self.last(centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + 1e-5))


def randomised(module):
    """Scales and shifts as after training: at 1 and 0 much would hold by accident."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.2, 1.5)
    return module.eval()


TEXT, IMAGE = (torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)) for shape in ((7, 6), (3, 8, 8)))
HOW = {"criterion": "magnitude", "round_to": 1}


@pytest.mark.parametrize(
    ("build", "x", "budget", "width"),
    [
        (Encoder, TEXT, {"params": 0.5}, "embed.weight"),
        (lambda: Encoder(norm_first=True, activation="gelu"), TEXT, {"params": 0.5}, "embed.weight"),
        (Vision, IMAGE, {"channel": 0.5, "head": 0.5}, "token"),
        (Groups, IMAGE, {"params": 0.5}, "first.weight"),
    ],
    ids=["encoder, norm last", "encoder, norm first", "vision", "groups"],
)
def test_the_masked_module_is_the_graph_without_the_channels(build, x, budget, width):
    module = randomised(build())
    pruner = Pruner(module, (x[:2],), budget=budget, **HOW)
    pruner.prune(1.0)
    widths = {w["group"]: w for w in pruner.widths()}
    assert widths[width]["after"] < widths[width]["before"]
    # With statistics over all channels it would be another function by far.
    with pruner._restating.paused():
        whole = module(x)
    assert (module(x) - whole).abs().max() > 1e-3 * whole.abs().max()
    optimizer = torch.optim.AdamW(module.parameters(), 0.01)
    module.train()
    nn.functional.cross_entropy(module(x), torch.arange(4)).backward()
    optimizer.step()
    pruner.step(optimizer)
    result = pruner.export()
    assert result.equivalence.passed and result.equivalence.comparisons > 0


@functools.cache
def encoder_channels():
    return Pruner(Encoder(), (TEXT[:2],), budget={"params": 0.5}, **HOW).channels


def encoder(progress=1.0):
    """An encoder and its pruner, which has gone so far."""
    module = randomised(Encoder(dropout=0.0))
    pruner = Pruner(module, (TEXT[:2],), budget={"params": 0.5}, channels=encoder_channels(), **HOW)
    if progress:
        pruner.prune(progress)
    return module, pruner


def test_state_goes_back_and_on():
    module, pruner = encoder(0.0)
    whole, before, start = module(TEXT), copy.deepcopy(module.state_dict()), pruner.snapshot()
    pruner.prune(1.0)
    cut, twin = module(TEXT), copy.deepcopy(module)
    assert not torch.allclose(cut, whole)
    resumed, other = encoder(0.0)
    resumed.load_state_dict(module.state_dict())
    other.load_state_dict(pruner.state_dict())
    assert torch.equal(resumed(TEXT), cut)
    module.load_state_dict(before)
    pruner.restore(start)
    assert torch.equal(module(TEXT), whole)
    assert torch.equal(twin(TEXT), cut)


def test_gradients_are_those_of_differences():
    module, _ = encoder()
    module.double()
    weight, x = module.embed.weight, TEXT.double()
    module(x).sum().backward()
    gone = (weight == 0).all(1)
    assert gone.any() and not gone.all()
    step = torch.zeros_like(weight)
    step[~gone] = 1e-6

    @torch.no_grad()
    def beside(sign):
        weight.add_(sign * step)
        value = module(x).square().sum().item()
        weight.sub_(sign * step)
        return value

    module.zero_grad()
    module(x).square().sum().backward()
    assert (beside(1) - beside(-1)) / 2 == pytest.approx(float((step * weight.grad).sum()), rel=1e-5)


def test_half_precision_and_blocks_that_are_computed_again():
    module, _ = encoder()
    module.train()
    exact = module(TEXT)
    with torch.autocast("cpu", torch.bfloat16):
        assert (module(TEXT) - exact).abs().max() < 0.1 * exact.abs().max()
    exact.square().sum().backward()
    expected = module.embed.weight.grad.clone()
    module.zero_grad()
    checkpoint(module, TEXT, use_reentrant=False).square().sum().backward()
    torch.testing.assert_close(module.embed.weight.grad, expected)


def test_what_is_written_out_by_hand_stays_whole():
    pruner = Pruner(randomised(ByHand()), (TEXT[:2, 0],), budget={"params": 0.7}, **HOW)
    assert [w["group"] for w in pruner.widths()] == ["inner.weight"]
    assert any(unit.exactness == "restated" for unit in pruner.channels.units)


def test_an_error_inside_leaves_nothing_behind():
    module, _ = encoder()
    expected = module(TEXT)

    def stop(*_):
        raise RuntimeError("stopped")

    handle = module.encoder.layers[0].norm2.register_forward_pre_hook(stop)
    with pytest.raises(RuntimeError, match="stopped"):
        module(TEXT)
    handle.remove()
    assert not torch.overrides._get_current_function_mode_stack()
    assert torch.equal(module(TEXT), expected)
