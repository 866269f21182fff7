"""Batches depend on seed and epoch alone; the metric is what counting gives."""

import numpy as np
import pytest
import torch
from torch import nn

from onnxprune.training.batches import shuffled_batches, top1

INPUTS = np.arange(10, dtype=np.float32).reshape(10, 1)
TARGETS = np.arange(10)


def epoch_of(batches, epoch):
    return [(x.ravel().tolist(), y.tolist()) for x, y in batches(epoch)]


def test_an_epoch_shows_each_sample_once_with_its_own_target():
    shown = epoch_of(shuffled_batches(INPUTS, TARGETS, batch_size=5), 0)
    assert [len(x) for x, _ in shown] == [5, 5]
    assert all(x == y for x, y in shown)
    assert sorted(target for _, y in shown for target in y) == list(range(10))


def test_an_epoch_is_the_same_whatever_was_drawn_before_it():
    def vary(x, generator):
        return x + torch.rand(1, generator=generator)

    batches = shuffled_batches(INPUTS, TARGETS, batch_size=5, seed=1, augment=vary)
    first = epoch_of(batches, 3)
    epoch_of(batches, 4)
    torch.rand(3)
    assert epoch_of(batches, 3) == first
    assert epoch_of(batches, 4) != first
    other_seed = shuffled_batches(INPUTS, TARGETS, batch_size=5, seed=2)
    assert [y for _, y in epoch_of(other_seed, 3)] != [y for _, y in first]


@pytest.mark.parametrize(("batch_size", "expected"), [(4, [4, 4]), (10, [10]), (64, [10]), (1, [1] * 10)])
def test_a_smaller_last_batch_is_left_out_unless_it_is_the_only_one(batch_size, expected):
    batches = shuffled_batches(INPUTS, TARGETS, batch_size=batch_size)
    assert [len(y) for _, y in batches(0)] == expected


def test_top1_counts_over_uneven_parts():
    class Scores(nn.Module):
        """Logits that favour class 0 below 6 and class 1 from there."""

        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor(6.0))

        def forward(self, x):
            return torch.cat([self.bias - 0.5 - x, x - self.bias + 0.5], dim=1)

    targets = (INPUTS[:, 0] >= 4).astype(np.int64)  # wrong for 4 and 5
    metric, loss = top1(INPUTS, targets, batch_size=4)(Scores())
    margins = np.where(targets == 1, 1, -1) * 2 * (INPUTS[:, 0] - 5.5)
    assert metric == pytest.approx(0.8)
    assert loss == pytest.approx(np.log1p(np.exp(-margins)).mean(), rel=1e-5)
