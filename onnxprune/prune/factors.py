"""Two thin layers in the place of one: the best approximation of a weight matrix, or of what it gives, by a low rank.

A layer y = W x + b with W[O,I] becomes y = P (P' W) x + b' where the columns of P[O,r] are the directions in which its
outputs vary most: the first eigenvectors of W S W'. With S the covariance of what the layer reads, what is lost of the
outputs is as little as r directions allow (Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks",
arXiv:1505.06798, eq. 5); with S = 1 it is the singular value decomposition of W (Eckart and Young 1936).
"""

from dataclasses import dataclass

import numpy as np

from onnxprune.errors import InputError


@dataclass(frozen=True)
class Factors:
    """`first[r,I]`, `second[O,r]`, the shift of the bias [O], and the share of the energy that is kept."""

    first: np.ndarray
    second: np.ndarray
    shift: np.ndarray
    energy: float

    @property
    def rank(self) -> int:
        return len(self.first)


def factorize(
    weight: np.ndarray, energy: float, *, covariance: np.ndarray | None = None, mean: np.ndarray | None = None
) -> Factors:
    """The fewest directions that keep the share `energy` of the sum of squares: of w[O,I], or of its outputs' variance.

    `covariance[I,I]` and `mean[I]` are those of what the layer reads; the mean of what is lost goes into the bias.
    Raises InputError for an energy that isn't above 0 and at most 1.
    """
    if not 0 < energy <= 1:
        raise InputError(f"A low rank can't keep {energy!r} of the energy. Give a number above 0, at most 1.")
    w = weight.astype(np.float64)
    values, vectors = np.linalg.eigh(w @ w.T if covariance is None else w @ covariance @ w.T)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    total = values.sum()
    if total <= 0:
        kept, rank = 1.0, 1
    else:
        shares = np.cumsum(values) / total
        rank = min(int(np.searchsorted(shares, energy - 1e-12)) + 1, len(w))
        kept = float(shares[rank - 1])
    second = vectors[:, :rank]
    first = second.T @ w
    lost = np.zeros(len(w)) if mean is None else (w - second @ first) @ mean
    return Factors(first, second, lost, kept)


def pays(factors: Factors, weight: np.ndarray) -> bool:
    """Whether two layers of this rank have fewer weights than one."""
    return factors.rank * sum(weight.shape) < weight.size


def depthwise(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(one filter [I,*K] an input, point[O,I]) whose product w_oi = point_oi filter_i is closest to `kernel[O,I,*K]`.

    For each input the first singular vectors of its kernels [O,K]: what is lost of a layer's sum of squares is least.
    """
    outputs, inputs = kernel.shape[:2]
    filters, points = np.zeros(kernel.shape[1:]), np.zeros((outputs, inputs))
    for i in range(inputs):
        u, s, v = np.linalg.svd(kernel[:, i].reshape(outputs, -1).astype(np.float64), full_matrices=False)
        scale = np.sqrt(s[0])
        points[:, i], filters[i] = u[:, 0] * scale, (v[0] * scale).reshape(kernel.shape[2:])
    return filters, points
