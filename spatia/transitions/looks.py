"""What a cell looks like, in a few numbers that do not depend on how it lies: size, elongation, brightness, texture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spatia.transitions.canvas import moments_of_shape, n_channels_of, share_of, stretch

MOST_STRETCHED = 2.0  # or shrunk to a half


def n_looks_of(n_stains: int, dapi: int | None = None) -> int:
    """Return how many numbers a look has."""
    return 2 + 2 * n_stains + (0 if dapi is None else 5)


def looks_of(canvas: Tensor, dapi: int | None = None) -> Tensor:
    """Return (n, looks) of canvases: size and elongation, mean and sd of every stain; the same whichever way they lie.

    Of the nucleus too, and how far from the middle of the cell it lies, where it has an outline.
    """
    canvas = canvas.float()
    n_stains = canvas.shape[1] - n_channels_of(0, dapi)
    cell = share_of(canvas[:, -1])
    size, elongation, middle = shape_of(cell)
    looks = [size, elongation, *level_and_spread(canvas[:, :n_stains], cell)]
    if dapi is not None:
        nucleus = share_of(canvas[:, n_stains + 1])
        own_size, own_elongation, own_middle = shape_of(nucleus)
        off = (own_middle - middle).norm(dim=1) / size.exp().sqrt()
        looks += [own_size, own_elongation, off]
        looks += level_and_spread(canvas[:, n_stains : n_stains + 1], nucleus)
    return torch.stack(looks, dim=1)


def shape_of(share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log area (n,), log ratio of the axes (n,) and middle (n, 2) of shapes (n, y, x) in pixels."""
    area, middle, moments = moments_of_shape(share)
    # a pixel is a square, not a point: even a line has a width
    axes = torch.linalg.eigvalsh(moments + torch.eye(2, device=share.device) / 12)
    return area.log(), (axes[:, 1] / axes[:, 0]).log() / 2, middle


def level_and_spread(stains: Tensor, share: Tensor) -> list[Tensor]:
    """Return mean (n,) of every stain (n, c, y, x) within shapes, then its sd."""
    area = share.sum((1, 2)).clamp(min=1)[:, None]
    mean = torch.einsum("nyx,ncyx->nc", share, stains) / area
    variance = torch.einsum("nyx,ncyx->nc", share, (stains - mean[:, :, None, None]).square()) / area
    return [*mean.unbind(1), *variance.clamp(min=0).sqrt().unbind(1)]


def stretch_to(
    canvas: Tensor, axis: Tensor, before: Tensor, after: Tensor, dapi: int | None = None, share: float = 1.0
) -> Tensor:
    """Return canvases stretched from the size and elongation of looks (n, looks) to those of others, as a whole.

    Halfway between the signed distances of a small and a large cell lies one that has grown by the same distance all
    around: thin ends swell, corners become round, notches close. A cell that grows keeps its shape.

    Parameters
    ----------
    axis
        (n,) long axes in radians.
    share
        Of the way; negative = back.
    """
    size, elongation = ((after - before)[:, number] for number in (0, 1))
    most = math.log(MOST_STRETCHED)
    along, across = ((share * ((size + part) / 2).clamp(-most, most)).exp() for part in (elongation, -elongation))
    return stretch(canvas, axis, along, across, dapi)
