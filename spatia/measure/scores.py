"""Scores of predictions and clusters: truth and prediction of the same cells -> one number.

Scores of classes take labels (n,), numbers or names; scores of genes take values (n, genes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

NO_SPREAD = 1e-9  # a gene that spreads less, relative to its largest value, does so by rounding


# --- classes -----------------------------------------------------------------------------------------------------


def accuracy(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the share of cells whose class is right."""
    table = confusion(truth, prediction)
    return float(np.trace(table) / table.sum())


def balanced_accuracy(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the mean over the classes of ``truth`` of the share of their cells that are found."""
    table = confusion(truth, prediction)
    n_true = table.sum(axis=1)
    return float(np.mean(np.diag(table)[n_true > 0] / n_true[n_true > 0]))


def macro_f1(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the mean F1 over all classes that occur in truth or prediction (as scikit-learn's macro average)."""
    table = confusion(truth, prediction)
    return float(np.mean(2 * np.diag(table) / (table.sum(axis=0) + table.sum(axis=1))))


def macro_precision(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the mean precision over all classes in truth or prediction; 0 for a class that is never predicted."""
    table = confusion(truth, prediction)
    return float(np.mean(np.diag(table) / np.maximum(table.sum(axis=0), 1)))


def confusion(truth: ArrayLike, prediction: ArrayLike) -> NDArray[np.int64]:
    """Return how many cells of each true class (row) have each predicted class (column).

    Rows and columns are the classes that occur in either, sorted.

    Raises
    ------
    ValueError
        If the lengths differ or there is no cell.
    """
    t, p, n_classes = encode_classes(truth, prediction)
    return np.bincount(t * n_classes + p, minlength=n_classes**2).reshape(n_classes, n_classes)


def encode_classes(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return truth and prediction as numbers of the sorted classes of both, and how many classes there are."""
    t, p = np.asarray(truth), np.asarray(prediction)
    if t.shape != p.shape or t.ndim != 1 or not len(t):
        raise ValueError(f"labels: expected truth and prediction of the same cells, found shapes {t.shape}, {p.shape}")
    if (t.dtype.kind in "US") != (p.dtype.kind in "US"):
        raise ValueError(f"labels: expected both as names or both as numbers, found {t.dtype} and {p.dtype}")
    classes, codes = np.unique(np.concatenate([t, p]), return_inverse=True)
    return codes[: len(t)], codes[len(t) :], len(classes)


# --- genes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneScores:
    """A score of each gene.

    Attributes
    ----------
    per_gene
        (genes,), NaN for a gene that is constant in the truth.
    """

    per_gene: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean over the genes that have a score."""
        return float(np.nanmean(self.per_gene))

    @property
    def n_dropped(self) -> int:
        """Genes without a score."""
        return int(np.isnan(self.per_gene).sum())


def pearson_per_gene(truth: ArrayLike, prediction: ArrayLike) -> GeneScores:
    """Return the correlation over cells of true and predicted values of each gene.

    A gene that is constant in the truth has no score. One that varies there but is predicted constant scores 0: a
    method must not improve its mean by giving up on a gene.

    Parameters
    ----------
    truth, prediction
        (n, genes).

    Raises
    ------
    ValueError
        If the shapes differ, values are not finite or no gene varies in the truth.
    """
    t, p = standardise_genes(truth, prediction)
    varies = t.any(axis=0)
    return GeneScores(np.where(varies, (t * p).mean(axis=0), np.nan))


def spearman_per_gene(truth: ArrayLike, prediction: ArrayLike) -> GeneScores:
    """Return the correlation of ranks (ties share the mean rank); otherwise as :func:`pearson_per_gene`."""
    return pearson_per_gene(rank_genes(truth), rank_genes(prediction))


def rank_genes(values: ArrayLike) -> NDArray[np.float64]:
    """Return the rank over cells of every value (n, genes); ties share the mean rank."""
    return rankdata(np.asarray(values), axis=0)


def standardise_genes(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both (n, genes) with mean 0 and spread 1 over cells; a constant gene becomes 0 throughout."""
    t, p = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    if t.shape != p.shape or t.ndim != 2:
        raise ValueError(f"genes: expected truth and prediction of one shape (n, genes), found {t.shape}, {p.shape}")
    if not (np.isfinite(t).all() and np.isfinite(p).all()):
        raise ValueError("genes: expected finite values, found NaN or infinity in truth or prediction")
    t, p = _standardise(t), _standardise(p)
    if not t.any():
        raise ValueError(f"genes: expected one that varies in the truth, found {t.shape[1]} constant ones")
    return t, p


def _standardise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    varies = spread > NO_SPREAD * np.abs(values).max(axis=0, initial=0)
    return np.where(varies, centred / np.where(varies, spread, 1), 0.0)


# --- clusters and comparisons ------------------------------------------------------------------------------------


def adjusted_rand_index(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Return the agreement of two partitions: 1 for the same, 0 on average for random ones."""
    return float(adjusted_rand_score(np.asarray(truth), np.asarray(clusters)))


def normalised_mutual_information(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Return the mutual information of two partitions over the mean of their entropies, 0 to 1."""
    return float(normalized_mutual_info_score(np.asarray(truth), np.asarray(clusters)))


def normalised_gain(score: float, chance: float, oracle: float) -> float:
    """Return how far ``score`` has come from chance (0) to the best possible (1).

    Raises
    ------
    ValueError
        If the best possible is not above chance.
    """
    if not oracle > chance:
        raise ValueError(f"normalised gain: expected an oracle above chance, found {oracle} and {chance}")
    return (score - chance) / (oracle - chance)
