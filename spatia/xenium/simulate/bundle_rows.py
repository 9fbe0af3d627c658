"""The order and numbers of cells in a bundle: rows sorted by cell id, mask value = row + 1, as the instrument does.

A simulated slide numbers its cells as they were planted; its ids are in another order. Here both are brought together
once, so that every file of the bundle agrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage import measure

from spatia.xenium.simulate.layout_facts import LayoutFacts
from spatia.xenium.simulate.slide import SimulatedSlide

# a nucleus mask's splinter below this share of the cell's largest piece is no second nucleus
_MIN_NUCLEUS_SHARE = 0.25


@dataclass(frozen=True)
class BundleRows:
    """Cells in file order.

    Attributes
    ----------
    ids : (n,) text, sorted
    label : (n,) the slide's own label of each row
    cell_mask : (y, x) uint32, row + 1
    nucleus_mask : (y, x) uint32, number of the nucleus (from 2.0 on) or of its cell (before)
    nucleus_row : (n_nuclei,) row of the cell that nucleus 1, 2, ... belongs to
    """

    ids: np.ndarray
    label: np.ndarray
    cell_mask: np.ndarray
    nucleus_mask: np.ndarray
    nucleus_row: np.ndarray

    @property
    def row_of_label(self) -> np.ndarray:
        """(n + 1,) row of each label of the slide; -1 for label 0."""
        rows = np.full(len(self.label) + 1, -1, np.int64)
        rows[self.label] = np.arange(len(self.label))
        return rows

    def ids_as(self, facts: LayoutFacts) -> np.ndarray:
        """Return the ids as the layout's tables hold them: int32, bytes or text."""
        if facts.has_number_ids:
            return self.ids.astype(np.int32)
        return np.char.encode(self.ids, "ascii").astype(object) if facts.text_is_bytes else self.ids.astype(object)


def order_rows(slide: SimulatedSlide, layout: str, facts: LayoutFacts) -> BundleRows:
    """Return the slide's cells in the order a bundle of ``layout`` has them."""
    ids = slide.cell_ids(layout)
    order = np.argsort(ids.astype(np.int64) if facts.has_number_ids else ids, kind="stable")
    value_of_label = np.zeros(slide.n_cells + 1, np.uint32)
    value_of_label[order + 1] = np.arange(1, slide.n_cells + 1)
    cell_mask = value_of_label[slide.cell_labels]
    nucleus_mask, nucleus_row = _number_nuclei(value_of_label[slide.nucleus_labels], facts)
    return BundleRows(ids[order], order + 1, cell_mask, nucleus_mask, nucleus_row)


def _number_nuclei(cell_of_pixel: np.ndarray, facts: LayoutFacts) -> tuple[np.ndarray, np.ndarray]:
    if not facts.has_nucleus_numbers:
        values = np.unique(cell_of_pixel)
        return cell_of_pixel, values[values > 0].astype(np.int64) - 1
    pieces = measure.label(cell_of_pixel, background=0, connectivity=1)
    first = np.zeros(pieces.max() + 1, np.int64)
    first[pieces.ravel()] = cell_of_pixel.ravel()  # the cell of every piece
    size = np.bincount(pieces.ravel(), minlength=len(first))
    number, owner = _number_pieces(first[1:], size[1:])
    return np.concatenate([[0], number]).astype(np.uint32)[pieces], owner - 1


def _number_pieces(cell: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the pieces that are nuclei 1..m by cell; splinters share the number of their cell's largest piece."""
    order = np.lexsort((-size, cell))
    is_first = np.diff(cell[order], prepend=-1) != 0
    largest = size[order][np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    is_nucleus = is_first | (size[order] >= _MIN_NUCLEUS_SHARE * largest)
    running = np.cumsum(is_nucleus)
    of_largest = running[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    number = np.empty(len(cell), np.int64)
    number[order] = np.where(is_nucleus, running, of_largest)
    return number, cell[order][is_nucleus]
