"""Cell images as the generator sees them: stains and the cell's outline, all in [-1, 1].

The outline is a channel of its own, so that a cell's shape is moved and generated explicitly instead of being guessed
from what is dark; when a canvas becomes an image again, the outline says what is background, and is dropped.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

OUTSIDE = 0.1  # coverage below which a pixel is background; half would make every cell half a pixel thinner all around


def to_canvas(frames: NDArray[np.uint8], coverage: NDArray[np.uint8]) -> Tensor:
    """Return canvases (n, c + 1, y, x) of images (n, c, y, x) and their outlines (n, y, x).

    Stains enter as square roots: most of a cell is dim, and camera noise is about equal everywhere on that scale.
    ``coverage`` is how much of each pixel the cell covers, 0 to 255.
    """
    stains = 2 * torch.from_numpy(frames).float().div(255).sqrt() - 1
    outline = 2 * torch.from_numpy(coverage).float().div(255) - 1
    return torch.cat([stains, outline[:, None]], dim=1)


def from_canvas(canvas: Tensor) -> NDArray[np.uint8]:
    """Return images (n, c, y, x) of canvases: back to 8 bit, 0 outside the outline."""
    canvas = canvas.detach().float().cpu()
    stains, outline = canvas[:, :-1], (canvas[:, -1:] + 1) / 2
    values = ((stains.clamp(-1, 1) + 1) / 2).square() * 255
    return torch.where(outline >= OUTSIDE, (values + 0.5).floor(), 0).to(torch.uint8).numpy()


def turn(canvas: Tensor, quarter_turns: int, is_mirrored: bool) -> Tensor:
    """Return canvases (..., y, x) turned by quarters and, before that, mirrored left to right."""
    if is_mirrored:
        canvas = canvas.flip(-1)
    return torch.rot90(canvas, quarter_turns, (-2, -1))


def turn_each(canvas: Tensor, symmetry: Tensor) -> Tensor:
    """Return each (n, c, y, x) canvas in one of the eight positions of a square; ``symmetry`` is (n,) 0 to 7."""
    turned = torch.empty_like(canvas)
    for number in range(8):
        rows = symmetry == number
        turned[rows] = turn(canvas[rows], number % 4, number >= 4)
    return turned


def nearest_turn(canvas: Tensor, wanted: Tensor) -> Tensor:
    """Return (n,) which of its eight positions brings each canvas nearest to the wanted one, in squared distance."""
    distances = [(turn(canvas, number % 4, number >= 4) - wanted).square().flatten(1).sum(1) for number in range(8)]
    return torch.stack(distances).argmin(0)


def profile(canvas: Tensor) -> Tensor:
    """Return (n, 2 c) mean and sd over the pixels of every channel: the profile that alignment compares."""
    flat = canvas.flatten(2)
    return torch.cat([flat.mean(2), (flat.var(2, unbiased=False) + 1e-6).sqrt()], dim=1)
