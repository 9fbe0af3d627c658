"""A cell's image -> the cell and its nucleus: one segmenter for real and generated crops (decision A9).

Real crops come with a mask, generated ones do not; measuring the former inside their masks and the latter inside found
ones would compare segmentations, not cells. What lies outside a crop's cell is 0, so a low, fixed threshold finds the
cell; in shrunk crops the pixels of the rim hold part of the cell only and count where they reach a share of the level
just inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

Mask = NDArray[np.bool_]

LARGEST_SHARE = 0.5  # of what is above the threshold: a cell in more pieces than one and crumbs is none
FRAME_SHARE = 0.95  # a cell that fills more of the frame has no background: the threshold found noise
EMPTY, SMALL, FRAGMENTED, FILLED, NOT_FINITE = "empty", "small", "fragmented", "fills_frame", "not_finite"


@dataclass(frozen=True)
class Segmentation:
    """What was found in one image.

    Attributes
    ----------
    cell
        (y, x), True = the cell; all False where it failed.
    nucleus
        (y, x), True = the nucleus; all False without one.
    reason
        Why it failed: ``empty``, ``small``, ``fragmented``, ``fills_frame``, ``not_finite``; "" where it did not.
    """

    cell: Mask
    nucleus: Mask
    reason: str

    @property
    def is_segmented(self) -> bool:
        """Whether there is a cell."""
        return not self.reason


def segment(
    image: NDArray[np.float32], dapi: int | None, threshold: float, rim_share: float, min_cell_px: float
) -> Segmentation:
    """Return the cell and the nucleus of one image.

    Parameters
    ----------
    image
        (c, y, x) in [0, 1], 0 outside the cell.
    dapi
        The stain that shows nuclei; None finds none.
    threshold
        Of the mean over stains.
    rim_share
        A pixel of the rim belongs to the cell from this share of the level of the interior next to it; 0 keeps all.
    min_cell_px
        Smaller cells are failures.
    """
    none = np.zeros(image.shape[-2:], bool)
    if not np.isfinite(image).all():
        return Segmentation(none, none, NOT_FINITE)
    level = image.mean(axis=0)
    above = level > threshold
    cell = trim_rim(fill_largest(above), level, rim_share)
    reason = judge(cell, above, min_cell_px)
    if reason:
        return Segmentation(none, none, reason)
    return Segmentation(cell, none if dapi is None else find_nucleus(image[dapi], cell), "")


def judge(cell: Mask, above: Mask, min_cell_px: float) -> str:
    """Return why ``cell``, the largest piece of ``above``, cannot be a cell; "" if it can."""
    n_above, n_cell = int(above.sum()), int(cell.sum())
    if n_above == 0:
        return EMPTY
    if n_cell < min_cell_px:
        return SMALL
    if n_cell > FRAME_SHARE * cell.size:
        return FILLED
    return FRAGMENTED if (cell & above).sum() < LARGEST_SHARE * n_above else ""


def fill_largest(mask: Mask) -> Mask:
    """Return the largest connected piece (8 neighbours) of a mask, holes filled; the first of equals."""
    pieces, n = ndimage.label(mask, np.ones((3, 3)))
    if n == 0:
        return np.zeros(mask.shape, bool)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(pieces == largest), bool)


def trim_rim(cell: Mask, level: NDArray[np.float32], rim_share: float) -> Mask:
    """Return ``cell`` without rim pixels darker than ``rim_share`` of the mean of their neighbours in the interior."""
    interior = ndimage.binary_erosion(cell)
    if rim_share == 0 or not interior.any():
        return cell
    n_inside = ndimage.uniform_filter(interior.astype(float), 3)
    inside = ndimage.uniform_filter(np.where(interior, level, 0).astype(float), 3)
    # a running mean leaves rounding errors where there is no neighbour in the interior
    has_inside = n_inside > 1e-6
    wanted = np.where(has_inside, rim_share * inside / np.where(has_inside, n_inside, 1), 0)
    return fill_largest(interior | (cell & (level >= wanted)))


def find_nucleus(dapi: NDArray[np.float32], cell: Mask) -> Mask:
    """Return the largest piece of ``cell`` above Otsu's threshold of its own pixels; nothing if they are all alike."""
    inside = dapi[cell]
    if inside.min() == inside.max():
        return np.zeros(cell.shape, bool)
    return fill_largest(cell & (dapi > threshold_otsu(inside))) & cell
