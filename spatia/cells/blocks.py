"""Walking over a slide block by block, so that memory does not depend on the slide's area."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatia import keys


@dataclass(frozen=True)
class Block:
    """A rectangle of the slide in pixels: rows ``y0`` to ``y1``, columns ``x0`` to ``x1``, ends excluded."""

    row: int
    col: int
    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The block's rows and columns of the slide."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


def walk_blocks(shape_px: tuple[int, int], size: int = keys.CHUNK_PX) -> Iterator[Block]:
    """Yield the blocks of a slide row by row; with the default size every chunk is decoded once."""
    height, width = shape_px
    for row, y0 in enumerate(range(0, height, size)):
        for col, x0 in enumerate(range(0, width, size)):
            yield Block(row, col, y0, min(y0 + size, height), x0, min(x0 + size, width))


def count_blocks(shape_px: tuple[int, int], size: int = keys.CHUNK_PX) -> int:
    """Return how many blocks :func:`walk_blocks` yields."""
    height, width = shape_px
    return -(-height // size) * -(-width // size)


def rows_per_block(
    top: NDArray[np.integer],
    left: NDArray[np.integer],
    height: NDArray[np.integer],
    width: NDArray[np.integer],
    size: int = keys.CHUNK_PX,
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Return, for every block (row, col), the boxes that touch it, in ascending order; empty boxes touch none."""
    boxes = np.flatnonzero((height > 0) & (width > 0))
    first_row, last_row = top[boxes] // size, (top[boxes] + height[boxes] - 1) // size
    first_col, last_col = left[boxes] // size, (left[boxes] + width[boxes] - 1) // size
    places = []
    for down in range(int((last_row - first_row).max(initial=-1)) + 1):
        for across in range(int((last_col - first_col).max(initial=-1)) + 1):
            touches = (first_row + down <= last_row) & (first_col + across <= last_col)
            places.append(np.stack([first_row + down, first_col + across, boxes])[:, touches])
    return _group(np.concatenate(places, axis=1)) if places else {}


def _group(places: NDArray[np.int64]) -> dict[tuple[int, int], NDArray[np.int64]]:
    row, col, box = places[:, np.lexsort(places[::-1])]
    starts = np.flatnonzero(np.r_[True, (np.diff(row) != 0) | (np.diff(col) != 0)])
    groups = np.split(box, starts[1:])
    return {(int(row[s]), int(col[s])): group for s, group in zip(starts, groups, strict=True)}
