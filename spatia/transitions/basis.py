"""One joint PCA of log-normalised expression (A13): training cells' counts -> a basis; any cells' counts -> points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

EXACT_GENES = 4000  # up to here the covariance matrix is decomposed, above it ARPACK iterates


@dataclass(frozen=True)
class Basis:
    """A joint PCA.

    Attributes
    ----------
    genes
        ``(g,)`` names.
    mean
        ``(g,)`` log-normalised expression of the mean training cell.
    components
        ``(d, g)``.
    target_sum
        Counts that a cell is scaled to before log1p.
    explained
        ``(d,)`` share of the variance.
    """

    genes: NDArray[np.str_]
    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    target_sum: float
    explained: NDArray[np.float64]


def log_normalise(counts: sparse.spmatrix, target_sum: float) -> sparse.csr_matrix:
    """Return ``log1p(count / total * target_sum)``, ``(n, g)`` CSR float64; cells without counts stay 0."""
    csr = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    total = np.asarray(csr.sum(axis=1)).ravel()
    csr.data *= np.repeat(target_sum / np.maximum(total, 1e-12), np.diff(csr.indptr))
    return csr.log1p()


def median_total(counts: sparse.spmatrix) -> float:
    """Return the median sum of a row that is not empty: the scale that changes the counts least."""
    total = np.asarray(counts.sum(axis=1)).ravel()
    if not (total > 0).any():
        raise ValueError("expected cells with counts, found none")
    return float(np.median(total[total > 0]))


def fit_basis(counts: sparse.csr_matrix, genes: NDArray[np.str_], n_components: int, target_sum: float | None) -> Basis:
    """Return the joint PCA of training cells.

    Parameters
    ----------
    counts
        ``(n, g)`` of all training cells.
    genes
        ``(g,)``.
    n_components
        At most; fewer where there are fewer cells or genes.
    target_sum
        None = the median of these cells.

    Raises
    ------
    ValueError
        With fewer than three cells or genes.
    """
    from sklearn.decomposition import PCA

    if min(counts.shape) < 3:
        raise ValueError(f"expected at least 3 cells and 3 genes for a PCA, found {counts.shape}")
    scale = median_total(counts) if target_sum is None else float(target_sum)
    expression = log_normalise(counts, scale)
    solver = "covariance_eigh" if counts.shape[1] <= EXACT_GENES else "arpack"
    pca = PCA(min(n_components, min(counts.shape) - 1), svd_solver=solver, random_state=0).fit(expression)
    return Basis(
        genes=np.asarray(genes),
        mean=np.asarray(pca.mean_, np.float64),
        components=np.asarray(pca.components_, np.float64),
        target_sum=scale,
        explained=np.asarray(pca.explained_variance_ratio_, np.float64),
    )


def project(basis: Basis, expression: sparse.csr_matrix) -> NDArray[np.float64]:
    """Return the cells' places in the basis, ``(n, d)``; columns of ``expression`` are the basis' genes."""
    return np.asarray(expression @ basis.components.T) - basis.components @ basis.mean


def align_genes(
    counts: sparse.csr_matrix, genes: NDArray[np.str_], wanted: NDArray[np.str_]
) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
    """Return the columns of ``wanted`` genes, ``(n, w)``, 0 where the panel lacks one; and which it has, ``(w,)``.

    A panel may have several targets of one name; their counts are summed. Every wanted name stands once.
    """
    place = {gene: column for column, gene in enumerate(wanted.tolist())}
    rows = np.array([row for row, gene in enumerate(genes.tolist()) if gene in place], np.int64)
    columns = np.array([place[gene] for gene in genes[rows].tolist()], np.int64)
    picker = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(genes), len(wanted)))
    return sparse.csr_matrix(counts @ picker), np.isin(np.arange(len(wanted)), columns)


def project_panel(
    basis: Basis, counts: sparse.csr_matrix, genes: NDArray[np.str_]
) -> tuple[sparse.csr_matrix, NDArray[np.float64], NDArray[np.bool_]]:
    """Return expression on the basis' genes ``(n, g)``, points ``(n, d)``, and which genes the panel has ``(g,)``.

    A gene that the panel lacks counts as the training mean, so that it moves no cell.
    """
    aligned, has_gene = align_genes(counts, genes, basis.genes)
    expression = log_normalise(aligned, basis.target_sum)
    points = project(basis, expression) + basis.components[:, ~has_gene] @ basis.mean[~has_gene]
    return expression, points, has_gene
