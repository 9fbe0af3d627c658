"""What a transition changes in expression (paper, eq. 11): matched cells -> mean difference of every gene."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def difference_sum(
    expression: sparse.csr_matrix, control: NDArray[np.int64], target: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the sum over pairs of target minus control expression, ``(g,)``.

    Sums rather than means, so that slides add up: dividing by the number of all pairs gives eq. 11.

    Parameters
    ----------
    expression
        ``(n, g)`` log1p-normalised.
    control, target
        ``(p,)`` rows of each pair.
    """
    weight = np.bincount(target, minlength=expression.shape[0]).astype(np.float64)
    weight -= np.bincount(control, minlength=expression.shape[0])
    return np.asarray(weight @ expression).ravel()


def signature(sums: list[NDArray[np.float64]], n_pairs: list[int]) -> NDArray[np.float64]:
    """Return the mean difference over the pairs of all slides, ``(g,)`` in log1p units (eq. 11).

    Raises
    ------
    ValueError
        Without any pair.
    """
    if not sum(n_pairs):
        raise ValueError("expected at least one pair, found none")
    return np.sum(sums, axis=0) / sum(n_pairs)
