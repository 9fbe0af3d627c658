"""Smooth random fields, noise that can be looked up anywhere, and fibres along a flow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

NOISE_BLOCK_PX = 256


@dataclass(frozen=True)
class Box:
    """A window of the slide in pixels; may reach beyond the slide."""

    y0: int
    x0: int
    height: int
    width: int

    def grow(self, margin: int) -> Box:
        """Return this window with ``margin`` more pixels on every side."""
        return Box(self.y0 - margin, self.x0 - margin, self.height + 2 * margin, self.width + 2 * margin)

    def rows(self) -> np.ndarray:
        """Return the rows' numbers in the slide, (height,)."""
        return np.arange(self.y0, self.y0 + self.height)

    def columns(self) -> np.ndarray:
        """Return the columns' numbers in the slide, (width,)."""
        return np.arange(self.x0, self.x0 + self.width)


def smooth_noise(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise (y, x) of mean 0 and sd 1 that varies over about ``scale`` pixels."""
    coarse_shape = tuple(int(np.ceil(n / scale)) + 4 for n in shape)
    coarse = rng.standard_normal(coarse_shape)
    rows = 1.5 + np.arange(shape[0]) / scale
    columns = 1.5 + np.arange(shape[1]) / scale
    field = CubicSpline(np.arange(coarse_shape[0]), coarse, axis=0)(rows)
    field = CubicSpline(np.arange(coarse_shape[1]), field, axis=1)(columns)
    return ((field - field.mean()) / (field.std() + 1e-12)).astype(np.float32)


def noise_tile(size: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return periodic noise (size, size) of mean 0 and sd 1 with grains of ``sigma`` pixels."""
    tile = ndimage.gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
    return ((tile - tile.mean()) / tile.std()).astype(np.float32)


def block_noise(box: Box, n_channels: int, seed: tuple[int, ...]) -> np.ndarray:
    """Return standard normal noise (c, y, x) that depends on the seed and the place only, not on the window."""
    noise = np.empty((n_channels, box.height, box.width), np.float32)
    first_row, first_column = box.y0 // NOISE_BLOCK_PX, box.x0 // NOISE_BLOCK_PX
    last_row, last_column = (box.y0 + box.height - 1) // NOISE_BLOCK_PX, (box.x0 + box.width - 1) // NOISE_BLOCK_PX
    for row in range(first_row, last_row + 1):
        for column in range(first_column, last_column + 1):
            block = _noise_block(n_channels, seed, row, column)
            y, x = row * NOISE_BLOCK_PX, column * NOISE_BLOCK_PX
            top, bottom = max(y, box.y0), min(y + NOISE_BLOCK_PX, box.y0 + box.height)
            left, right = max(x, box.x0), min(x + NOISE_BLOCK_PX, box.x0 + box.width)
            noise[:, top - box.y0 : bottom - box.y0, left - box.x0 : right - box.x0] = block[
                :, top - y : bottom - y, left - x : right - x
            ]
    return noise


@lru_cache(maxsize=8)
def _noise_block(n_channels: int, seed: tuple[int, ...], row: int, column: int) -> np.ndarray:
    # blocks left of and above the slide have negative numbers, seeds may not
    rng = np.random.default_rng([*seed, row + 1024, column + 1024])
    return rng.standard_normal((n_channels, NOISE_BLOCK_PX, NOISE_BLOCK_PX), dtype=np.float32)


def sample(field: np.ndarray, step: int, box: Box) -> np.ndarray:
    """Return a coarse field (one value per ``step`` pixels), bilinearly, at every pixel of the window, (y, x)."""
    row, row_part = _between(box.rows(), step, field.shape[0])
    column, column_part = _between(box.columns(), step, field.shape[1])
    upper = field[row] * (1 - row_part[:, None]) + field[row + 1] * row_part[:, None]
    return upper[:, column] * (1 - column_part) + upper[:, column + 1] * column_part


def _between(pixels: np.ndarray, step: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    place = np.clip((pixels + 0.5) / step - 0.5, 0, n - 1 - 1e-6)
    lower = place.astype(int)
    return lower, (place - lower).astype(np.float32)


def fibres(flow: np.ndarray, half_length: int, rng: np.random.Generator) -> np.ndarray:
    """Return streaks along ``flow`` (angles, radians), mean 0 and sd 1: white noise averaged along the flow's lines."""
    noise = ndimage.gaussian_filter(rng.standard_normal(flow.shape).astype(np.float32), 0.7)
    height, width = flow.shape
    total = noise.copy()
    for sign in (1.0, -1.0):
        y, x = np.indices(flow.shape, dtype=np.float32)
        for _ in range(half_length):
            angle = flow[_inside(y, height), _inside(x, width)]
            y += sign * np.sin(angle)
            x += sign * np.cos(angle)
            total += noise[_inside(y, height), _inside(x, width)]
    return (total - total.mean()) / total.std()


def _inside(place: Any, n: int) -> np.ndarray:
    return np.clip(np.rint(place).astype(np.int32), 0, n - 1)
