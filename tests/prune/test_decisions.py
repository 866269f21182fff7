"""What history.json says of each unit: scores and ranks where they were decided on, and why each is there or isn't."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from onnxprune.errors import DataError
from onnxprune.prune.decisions import Step, kept_by_rules, unit_records
from onnxprune.prune.kinds import Planners
from onnxprune.training.history import as_json
from onnxprune.training.pruner import Pruner
from tests.training.test_kinds import Attention

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def network(*sizes: float) -> nn.Module:
    """6 inputs, hidden neurons whose weights are all as large as `sizes` say, 3 outputs, no biases."""
    module = nn.Sequential(nn.Linear(6, len(sizes), bias=False), nn.ReLU(), nn.Linear(len(sizes), 3, bias=False))
    with torch.no_grad():
        for part, axis in ((module[0], 0), (module[2], 1)):
            part.weight.copy_(torch.tensor(sizes).unsqueeze(1 - axis).expand_as(part.weight))
    return module


def pruner(*sizes: float, params: float, **how) -> Pruner:
    how = {"criterion": "magnitude", "schedule": "linear", "round_to": 1, **how}
    return Pruner(network(*sizes), (X,), budget={"params": params}, **how)


def told(pruner: Pruner) -> list:
    """As it is read from the file."""
    return json.loads(as_json({"units": pruner.decisions()}))["units"]


def test_scores_ranks_and_cuts_of_each_step():
    subject = pruner(0.3, 0.1, 0.4, 0.2, params=0.5)
    subject.prune(0.5)
    subject.prune(1.0)
    (entry,) = told(subject)
    assert (entry["group"], entry["kind"], entry["count"]) == ("0.weight", "neuron", 4)
    assert entry["index"] == [0, 1, 2, 3]
    # A neuron has 6 weights in and 3 out, all of one size.
    assert entry["steps"] == [
        {"step": 0, "score": [2.7, 0.9, 3.6, 1.8], "rank": [3, 1, 4, 2], "cut": [1], "back": []},
        {"step": 1, "score": [2.7, None, 3.6, 1.8], "rank": [2, None, 3, 1], "cut": [3], "back": []},
    ]
    assert entry["cut"] == {"0": [1], "1": [3]}
    assert entry["kept"] == {"score": [0, 2]}
    assert entry["back"] == []


def test_cut_rolled_back_and_cut_again():
    subject = pruner(0.3, 0.1, 0.4, 0.2, params=0.25)
    weights, before = {n: v.clone() for n, v in subject.module.state_dict().items()}, subject.snapshot()
    subject.prune(1.0)
    subject.module.load_state_dict(weights)
    subject.restore(before)
    subject.prune(0.5)
    (entry,) = told(subject)
    assert [step["cut"] for step in entry["steps"]] == [[0, 1, 3], [1, 3]]
    assert [step["rank"] for step in entry["steps"]] == [[3, 1, 4, 2]] * 2
    assert (entry["cut"], entry["kept"]) == ({"1": [1, 3]}, {"rolled back": [0], "score": [2]})
    assert entry["back"] == [0, 1, 3]


ORDER = (7, 0, 2, 1, 6, 3, 5, 4), (5, 3, 4, 0, 2, 1)


@pytest.fixture(scope="module")
def two_layers():
    """8 and 6 neurons; of the first the units 1, 3, 2 are the least, of the second 3, 5, 4."""
    parts = [nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)]
    return Pruner(nn.Sequential(*parts), (X,), budget={"params": 0.9}, round_to=1).channels


@pytest.mark.parametrize(
    "left, how, retention, kept",
    [
        # 8 of 14 may stay: 4 and 4 in multiples of 4, where 5 and 3 are what the ranks say
        (0.6, {"round_to": 4}, None, {"rounding": [8 + 4]}),
        # 10 may stay: 5 and 5 where 6 and 4 are what the ranks say
        (0.75, {"min_width": 5}, None, {"min_width": [8 + 5]}),
        # all of the second layer is above the threshold, so that 4 of the first go
        (0.75, {}, 3.5, {"retention": [8 + 3, 8 + 5]}),
        (0.75, {}, None, {}),
    ],
)
def test_what_a_rule_kept_is_what_goes_without_it(two_layers, left, how, retention, kept):
    how = {"round_to": 1, "min_width": 1, "ranking": "layer", "names": ("neuron",), **how}
    scores = np.r_[np.array(ORDER[0], float), np.array(ORDER[1]) + 4.0]
    before, stay = np.zeros(14, bool), None if retention is None else scores > retention
    gone = Planners(two_layers, **how).taken(scores, {"neuron": left}, None, before, stay)
    step = Step(scores, np.ones(14, int), before, gone, {"neuron": left}, None, 0)
    found = kept_by_rules(two_layers, how, step, retention)
    assert {name: np.flatnonzero(flags).tolist() for name, flags in found.items()} == kept


def test_units_that_were_never_to_be_chosen():
    subject = Pruner(Attention().eval(), (torch.randn(2, 5, 16),), budget={"neuron": 0.5}, keep=["qkv"], round_to=1)
    reasons = {(entry["group"], entry["kind"]): list(entry["kept"]) for entry in told(subject)}
    assert reasons == {
        ("up.weight", "neuron"): ["score"],
        ("qkv.weight", "head dimension"): ["keep"],
        ("qkv.weight", "head"): ["keep"],
    }


def test_every_unit_is_read_back():
    subject = pruner(0.3, 0.1, 0.4, 0.2, params=0.5)
    subject.prune(0.5)
    subject.prune(1.0)
    first, second, *_ = records = list(unit_records(json.loads(as_json({"units": subject.decisions()}))))
    assert [r.decision for r in records] == ["kept: score", "cut at step 0", "kept: score", "cut at step 1"]
    assert (second.scores, second.ranks, second.index) == ((0.9, None), (1, None), 1)
    assert first.group == "0.weight" and not first.came_back
    with pytest.raises(DataError, match="no key 'units'"):
        list(unit_records({"version": 1}))


def test_a_resumed_run_tells_the_same():
    subject, other = (pruner(0.3, 0.1, 0.4, 0.2, params=0.5) for _ in range(2))
    subject.prune(0.5)
    other.load_state_dict(subject.state_dict())
    for one in (subject, other):
        one.prune(1.0)
    assert other.decisions() == subject.decisions()


def test_thresholds_that_took_nothing_are_one_step_with_the_one_that_did():
    subject = pruner(0.3, 0.1, 0.4, 0.2, params=0.5)
    for theta in (0.1, 0.5, 1.0):
        subject.prune_below(theta)
    (entry,) = told(subject)
    assert [step["cut"] for step in entry["steps"]] == [[1]]
