"""The niche and tissue grids, the storage order of cells, and windows read from the slide.

A niche is a square of ``niche_px`` pixels, a tissue a square of ``niches_per_tissue`` niches a side; both grids
start at the slide's origin and a cell belongs to the squares that hold its centroid (paper, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spatia import keys

if TYPE_CHECKING:
    from spatia.xenium.store import SlideStore


@dataclass(frozen=True)
class GridPlaces:
    """Row and column of every cell's niche and tissue, each ``(n,)``."""

    niche_row: NDArray[np.int64]
    niche_col: NDArray[np.int64]
    tissue_row: NDArray[np.int64]
    tissue_col: NDArray[np.int64]


def place_cells(
    x_px: NDArray[np.floating],
    y_px: NDArray[np.floating],
    shape_px: tuple[int, int],
    niche_px: int,
    niches_per_tissue: int,
) -> GridPlaces:
    """Return the squares that hold each centroid; a centroid on the far edge belongs to the last pixel.

    ``shape_px`` is (height, width) of the slide.
    """
    height, width = shape_px
    niche_row = np.clip(np.floor(y_px), 0, height - 1).astype(np.int64) // niche_px
    niche_col = np.clip(np.floor(x_px), 0, width - 1).astype(np.int64) // niche_px
    return GridPlaces(niche_row, niche_col, niche_row // niches_per_tissue, niche_col // niches_per_tissue)


def storage_order(cells: Mapping[str, Any], pixel_size_um: float, shape_px: tuple[int, int]) -> NDArray[np.int64]:
    """Return the rows of ``cells`` in the order in which crops and tiles store them.

    Tissue by tissue and niche by niche, both row by row, then by cell label. The order always follows the standard
    grids (256 px niches, 4 x 4 of them), so that crops and tiles agree whatever grid the tile stage is asked for.
    """
    places = place_cells(
        np.asarray(cells[keys.X_UM]) / pixel_size_um,
        np.asarray(cells[keys.Y_UM]) / pixel_size_um,
        shape_px,
        keys.NICHE_PX,
        keys.NICHES_PER_TISSUE,
    )
    labels = np.asarray(cells[keys.CELL_LABEL])
    # lexsort: the last key sorts first
    return np.lexsort((labels, places.niche_col, places.niche_row, places.tissue_col, places.tissue_row))


def read_tile(
    store: SlideStore, scaling_luts: Sequence[NDArray[np.uint8]], y0: int, x0: int, size: int
) -> NDArray[np.uint8]:
    """Return the 8-bit square ``(stains, size, size)`` with its top left at pixel (``y0``, ``x0``) of the slide.

    ``scaling_luts`` come from :meth:`spatia.cells.scaling.Scaling.luts`; H&E stains, when the tables are for them
    too, follow the morphology stains. What lies beyond the slide's edge is 0.
    """
    height, width = store.shape_px
    top, bottom = max(y0, 0), min(y0 + size, height)
    left, right = max(x0, 0), min(x0 + size, width)
    tile = np.zeros((len(scaling_luts), size, size), np.uint8)
    if top >= bottom or left >= right:
        return tile
    inside = tile[:, top - y0 : bottom - y0, left - x0 : right - x0]
    planes = list(np.asarray(store.image[:, top:bottom, left:right]))
    if len(scaling_luts) > len(planes) and store.he is not None:
        planes += list(np.asarray(store.he[:, top:bottom, left:right]))
    for target, plane, lut in zip(inside, planes, scaling_luts, strict=True):
        target[...] = lut[plane]
    return tile


def inside_slide(y0: int, x0: int, size: int, shape_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels ``(size, size)`` of a square lie on the slide."""
    rows = np.arange(y0, y0 + size)
    columns = np.arange(x0, x0 + size)
    height, width = shape_px
    return ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
