"""A slide's quality in one row, from its measured and filtered cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spatia import keys
from spatia.cells.filters import REASONS
from spatia.cells.grids import place_cells

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def summarise(cells: pd.DataFrame, pixel_size_um: float, shape_px: tuple[int, int]) -> dict[str, Any]:
    """Return the slide's row: what went in and out, and how the kept cells are (medians, quantiles).

    Parameters
    ----------
    cells : the QC table of all cells
    pixel_size_um, shape_px : of the slide; shape is (height, width)
    """
    kept = cells[cells[keys.KEEP].to_numpy(bool)]
    reasons = cells[keys.REASON].value_counts()
    n_controls, n_counts = int(cells[keys.N_CONTROLS].sum()), int(cells[keys.N_COUNTS].sum())
    return {
        "n_cells_in": len(cells),
        "n_cells_out": len(kept),
        "removed": {reason: int(reasons.get(reason, 0)) for reason in REASONS},
        "n_empty": int((cells[keys.N_COUNTS] == 0).sum()),
        "median_counts": _median(kept[keys.N_COUNTS]),
        "median_genes": _median(kept[keys.N_GENES]),
        "control_rate": n_controls / (n_controls + n_counts) if n_controls + n_counts else None,
        "cell_area_um2": quantiles(kept[keys.CELL_AREA_UM2]),
        "nucleus_area_um2": quantiles(kept[keys.NUCLEUS_AREA_UM2]),
        "nuclear_fraction": quantiles(kept["nuclear_fraction"]),
        "n_clipped": int(kept["is_clipped"].sum()),
        "n_touching_edge": int(kept["touches_edge"].sum()),
        **_niches(kept, pixel_size_um, shape_px),
    }


def summarise_stains(
    cells: pd.DataFrame, stains: Sequence[str], histograms: NDArray[np.int64], saturated_from: int
) -> dict[str, dict[str, float | int | None]]:
    """Return per stain: medians of the kept cells' mean and focus, and how much of the slide is saturated.

    ``saturated`` is the share of the slide's pixels at or above ``saturated_from``; ``near_highest`` the share
    within 2 % of the highest value found, which is large where the image was clipped below its type's maximum.
    """
    kept = cells[cells[keys.KEEP].to_numpy(bool)]
    rows: dict[str, dict[str, float | int | None]] = {}
    for stain, histogram in zip(stains, histograms, strict=True):
        n_pixels = max(int(histogram.sum()), 1)
        highest = int(np.flatnonzero(histogram).max(initial=0))
        rows[stain] = {
            "mean_in_cells": _median(kept[f"mean_{stain}"]),
            "focus": _median(kept[f"focus_{stain}"]),
            "saturated": float(histogram[saturated_from:].sum() / n_pixels),
            "highest": highest,
            "near_highest": float(histogram[int(np.ceil(0.98 * highest)) :].sum() / n_pixels) if highest else 0.0,
        }
    return rows


def quantiles(values: pd.Series) -> dict[str, float] | None:
    """Return 5, 25, 50, 75 and 95 % quantiles as ``{"p05": ...}``, None where no value is known."""
    known = values.dropna().to_numpy(np.float64)
    if not len(known):
        return None
    return {f"p{round(100 * q):02d}": float(v) for q, v in zip(QUANTILES, np.quantile(known, QUANTILES), strict=True)}


def _niches(kept: pd.DataFrame, pixel_size_um: float, shape_px: tuple[int, int]) -> dict[str, Any]:
    x_px, y_px = (kept[name].to_numpy() / pixel_size_um for name in (keys.X_UM, keys.Y_UM))
    places = place_cells(x_px, y_px, shape_px, keys.NICHE_PX, keys.NICHES_PER_TISSUE)
    per_niche = pd.Series(1, index=range(len(kept))).groupby([places.niche_row, places.niche_col]).size()
    tissues = set(zip(places.tissue_row.tolist(), places.tissue_col.tolist(), strict=True))
    return {"n_niches": len(per_niche), "n_tissues": len(tissues), "cells_per_niche": quantiles(per_niche)}


def _median(values: pd.Series) -> float | None:
    known = values.dropna()
    return float(known.median()) if len(known) else None
