"""Predicting genes that were hidden: counts of visible genes, or an embedding -> log counts of hidden genes.

The reference is what needs no model: the hidden genes of the train cells that are most alike in the visible ones.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from spatia.measure.probes import Matrix
from spatia.measure.scores import GeneScores, pearson_per_gene
from spatia.measure.value_probes import probe_values

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
) -> NDArray[np.float64]:
    """Return the mean log counts of the hidden genes in the nearest train cells, (m, hidden).

    Near means in the principal components of the visible genes, each cell scaled to the median total of the train
    cells and taken as log(1 + x). Components are fitted on the train cells; there are at most as many as visible
    genes or train cells.

    Parameters
    ----------
    train_counts, test_counts
        (n, genes) and (m, genes). Hidden genes of the test cells are not looked at.
    is_hidden
        (genes,).
    n_neighbors, n_components
        How many of each.

    Raises
    ------
    ValueError
        If the numbers of genes differ or there are fewer train cells than neighbours.
    """
    _check_genes(train_counts, is_hidden)
    _check_genes(test_counts, is_hidden)
    n_train = train_counts.shape[0]
    if not 1 <= n_neighbors <= n_train:
        raise ValueError(f"n_neighbors: expected 1 to {n_train}, the train cells, found {n_neighbors}")
    visible, visible_test = _dense(train_counts[:, ~is_hidden]), _dense(test_counts[:, ~is_hidden])
    total = float(np.median(visible.sum(axis=1)))
    pca = PCA(min(n_components, *visible.shape), svd_solver="covariance_eigh")
    places = pca.fit_transform(log_normalised(visible, total))
    neighbours = NearestNeighbors(n_neighbors=n_neighbors).fit(places)
    rows = neighbours.kneighbors(pca.transform(log_normalised(visible_test, total)), return_distance=False)
    return log_counts(train_counts[:, is_hidden])[rows].mean(axis=1)


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
