"""Importances and sensitivity of a network before pruning, against hand-worked values."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from onnxprune.training import explaining
from onnxprune.training.pruner import Pruner

X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def small():
    """2 inputs, 3 neurons, 2 outputs, no biases."""
    module = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 3.0], [1.0, 0.0]]))
        module[2].weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [2.0, 1.0, 0.0]]))
    return module, Pruner(module, (X,), budget={"params": 0.9}, criterion="magnitude", round_to=1)


def test_importances(small):
    module, pruner = small
    told = explaining.importance(module, pruner.masks.parameters, pruner.channels, pruner.groups)
    neurons = {entry["layer"]: entry["values"] for entry in told["neurons"]}
    assert neurons == {"0.weight": [2.5, 4.5, 0.5], "2.weight": [1.667, 1.667]}
    (parameters,) = told["parameters"]
    # sums of the squares of 2 weights into and 2 out of each neuron: 1 + 4 + 1 + 4, 9 + 1, 1 + 4
    assert parameters == {"group": "0.weight", "kind": "neuron", "values": [2.5, 2.5, 1.25]}
    (connections,) = told["connections"]
    assert (connections["from"], connections["to"], connections["through"]) == ("0.weight", "2.weight", 3)
    # I_00 = (1 * 1 + 0 * 0 + 1 * 4) / 3, I_01 = (1 * 4) / 3, I_10 = (4 * 1) / 3, I_11 = (4 * 4 + 9 * 1) / 3
    assert connections["values"] == [[1.667, 1.333], [1.333, 8.333]]


def test_connections_through_a_flattened_image_sum_the_places_of_each_channel():
    module = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 3, bias=False)).eval()
    pruner = Pruner(module, (torch.randn(2, 1, 2, 2),), budget={"params": 0.9}, criterion="magnitude", round_to=1)
    told = explaining.importance(module, pruner.masks.parameters, pruner.channels, pruner.groups)
    (connections,) = told["connections"]
    first, second = (np.square(module[n].weight.detach().double().numpy()) for n in (0, 2))
    expected = first.reshape(2, 1).T @ second.reshape(3, 2, 4).sum(2).T / 2
    np.testing.assert_allclose(connections["values"], expected, rtol=1e-3)


def test_an_embedding_is_no_matrix_that_is_read():
    """Its rows are picked, not summed: connections begin behind it."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.first, self.last = nn.Embedding(7, 4), nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.last(torch.relu(self.first(self.table(x))))

    module = Words().eval()
    x = torch.randint(0, 7, (2, 5))
    pruner = Pruner(module, (x,), budget={"params": 0.9}, criterion="magnitude", round_to=1)
    told = explaining.importance(module, pruner.masks.parameters, pruner.channels, pruner.groups)
    assert [(c["from"], c["to"]) for c in told["connections"]] == [("first.weight", "last.weight")]
    assert len({e["layer"]: e["values"] for e in told["neurons"]}["table.weight"]) == 4


def test_long_sides_of_connections_are_told_in_blocks():
    matrix = np.arange(100.0)[:, None] + np.zeros((1, 7))
    found = explaining._in_blocks(matrix)
    assert found.shape == (explaining.BLOCKS, 7)
    assert found[:, 0].tolist() == sorted(found[:, 0]) and found[0, 0] == 1.0  # of 0, 1 and 2


def test_sensitivity_is_the_loss_with_the_least_off(small):
    module, pruner = small
    y = torch.arange(8) % 2
    before = {name: value.clone() for name, value in module.state_dict().items()}
    (curve,) = explaining.sensitivity(
        module, pruner.masks.parameters, pruner.channels, pruner.groups, [(X, y)], functional.cross_entropy
    )
    assert curve["shares"] == pytest.approx(np.arange(10) / 10)
    # 3 neurons: none is off up to 30%, the third (of the least weights, 3) from 40%, the second (4) too from 70%
    with torch.no_grad():
        off = [functional.cross_entropy(module(X), y)]
        for number in (2, 1):
            module[0].weight[number] = 0
            off.append(functional.cross_entropy(module(X), y))
    module.load_state_dict(before)
    assert curve["losses"] == pytest.approx([float(off[k]) for k in (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)], rel=1e-3)


def test_outputs_that_are_gone_are_marked(small):
    module = small[0]
    entries = [{"layer": "0.weight"}, {"layer": "2.weight"}]
    mask = torch.ones(3, 2, dtype=torch.bool)
    mask[1] = False
    mask[2, 0] = False
    explaining.mark_gone(entries, module, {"0.weight": mask})
    assert [entry["gone"] for entry in entries] == [[1], []]
