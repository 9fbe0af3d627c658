"""What ridge regression reads from embeddings: train embeddings and values -> values of test embeddings.

Standardising and choosing the penalty go by the train cells alone, as in :mod:`spatia.measure.probes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spatia.measure.probes import N_FOLDS, Matrix, Standardiser, check_rows, inner_folds

# l2 penalty per cell, as there; hundreds of noisy counts as features ask for more than 1
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class ValueProbe:
    """Ridge regression on standardised features.

    Attributes
    ----------
    standardise
        What the features go through first.
    strength
        (targets,) the penalty that was chosen for each.
    weight, offset
        (d, targets) and (targets,).
    """

    standardise: Standardiser
    strength: NDArray[np.float64]
    weight: NDArray[np.float64]
    offset: NDArray[np.float64]

    def predict(self, z: Matrix) -> NDArray[np.float64]:
        """Return the values (n, targets) of ``z`` (n, d)."""
        return self.standardise(z) @ self.weight + self.offset


def fit_value_probe(
    train_z: Matrix,
    train_y: Matrix,
    generator: np.random.Generator,
    groups: ArrayLike | None = None,
    strengths: Sequence[float] = STRENGTHS,
    n_folds: int = N_FOLDS,
    per_target: bool = False,
) -> ValueProbe:
    """Return ridge regression fitted to the train cells.

    Parameters
    ----------
    train_z, train_y
        (n, d) features and (n, targets) values.
    generator
        Draws the folds.
    groups, n_folds
        As in :func:`inner_folds`.
    strengths
        To choose from, by the squared error of all held-out folds together.
    per_target
        Choose a strength for each target; otherwise one for all, with each target's error relative to its variance.

    Raises
    ------
    ValueError
        If lengths differ.
    """
    y = np.asarray(train_y, np.float64)
    check_rows(train_z, y)
    if y.ndim != 2:
        raise ValueError(f"train_y: expected (cells, targets), found shape {y.shape}")
    standardise = Standardiser.of(train_z)
    x, offset = standardise(train_z), y.mean(axis=0)
    ordered = np.sort(np.asarray(strengths, np.float64))[::-1]
    chosen = np.zeros(y.shape[1], np.int64)
    if len(ordered) > 1:
        error = _held_out_errors(x, y, inner_folds(len(x), groups, generator, n_folds), ordered)
        variance = y.var(axis=0)
        shared = (error / np.where(variance > 0, variance, np.inf)).sum(axis=1).argmin()
        chosen = error.argmin(axis=0) if per_target else np.full(y.shape[1], shared)
    weights = _ridge_weights(x, y - offset, ordered)
    return ValueProbe(standardise, ordered[chosen], weights[chosen, :, np.arange(y.shape[1])].T, offset)


def probe_values(
    train_z: Matrix,
    train_y: Matrix,
    test_z: Matrix,
    generator: np.random.Generator,
    groups: ArrayLike | None = None,
    strengths: Sequence[float] = STRENGTHS,
    n_folds: int = N_FOLDS,
    per_target: bool = False,
) -> NDArray[np.float64]:
    """Return the values (m, targets) that :func:`fit_value_probe` gives to ``test_z`` (m, d)."""
    probe = fit_value_probe(train_z, train_y, generator, groups, strengths, n_folds, per_target)
    return probe.predict(test_z)


def _held_out_errors(
    x: NDArray[np.float64], y: NDArray[np.float64], folds: NDArray[np.int64], strengths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the summed squared error (strengths, targets) of every cell predicted from the other folds."""
    error = np.zeros((len(strengths), y.shape[1]))
    for fold in np.unique(folds):
        is_out = folds == fold
        x_mean, y_mean = x[~is_out].mean(axis=0), y[~is_out].mean(axis=0)
        weights = _ridge_weights(x[~is_out] - x_mean, y[~is_out] - y_mean, strengths)
        for row, weight in enumerate(weights):
            error[row] += np.square((x[is_out] - x_mean) @ weight + y_mean - y[is_out]).sum(axis=0)
    return error


def _ridge_weights(
    x: NDArray[np.float64], y: NDArray[np.float64], strengths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return ridge weights (strengths, d, targets) for centred ``x`` and ``y``: one eigendecomposition serves all."""
    gram, rotation = np.linalg.eigh(x.T @ x / len(x))
    along = rotation.T @ (x.T @ y) / len(x)
    return np.stack([rotation @ (along / (np.maximum(gram, 0) + strength)[:, None]) for strength in strengths])
