"""Cropping written a second time, slowly and obviously, to hold the fast one against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from spatia.cells.crops import Crops


def limits_of(stain: np.ndarray, low_percentile: str, high_percentile: str) -> tuple[int, int]:
    """Return the two percentiles of a whole image by sorting it: the value of rank ceil(p * n)."""
    ordered = np.sort(stain, axis=None)
    ranks = (math.ceil(Fraction(percentile) / 100 * ordered.size) for percentile in (low_percentile, high_percentile))
    low, high = (int(ordered[max(rank, 1) - 1]) for rank in ranks)
    return low, high


def to_8_bit(stain: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return a whole image between two values, rounded half up."""
    share = (np.clip(stain.astype(np.float64), low, high) - low) * 255 / (high - low)
    return np.floor(share + 0.5).astype(np.uint8)


def crop_cell(labels: np.ndarray, image: np.ndarray, label: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return frame (c, window, window) and mask of one cell of a whole 8-bit image (c, y, x)."""
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


def share_equal(crops: Crops, rows: Sequence[int], labels: np.ndarray, image: np.ndarray) -> float:
    """Return the share of cells whose stored frame and mask equal the reference's, bit for bit.

    ``image`` (c, y, x) is 8 bit already; ``labels`` and ``image`` may be tampered with, to see that it shows.
    """
    equal = 0
    for row in rows:
        frame, mask = crop_cell(labels, image, int(crops.index["cell_label"].iloc[row]), crops.window_px)
        equal += np.array_equal(crops.frame(row), frame) and np.array_equal(crops.mask(row), mask)
    return equal / len(rows)


def half_pixel_shift(image: np.ndarray) -> np.ndarray:
    """Return the image moved by half a pixel along x: every pixel the mean of itself and its neighbour."""
    wide = image.astype(np.uint16)
    return ((wide + np.roll(wide, 1, axis=-1)) // 2).astype(np.uint8)
