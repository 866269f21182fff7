"""Units of several kinds in one run, each with its own rate."""

import torch
from torch import nn

from onnxprune.training.pruner import Pruner


class Attention(nn.Module):
    """Four heads of queries, keys and values in one matrix, a residual sum, and a feed-forward layer."""

    def __init__(self, width: int = 16, heads: int = 4):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 24), nn.Linear(24, width), nn.Linear(width, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        score = torch.softmax(q @ k.transpose(-1, -2) * 0.5, dim=-1)
        x = x + self.out((score @ v).transpose(1, 2).flatten(2))
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


def test_heads_and_neurons_have_rates_of_their_own():
    torch.manual_seed(0)
    module = Attention().eval()
    x = torch.randn(2, 5, 16)
    pruner = Pruner(module, (x,), budget={"head": 0.5, "neuron": 0.75}, criterion="magnitude", round_to=1)
    pruner.prune(1.0)
    assert {w["kind"]: (w["before"], w["after"]) for w in pruner.widths()} == {"head": (4, 2), "neuron": (24, 18)}
    assert pruner.export().equivalence.passed


def test_without_a_rate_of_their_own_heads_lose_dimensions():
    pruner = Pruner(Attention().eval(), (torch.randn(2, 5, 16),), budget={"params": 0.9}, round_to=1)
    assert [w["kind"] for w in pruner.widths()] == ["head dimension", "neuron"]
