"""How far two sets of cells lie apart in single features: KS and Wasserstein distances, also of resampled cells.

A resample is written as weights (how often each cell was drawn), as in :mod:`spatia.measure.bootstrap`, so that the
sorting of a feature is done once for all resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
NO_SPREAD = 1e-9  # a feature that spreads less, relative to its largest value, does so by rounding
CHUNK_BYTES = 64 << 20  # of the cumulated weights held at a time


@dataclass(frozen=True)
class Distances:
    """Distances of two sets of cells in every feature.

    Attributes
    ----------
    ks, w1
        (resamples, features): the largest difference of the two distribution functions (D), and the area between them.
    """

    ks: Values
    w1: Values


def compare_features(
    first: ArrayLike, second: ArrayLike, first_weights: ArrayLike | None = None, second_weights: ArrayLike | None = None
) -> Distances:
    """Return the distances of two sets of cells, feature by feature.

    Parameters
    ----------
    first, second
        (n, features) and (m, features), finite.
    first_weights, second_weights
        (resamples, n) and (resamples, m) how often each cell counts; None: each once, one resample.

    Raises
    ------
    ValueError
        If shapes do not fit, a set is empty, or a value is not finite.
    """
    one, other = _checked(first, "first"), _checked(second, "second")
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"features: expected the same ones in both sets, found {one.shape[1]} and {other.shape[1]}")
    u, v = _shares(first_weights, len(one)), _shares(second_weights, len(other))
    if len(u) != len(v):
        raise ValueError(f"weights: expected as many resamples of both sets, found {len(u)} and {len(v)}")
    ks, w1 = np.empty((len(u), one.shape[1])), np.empty((len(u), one.shape[1]))
    signed = np.concatenate([u, -v], axis=1)
    for feature in range(one.shape[1]):
        values = np.concatenate([one[:, feature], other[:, feature]])
        ks[:, feature], w1[:, feature] = _distances(values, signed)
    return Distances(ks, w1)


def _distances(values: Values, signed: Values) -> tuple[Values, Values]:
    """Return D and W1 per resample; ``signed`` (resamples, n + m): shares of the first set, minus the other's."""
    order = np.argsort(values, kind="stable")
    gaps = np.diff(values[order])
    ks, w1 = np.empty(len(signed)), np.empty(len(signed))
    per_chunk = max(1, CHUNK_BYTES // (8 * len(values)))
    for start in range(0, len(signed), per_chunk):
        part = slice(start, start + per_chunk)
        apart = np.abs(np.cumsum(signed[part][:, order], axis=1)[:, :-1])
        # between equal values the distribution functions have no step yet
        ks[part] = (apart * (gaps > 0)).max(axis=1, initial=0)
        w1[part] = apart @ gaps
    return ks, w1


def standardise(values: ArrayLike, controls: ArrayLike) -> Values:
    """Return features (n, f) in units of the spread of the controls (m, f), from their mean."""
    reference = np.asarray(controls, np.float64)
    return np.asarray((np.asarray(values, np.float64) - reference.mean(axis=0)) / reference.std(axis=0))


def varies(values: ArrayLike) -> NDArray[np.bool_]:
    """Return which features (n, f) -> (f,) are not constant over cells, beyond rounding."""
    table = np.asarray(values, np.float64)
    return np.asarray(table.std(axis=0) > NO_SPREAD * np.abs(table).max(axis=0, initial=0))


def _checked(values: ArrayLike, name: str) -> Values:
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or not len(table):
        raise ValueError(f"{name}: expected (cells, features) with at least one cell, found shape {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError(f"{name}: expected finite values, found NaN or infinity")
    return table


def _shares(weights: ArrayLike | None, n: int) -> Values:
    table = np.ones((1, n)) if weights is None else np.asarray(weights, np.float64)
    if table.ndim != 2 or table.shape[1] != n:
        raise ValueError(f"weights: expected (resamples, {n}), found shape {table.shape}")
    return np.asarray(table / table.sum(axis=1, keepdims=True))
