"""Morphology profile of a cell: a few numbers per stain that say how much, how uneven, how fine.

What masked pixels teach an encoder is where things are; how grainy a nucleus is cannot be told pixel by pixel. The
profile is what embeddings are asked for beside it. Mirroring or turning a cell by right angles does not change it.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

SHAPE_NAMES = ("log_area", "log_elongation")
STAIN_NAMES = ("log_mean", "log_cv", "logit_bright_share", "log_bright_mean", "log_bright_cv", "log_fine", "log_medium",
               "log_coarse")  # fmt: skip
_MARGIN = 1  # px that the bright part is eroded by, so that its rim does not count as texture
_SMALL = 1e-3

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)
Box = tuple[int, int, int, int]  # top, left, bottom, right


def profile_size(n_stains: int) -> int:
    """Return the length of a profile."""
    return len(SHAPE_NAMES) + n_stains * len(STAIN_NAMES)


def profile_names(stains: tuple[str, ...]) -> list[str]:
    """Return the names of a profile's numbers, in order."""
    return [*SHAPE_NAMES, *(f"{name}_{stain}" for stain in stains for name in STAIN_NAMES)]


def cell_profiles(frames: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return (b, 2 + 8 c) profiles of crops.

    Per stain: log mean and coefficient of variation inside the cell; of its bright part (above a threshold half way
    between the means of bright and dim pixels, Ridler and Calvard 1978, without its rim) the share, log mean, log
    coefficient of variation, and the log energy, relative to the squared mean, of differences between pixels 1, 2 and 4
    apart.

    Parameters
    ----------
    frames, masks
        (b, c, y, x) and (b, y, x), True inside the cell.
    """
    out = np.zeros((len(frames), profile_size(frames.shape[1])), np.float32)
    _fill(frames, masks, out)
    return out


@_jit
def _fill(frames: NDArray[np.uint8], masks: NDArray[np.bool_], out: NDArray[np.float32]) -> None:
    _, height, width = masks.shape
    bright, part = np.zeros((height, width), np.bool_), np.zeros((height, width), np.bool_)
    for cell in range(len(frames)):
        box = _shape(masks[cell], out[cell])
        for stain in range(frames.shape[1]):
            _stain(frames[cell, stain], masks[cell], box, bright, part, out[cell, 2 + 8 * stain : 10 + 8 * stain])


@_jit
def _shape(mask: NDArray[np.bool_], out: NDArray[np.float32]) -> Box:
    """Fill in log area and log ratio of the axes; return the mask's box."""
    height, width = mask.shape
    n, sy, sx, syy, sxx, sxy = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    top, left, bottom, right = height, width, 0, 0
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                n += 1
                sy, sx, syy, sxx, sxy = sy + y, sx + x, syy + y * y, sxx + x * x, sxy + x * y
                top, left, bottom, right = min(top, y), min(left, x), max(bottom, y + 1), max(right, x + 1)
    count = max(n, 1)
    vy, vx, vxy = syy / count - (sy / count) ** 2, sxx / count - (sx / count) ** 2, sxy / count - sx * sy / count**2
    root = np.sqrt(max((vy - vx) ** 2 + 4 * vxy**2, 0.0))
    out[0] = np.log(count)
    out[1] = 0.5 * np.log((vy + vx + root + 0.1) / (max(vy + vx - root, 0.0) + 0.1))
    return top, left, bottom, right


@_jit
def _stain(
    frame: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    box: Box,
    bright: NDArray[np.bool_],
    part: NDArray[np.bool_],
    out: NDArray[np.float32],
) -> None:
    n, mean, cv = _moments(frame, mask, box)
    out[0], out[1] = np.log(mean + _SMALL), np.log(cv + _SMALL)
    threshold = mean
    for _ in range(4):
        threshold = _refine(frame, mask, box, threshold)
    _mark_bright(frame, mask, box, threshold, bright)
    n_bright, _, _ = _moments(frame, bright, box)
    share = (n_bright + 0.5) / (n + 1.0)
    out[2] = np.log(share / max(1 - share, _SMALL))
    _erode(bright, box, part)
    n_inner, mean, cv = _moments(frame, part, box)
    inner = part if n_inner >= 16 else bright
    if n_inner < 16:
        _, mean, cv = _moments(frame, bright, box)
    out[3], out[4] = np.log(mean + _SMALL), np.log(cv + _SMALL)
    for k in range(3):
        out[5 + k] = np.log(_difference_energy(frame, inner, box, 1 << k) / (mean * mean + _SMALL) + _SMALL)


@_jit
def _moments(frame: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box) -> tuple[int, float, float]:
    """Return the number of pixels, their mean on the scale where white is 1, their coefficient of variation."""
    top, left, bottom, right = box
    n, total, squares = 0, 0.0, 0.0
    for y in range(top, bottom):
        for x in range(left, right):
            if mask[y, x]:
                value = frame[y, x] / 255.0
                n, total, squares = n + 1, total + value, squares + value * value
    if n == 0:
        return 0, 0.0, 0.0
    mean = total / n
    return n, mean, np.sqrt(max(squares / n - mean * mean, 0.0)) / (mean + _SMALL)


@_jit
def _refine(frame: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box, threshold: float) -> float:
    """Return the mean of the means above and below the threshold."""
    top, left, bottom, right = box
    n, total, n_above, above = 0, 0.0, 0, 0.0
    for y in range(top, bottom):
        for x in range(left, right):
            if mask[y, x]:
                value = frame[y, x] / 255.0
                n, total = n + 1, total + value
                if value > threshold:
                    n_above, above = n_above + 1, above + value
    if n_above == 0 or n_above == n:
        return threshold
    return 0.5 * (above / n_above + (total - above) / (n - n_above))


@_jit
def _mark_bright(
    frame: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box, threshold: float, bright: NDArray[np.bool_]
) -> None:
    """Mark the cell's pixels whose 3 x 3 mean inside the cell lies above the threshold."""
    top, left, bottom, right = box
    for y in range(top, bottom):
        for x in range(left, right):
            bright[y, x] = False
            if not mask[y, x]:
                continue
            n, total = 0, 0.0
            for yy in range(max(y - 1, top), min(y + 2, bottom)):
                for xx in range(max(x - 1, left), min(x + 2, right)):
                    if mask[yy, xx]:
                        n, total = n + 1, total + frame[yy, xx] / 255.0
            bright[y, x] = total > threshold * n


@_jit
def _erode(mask: NDArray[np.bool_], box: Box, out: NDArray[np.bool_]) -> None:
    top, left, bottom, right = box
    for y in range(top, bottom):
        for x in range(left, right):
            out[y, x] = mask[y, x]
            for yy in range(y - _MARGIN, y + _MARGIN + 1):
                for xx in range(x - _MARGIN, x + _MARGIN + 1):
                    if yy < top or xx < left or yy >= bottom or xx >= right or not mask[yy, xx]:
                        out[y, x] = False


@_jit
def _difference_energy(frame: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box, lag: int) -> float:
    """Return the mean squared difference of pixels ``lag`` apart, along rows and columns, both inside the mask."""
    top, left, bottom, right = box
    n, total = 0, 0.0
    for y in range(top, bottom):
        for x in range(left, right):
            if not mask[y, x]:
                continue
            here = frame[y, x] / 255.0
            if x + lag < right and mask[y, x + lag]:
                n, total = n + 1, total + (frame[y, x + lag] / 255.0 - here) ** 2
            if y + lag < bottom and mask[y + lag, x]:
                n, total = n + 1, total + (frame[y + lag, x] / 255.0 - here) ** 2
    return total / n if n else 0.0
