"""Do generated cells move where real ones move: shifts of feature means, and of single cells.

"Wass. Corr." (decision A8) compares how far features move and cannot tell in which direction, so the signed shifts
stand beside it. Features are in units of the real controls' spread throughout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


def correlate(first: ArrayLike, second: ArrayLike) -> Values:
    """Return Pearson's correlation along the last axis; 0 where either is constant."""
    one, other = (np.asarray(values, np.float64) for values in (first, second))
    one, other = (values - values.mean(axis=-1, keepdims=True) for values in (one, other))
    norm = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    return np.asarray(np.where(norm > 0, (one * other).sum(axis=-1) / np.where(norm > 0, norm, 1), 0.0))


def fit_slope(true_shift: ArrayLike, generated_shift: ArrayLike) -> Values:
    """Return the slope through 0 of generated on true shifts along the last axis; 0 where nothing truly moves.

    Through 0, because which sign a feature has is a convention: turning one round must not change the slope.
    """
    true, generated = (np.asarray(values, np.float64) for values in (true_shift, generated_shift))
    norm = (true**2).sum(axis=-1)
    return np.asarray(np.where(norm > 0, (true * generated).sum(axis=-1) / np.where(norm > 0, norm, 1), 0.0))


def mean_shift(cells: ArrayLike, controls: ArrayLike, cell_weights: ArrayLike, control_weights: ArrayLike) -> Values:
    """Return (resamples, features) by how much the mean of ``cells`` lies above that of ``controls``.

    Parameters
    ----------
    cells, controls
        (n, features) and (m, features).
    cell_weights, control_weights
        (resamples, n) and (resamples, m) how often each counts.
    """
    return weighted_mean(cells, cell_weights) - weighted_mean(controls, control_weights)


def weighted_mean(cells: ArrayLike, weights: ArrayLike) -> Values:
    """Return (resamples, features) means of cells (n, features)."""
    w = np.asarray(weights, np.float64)
    return np.asarray(w @ np.asarray(cells, np.float64) / w.sum(axis=1, keepdims=True))


def cosine(generated_shift: ArrayLike, true_shift: ArrayLike) -> Values:
    """Return the cosine of each cell's generated and true shift, (n, features) -> (n,); 0 for a cell that stays.

    A method that gives the control back has no direction; it is neither rewarded nor punished for it.
    """
    generated, true = (np.asarray(values, np.float64) for values in (generated_shift, true_shift))
    norm = np.linalg.norm(generated, axis=1) * np.linalg.norm(true, axis=1)
    return np.asarray(np.where(norm > 0, (generated * true).sum(axis=1) / np.where(norm > 0, norm, 1), 0.0))
