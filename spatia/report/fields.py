"""Read what the pictures show from a ``slide.zarr``: little of it, whatever the slide's size.

Overviews come from the image pyramid, full resolution is read in small windows only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from spatia.report.micrograph import Box, Field, Window
from spatia.xenium.store import SlideStore


def size_um(store: SlideStore) -> tuple[float, float]:
    """Return (width, height) of a slide in micrometres."""
    height, width = store.shape_px
    return width * store.pixel_size_um, height * store.pixel_size_um


def read_overview(store: SlideStore, longest_px: int) -> Field:
    """Return the whole slide, all stains, with its longer side at most ``longest_px``."""
    width, height = size_um(store)
    planes = [_shrink(plane, longest_px) for plane in _read_level(store.image_levels, longest_px)]
    return Field(np.stack(planes), store.stains, (0.0, 0.0, width, height))


def read_he_overview(store: SlideStore, longest_px: int) -> np.ndarray | None:
    """Return the H&E image (y, x, 3) uint8 of the whole slide, or None."""
    if store.he is None:
        return None
    planes = [_shrink(plane, longest_px) for plane in _read_level(store.he_levels, longest_px)]
    return np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)


def read_window(store: SlideStore, box_um: Box, kept_labels: np.ndarray | None) -> Window:
    """Return a window at full resolution with the masks in it; its box is widened to whole pixels."""
    rows, columns = _pixels(store, box_um)
    step = store.pixel_size_um
    box = (columns.start * step, rows.start * step, columns.stop * step, rows.stop * step)
    field = Field(np.asarray(store.image[:, rows, columns]), store.stains, box)
    nuclei = None if store.nucleus_labels is None else np.asarray(store.nucleus_labels[rows, columns])
    return Window(field, np.asarray(store.cell_labels[rows, columns]), nuclei, kept_labels)


def read_he_window(store: SlideStore, box_um: Box) -> np.ndarray | None:
    """Return the H&E image (y, x, 3) uint8 of a window, or None."""
    if store.he is None:
        return None
    rows, columns = _pixels(store, box_um)
    return np.moveaxis(np.asarray(store.he[:, rows, columns]), 0, -1)


def read_small_tile(
    store: SlideStore, luts: Sequence[np.ndarray], y0: int, x0: int, side_px: int, wanted_px: int
) -> np.ndarray:
    """Return the tile with its top left at full-resolution pixel (``y0``, ``x0``) from the image pyramid.

    Shape (c, n, n) uint8 with ``n`` = ``side_px`` halved as long as it stays at least ``wanted_px``; ``luts`` scale
    to 8 bit, what lies beyond the slide is 0.
    """
    depth = 0
    while depth + 1 < len(store.image_levels) and side_px >> (depth + 1) >= wanted_px:
        depth += 1
    top, left, side = y0 >> depth, x0 >> depth, side_px >> depth
    part = np.asarray(store.image_levels[depth][:, top : top + side, left : left + side])
    tile = np.zeros((len(luts), side, side), np.uint8)
    for target, plane, lut in zip(tile, part, luts, strict=True):
        target[: part.shape[1], : part.shape[2]] = lut[plane]
    # a slide too small for a pyramid: every other pixel does
    stride = max(side // wanted_px, 1)
    return tile[:, ::stride, ::stride]


def _pixels(store: SlideStore, box_um: Box) -> tuple[slice, slice]:
    height, width = store.shape_px
    x0, y0, x1, y1 = (round(edge / store.pixel_size_um) for edge in box_um)
    return slice(max(y0, 0), min(y1, height)), slice(max(x0, 0), min(x1, width))


def _read_level(levels: tuple, longest_px: int) -> np.ndarray:
    """Return the smallest level that is still at least as large as asked for, else the largest."""
    large_enough = [level for level in levels if max(level.shape[1:]) >= longest_px]
    return np.asarray((large_enough or levels[:1])[-1])


def _shrink(plane: np.ndarray, longest_px: int) -> np.ndarray:
    """Return ``plane`` as float32 with its longer side at most ``longest_px``, every pixel the mean of its area."""
    height, width = plane.shape
    scale = min(1.0, longest_px / max(height, width))
    new_size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.asarray(Image.fromarray(plane.astype(np.float32)).resize(new_size, Image.Resampling.BOX))
