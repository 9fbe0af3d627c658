"""Cell images as the generator sees them: stains without an edge, and the cell's outline as signed distances.

Pixels outside a cell are 0 in crops, so half of a picture is its shape, and the mean of two cells has two edges. A
canvas keeps the two apart: the stains go on beyond the outline, and the outline is the distance to it, negative
outside, so that halfway between two cells lies a cell of a middle shape. When a canvas becomes an image again, the
outline says what is background, and is dropped.

A nucleus is to the stain that shows it what the cell is to the image: bright, with an edge, and the mean of a small
and a large one has two edges. Where its mask is given, that stain is kept in three channels: what lies around the
nucleus, continued into it; what lies within, continued beyond; and the nucleus' outline.

Channels: the stains; within the nucleus and the nucleus' outline, if there are masks; the cell's outline.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

OUTSIDE = 0.1  # coverage below which a pixel is background; half would make every cell half a pixel thinner all around
REACH = 6  # distances count up to the image's side / REACH; beyond, they tell no more about a shape
FADE = 2  # stains become the cell's mean outside, by a factor e with every reach / FADE


def n_channels_of(n_stains: int, dapi: int | None) -> int:
    """Return the channels of a canvas; ``dapi`` is the stain whose nucleus has an outline, or None."""
    return n_stains + (1 if dapi is None else 3)


def to_canvas(
    frames: NDArray[np.uint8], coverage: NDArray[np.uint8], dapi: int | None = None,
    nucleus: NDArray[np.bool_] | None = None,
) -> Tensor:  # fmt: skip
    """Return canvases (n, channels, y, x) of images (n, c, y, x) and their outlines (n, y, x).

    Stains enter as square roots: most of a cell is dim, and camera noise is about equal everywhere on that scale.
    ``coverage`` is how much of each pixel the cell covers, 0 to 255. Outside, stains have the value of the nearest
    pixel of the cell and fade to the cell's mean. ``nucleus`` (n, y, x), within the cell, belongs to stain ``dapi``.
    """
    n, c, height, width = frames.shape
    canvas = np.empty((n, n_channels_of(c, dapi), height, width), np.float32)
    reach_px = reach_of(height)
    for place, (frame, cover) in enumerate(zip(frames, coverage, strict=True)):
        share = cover.astype(np.float32) / 255
        distance, nearest = signed_distance(share)
        canvas[place, -1] = np.clip(distance / reach_px, -1, 1)
        values = np.minimum(frame / np.maximum(share, 1 / 255), 255)  # what a whole pixel of the cell would have
        is_own = share >= OUTSIDE
        root = np.sqrt(values / 255)
        mean = (root * share).sum((1, 2)) / max(float(share.sum()), 1 / 255)
        fade = np.exp(np.minimum(distance, 0) * (FADE / reach_px))
        beyond = mean[:, None, None] + (root[:, *nearest] - mean[:, None, None]) * fade
        canvas[place, :c] = 2 * np.where(is_own, root, beyond) - 1
        if dapi is not None:
            assert nucleus is not None
            whole = canvas[place, dapi].copy()
            canvas[place, dapi] = continued(whole, is_own & ~nucleus[place], reach_px)
            canvas[place, c] = continued(whole, nucleus[place], reach_px)
            outline = signed_distance(nucleus[place].astype(np.float32))[0]
            canvas[place, c + 1] = np.clip(outline / reach_px, -1, 1)
    return torch.from_numpy(canvas)


def continued(values: NDArray[np.float32], is_known: NDArray[np.bool_], reach_px: float) -> NDArray[np.float32]:
    """Return an image (y, x) that goes on where it is not known, from the nearest known pixel to the mean of all.

    Where nothing is known, such as a nucleus, it is the image as it was.
    """
    if not is_known.any():
        return values
    distance, nearest = distance_transform_edt(~is_known, return_indices=True)
    mean = values[is_known].mean()
    return np.asarray(mean + (values[tuple(nearest)] - mean) * np.exp(-distance * (FADE / reach_px)), np.float32)


def from_canvas(canvas: Tensor, dapi: int | None = None) -> NDArray[np.uint8]:
    """Return images (n, c, y, x) of canvases: back to 8 bit, 0 outside the outline."""
    canvas = canvas.detach().float().cpu()
    share = share_of(canvas[:, -1:])
    n_stains = canvas.shape[1] - n_channels_of(0, dapi)
    values = ((canvas[:, : n_stains + (dapi is not None)].clamp(-1, 1) + 1) / 2).square()
    if dapi is not None:
        within, in_nucleus = values[:, n_stains], share_of(canvas[:, n_stains + 1])
        values = values[:, :n_stains].clone()
        values[:, dapi] = in_nucleus * within + (1 - in_nucleus) * values[:, dapi]
    values = values * share * 255
    return torch.where(share >= OUTSIDE, (values + 0.5).floor(), 0).to(torch.uint8).numpy()


def share_of(outline: Tensor) -> Tensor:
    """Return how much of each pixel (..., y, x) lies within an outline."""
    return (outline * reach_of(outline.shape[-2]) + 0.5).clamp(0, 1)


def moments_of_shape(share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return area (n,), middle (n, 2: y, x) and second moments (n, 2, 2) of shapes (n, y, x) in pixels."""
    area = share.sum((1, 2)).clamp(min=1)
    y, x = torch.meshgrid(
        *(torch.arange(side, dtype=share.dtype, device=share.device) for side in share.shape[1:]), indexing="ij"
    )
    places = torch.stack([y, x])
    middle = torch.einsum("nyx,dyx->nd", share, places) / area[:, None]
    away = places - middle[:, :, None, None]
    return area, middle, torch.einsum("nyx,ndyx,neyx->nde", share, away, away) / area[:, None, None]


def long_axis_of(share: Tensor) -> Tensor:
    """Return (n,) the angle of the long axis of shapes (n, y, x) in radians, from x towards y."""
    moments = moments_of_shape(share)[2]
    return torch.atan2(2 * moments[:, 0, 1], moments[:, 1, 1] - moments[:, 0, 0]) / 2


def with_gain(canvas: Tensor, gain: Tensor, dapi: int | None = None) -> Tensor:
    """Return canvases (n, channels, y, x) as if stains had been (n, c) times as bright on the scale of square roots."""
    n_bright = gain.shape[1]
    if dapi is not None:
        gain, n_bright = torch.cat([gain, gain[:, dapi : dapi + 1]], dim=1), n_bright + 1
    stains = (canvas[:, :n_bright] + 1) * gain[:, :, None, None] - 1
    return torch.cat([stains, canvas[:, n_bright:]], dim=1)


def reach_of(side_px: int) -> float:
    """Return up to which distance from the outline, in pixels, a canvas tells distances."""
    return max(side_px / REACH, 1.0)


def signed_distance(share: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[Any, ...]]:
    """Return distances to the outline in pixels, negative outside, and for every pixel the nearest one of the cell.

    ``share`` (y, x) is how much of each pixel the cell covers; where it is neither 0 nor 1 the outline crosses the
    pixel, and the distance is ``share`` - 0.5, from which ``share`` comes back exactly.
    """
    own = tuple(np.indices(share.shape))
    if not share.any():
        return np.full(share.shape, -np.inf, np.float32), own
    is_inside = share >= min(0.5, float(share.max()))
    if is_inside.all():
        return np.where(share == 1, np.inf, share - 0.5).astype(np.float32), own
    inner = distance_transform_edt(is_inside)
    outer, nearest = distance_transform_edt(~is_inside, return_indices=True)
    distance = np.where(share == 0, np.minimum(0.5 - outer, -0.5), share - 0.5)
    return np.where(share == 1, np.maximum(inner - 0.5, 0.5), distance).astype(np.float32), tuple(nearest)


def turn(canvas: Tensor, quarter_turns: int, is_mirrored: bool) -> Tensor:
    """Return canvases (..., y, x) turned by quarters and, before that, mirrored left to right."""
    if is_mirrored:
        canvas = canvas.flip(-1)
    return torch.rot90(canvas, quarter_turns, (-2, -1))


def turn_by(fields: Tensor, angle: Tensor, mode: str = "bilinear", padding_mode: str = "border") -> Tensor:
    """Return (n, c, side, side) fields turned around their middle by angles (n,) in radians, from x towards y."""
    c, s = angle.cos(), angle.sin()
    return _resampled(fields, torch.stack([torch.stack([c, s], 1), torch.stack([-s, c], 1)], dim=1), mode, padding_mode)


def stretch(canvas: Tensor, axis: Tensor, along: Tensor, across: Tensor, dapi: int | None = None) -> Tensor:
    """Return canvases (n, channels, y, x) made longer by factors (n,) along axes (n,) in radians, and across them.

    Distances to outlines grow by the mean factor: exact where both are one, and at outlines.
    """
    unit = torch.stack([axis.cos(), axis.sin()], dim=1)
    own = unit[:, :, None] * unit[:, None]
    back = own / along[:, None, None] + (torch.eye(2, device=axis.device) - own) / across[:, None, None]
    found = _resampled(canvas, back, "bicubic", "border")
    n_outlines = 1 if dapi is None else 2
    factor = (along * across).sqrt()[:, None, None, None]
    return torch.cat([found[:, :-n_outlines], (found[:, -n_outlines:] * factor).clamp(-1, 1)], dim=1)


def _resampled(fields: Tensor, back: Tensor, mode: str, padding_mode: str) -> Tensor:
    """Return fields (n, c, side, side) that have at p, from the middle, what they had at ``back`` (n, 2, 2: x, y) p."""
    rows = torch.cat([back, torch.zeros_like(back[:, :, :1])], dim=2)
    grid = functional.affine_grid(rows.to(fields.dtype), list(fields.shape), align_corners=False)
    return functional.grid_sample(fields, grid, mode=mode, padding_mode=padding_mode, align_corners=False)


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
