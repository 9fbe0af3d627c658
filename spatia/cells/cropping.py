"""Cutting cells out of a slide: QC table + slide -> index, masks and 8-bit pixels of every crop.

The index (windows, boxes, offsets) is planned first, from the boxes that QC measured. Then every block of the
slide is decoded once: a cell inside one block is cut at once, a cell across blocks is collected until its last
block has come. As all offsets are known, each cell is written to its place whenever it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spatia import keys
from spatia.cells.blocks import Block, rows_per_block
from spatia.cells.crops import INDEX_COLUMNS, mask_bytes_of

MASK_BOX_COLUMNS = ("mask_y0", "mask_x0", "mask_h", "mask_w")  # of the QC table, in pixels of the slide
N_MASK_PX = "n_mask_px"


def window_start(box_start: NDArray[np.int64], box_size: NDArray[np.int64], window_px: int) -> NDArray[np.int64]:
    """Return the first pixel of the windows around mask boxes, along one axis.

    ``box_start + floor((box_size - window_px) / 2)``: box and window share their centre; where their sizes differ
    by an odd number, the window reaches one pixel further up (or left) than down (or right).
    """
    return box_start + (box_size - window_px) // 2


def plan_crops(cells: pd.DataFrame, window_px: int) -> pd.DataFrame:
    """Return the index of the crops but for the offsets and the pixel counts of clipped cells.

    ``cells`` is the QC table of the kept cells in storage order, index ``cell_id``. ``n_pixels`` is the size of the
    whole mask; :func:`count_inside` says how much of a clipped cell lies in its window.
    """
    top, left, height, width = (cells[name].to_numpy(np.int64) for name in MASK_BOX_COLUMNS)
    y0, x0 = window_start(top, height, window_px), window_start(left, width, window_px)
    box_y, box_x = np.maximum(top - y0, 0), np.maximum(left - x0, 0)
    plan = {
        keys.CELL_ID: cells.index.to_numpy(),
        keys.CELL_LABEL: cells[keys.CELL_LABEL].to_numpy(np.int64),
        "y0": y0,
        "x0": x0,
        "box_y": box_y,
        "box_x": box_x,
        "box_h": np.minimum(height, window_px),
        "box_w": np.minimum(width, window_px),
        "n_pixels": cells[N_MASK_PX].to_numpy(np.int64),
        "is_clipped": (height > window_px) | (width > window_px),
    }
    return pd.DataFrame(plan)


def count_inside(labels: Any, plan: pd.DataFrame) -> NDArray[np.int64]:
    """Return the mask pixels ``(n,)`` of each planned cell that lie inside its window.

    ``labels`` ``(y, x)`` is read window by window: meant for the few cells that are clipped.
    """
    counts = np.zeros(len(plan), np.int64)
    boxes = slide_boxes(plan)
    for row in range(len(plan)):
        counts[row] = np.count_nonzero(np.asarray(labels[boxes.slices(row)]) == int(boxes.label[row]))
    return counts


def add_offsets(plan: pd.DataFrame, n_stains: int) -> pd.DataFrame:
    """Return the plan with ``pixel_offset`` and ``mask_offset``, columns as in ``index.parquet``."""
    pixel_bytes = plan["n_pixels"].to_numpy() * n_stains
    mask_bytes = mask_bytes_of(plan["box_h"].to_numpy(), plan["box_w"].to_numpy())
    offsets = {
        "pixel_offset": np.cumsum(pixel_bytes) - pixel_bytes,
        "mask_offset": np.cumsum(mask_bytes) - mask_bytes,
    }
    return plan.assign(**offsets)[list(INDEX_COLUMNS)]


@dataclass(frozen=True)
class SlideBoxes:
    """Where each cell's box (within its window) lies on the slide, and its label; arrays ``(n,)``."""

    label: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]

    def slices(self, row: int) -> tuple[slice, slice]:
        """Rows and columns of the slide that a box covers."""
        top, left = int(self.top[row]), int(self.left[row])
        return slice(top, top + int(self.height[row])), slice(left, left + int(self.width[row]))


def slide_boxes(plan: pd.DataFrame) -> SlideBoxes:
    """Return the boxes of a plan in pixels of the slide."""
    column = {name: plan[name].to_numpy(np.int64) for name in plan.columns if name not in (keys.CELL_ID, "is_clipped")}
    top, left = column["y0"] + column["box_y"], column["x0"] + column["box_x"]
    return SlideBoxes(column[keys.CELL_LABEL], top, left, column["box_h"], column["box_w"])


@dataclass(frozen=True)
class CutCell:
    """One complete crop: the row of the index, the mask ``(box_h, box_w)`` and pixels ``(stains, n)``."""

    row: int
    mask: NDArray[np.bool_]
    pixels: NDArray[np.uint8]


@dataclass
class _Collected:
    """A cell across blocks, box by box; ``missing_px`` of its box are still to come."""

    mask: NDArray[np.bool_]
    stains: list[NDArray]
    missing_px: int


ReadBlock = Callable[[Block], tuple[NDArray, Sequence[NDArray]]]


def cut_cells(
    boxes: SlideBoxes,
    blocks: Iterable[Block],
    read_block: ReadBlock,
    luts: Sequence[NDArray[np.uint8]],
    block_px: int = keys.CHUNK_PX,
) -> Iterator[CutCell]:
    """Yield every cell once it is complete.

    Parameters
    ----------
    boxes
        The cells' boxes on the slide.
    blocks
        The blocks of the whole slide, of side ``block_px``.
    read_block
        Returns the labels ``(h, w)`` and the stains, one ``(h, w)`` each, of a block.
    luts
        One lookup table per stain.
    """
    touching = rows_per_block(boxes.top, boxes.left, boxes.height, boxes.width, block_px)
    collected: dict[int, _Collected] = {}
    for block in blocks:
        rows = touching.get((block.row, block.col))
        if rows is None:
            continue
        labels, stains = read_block(block)
        for row in rows.tolist():
            yield from _cut_from_block(row, boxes, block, labels, stains, luts, collected)
    assert not collected, "blocks must cover every box"


def _cut_from_block(
    row: int,
    boxes: SlideBoxes,
    block: Block,
    labels: NDArray,
    stains: Sequence[NDArray],
    luts: Sequence[NDArray[np.uint8]],
    collected: dict[int, _Collected],
) -> Iterator[CutCell]:
    rows, columns = boxes.slices(row)
    top, bottom = max(rows.start, block.y0), min(rows.stop, block.y1)
    left, right = max(columns.start, block.x0), min(columns.stop, block.x1)
    here = slice(top - block.y0, bottom - block.y0), slice(left - block.x0, right - block.x0)
    mask = labels[here] == int(boxes.label[row])
    pieces = [stain[here] for stain in stains]
    shape = rows.stop - rows.start, columns.stop - columns.start
    if mask.shape == shape:
        yield CutCell(row, mask, _scaled_pixels(mask, pieces, luts))
        return
    cell = collected.setdefault(row, _empty_box(shape, stains))
    there = slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start)
    cell.mask[there] = mask
    for whole, piece in zip(cell.stains, pieces, strict=True):
        whole[there] = piece
    cell.missing_px -= mask.size
    if cell.missing_px == 0:
        del collected[row]
        yield CutCell(row, cell.mask, _scaled_pixels(cell.mask, cell.stains, luts))


def _empty_box(shape: tuple[int, int], stains: Sequence[NDArray]) -> _Collected:
    return _Collected(np.zeros(shape, bool), [np.zeros(shape, stain.dtype) for stain in stains], shape[0] * shape[1])


def _scaled_pixels(
    mask: NDArray[np.bool_], stains: Sequence[NDArray], luts: Sequence[NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    inside = np.flatnonzero(mask)  # taking by position is several times faster than by mask
    pixels = np.empty((len(stains), len(inside)), np.uint8)
    for run, stain, lut in zip(pixels, stains, luts, strict=True):
        lut.take(stain.ravel().take(inside), out=run, mode="clip")
    return pixels
