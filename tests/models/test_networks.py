"""The reference networks have the parts and the size that the demos rely on."""

import pytest
import torch
from torch import nn

from onnxprune_models import digits_resnet, quick_digits


def parameter_count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("build", "side", "expected"), [(digits_resnet.build, 28, 546_298), (quick_digits.build, 8, 145_546)]
)
def test_parameter_counts_and_output_shapes_in_both_modes(build, side, expected):
    module = build()
    assert parameter_count(module) == expected
    images = torch.rand(3, 1, side, side)
    assert module.train()(images).shape == (3, 10)
    assert module.eval()(images[:1]).shape == (1, 10)


def test_digits_resnet_has_every_part_that_the_demo_promises():
    module = digits_resnet.build()
    assert 500_000 <= parameter_count(module) <= 1_000_000
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert any(c.groups == c.in_channels > 1 for c in convolutions)
    assert any(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    assert isinstance(module.layer3.shortcut, nn.Identity)
    assert not isinstance(module.layer2.shortcut, nn.Identity)
    assert module.head.in_features == 128 * 4 * 4


def test_attention_scales_whole_channels_between_0_and_1():
    block = digits_resnet.SqueezeExcitation(6, 3)
    images = torch.rand(2, 6, 4, 4) + 0.1
    gates = block(images) / images
    assert torch.allclose(gates, gates[:, :, :1, :1].expand_as(gates))
    assert ((gates > 0) & (gates < 1)).all()


@pytest.mark.parametrize("build", [digits_resnet.build, quick_digits.build])
def test_the_same_seed_builds_the_same_network(build):
    built = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        built.append(torch.cat([p.detach().flatten() for p in build().parameters()]))
    assert torch.equal(built[0], built[1])
    assert not torch.equal(built[0], built[2])
