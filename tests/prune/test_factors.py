"""Low ranks and depthwise approximations against what linear algebra says of them."""

import numpy as np
import pytest

from onnxprune.errors import InputError
from onnxprune.prune.factors import depthwise, factorize, pays

RNG = np.random.default_rng(0)


def test_the_rank_is_the_lowest_that_keeps_the_energy():
    """Singular values 4, 2, 1: squares 16, 4, 1 of 21."""
    u, v = (np.linalg.qr(RNG.standard_normal((n, 3)))[0] for n in (5, 6))
    weight = u @ np.diag([4.0, 2.0, 1.0]) @ v.T
    for energy, rank, kept in ((0.5, 1, 16 / 21), (0.8, 2, 20 / 21), (20 / 21, 2, 20 / 21), (0.96, 3, 1.0)):
        found = factorize(weight, energy)
        assert (found.rank, found.energy) == (rank, pytest.approx(kept))
        lost = np.sum((weight - found.second @ found.first) ** 2)
        assert lost == pytest.approx(21 * (1 - kept), abs=1e-9)
        assert not found.shift.any()
    assert pays(factorize(weight, 0.5), weight) and not pays(factorize(weight, 1.0), weight)


def test_with_data_no_other_matrix_of_the_rank_gives_closer_outputs():
    """Inputs that hardly vary along some directions: the plain decomposition spends its rank there."""
    x = RNG.standard_normal((400, 6)) * np.array([5.0, 3.0, 1.0, 0.1, 0.1, 0.1]) + 2.0
    weight = RNG.standard_normal((8, 6)) + 3 * np.outer(RNG.standard_normal(8), [0, 0, 0, 0, 1, 1])
    mean, covariance = x.mean(0), np.cov(x.T, bias=True)
    aware, plain = factorize(weight, 0.9, covariance=covariance, mean=mean), factorize(weight, 0.9)
    y = x @ weight.T

    def error(found, rank):
        low = found.second[:, :rank] @ found.first[:rank]
        z = x @ low.T
        return np.square(y - z - (y - z).mean(0)).mean()

    assert np.square(y - (x @ (aware.second @ aware.first).T + aware.shift)).mean() == pytest.approx(
        error(aware, aware.rank)
    ), "the bias takes over the mean of what is lost"
    best = np.linalg.svd(y - y.mean(0), compute_uv=False)
    assert error(aware, aware.rank) == pytest.approx(np.square(best[aware.rank :]).sum() / y.size)
    assert error(aware, 1) < 0.8 * error(plain, 1)


def test_nothing_is_of_rank_one():
    found = factorize(np.zeros((3, 4)), 0.9)
    assert found.rank == 1 and not (found.second @ found.first).any()


@pytest.mark.parametrize("energy", [0.0, -1.0, 1.5, float("nan")])
def test_energies_that_cannot_be_kept(energy):
    with pytest.raises(InputError, match="Give a number above 0, at most 1"):
        factorize(np.eye(3), energy)


def test_a_kernel_that_is_depthwise_and_pointwise_is_found_again():
    filters, points = RNG.standard_normal((4, 3, 3)), RNG.standard_normal((6, 4))
    kernel = points[:, :, None, None] * filters[None]
    found, across = depthwise(kernel)
    assert across[:, :, None, None] * found[None] == pytest.approx(kernel)
    other = RNG.standard_normal((6, 4, 3, 3))
    found, across = depthwise(other)
    for i in range(4):
        lost = np.sum((other[:, i] - across[:, i, None, None] * found[i]) ** 2)
        singular = np.linalg.svd(other[:, i].reshape(6, 9), compute_uv=False)
        assert lost == pytest.approx(np.square(singular[1:]).sum())
