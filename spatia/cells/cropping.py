"""Cutting cells out of a slide: QC table + slide -> index, masks and 8-bit pixels of every crop.

The index (windows, boxes, offsets) is planned first, from the boxes that QC measured. Then every block of the
slide is decoded once: a cell inside one block is cut at once, a cell across blocks is collected until its last
block has come. As all offsets are known, each cell is written to its place whenever it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spatia import keys
from spatia.cells.blocks import Block, rows_per_block
from spatia.cells.crops import INDEX_COLUMNS, mask_bytes_of

if TYPE_CHECKING:
    import pandas as pd

MASK_BOX_COLUMNS = ("mask_y0", "mask_x0", "mask_h", "mask_w")  # of the QC table, in pixels of the slide
N_MASK_PX = "n_mask_px"  # pixels of the whole mask
N_WINDOW_PX = "n_window_px"  # those in the window ...
WINDOW_PX = "window_px"  # ... of this side


def window_start(box_start: NDArray[np.int64], box_size: NDArray[np.int64], window_px: int) -> NDArray[np.int64]:
    """Return the first pixel of the windows around mask boxes, along one axis.

    ``box_start + floor((box_size - window_px) / 2)``: box and window share their centre; where their sizes differ
    by an odd number, the window reaches one pixel further up (or left) than down (or right).
    """
    return box_start + (box_size - window_px) // 2


def plan_crops(cells: Mapping[str, Any] | pd.DataFrame, window_px: int) -> dict[str, NDArray]:
    """Return where each cell's window and box lie: columns of ``index.parquet`` but for sizes and offsets.

    ``cells`` has the mask boxes of the QC table, in storage order; boxes beyond the window are clipped to it.
    """
    top, left, height, width = (np.asarray(cells[name], np.int64) for name in MASK_BOX_COLUMNS)
    y0, x0 = window_start(top, height, window_px), window_start(left, width, window_px)
    plan = {
        "y0": y0,
        "x0": x0,
        "box_y": np.maximum(top - y0, 0),
        "box_x": np.maximum(left - x0, 0),
        "box_h": np.minimum(height, window_px),
        "box_w": np.minimum(width, window_px),
    }
    is_clipped = (height > window_px) | (width > window_px)
    # narrow types: a slide has up to a million cells, and memory should not show it
    return {name: column.astype(np.int32) for name, column in plan.items()} | {
        keys.CELL_LABEL: np.asarray(cells[keys.CELL_LABEL], np.int64),
        "is_clipped": is_clipped,
    }


def count_pixels(
    labels: Any, cells: Mapping[str, Any] | pd.DataFrame, plan: Mapping[str, NDArray], window_px: int
) -> NDArray[np.int32]:
    """Return how many pixels of each mask ``(n,)`` lie in its window.

    QC has counted them for its own window; for another one ``labels`` ``(y, x)`` is read again, around the clipped
    cells only.
    """
    if (np.asarray(cells[WINDOW_PX]) == window_px).all():
        return np.asarray(cells[N_WINDOW_PX], np.int32)
    return count_inside(labels, np.asarray(cells[N_MASK_PX]), plan)


def count_inside(labels: Any, n_mask_px: NDArray[np.integer], plan: Mapping[str, NDArray]) -> NDArray[np.int32]:
    """Return ``n_mask_px`` with the clipped cells' pixels counted window by window in ``labels`` ``(y, x)``."""
    counts = n_mask_px.astype(np.int32)
    boxes = slide_boxes(plan)
    for row in np.flatnonzero(plan["is_clipped"]).tolist():
        counts[row] = np.count_nonzero(np.asarray(labels[boxes.slices(row)]) == int(boxes.label[row]))
    return counts


def add_offsets(plan: Mapping[str, NDArray], n_pixels: NDArray[np.int32], n_stains: int) -> dict[str, NDArray]:
    """Return the plan with ``n_pixels`` and both offsets: all numeric columns of ``index.parquet``, in its order."""
    pixel_bytes = n_pixels.astype(np.int64) * n_stains
    mask_bytes = mask_bytes_of(plan["box_h"].astype(np.int64), plan["box_w"].astype(np.int64))
    full = dict(plan) | {
        "n_pixels": n_pixels,
        "pixel_offset": np.cumsum(pixel_bytes) - pixel_bytes,
        "mask_offset": np.cumsum(mask_bytes) - mask_bytes,
    }
    return {name: full[name] for name in INDEX_COLUMNS if name != keys.CELL_ID}


@dataclass(frozen=True)
class SlideBoxes:
    """Where each cell's box (within its window) lies on the slide, and its label; arrays ``(n,)``."""

    label: NDArray[np.int64]
    top: NDArray[np.int32]
    left: NDArray[np.int32]
    height: NDArray[np.int32]
    width: NDArray[np.int32]

    def slices(self, row: int) -> tuple[slice, slice]:
        """Rows and columns of the slide that a box covers."""
        top, left = int(self.top[row]), int(self.left[row])
        return slice(top, top + int(self.height[row])), slice(left, left + int(self.width[row]))


def slide_boxes(plan: Mapping[str, NDArray]) -> SlideBoxes:
    """Return the boxes of a plan in pixels of the slide."""
    top, left = plan["y0"] + plan["box_y"], plan["x0"] + plan["box_x"]
    return SlideBoxes(plan[keys.CELL_LABEL], top, left, plan["box_h"], plan["box_w"])


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
    stains: NDArray
    missing_px: int


ReadBlock = Callable[[Block], tuple[NDArray, NDArray]]


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
        Returns the labels ``(h, w)`` and the stains ``(c, h, w)`` of a block.
    luts
        One lookup table per stain.
    """
    touching = rows_per_block(boxes.top, boxes.left, boxes.height, boxes.width, block_px)
    collected: dict[int, _Collected] = {}
    for block in blocks:
        rows = touching.pop((block.row, block.col), None)
        if rows is None:
            continue
        labels, stains = read_block(block)
        for row in rows.tolist():
            mask, values = _cut_from_block(row, boxes, block, labels, stains, collected)
            if mask is not None and values is not None:
                yield CutCell(row, mask, _scaled_pixels(mask, values, luts))
    assert not collected, "blocks must cover every box"


def _cut_from_block(
    row: int,
    boxes: SlideBoxes,
    block: Block,
    labels: NDArray,
    stains: NDArray,
    collected: dict[int, _Collected],
) -> tuple[NDArray[np.bool_], NDArray] | tuple[None, None]:
    """Return mask and stains of a cell's box, or None while parts of it lie in blocks to come."""
    rows, columns = boxes.slices(row)
    top, bottom = max(rows.start, block.y0), min(rows.stop, block.y1)
    left, right = max(columns.start, block.x0), min(columns.stop, block.x1)
    y, x = slice(top - block.y0, bottom - block.y0), slice(left - block.x0, right - block.x0)
    mask, values = labels[y, x] == int(boxes.label[row]), stains[:, y, x]
    shape = rows.stop - rows.start, columns.stop - columns.start
    if mask.shape == shape:
        return mask, values
    if row not in collected:
        empty = np.zeros((len(stains), *shape), stains.dtype)
        collected[row] = _Collected(np.zeros(shape, bool), empty, shape[0] * shape[1])
    cell = collected[row]
    y, x = slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start)
    cell.mask[y, x] = mask
    cell.stains[:, y, x] = values
    cell.missing_px -= mask.size
    if cell.missing_px > 0:
        return None, None
    del collected[row]
    return cell.mask, cell.stains


def _scaled_pixels(mask: NDArray[np.bool_], stains: NDArray, luts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    inside = np.flatnonzero(mask)  # taking by position is several times faster than by mask
    values = stains.reshape(len(stains), -1).take(inside, axis=1)
    pixels = np.empty(values.shape, np.uint8)
    for run, stain, lut in zip(pixels, values, luts, strict=True):
        lut.take(stain, out=run, mode="clip")
    return pixels
