"""Cell crops as dense frames of another size: what generators are trained on and features are measured on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from spatia.cells.crops import Crops


def shrink_weights(size_px: int, wanted_px: int) -> NDArray[np.float64]:
    """Return (wanted_px, size_px) weights whose rows average the pixels, and parts of pixels, each new pixel covers."""
    if not 1 <= wanted_px <= size_px:
        raise ValueError(f"wanted_px should lie in 1 to {size_px}, found {wanted_px}")
    edges = np.linspace(0, size_px, wanted_px + 1)
    left = np.maximum(edges[:-1, None], np.arange(size_px))
    right = np.minimum(edges[1:, None], np.arange(1, size_px + 1))
    return np.maximum(right - left, 0) * wanted_px / size_px


def shrink(frame: NDArray[np.uint8], weights: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a (c, y, x) frame averaged down along both axes, rounded half up."""
    return np.floor(weights @ frame @ weights.T + 0.5).astype(np.uint8)


def shrunk_frames(crops: Crops, rows: Iterable[int], side_px: int) -> NDArray[np.uint8]:
    """Return (n, c, side_px, side_px) uint8 frames of cells by row; what lies outside a cell is 0."""
    weights = shrink_weights(crops.window_px, side_px)
    frames = [shrink(crops.frame(int(row)), weights) for row in rows]
    return np.stack(frames) if frames else np.zeros((0, len(crops.stains), side_px, side_px), np.uint8)
