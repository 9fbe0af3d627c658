"""The counts around a cell, which its embedding is asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spatia.learn.slides import Slide

AROUND_UM = 40.0  # the area of 1.7 niches, whose grid cuts through neighbourhoods


def sum_around(slide: Slide, rows: NDArray[np.int64], place: NDArray[np.int32], n_genes: int) -> NDArray[np.float32]:
    """Return (cells, genes) summed counts of the slide's other cells within ``AROUND_UM`` of each cell of ``rows``.

    Of the whole slide: sums over the cells of a batch would end at the edges of its tissue windows.

    Parameters
    ----------
    place
        Each column's gene, -1 = none.
    """
    near = slide.tree.query_ball_point(slide.position_um[rows], AROUND_UM)
    cell = np.repeat(np.arange(len(rows)), [len(found) for found in near])
    other = np.concatenate([np.asarray(found, np.int64) for found in near])
    is_other = other != rows[cell]
    cell, other = cell[is_other], other[is_other]
    genes, values, lengths = slide.cell_counts.take(other, place)
    sums = np.bincount(np.repeat(cell, lengths) * n_genes + genes, values, minlength=len(rows) * n_genes)
    return sums.reshape(len(rows), n_genes).astype(np.float32)
