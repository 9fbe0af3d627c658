"""Distances of two sets of images in the space of an encoder: kernel (KID) and Frechet (FID) distance.

Written for many resamples of one pair of sets: the kernel between all cells is computed once. The values are those of
torchmetrics' KernelInceptionDistance and FrechetInceptionDistance (tests).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """The polynomial kernel (x y / d + 1)^3 within and between two sets.

    Attributes
    ----------
    first, second, between
        (n, n), (m, m), (n, m).
    """

    first: Values
    second: Values
    between: Values


def make_kernel(first: ArrayLike, second: ArrayLike) -> Kernel:
    """Return the kernel of two sets of embeddings (n, d), (m, d) (Binkowski et al. 2018, eq. 5)."""
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    width = one.shape[1]
    return Kernel(*((a @ b.T / width + 1) ** 3 for a, b in ((one, one), (other, other), (one, other))))


def squared_mmd(kernel: Kernel, first_weights: ArrayLike, second_weights: ArrayLike) -> Values:
    """Return the unbiased squared MMD of resamples, (resamples, n) and (resamples, m) -> (resamples,).

    A pair of one cell with itself never counts, also where a resample holds it twice: it would look like two cells
    that are exactly alike.
    """
    u, v = np.asarray(first_weights, np.float64), np.asarray(second_weights, np.float64)
    between = np.einsum("ri,ij,rj->r", u, kernel.between, v, optimize=True) / (u.sum(axis=1) * v.sum(axis=1))
    return np.asarray(_mean_of_pairs(kernel.first, u) + _mean_of_pairs(kernel.second, v) - 2 * between)


def _mean_of_pairs(within: Values, weights: Values) -> Values:
    squares = weights**2
    pairs = np.einsum("ri,ij,rj->r", weights, within, weights, optimize=True) - squares @ np.diag(within)
    return np.asarray(pairs / (weights.sum(axis=1) ** 2 - squares.sum(axis=1)))


def kernel_distance(kernel: Kernel, subset_size: int, n_subsets: int, generator: np.random.Generator) -> float:
    """Return KID: the mean squared MMD of ``n_subsets`` random subsets of both sets."""
    n, m = kernel.between.shape
    if not 2 <= subset_size <= min(n, m):
        raise ValueError(f"subset_size: expected 2 to {min(n, m)} of {n} and {m} cells, found {subset_size}")
    u, v = (_draw_subsets(size, subset_size, n_subsets, generator) for size in (n, m))
    return float(squared_mmd(kernel, u, v).mean())


def _draw_subsets(n: int, size: int, n_subsets: int, generator: np.random.Generator) -> Values:
    weights = np.zeros((n_subsets, n))
    for row in weights:
        row[generator.choice(n, size, replace=False)] = 1
    return weights


def frechet_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Return FID: the Frechet distance of Gaussians fitted to embeddings (n, d), (m, d) (Heusel et al. 2017, eq. 6).

    tr sqrt(S1 S2) is the nuclear norm of A B^T with S1 = A^T A, S2 = B^T B, so that no matrix root is needed.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    means = one.mean(axis=0) - other.mean(axis=0)
    a, b = (_root(values) for values in (one, other))
    cross = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    return float(means @ means + (a**2).sum() + (b**2).sum() - 2 * cross)


def _root(values: Values) -> Values:
    """Return A with A^T A = the covariance of ``values``, of at most d rows."""
    centred = (values - values.mean(axis=0)) / np.sqrt(len(values) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred
