"""How sure a score is: the same score on resampled cells -> value and interval.

A resample is written as weights, how often each cell was drawn, so that a score of many resamples is a few matrix
products, and two predictions are compared on the same resamples: their difference is then free of what they share.
Neighbouring cells are not independent; ``groups`` resamples niches, tissues or donors as wholes instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spatia.measure.scores import encode_classes, rank_genes, standardise_genes

Weights = NDArray[np.float64]  # (resamples, n) how often each cell was drawn
Resampled = Callable[[Weights], NDArray[np.float64]]  # weights -> (resamples,) scores
Score = Callable[[Any, Any], Resampled]  # truth and prediction of n cells -> what scores their resamples

CHUNK_BYTES = 64 << 20  # of the weights held at a time
NO_VARIANCE = 1e-12  # a standardised gene that varies less in a resample does so by rounding


@dataclass(frozen=True)
class Interval:
    """A score, and the percentile interval of its bootstrap.

    Attributes
    ----------
    value
        Of the cells as they are.
    low, high
        Ends of the interval.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    truth: ArrayLike,
    prediction: ArrayLike,
    score: Score,
    generator: np.random.Generator,
    groups: ArrayLike | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return a score of one prediction with its interval.

    Parameters
    ----------
    truth, prediction
        Of the same n cells, in the form that ``score`` takes.
    score
        ``resampled_accuracy``, ``resampled_balanced_accuracy``, ``resampled_macro_f1``, ``resampled_pearson``,
        ``resampled_spearman``, or ``resampled(function)`` for any function of truth and prediction.
    generator
        Draws the resamples.
    groups
        (n,) what is drawn as a whole; None draws cells.
    n_resamples, level
        How many, and the share of them inside the interval.
    """
    resample = score(np.asarray(truth), np.asarray(prediction))
    return _interval(resample, len(np.asarray(truth)), generator, groups, n_resamples, level)


def bootstrap_difference(
    truth: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    score: Score,
    generator: np.random.Generator,
    groups: ArrayLike | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return the score of ``first`` minus that of ``second`` with its interval; both meet the same resamples.

    Parameters are those of :func:`bootstrap`.
    """
    one, other = score(np.asarray(truth), np.asarray(first)), score(np.asarray(truth), np.asarray(second))
    n = len(np.asarray(truth))
    return _interval(lambda weights: one(weights) - other(weights), n, generator, groups, n_resamples, level)


def _interval(
    resample: Resampled,
    n: int,
    generator: np.random.Generator,
    groups: ArrayLike | None,
    n_resamples: int,
    level: float,
) -> Interval:
    if not 0 < level < 1 or n_resamples < 1:
        raise ValueError(f"expected level in (0, 1) and at least one resample, found {level} and {n_resamples}")
    value = float(resample(np.ones((1, n)))[0])
    group = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    if len(group) != n:
        raise ValueError(f"groups: expected one per cell, {n}, found {len(group)}")
    per_chunk = max(1, CHUNK_BYTES // (8 * n))
    sizes = [min(per_chunk, n_resamples - start) for start in range(0, n_resamples, per_chunk)]
    values = np.concatenate([resample(draw_weights(int(group.max()) + 1, size, generator)[:, group]) for size in sizes])
    # a resample may hold nothing that can be scored, such as a gene that varies
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def draw_weights(n: int, n_resamples: int, generator: np.random.Generator) -> Weights:
    """Return how often each of ``n`` things occurs among ``n`` drawn with replacement, (n_resamples, n)."""
    drawn = generator.integers(n, size=(n_resamples, n))
    return np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)


def whole_and_drawn(n: int, n_resamples: int, generator: np.random.Generator) -> Weights:
    """Return :func:`draw_weights` below a first row in which each of the ``n`` counts once, (1 + n_resamples, n)."""
    return np.concatenate([np.ones((1, n)), draw_weights(n, n_resamples, generator)])


# --- scores of resamples -----------------------------------------------------------------------------------------


def resampled(function: Callable[[Any, Any], float]) -> Score:
    """Return what scores resamples by any ``function(truth, prediction)``, one at a time: general and slow."""

    def score(truth: NDArray[Any], prediction: NDArray[Any]) -> Resampled:
        def of(weights: Weights) -> NDArray[np.float64]:
            drawn = (np.repeat(np.arange(len(truth)), row.astype(np.int64)) for row in weights)
            return np.asarray([function(truth[rows], prediction[rows]) for rows in drawn])

        return of

    return score


def resampled_accuracy(truth: NDArray[Any], prediction: NDArray[Any]) -> Resampled:
    """Return what gives the accuracy of resamples (:func:`spatia.measure.scores.accuracy`)."""
    counts = _class_counts(truth, prediction)

    def of(weights: Weights) -> NDArray[np.float64]:
        n_true, _, n_right = counts(weights)
        return n_right.sum(axis=1) / n_true.sum(axis=1)

    return of


def resampled_balanced_accuracy(truth: NDArray[Any], prediction: NDArray[Any]) -> Resampled:
    """Return what gives the balanced accuracy of resamples (:func:`spatia.measure.scores.balanced_accuracy`)."""
    counts = _class_counts(truth, prediction)

    def of(weights: Weights) -> NDArray[np.float64]:
        n_true, _, n_right = counts(weights)
        return _mean_ratio(n_right, n_true)

    return of


def resampled_macro_f1(truth: NDArray[Any], prediction: NDArray[Any]) -> Resampled:
    """Return what gives the macro F1 of resamples (:func:`spatia.measure.scores.macro_f1`)."""
    counts = _class_counts(truth, prediction)

    def of(weights: Weights) -> NDArray[np.float64]:
        n_true, n_predicted, n_right = counts(weights)
        return _mean_ratio(2 * n_right, n_true + n_predicted)

    return of


def resampled_pearson(truth: NDArray[Any], prediction: NDArray[Any]) -> Resampled:
    """Return what gives the mean correlation over genes of resamples.

    As the mean of :func:`spatia.measure.scores.pearson_per_gene`: genes constant in the truth of a resample do not
    count there, genes predicted constant count as 0.
    """
    t, p = standardise_genes(truth, prediction)  # moments of standardised values lose no digits to cancellation
    products = t * t, p * p, t * p

    def of(weights: Weights) -> NDArray[np.float64]:
        share = weights / weights.sum(axis=1, keepdims=True)
        t_mean, p_mean = share @ t, share @ p
        t_square, p_square, both = (share @ product for product in products)
        t_variance, p_variance = t_square - t_mean**2, p_square - p_mean**2
        t_varies, p_varies = t_variance > NO_VARIANCE, p_variance > NO_VARIANCE
        norm = np.sqrt(np.where(t_varies & p_varies, t_variance * p_variance, 1))
        correlation = np.where(p_varies, (both - t_mean * p_mean) / norm, 0)
        n_genes = t_varies.sum(axis=1)
        return np.where(t_varies, correlation, 0).sum(axis=1) / np.where(n_genes > 0, n_genes, np.nan)

    return of


def resampled_spearman(truth: NDArray[Any], prediction: NDArray[Any]) -> Resampled:
    """Return what gives the mean rank correlation over genes of resamples.

    Cells keep the ranks they have among all cells; ranking every resample anew (``resampled``) takes a hundred times
    as long and differs in the third digit.
    """
    return resampled_pearson(rank_genes(truth), rank_genes(prediction))


def _class_counts(
    truth: NDArray[Any], prediction: NDArray[Any]
) -> Callable[[Weights], tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Return what counts, per resample and class, the cells that are of it, predicted as it, and rightly so."""
    t, p, n_classes = encode_classes(truth, prediction)
    is_true, is_predicted = np.eye(n_classes)[t], np.eye(n_classes)[p]
    is_right = is_true * is_predicted

    def count(weights: Weights) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        return weights @ is_true, weights @ is_predicted, weights @ is_right

    return count


def _mean_ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over columns of ``part / whole`` where ``whole`` is not 0."""
    occurs = whole > 0
    return np.where(occurs, part / np.where(occurs, whole, 1), 0).sum(axis=1) / occurs.sum(axis=1)
