"""Which cells are kept, and for each other one the first reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spatia import keys

if TYPE_CHECKING:
    import pandas as pd

# reasons in the order in which they are tried, and what they mean
REASONS = {
    "no_mask": "no pixel of the mask lies in the cell's window",
    "outside": "the centroid lies outside the image",
    "no_counts": "no transcript was assigned to the cell",
    "few_counts": "fewer transcripts than min_counts",
    "few_genes": "fewer genes than min_genes",
    "many_controls": "more negative controls among the counts than max_control_rate",
    "small_area": "smaller than min_cell_area_um2",
    "large_area": "larger than max_cell_area_um2",
}


def control_rate(n_controls: NDArray[np.number], n_counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Return controls / (controls + counts), NaN where there are neither."""
    total = np.asarray(n_controls, np.float64) + np.asarray(n_counts, np.float64)
    return np.divide(n_controls, total, out=np.full(total.shape, np.nan), where=total > 0)


def hits(
    cells: pd.DataFrame,
    min_counts: int | None,
    min_genes: int | None,
    max_control_rate: float | None,
    min_area_um2: float | None,
    max_area_um2: float | None,
) -> dict[str, NDArray[np.bool_]]:
    """Return, for every reason that applies, which cells it removes; a limit of None is no limit.

    ``cells`` has the columns of :mod:`spatia.keys`, ``control_rate``, ``n_window_px`` and ``is_outside``.
    Cells without counts are removed whenever there is a limit on counts or genes.
    """
    n_counts, n_genes = cells[keys.N_COUNTS].to_numpy(), cells[keys.N_GENES].to_numpy()
    rate, area = cells["control_rate"].to_numpy(), cells[keys.CELL_AREA_UM2].to_numpy()
    removed = {
        "no_mask": cells["n_window_px"].to_numpy() == 0,
        "outside": cells["is_outside"].to_numpy(),
        "no_counts": (n_counts == 0) if (min_counts or min_genes) else None,
        "few_counts": None if min_counts is None else n_counts < min_counts,
        "few_genes": None if min_genes is None else n_genes < min_genes,
        "many_controls": None if max_control_rate is None else rate > max_control_rate,
        "small_area": None if min_area_um2 is None else area < min_area_um2,
        "large_area": None if max_area_um2 is None else area > max_area_um2,
    }
    return {reason: hit for reason, hit in removed.items() if hit is not None}


def first_reason(removed: dict[str, NDArray[np.bool_]]) -> NDArray[np.object_]:
    """Return the first reason of each cell in the order of :data:`REASONS`, "" for cells that are kept."""
    names = [reason for reason in REASONS if reason in removed]
    conditions = [removed[reason] for reason in names]
    return np.select(conditions, [np.array(name, object) for name in names], default=np.array("", object))
