"""Plans: costs that are what removal leaves, budgets that hold, widths that are allowed, the best choice."""

import itertools

import numpy as np
import pytest

from onnxprune.errors import BudgetUnreachable, InputError, RecipeError
from onnxprune.graph.model import load
from onnxprune.graph.remove import remove
from onnxprune.graph.units import trace
from onnxprune.prune.cost import count
from onnxprune.prune.plan import MAX_WIDTHS, Planner, profile_widths
from tests.graph.conftest import parse

IMAGE = {"x": "N,3,8,8"}
# fmt: off
NETWORKS = {
    "chain": ("a = Conv(x, w0) b = Conv(a, w1, b1) y = Conv(b, w9)", {"w0": (8, 3, 3, 3), "w1": (6, 8, 1, 1), "b1": (6,), "w9": (5, 6, 1, 1)}),
    "residual": ("a = Conv(x, w0) c = Conv(a, w1) e = Conv(c, w2) b = Add(e, a) y = Conv(b, w9)", {"w0": (8, 3, 1, 1), "w1": (4, 8, 1, 1), "w2": (8, 4, 1, 1), "w9": (5, 8, 1, 1)}),
    "square": ("a = Conv(x, w0) c = Conv(a, w1) b = Add(c, a) y = Conv(b, w9)", {"w0": (8, 3, 1, 1), "w1": (8, 8, 1, 1), "w9": (5, 8, 1, 1)}),
    "concat": ("a = Conv(x, w0) c = Conv(x, w1) b = Concat<axis=1>(a, c) y = Conv(b, w9)", {"w0": (8, 3, 1, 1), "w1": (4, 3, 1, 1), "w9": (5, 12, 1, 1)}),
    "depthwise": ("a = Conv(x, w0) b = Conv<group=8>(a, w1) y = Conv(b, w9)", {"w0": (8, 3, 1, 1), "w1": (8, 1, 3, 3), "w9": (5, 8, 1, 1)}),
    "grouped": ("a = Conv(x, w0) b = Conv<group=2>(a, w1) y = Conv(b, w9)", {"w0": (8, 3, 1, 1), "w1": (6, 4, 1, 1), "w9": (5, 6, 1, 1)}),
    "flatten": ("a = Conv(x, w0) f = Flatten(a) t = Transpose(w9) g = MatMul(f, t) y = Reshape(g, s)", {"w0": (8, 3, 1, 1), "w9": (5, 512)}),
    # Both products of attention have no weight.
    "attention": ("cq = Conv(x, wq) ck = Conv(x, wk) cv = Conv(x, wv) q = Reshape(cq, h) k = Reshape(ck, h) v = Reshape(cv, h) t = Transpose<perm=[0,1,3,2]>(q) c = MatMul(t, k) p = Softmax<axis=-1>(c) o = MatMul(v, p) a = Reshape(o, i) y = Conv(a, w9)", {"wq": (8, 3, 1, 1), "wk": (8, 3, 1, 1), "wv": (8, 3, 1, 1), "w9": (5, 8, 1, 1)}),
}
CONSTANTS = {"flatten": {"s": np.array([-1, 5, 1, 1])}, "attention": {"h": np.array([0, 2, -1, 64]), "i": np.array([0, -1, 8, 8])}}
# fmt: on


def build(name):
    body, weights = NETWORKS[name]
    model = load(parse(body, IMAGE, weights, CONSTANTS.get(name)))
    channels = trace(model)
    saliency = channels.importance({n: np.abs(model.ir.graph.initializers[n].const_value.numpy()) for n in weights})
    return model, channels, saliency


@pytest.mark.parametrize("name", NETWORKS)
def test_predicted_costs_are_what_removal_leaves(name):
    model, channels, saliency = build(name)
    planner = Planner(channels, round_to=1)
    dense = count(model)
    assert planner.totals["macs"] == pytest.approx(dense.macs)
    assert planner.totals["params"] == pytest.approx(dense.params)
    for fraction in (0.9, 0.6, 0.45):
        plan = planner.plan(saliency, {"macs": fraction})
        after = count(remove(model, channels, plan.units))
        assert plan.cost["macs"] == pytest.approx(after.macs / dense.macs)
        assert plan.cost["params"] == pytest.approx(after.params / dense.params)
        assert plan.cost["macs"] <= fraction + 1e-9
        assert planner.cost_without(plan.units) == pytest.approx(dict(plan.cost))


@pytest.mark.parametrize("name", ["chain", "residual", "concat"])
def test_no_choice_of_widths_within_the_budget_is_worth_more(name):
    """Against all combinations of widths."""
    _, channels, saliency = build(name)
    planner = Planner(channels, round_to=2)
    budget = {"macs": 0.5, "params": 0.6}
    plan = planner.plan(saliency, budget)
    members = [saliency[g.units] for g in planner.groups]

    def worth(widths):
        parts = [(s.sum(), np.sort(s)[len(s) - w :].sum()) for s, w in zip(members, widths, strict=True)]
        return sum(np.sqrt(whole) * np.log(left / whole) for whole, left in parts)

    best, sizes = -np.inf, [len(s) for s in members]
    for widths in itertools.product(*[range(2, s + 1, 2) for s in sizes]):
        cost = planner.cost([w / s for w, s in zip(widths, sizes, strict=True)])
        if all(cost[k] <= v + 1e-9 for k, v in budget.items()):
            best = max(best, worth(widths))
    assert worth([w.after for w in plan.widths]) == pytest.approx(best, rel=2e-3)


def test_the_last_units_of_a_layer_count_for_more_than_they_seem():
    """Two layers of equal costs, one a tenth less salient: half of each stays. The sum would take all but one of it."""
    _, channels, saliency = build("concat")
    planner = Planner(channels, round_to=1)
    first, second = (g.units for g in planner.groups)
    saliency[first], saliency[second] = 1.0, 0.9
    for scale in (1.0, 7.0):  # only the proportions of saliencies count
        assert [w.after for w in planner.plan(saliency * scale, {"params": 0.5}).widths] == [4, 2]


def test_the_least_salient_of_a_group_go_first():
    _, channels, saliency = build("chain")
    plan = Planner(channels, round_to=1).plan(saliency, {"params": 0.5})
    gone = set(plan.units)
    for group in Planner(channels).groups:
        out = [saliency[u] for u in group.units if u in gone]
        stay = [saliency[u] for u in group.units if u not in gone]
        assert not out or max(out) <= min(stay)


def test_units_that_are_gone_stay_gone():
    _, channels, saliency = build("chain")
    planner = Planner(channels, round_to=1)
    best = int(np.argmax(saliency))
    plan = planner.plan(saliency, {"macs": 0.7}, deleted=[best])
    assert best in plan.units


def test_an_unreachable_budget_says_the_best_that_can_be():
    _, channels, saliency = build("chain")
    planner = Planner(channels, round_to=4)
    with pytest.raises(BudgetUnreachable, match=r"smallest legal network has \d+\.\d%"):
        planner.plan(saliency, {"macs": 0.01})
    smallest = planner.cost([4 / 8, 4 / 6])["macs"]
    plan = planner.plan(saliency, {"macs": smallest + 1e-6})
    assert [w.after for w in plan.widths] == [4, 4]


def test_saliency_that_is_no_number_or_says_nothing():
    _, channels, saliency = build("chain")
    planner = Planner(channels, round_to=1)
    with pytest.raises(InputError, match="isn't a number"):
        planner.plan(saliency * np.nan, {"macs": 0.5})
    plan = planner.plan(saliency * 0, {"macs": 0.5})
    assert 0.35 < plan.cost["macs"] <= 0.5, "a budget is used up even where nothing tells units apart"


def test_kept_weights_stay_whole():
    _, channels, saliency = build("residual")
    for pattern in ("w2", "2", "w[12]"):
        planner = Planner(channels, keep=[pattern], round_to=1)
        assert planner.groups == () and planner.plan(saliency, {"macs": 1.0}).units == ()
    # w9 reads the stream only: the branch inside may shrink
    plan = Planner(channels, keep=["w9"], round_to=1).plan(saliency, {"macs": 0.7})
    assert {channels.units[u].where.split("[")[0] for u in plan.units} == {"w1"}


def test_absolute_budgets_become_fractions():
    model, channels, _ = build("chain")
    planner = Planner(channels)
    dense = count(model)
    assert planner.fractions({"macs": dense.macs / 4, "params": 0.5}) == {"macs": pytest.approx(0.25), "params": 0.5}
    for wrong in ({}, {"watts": 0.5}, {"macs": 0}, {"macs": -3}, {"macs": float("nan")}):
        with pytest.raises(RecipeError):
            planner.fractions(wrong)


@pytest.mark.parametrize(
    ("size", "round_to", "expected"),
    [
        (6, "cpu", [4, 6]),
        (64, "cpu", [4, 8, 12, 16, 32, 48, 64]),
        (20, "cpu", [4, 8, 12, 16, 20]),
        (10, 4, [4, 8, 10]),
        (3, 8, [3]),
    ],
)
def test_widths_that_run_fast(size, round_to, expected):
    assert profile_widths(size, round_to) == expected


def test_wide_groups_have_few_choices():
    widths = profile_widths(2048)
    assert len(widths) <= MAX_WIDTHS and widths[-1] == 2048 and all(w % 16 == 0 for w in widths if w >= 16)
    with pytest.raises(RecipeError, match="round_to"):
        profile_widths(8, 0)


def test_kinds_of_units_have_budgets_of_their_own():
    """Half of the channels, and a tenth of the multiply-adds less: each holds by itself."""
    _, channels, saliency = build("chain")
    planner = Planner(channels, round_to=1)
    (kind,) = {unit.kind for unit in channels.units}
    plan = planner.plan(saliency, planner.fractions({"macs": 0.9, kind: 0.5}))
    assert plan.cost[kind] == 0.5 and plan.cost["macs"] <= 0.9
    assert len(plan.units) == 7
    loose = planner.plan(saliency, planner.fractions({"macs": 0.9}))
    assert loose.cost[kind] > 0.5
    assert planner.fractions({kind: 7}) == {kind: 0.5}
    with pytest.raises(RecipeError, match=f"asks for 0.5 head. .* this network has: {kind}"):
        planner.fractions({"head": 0.5})
