"""Predicting genes that were hidden: counts of visible genes, or an embedding -> log counts of hidden genes.

The reference is what needs no model: the hidden genes of the train cells that are most alike in the visible ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from spatia.measure.probes import Matrix, inner_folds
from spatia.measure.scores import GeneScores, pearson_per_gene
from spatia.measure.value_probes import probe_values

NUMBERS_OF_NEIGHBORS = (15, 30, 50, 100, 200)

Counts: TypeAlias = "NDArray[np.number] | sparse.csr_matrix"  # (cells, genes)


def hidden_genes(n_genes: int, share: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return a random mask (n_genes,), True = hidden, of ``share`` of the genes, rounded.

    Raises
    ------
    ValueError
        If that hides none or all of them.
    """
    n_hidden = round(share * n_genes)
    if not 0 < n_hidden < n_genes:
        raise ValueError(f"share: expected some but not all of {n_genes} genes hidden, found {share}: {n_hidden}")
    is_hidden = np.zeros(n_genes, bool)
    is_hidden[generator.permutation(n_genes)[:n_hidden]] = True
    return is_hidden


def log_counts(counts: Counts) -> NDArray[np.float64]:
    """Return log(1 + count), (n, genes), dense."""
    return np.log1p(_dense(counts))


def log_normalised(counts: Counts, total: float) -> NDArray[np.float64]:
    """Return log(1 + count * total / sum of the cell), (n, genes), dense; cells without counts stay 0."""
    dense = _dense(counts)
    sums = dense.sum(axis=1, keepdims=True)
    return np.log1p(dense * (total / np.where(sums > 0, sums, 1)))


def impute_by_neighbours(
    train_counts: Counts,
    test_counts: Counts,
    is_hidden: NDArray[np.bool_],
    n_neighbors: int = 50,
    n_components: int = 50,
    scaled: bool = True,
) -> NDArray[np.float64]:
    """Return the mean log counts of the hidden genes in the nearest train cells, (m, hidden).

    Near means in the principal components of log(1 + x) of the visible genes. Components are fitted on the train
    cells; there are at most as many as visible genes or train cells.

    Parameters
    ----------
    train_counts, test_counts
        (n, genes) and (m, genes). Hidden genes of the test cells are not looked at.
    is_hidden
        (genes,).
    n_neighbors, n_components
        How many of each.
    scaled
        Cells are first scaled to the median total of the train cells, so that the depth of a cell does not count.

    Raises
    ------
    ValueError
        If the numbers of genes differ or there are fewer train cells than neighbours.
    """
    _check_genes(train_counts, is_hidden)
    _check_genes(test_counts, is_hidden)
    return _neighbour_means(train_counts, test_counts, is_hidden, [n_neighbors], n_components, scaled)[0]


def impute_by_chosen_neighbours(
    train_counts: Counts,
    test_counts: Counts,
    is_hidden: NDArray[np.bool_],
    generator: np.random.Generator,
    groups: ArrayLike | None = None,
    n_neighbors: Sequence[int] = NUMBERS_OF_NEIGHBORS,
) -> NDArray[np.float64]:
    """Return :func:`impute_by_neighbours`, the number of neighbours and ``scaled`` chosen on train cells held out.

    What is chosen has the smallest squared error of all held-out folds, each gene's relative to its variance.

    Parameters
    ----------
    train_counts, test_counts, is_hidden
        As there.
    generator, groups
        Draw the folds, as in :func:`spatia.measure.probes.inner_folds`.
    n_neighbors
        To choose from; those that a fold's train cells are too few for are left out.

    Raises
    ------
    ValueError
        As there, and if there are too few train cells for the smallest of ``n_neighbors``.
    """
    _check_genes(train_counts, is_hidden)
    _check_genes(test_counts, is_hidden)
    folds = inner_folds(train_counts.shape[0], groups, generator)
    most = len(folds) - int(np.bincount(folds).max())
    numbers = [n for n in n_neighbors if n <= most]
    if not numbers:
        raise ValueError(f"n_neighbors: expected at most {most}, the train cells of a fold, found {list(n_neighbors)}")
    truth = log_counts(train_counts[:, is_hidden])
    variance = truth.var(axis=0)
    error = np.zeros((2, len(numbers)))
    for fold in np.unique(folds):
        is_out = folds == fold
        inside, outside = train_counts[~is_out], train_counts[is_out]
        for scaled in (False, True):
            for row, guess in enumerate(_neighbour_means(inside, outside, is_hidden, numbers, scaled=scaled)):
                relative = np.square(guess - truth[is_out]).sum(axis=0) / np.where(variance > 0, variance, np.inf)
                error[int(scaled), row] += relative.sum()
    is_scaled, best = divmod(int(error.argmin()), len(numbers))
    return impute_by_neighbours(train_counts, test_counts, is_hidden, numbers[best], scaled=bool(is_scaled))


def _neighbour_means(
    train_counts: Counts,
    test_counts: Counts,
    is_hidden: NDArray[np.bool_],
    numbers: Sequence[int],
    n_components: int = 50,
    scaled: bool = True,
) -> list[NDArray[np.float64]]:
    """Return :func:`impute_by_neighbours` for several numbers of neighbours, which are looked for once."""
    n_train = train_counts.shape[0]
    if not 1 <= min(numbers) <= max(numbers) <= n_train:
        raise ValueError(f"n_neighbors: expected 1 to {n_train}, the train cells, found {max(numbers)}")
    visible, visible_test = _dense(train_counts[:, ~is_hidden]), _dense(test_counts[:, ~is_hidden])
    total = float(np.median(visible.sum(axis=1)))
    x, x_test = (log_normalised(c, total) if scaled else np.log1p(c) for c in (visible, visible_test))
    pca = PCA(min(n_components, *visible.shape), svd_solver="covariance_eigh")
    neighbours = NearestNeighbors(n_neighbors=max(numbers)).fit(pca.fit_transform(x))
    rows = neighbours.kneighbors(pca.transform(x_test), return_distance=False)
    values = log_counts(train_counts[:, is_hidden])
    return [_means_of_rows(values, rows[:, :number]) for number in numbers]


def _means_of_rows(values: NDArray[np.float64], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return ``values[rows].mean(axis=1)`` without the array (m, k, genes) between."""
    m, k = rows.shape
    share = np.full(m * k, 1 / k)
    return sparse.csr_matrix((share, rows.ravel(), np.arange(m + 1) * k), shape=(m, len(values))) @ values


def impute_by_ridge(
    train_z: Matrix,
    train_counts: Counts,
    test_z: Matrix,
    is_hidden: NDArray[np.bool_],
    generator: np.random.Generator,
    groups: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the log counts of the hidden genes read from embeddings by ridge regression, (m, hidden).

    ``generator`` and ``groups`` choose the penalty as in :func:`spatia.measure.value_probes.fit_value_probe`. It is
    for the caller to make sure that the embeddings did not see the hidden genes.
    """
    _check_genes(train_counts, is_hidden)
    return probe_values(train_z, log_counts(train_counts[:, is_hidden]), test_z, generator, groups)


def imputation_scores(
    test_counts: Counts, prediction: NDArray[np.floating], is_hidden: NDArray[np.bool_]
) -> GeneScores:
    """Return the correlation over cells of predicted (m, hidden) and true log counts of each hidden gene."""
    _check_genes(test_counts, is_hidden)
    return pearson_per_gene(log_counts(test_counts[:, is_hidden]), prediction)


def _check_genes(counts: Counts, is_hidden: NDArray[np.bool_]) -> None:
    if is_hidden.dtype != bool or counts.shape[1:] != is_hidden.shape:
        raise ValueError(f"is_hidden: expected a mask of {counts.shape[1]} genes, found shape {is_hidden.shape}")


def _dense(counts: Any) -> NDArray[np.float64]:
    return np.asarray(counts.toarray() if sparse.issparse(counts) else counts, np.float64)
