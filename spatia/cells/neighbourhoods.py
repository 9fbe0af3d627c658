"""Which niche and tissue each cell belongs to, and counts summed over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from spatia import keys
from spatia.cells.grids import GridPlaces


@dataclass(frozen=True)
class Neighbourhoods:
    """Niche and tissue of every cell, and the squares that hold cells, row by row of the storage order.

    Attributes
    ----------
    niche_of_cell, tissue_of_cell : rows of ``niches`` and ``tissues``, ``(n_cells,)``
    niches : ``niche, tissue, row, col, y0, x0, n_cells``
    tissues : ``tissue, row, col, y0, x0, n_cells, n_niches``
    """

    niche_of_cell: NDArray[np.int64]
    tissue_of_cell: NDArray[np.int64]
    niches: pd.DataFrame
    tissues: pd.DataFrame


def find_neighbourhoods(places: GridPlaces, niche_px: int, niches_per_tissue: int) -> Neighbourhoods:
    """Number the squares that hold cells: tissues row by row, niches tissue by tissue and row by row."""
    per_niche = np.stack([places.tissue_row, places.tissue_col, places.niche_row, places.niche_col], axis=1)
    niche_keys, niche_of_cell, cells_per_niche = np.unique(per_niche, axis=0, return_inverse=True, return_counts=True)
    tissue_keys, tissue_of_niche, niches_per = np.unique(
        niche_keys[:, :2], axis=0, return_inverse=True, return_counts=True
    )
    niche_of_cell, tissue_of_niche = niche_of_cell.ravel(), tissue_of_niche.ravel()
    tissue_of_cell = tissue_of_niche[niche_of_cell]
    cells_per_tissue = np.bincount(tissue_of_cell, minlength=len(tissue_keys))
    niches = _squares(keys.NICHE, niche_keys[:, 2:], niche_px)
    niches.insert(1, keys.TISSUE, tissue_of_niche)
    tissues = _squares(keys.TISSUE, tissue_keys, niche_px * niches_per_tissue)
    return Neighbourhoods(
        niche_of_cell,
        tissue_of_cell,
        niches.assign(n_cells=cells_per_niche),
        tissues.assign(n_cells=cells_per_tissue, n_niches=niches_per),
    )


def sum_counts(counts: sparse.csr_matrix, group: NDArray[np.int64], n_groups: int) -> sparse.csr_matrix:
    """Return counts ``(n_groups, genes)`` summed over the cells of each group, int32, sorted columns."""
    ones = np.ones(len(group), np.int64)
    membership = sparse.csr_matrix((ones, (group, np.arange(len(group)))), shape=(n_groups, len(group)))
    return tidy_counts(membership @ counts.astype(np.int64))


def tidy_counts(counts: sparse.spmatrix) -> sparse.csr_matrix:
    """Return ``counts`` as CSR of int32 with sorted columns and no stored zeros: one matrix, one sequence of bytes.

    Raises
    ------
    OverflowError
        If a sum does not fit into int32.
    """
    csr = sparse.csr_matrix(counts)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    if csr.nnz and int(csr.data.max()) > np.iinfo(np.int32).max:
        raise OverflowError(f"a summed count of {int(csr.data.max())} does not fit into int32")
    index = [np.asarray(part, np.int32 if csr.nnz < 2**31 else np.int64) for part in (csr.indices, csr.indptr)]
    return sparse.csr_matrix((csr.data.astype(np.int32), *index), shape=csr.shape)


def _squares(name: str, places: NDArray[np.int64], side_px: int) -> pd.DataFrame:
    row, col = places[:, 0], places[:, 1]
    return pd.DataFrame(
        {name: np.arange(len(places)), "row": row, "col": col, "y0": row * side_px, "x0": col * side_px}
    )
