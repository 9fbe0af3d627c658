"""Patch tokens -> dense frames, on the CPU."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def fill_frames(
    tokens: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    position: NDArray[np.int16],
    first_token: NDArray[np.int32],
    frames: NDArray[np.uint8],
    masks: NDArray[np.bool_],
) -> None:
    """Put (t, c, p, p) tokens back into (b, c, y, x) ``frames`` and (b, y, x) ``masks``, both zero on entry."""
    n_stains, patch_px = tokens.shape[1], tokens.shape[2]
    window = frames.shape[2]
    for cell in range(frames.shape[0]):
        for token in range(first_token[cell], first_token[cell + 1]):
            top, left = position[token, 0] * patch_px, position[token, 1] * patch_px
            height, width = min(patch_px, window - top), min(patch_px, window - left)
            for y in range(height):
                for x in range(width):
                    masks[cell, top + y, left + x] = inside[token, y, x]
            for stain in range(n_stains):
                for y in range(height):
                    for x in range(width):
                        frames[cell, stain, top + y, left + x] = tokens[token, stain, y, x]


@_jit
def fill_floats(
    tokens: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    position: NDArray[np.int16],
    first_token: NDArray[np.int32],
    table: NDArray[np.float32],
    has_stain: NDArray[np.bool_],
    frames: NDArray[np.float32],
) -> None:
    """Put tokens into (b, c, y, x) float ``frames`` through ``table`` (c, 256); zero on entry and outside the cell."""
    n_stains, patch_px = tokens.shape[1], tokens.shape[2]
    window = frames.shape[2]
    for cell in range(frames.shape[0]):
        for token in range(first_token[cell], first_token[cell + 1]):
            top, left = position[token, 0] * patch_px, position[token, 1] * patch_px
            height, width = min(patch_px, window - top), min(patch_px, window - left)
            for stain in range(n_stains):
                if has_stain[cell, stain]:
                    for y in range(height):
                        for x in range(width):
                            value = table[stain, tokens[token, stain, y, x]]
                            frames[cell, stain, top + y, left + x] = value if inside[token, y, x] else np.float32(0)
