"""Sites that may not pool data: what they gathered is saved, merged, and leads all to the same masks."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import onnxprune
from onnxprune.errors import DataError, InputError
from onnxprune.training.pruner import Pruner

X = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(80) % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


CHANNELS = Pruner(network(), (X[:2],), budget={"params": 0.9}).channels


def pruner_of(module, criterion="taylor"):
    return Pruner(module, (X[:2],), budget={"params": 0.5}, criterion=criterion, round_to=1, channels=CHANNELS)


def gathered(criterion, *batches):
    """A pruner of a network of its own that saw these batches."""
    module = network()
    pruner = pruner_of(module, criterion)
    for x, y in batches:
        module.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        pruner.step()
    return pruner


def of_class(label):
    return X[label == Y], Y[label == Y]


@pytest.mark.parametrize("criterion", ["taylor", "gradient", "0.5*taylor + 0.5*fisher"])
def test_four_clients_with_disjoint_classes_end_with_identical_masks(criterion, tmp_path):
    clients = [gathered(criterion, of_class(label)) for label in range(4)]
    alone = [gathered(criterion, of_class(label)).prune(1.0).units for label in range(4)]
    for number, client in enumerate(clients):
        client.saliency().save(tmp_path / f"{number}.safetensors")
    files = sorted(tmp_path.iterdir())
    for client in clients:
        client.step(saliency=onnxprune.average([onnxprune.Saliency.load(file) for file in files]))
    together = [client.prune(1.0).units for client in clients]
    assert len(set(together)) == 1 and len(set(alone)) > 1
    pooled = gathered(criterion, *[of_class(label) for label in range(4)])
    assert pooled.prune(1.0).units == together[0]


def test_sites_count_by_the_steps_that_they_saw_or_as_is_said():
    one, other = gathered("gradient", of_class(0)).saliency(), gathered("gradient", of_class(1), of_class(2)).saliency()
    assert (one.steps, other.steps) == (1, 2)
    name = "0/0.weight"
    merged = onnxprune.average([one, other])
    assert merged.arrays[name] == pytest.approx((one.arrays[name] + 2 * other.arrays[name]) / 3, rel=1e-5)
    assert merged.steps == 3
    merged = onnxprune.average([one, other], weights=[3, 1])
    assert merged.arrays[name] == pytest.approx(0.75 * one.arrays[name] + 0.25 * other.arrays[name], rel=1e-5)


def test_what_does_not_belong_together_is_refused(tmp_path):
    taylor, gradient = gathered("taylor", (X, Y)), gathered("gradient", (X, Y))
    with pytest.raises(InputError, match="don't belong together"):
        onnxprune.average([taylor.saliency(), gradient.saliency()])
    with pytest.raises(InputError, match="belongs to another criterion or network"):
        taylor.step(saliency=gradient.saliency())
    with pytest.raises(InputError, match="can't be weighed"):
        onnxprune.average([taylor.saliency()], weights=[0.0])
    with pytest.raises(InputError, match="no saliency to average"):
        onnxprune.average([])
    with pytest.raises(InputError, match="gathers nothing while training"):
        pruner_of(network(), "magnitude").saliency()
    with pytest.raises(InputError, match="No gradient was seen yet"):
        pruner_of(network()).saliency()
    (tmp_path / "other").write_bytes(b"not a tensor")
    with pytest.raises(DataError, match="can't be read as a saliency"):
        onnxprune.Saliency.load(tmp_path / "other")
    assert np.array_equal(taylor.score(), gathered("taylor", (X, Y)).score()), "what was refused changed nothing"
