"""Measuring cells inside their masks, one block of the slide at a time.

All sums are over whole numbers and boxes are exact, so that the blocks' size and order change nothing but the
focus: its Laplacian needs neighbours and leaves out the outermost pixels of each block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from spatia.cells.scaling import n_values


class MaskMeasures:
    """Sums over the masks of ``n`` cells; grows with :meth:`add_block`, read when all blocks are in.

    Parameters
    ----------
    labels : the cells' values in the label image, ``(n,)``, all different
    stains : names of the stains
    saturated_from : value from which a pixel counts as saturated
    """

    def __init__(self, labels: NDArray[np.integer], stains: Sequence[str], saturated_from: int) -> None:
        self.stains = tuple(stains)
        self.saturated_from = saturated_from
        self._by_label = np.argsort(labels)
        self._sorted_labels = np.asarray(labels)[self._by_label]
        n, c = len(labels), len(self.stains)
        self.n_px = np.zeros(n, np.int64)
        self.first = np.full((n, 2), np.iinfo(np.int64).max)  # smallest y, x
        self.stop = np.full((n, 2), -1)  # largest y, x, plus one
        self.sums = np.zeros((n, c))
        self.n_saturated = np.zeros((n, c), np.int64)
        self.n_laplacian = np.zeros(n, np.int64)
        self.laplacian = np.zeros((2, n, c))  # sum, sum of squares
        self.n_unknown_px = 0  # masks of cells that the table does not have

    def add_block(self, y0: int, x0: int, labels: NDArray[np.integer], stains: Sequence[NDArray]) -> None:
        """Add a block: ``labels`` ``(h, w)`` and one ``(h, w)`` array per stain, top left at (``y0``, ``x0``)."""
        inside = np.flatnonzero(labels)
        if not len(inside):
            return
        codes, found = pd.factorize(labels.ravel()[inside])
        cells = self._cells_of(found)
        known = cells >= 0
        self.n_unknown_px += int((~known)[codes].sum())
        n_px = np.bincount(codes, minlength=len(found))
        self.n_px[cells[known]] += n_px[known]
        self._add_boxes(y0, x0, labels.shape, inside, codes, cells)
        is_interior = _interior(labels.shape).ravel()[inside]
        self.n_laplacian[cells[known]] += np.bincount(codes[is_interior], minlength=len(found))[known]
        for channel, stain in enumerate(stains):
            self._add_stain(channel, stain, inside, codes, cells)

    def _cells_of(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the row of each label, -1 where the table has none."""
        if not len(self._sorted_labels):
            return np.full(len(labels), -1)
        place = np.minimum(np.searchsorted(self._sorted_labels, labels), len(self._sorted_labels) - 1)
        return np.where(self._sorted_labels[place] == labels, self._by_label[place], -1)

    def _add_boxes(
        self, y0: int, x0: int, shape: tuple[int, ...], inside: NDArray, codes: NDArray, cells: NDArray
    ) -> None:
        dense = np.zeros(shape, np.int32)
        dense.ravel()[inside] = codes + 1
        boxes = ndimage.find_objects(dense, max_label=len(cells))
        for cell, (rows, columns) in zip(cells.tolist(), boxes, strict=True):
            if cell >= 0:
                np.minimum(self.first[cell], (y0 + rows.start, x0 + columns.start), out=self.first[cell])
                np.maximum(self.stop[cell], (y0 + rows.stop, x0 + columns.stop), out=self.stop[cell])

    def _add_stain(self, channel: int, stain: NDArray, inside: NDArray, codes: NDArray, cells: NDArray) -> None:
        known = cells >= 0
        rows, n = cells[known], len(cells)
        values = stain.ravel()[inside]
        self.sums[rows, channel] += np.bincount(codes, weights=values, minlength=n)[known]
        saturated = codes[values >= self.saturated_from]
        self.n_saturated[rows, channel] += np.bincount(saturated, minlength=n)[known]
        laplacian = laplacian_inside(stain).ravel()[inside].astype(np.float64)
        self.laplacian[0, rows, channel] += np.bincount(codes, weights=laplacian, minlength=n)[known]
        self.laplacian[1, rows, channel] += np.bincount(codes, weights=laplacian * laplacian, minlength=n)[known]

    def to_columns(self) -> dict[str, NDArray]:
        """Return the measures of all cells: mask box and size, per stain mean, saturated share and focus.

        The focus of a stain is the variance of its Laplacian over its squared mean: how much fine structure there
        is, whatever the exposure. It falls when the image is blurred. NaN for cells without mask or signal.
        """
        has_mask = self.n_px > 0
        box = {
            "mask_y0": np.where(has_mask, self.first[:, 0], 0),
            "mask_x0": np.where(has_mask, self.first[:, 1], 0),
            "mask_h": np.where(has_mask, self.stop[:, 0] - self.first[:, 0], 0),
            "mask_w": np.where(has_mask, self.stop[:, 1] - self.first[:, 1], 0),
            "n_mask_px": self.n_px,
        }
        means = _divide(self.sums, self.n_px[:, None])
        mean_laplacian, mean_square = _divide(self.laplacian, self.n_laplacian[:, None])
        focus = _divide(mean_square - mean_laplacian**2, means**2)
        saturated = _divide(self.n_saturated, self.n_px[:, None])
        return box | {
            f"{name}_{stain}": values[:, channel]
            for channel, stain in enumerate(self.stains)
            for name, values in (("mean", means), ("saturated", saturated), ("focus", focus))
        }


def laplacian_inside(stain: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return the four-neighbour Laplacian ``(h, w)``, 0 on the outermost pixels."""
    wide = stain.astype(np.int32)
    laplacian = np.zeros_like(wide)
    if min(wide.shape) > 2:
        neighbours = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
        laplacian[1:-1, 1:-1] = neighbours - 4 * wide[1:-1, 1:-1]
    return laplacian


def add_to_histograms(histograms: NDArray[np.int64], stains: Sequence[NDArray]) -> None:
    """Count the values of one block, one array per stain, into ``histograms`` ``(stains, values)``."""
    for histogram, stain in zip(histograms, stains, strict=True):
        histogram += np.bincount(stain.ravel(), minlength=n_values(stain.dtype))


def _interior(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    interior = np.zeros(shape, bool)
    interior[1:-1, 1:-1] = min(shape) > 2
    return interior


def _divide(numerator: NDArray, denominator: NDArray) -> NDArray[np.float64]:
    numerator = np.asarray(numerator, np.float64)
    denominator = np.broadcast_to(denominator, numerator.shape)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
