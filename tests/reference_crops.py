"""Cropping written a second time, slowly and obviously, to hold the fast one against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from spatia.cells.crops import Crops

Tamper = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
MARGIN = 150  # px around a window in which all of a cell is expected


def limits_of(stain: np.ndarray, low_percentile: str, high_percentile: str) -> tuple[int, int]:
    """Return the two percentiles of a whole image: the pixels of rank ceil(p * n) if they were sorted."""
    shares = (Fraction(percentile) / 100 for percentile in (low_percentile, high_percentile))
    ranks = [max(math.ceil(share * stain.size), 1) - 1 for share in shares]
    low, high = np.partition(stain, ranks, axis=None)[ranks]
    return int(low), int(high)


def to_8_bit(stain: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return a whole image between two values, rounded half up."""
    share = (np.clip(stain.astype(np.float64), low, high) - low) * 255 / (high - low)
    return np.floor(share + 0.5).astype(np.uint8)


def crop_cell(labels: np.ndarray, image: np.ndarray, label: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return frame (c, window, window) and mask of one cell of an 8-bit image (c, y, x)."""
    ys, xs = np.nonzero(labels == label)
    y0 = ys.min() + math.floor((ys.max() + 1 - ys.min() - window) / 2)
    x0 = xs.min() + math.floor((xs.max() + 1 - xs.min() - window) / 2)
    mask = np.zeros((window, window), bool)
    frame = np.zeros((len(image), window, window), np.uint8)
    for y, x in zip(ys, xs, strict=True):
        if 0 <= y - y0 < window and 0 <= x - x0 < window:
            mask[y - y0, x - x0] = True
            frame[:, y - y0, x - x0] = image[:, y, x]
    return frame, mask


def unchanged(labels: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as they are."""
    return labels, image


# what a comparison that is worth something must notice, applied to labels (y, x) and image (c, y, x)
TAMPERINGS = {
    "column off by one": lambda labels, image: (labels, np.roll(image, 1, axis=2)),
    "row off by one": lambda labels, image: (labels, np.roll(image, 1, axis=1)),
    "half a pixel off": lambda labels, image: (labels, half_pixel_shift(image)),
    "transposed": lambda labels, image: (labels.T, image.transpose(0, 2, 1)),
}


def share_equal(
    crops: Crops, rows: Sequence[int], labels: np.ndarray, image: np.ndarray, tamper: Tamper = unchanged
) -> float:
    """Return the share of cells whose stored frame and mask equal the reference's, bit for bit.

    ``labels`` and ``image`` (c, y, x, 8 bit already) are the whole slide; ``tamper`` changes what the reference
    sees of it. Only the surroundings of a cell are looked through, after checking that they hold all of it.
    """
    n_px = np.bincount(labels.ravel())
    equal = 0
    for row in rows:
        label = int(crops.index["cell_label"].iloc[row])
        y0, x0 = int(crops.columns["y0"][row]), int(crops.columns["x0"][row])
        y, x = (slice(max(start - MARGIN, 0), start + crops.window_px + MARGIN) for start in (y0, x0))
        assert np.count_nonzero(labels[y, x] == label) == n_px[label]
        frame, mask = crop_cell(*tamper(labels[y, x], image[:, y, x]), label, crops.window_px)
        equal += np.array_equal(crops.frame(row), frame) and np.array_equal(crops.mask(row), mask)
    return equal / len(rows)


def share_placed(crops: Crops, rows: Sequence[int], labels: np.ndarray) -> float:
    """Return the share of unclipped cells whose mask box lies on the slide where the index says."""
    placed = 0
    for row in rows:
        y, x, h, w = (int(crops.columns[name][row]) for name in ("box_y", "box_x", "box_h", "box_w"))
        y, x = y + int(crops.columns["y0"][row]), x + int(crops.columns["x0"][row])
        is_cell = labels[y : y + h, x : x + w] == crops.index["cell_label"].iloc[row]
        placed += np.array_equal(is_cell, crops.box_mask(row))
    return placed / len(rows)


def half_pixel_shift(image: np.ndarray) -> np.ndarray:
    """Return the image moved by half a pixel along x: every pixel the mean of itself and its neighbour."""
    wide = image.astype(np.uint16)
    return ((wide + np.roll(wide, 1, axis=-1)) // 2).astype(np.uint8)
