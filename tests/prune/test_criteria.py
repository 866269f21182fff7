"""Criteria, threshold rules and rankings against values worked out by hand."""

import numpy as np
import pytest

from onnxprune.errors import InputError, RecipeError
from onnxprune.prune import criteria, ranking, thresholds
from onnxprune.prune.thresholds import Threshold

W = np.array([[0.5, -2.0], [0.0, 1.0]], np.float32)
G = np.array([[-4.0, 0.5], [3.0, -1.0]], np.float32)
H = np.array([[8.0, 0.5], [7.0, -2.0]], np.float32)
#: Three filters on a line, at 0, 1 and 5: the middle one is closest to the geometric median.
LINE = np.array([[[0.0], [0.0]], [[0.6], [0.8]], [[3.0], [4.0]]], np.float32)
#: Two samples, two channels, two positions.
A = np.array([[[1.0, -2.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 0.0]]], np.float32)
UNITS = np.array([2.0, 1.0, 4.0])

# {criterion: (what it reads, the score worked out by hand)}
BY_HAND = {
    "magnitude": ({"weight": W}, [[0.5, 2], [0, 1]]),
    "magnitude_l2": ({"weight": W}, [[0.25, 4], [0, 1]]),
    "normalized": ({"weight": W}, [[0.25, 1], [0, 0.5]]),
    # Squares 0.25, 4, 0, 1: each over the sum of those that aren't smaller.
    "lamp": ({"weight": W}, [[0.25 / 5.25, 1], [0, 1 / 5]]),
    "parameter": ({"squares": np.array([6.0, 3.0]), "sizes": np.array([3, 1])}, [2, 3]),
    "neuron": ({"weight": W}, [(0.25 + 4) / 2, (0 + 1) / 2]),
    "connection": ({"incoming": np.array([4.25, 1.0]), "outgoing": np.array([2.0, 0.5])}, [8.5, 0.5]),
    "fpgm": ({"weight": LINE}, [1 + 5, 1 + 4, 5 + 4]),
    "batchnorm": ({"scale": np.array([0.5, -2.0])}, [0.5, 2]),
    "gradient": ({"gradient": G}, [[4, 0.5], [3, 1]]),
    # Squares 16, 0.25, 9, 1: their root is sqrt(26.25).
    "sensitivity": ({"gradient": G}, np.array([[4, 0.5], [3, 1]]) / 26.25**0.5),
    # Two channels, of two weights each: -2 - 1 and 0 - 1.
    "taylor": ({"contribution": (W * G).sum(axis=1)}, [9, 1]),
    "hessian": ({"curvature": H}, [[8, 0.5], [7, -2]]),
    "obd": ({"weight": W, "curvature": H}, [[1, 1], [0, -1]]),
    "fisher": ({"weight": W, "gradient": G}, [[2, 0.5], [0, 0.5]]),
    "activation": ({"activation": A}, [4 / 4, 3 / 4]),
    "apoz": ({"activation": A}, [1 - 1 / 4, 1 - 3 / 4]),
    # Three inputs that have nothing in common give 9, 4 and 1 of 14 of the energy; a fourth gives nothing.
    "omp": ({"gram": np.diag([4.0, 9.0, 1.0, 0.0])}, [4 / 14, 9 / 14, 1 / 14, 0]),
    "lasso": ({"gram": np.diag([4.0, 9.0, 1.0, 0.0])}, [4 / 14, 9 / 14, 1 / 14, 0]),
    # 10% wrong with all, then with each of three units off; the second helps to be without.
    "error_rate": ({"wrong": np.array([0.1, 0.3, 0.05, 0.1])}, [0.2, 0, 0]),
    # Unit 1 is the smallest, then 0, then 2. Off go none, one, two of them: the loss is 1, 1.5 and 1.2.
    "structure": (
        {"magnitude": UNITS, "curve": [(np.arange(3), np.array([1.0, 1.5, 1.2]))]},
        [0, 0.5, 0.5],
    ),
    # The first numbers of the generator are 0.63696169, 0.26978671, 0.04097352, whatever the units weigh.
    "random": (
        {"magnitude": UNITS, "generator": np.random.default_rng(0)},
        [0.63696169, 0.26978671, 0.04097352],
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_criteria_by_hand(name):
    evidence, expected = BY_HAND[name]
    ((weight, found),) = criteria.find(name)
    assert weight == 1
    assert np.allclose(found(**evidence), expected, atol=1e-7)


def test_each_criterion_has_its_value_worked_out():
    assert BY_HAND.keys() | {"random_magnitude"} == criteria.CRITERIA.keys()


def test_random_magnitude_takes_each_unit_with_a_probability_that_falls_with_its_size():
    """1/|w| is 1/2, 1 and 1/4: unit u is the first to go with a probability of 2/7, 4/7 and 1/7."""
    generator = np.random.default_rng(0)
    ((_, found),) = criteria.find("random_magnitude")
    first = [int(np.argmin(found(magnitude=UNITS, generator=generator))) for _ in range(4000)]
    assert np.allclose(np.bincount(first) / 4000, [2 / 7, 4 / 7, 1 / 7], atol=0.03)


def test_connections_by_hand_and_what_runs_through_their_middle():
    """Two inputs, three neurons between, one output."""
    first = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
    second = np.array([[1.0, 2.0, -1.0]])
    found = criteria.connections(first, second)
    assert found.tolist() == [[(1 + 0 + 9) / 3], [(4 + 4 + 0) / 3]]
    ((_, through),) = criteria.find("connection")
    middle = through(incoming=np.square(first).sum(1), outgoing=np.square(second).sum(0))
    assert middle.tolist() == [5, 4, 9]
    assert middle.sum() / 3 == pytest.approx(found.sum())


def test_lamp_counts_of_equal_weights_the_later_ones_as_larger():
    ((_, lamp),) = criteria.find("lamp")
    assert np.allclose(lamp(weight=np.array([1.0, -1.0])), [0.5, 1])
    assert lamp(weight=np.zeros(3)).tolist() == [0, 0, 0]


def test_an_input_that_another_can_stand_for_adds_nothing():
    """Inputs 0 and 1 give the same, input 2 something else, input 3 takes back what 2 gives but a tenth."""
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal(200), rng.standard_normal(200)
    gives = np.stack([one, one, other, -0.9 * other])
    ((_, omp),) = criteria.find("omp")
    scores = omp(gram=gives @ gives.T)
    assert sorted(scores)[-1] == max(scores[:2]) and min(scores[:2]) == pytest.approx(0, abs=1e-5)
    assert scores[2:].max() < 0.02


def test_lasso_follows_its_path():
    """Lengths 2 and 1, cosine 1/2: products with the sum 2.5 and 2. The second enters where 2.5 - g = 2 - g/2."""
    ((_, lasso),) = criteria.find("lasso")
    assert lasso(gram=np.array([[4.0, 1.0], [1.0, 1.0]])) == pytest.approx([2.5**2 / 7, 1.5**2 / 7])


def test_matching_pursuit_explains_all_of_it_in_the_end():
    gives = np.random.default_rng(1).standard_normal((6, 50))
    ((_, omp),) = criteria.find("omp")
    assert omp(gram=gives @ gives.T).sum() == pytest.approx(1.0, abs=1e-6)


def test_ranks_and_their_weighted_sums():
    assert criteria.ranks(np.array([5.0, 1.0, 1.0, 9.0])).tolist() == [5 / 8, 2 / 8, 2 / 8, 7 / 8]
    one, other = np.array([1.0, 2.0]), np.array([30.0, 10.0])
    assert criteria.combine([(1.0, other)]) is other
    assert criteria.combine([(3.0, one), (1.0, other)]).tolist() == [
        0.75 * 0.25 + 0.25 * 0.75,
        0.75 * 0.75 + 0.25 * 0.25,
    ]


def test_sums_and_callables():
    assert [(w, c.name) for w, c in criteria.find("0.5*taylor + 1.5 * magnitude")] == [
        (0.5, "taylor"),
        (1.5, "magnitude"),
    ]
    assert [w for w, _ in criteria.find("taylor+apoz")] == [1, 1]
    ((_, own),) = criteria.find(lambda w, g: w + g)
    assert own(weight=W, gradient=G, curvature=H).tolist() == (W + G).tolist()
    ((_, own),) = criteria.find(lambda weight, curvature: weight * curvature)
    assert own.reads == ("weight", "curvature")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("luck", "no criterion 'luck'.*magnitude"),
        ("taylor + luck", "no criterion 'luck'"),
        ("0*taylor", "can't be read"),
        ("taylor - magnitude", "can't be read"),
        ("1.2.3*taylor", "can't be read"),
        ("", "can't be read"),
    ],
)
def test_criteria_that_are_not_there(text, message):
    with pytest.raises(RecipeError, match=message):
        criteria.find(text)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(InputError, match=r"'conv\.weight' isn't a number everywhere"):
        criteria.require_finite({"conv.weight": np.array([1.0, np.nan])})


# ---- thresholds ------------------------------------------------------------------------------------------------------

TEN = np.arange(1, 11) / 10
LAYERS = {"a": np.array([1.0, -3.0]), "b": np.array([2.0, 5.0, -4.0])}

# (rule, what theta is taken from, what of it is alive, theta of each layer)
THETAS = [
    (Threshold("fixed", 0.3), LAYERS, None, {"a": 0.3, "b": 0.3}),
    (Threshold("sigma", 2.0), {"w": TEN}, None, {"w": 2 * 0.08250**0.5}),  # sigma 0.2872, theta 0.5745
    (Threshold("sigma", 1.0), LAYERS, None, {"a": 2.0, "b": (42 / 3) ** 0.5}),  # means -1 and 1
    # All five have mean 0.2 and squares that sum to 55.
    (Threshold("sigma", 1.0, everywhere=True), LAYERS, None, dict.fromkeys("ab", (55 / 5 - 0.04) ** 0.5)),
    (Threshold("max", 0.5), LAYERS, None, {"a": 1.5, "b": 2.5}),
    (Threshold("max", 0.5, everywhere=True), LAYERS, None, {"a": 2.5, "b": 2.5}),
    (Threshold("max", 0.5), LAYERS, {"b": np.array([True, False, True])}, {"a": 1.5, "b": 2.0}),
    (Threshold("sigma", 2.0), {"w": np.r_[TEN, np.zeros(5)]}, {"w": np.arange(15) < 10}, {"w": 2 * 0.08250**0.5}),
]


@pytest.mark.parametrize(("rule", "source", "alive", "expected"), THETAS)
def test_thetas_by_hand(rule, source, alive, expected):
    assert rule.thetas(source, alive) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("saliency", "theta", "alive", "expected"),
    [
        (TEN, 0.5745, None, [False] * 5 + [True] * 5),
        ([1.0, 2.0, 3.0], 2.0, None, [False, False, True]),  # 1[I > theta]: what equals it goes
        ([1.0, 3.0, 2.0], 9.0, None, [False, True, False]),  # the best stays
        ([1.0, 3.0, 2.0], 9.0, [True, False, True], [False, False, True]),  # the best of what is alive
        ([1.0, 3.0], 0.5, [True, False], [True, False]),
        ([1.0, 3.0], 0.5, [False, False], [False, False]),
        ([[0.01, 0.2], [0.003, 0.0]], 0.005, None, [[True, True], [False, False]]),  # |dL/dw| < eps
    ],
)
def test_masks_by_hand(saliency, theta, alive, expected):
    found = thresholds.mask(np.array(saliency), theta, None if alive is None else np.array(alive))
    assert found.tolist() == expected


@pytest.mark.parametrize(("kind", "value"), [("max", 1.0), ("fixed", 0), ("sigma", -1), ("mean", 0.5)])
def test_thresholds_that_are_not_there(kind, value):
    with pytest.raises(RecipeError, match="no threshold"):
        Threshold(kind, value)


# ---- rankings --------------------------------------------------------------------------------------------------------


def test_ranks_within_sets():
    scores = np.array([10.0, 20.0, 1.0, 2.0, 7.0])
    found = ranking.within(scores, [np.array([0, 1]), np.array([2, 3])])
    assert found.tolist() == [0.25, 0.75, 0.25, 0.75, 0]


def test_a_ranking_that_is_not_there():
    with pytest.raises(RecipeError, match=r"no ranking 'local'.*isomorphic"):
        ranking.check("local")
