"""Repairs of the layers that read what was cut, each a few lines. Weights are `w[O,I,*K]`, outputs first.

`before` and `after` are masks of a weight's shape, what was alive before and after the cut. Only inputs that went in
between count, and only on outputs that are left: what a layer loses of its own outputs leaves the others as they were.
"""

import numpy as np


def lost_inputs(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[I]: which inputs were read before the cut and aren't any more."""
    outputs = after.reshape(len(after), -1).any(axis=1)
    read = [mask[outputs].any(axis=(0, *range(2, mask.ndim))) for mask in (before, after)]
    return read[0] & ~read[1]


def rescale(weight: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """w / (1 - p), p the share of its weights that the cut took from each output: sums keep their expected size.

    Srivastava et al. 2014, "Dropout", section 4, for weights that are left out for good.
    """
    return weight * after * _per_output(_sizes(before, after, before), _sizes(before, after, after), weight)


def preserve_norm(weight: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """w ||W|| / ||W m||, the norms of all outputs that are left together, so that the layer's norm stays."""
    rows = after.reshape(len(after), -1).any(axis=1)
    whole, left = (np.linalg.norm((weight * mask)[rows]) for mask in (before, after))
    return weight * after * (whole / left if left > 0 else 1.0)


def bias_shift(weight: np.ndarray, lost: np.ndarray, means: np.ndarray) -> np.ndarray:
    """[O]: what the lost inputs gave each output on average: sum_i mean(a_i) sum_k w_oik. Added to the bias.

    Exact for an input that is constant, away from zero padding.
    """
    return (weight.reshape(*weight.shape[:2], -1).sum(axis=2)[:, lost] * means[lost]).sum(axis=1)


def least_squares(read: np.ndarray, wanted: np.ndarray, ridge: float = 1e-6) -> np.ndarray:
    """W[O,I] that brings `read[n,I]` W' closest to `wanted[n,O]`. He et al. 2017, arXiv:1707.06168, eq. 4.

    `ridge`, as a share of the mean square of what is read, keeps W finite where inputs depend on each other.
    """
    read, wanted = read.astype(np.float64), wanted.astype(np.float64)
    gram = read.T @ read
    gram += np.eye(len(gram)) * max(ridge * float(np.trace(gram)) / max(len(gram), 1), 1e-12)
    return np.linalg.solve(gram, read.T @ wanted).T


def _sizes(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (mask & before).reshape(len(after), -1).sum(axis=1)


def _per_output(whole: np.ndarray, left: np.ndarray, weight: np.ndarray) -> np.ndarray:
    factor = np.where(left > 0, whole / np.maximum(left, 1), 1.0)
    return factor.reshape(-1, *[1] * (weight.ndim - 1))
