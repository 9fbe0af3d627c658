"""Which target of its transition a control learns from, where expression leaves that open.

Where the rows of a plan are nearly flat (docs/transitions.md), a pair carries the difference of the two populations
and little of the single cell: target and control then differ in size, elongation and brightness for no reason, and
what is learned is a blur over all that. Among the same pairs of one transition and slide, targets are therefore handed
out anew, so that the two look alike and lie near each other: an optimal transport plan of looks and places within that
of expression. Places count, as they do in the plan, because targets of one state look different from place to place,
and what a control's surroundings tell about its target has to stay true. Controls, targets and how often each occurs
stay the same, and so does every difference of the populations.

Looks are a few numbers per cell, all of equal weight: by the pixels themselves, brightness would outweigh shape.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from spatia.transitions.canvas import moments_of_shape, n_channels_of, share_of

MOST = 2000  # pairs matched at once; more are split into compact areas
TINY = 1e-30


def rematch(
    canvas: Tensor, place: NDArray[np.floating], start: NDArray[np.int64], end: NDArray[np.int64],
    transition: NDArray[np.int64], dapi: int | None = None, tile: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """Return ``end`` (pairs,) in another order within each transition, nearer to ``start`` in look and place.

    Squared distances of looks and distances of places are summed, each in units of its mean over all pairings.

    Parameters
    ----------
    canvas, place
        (cells, c, y, x) and (cells, 2), of which ``start`` and ``end`` are rows.
    transition
        (pairs,) its number.
    dapi
        The stain whose nucleus has an outline in the canvases.
    tile
        (cells,) niche of each cell, where images are niche tiles: those of one niche are the same image, and are kept
        apart as they are in ``start`` and ``end``.
    """
    looks = looks_of(canvas, dapi)
    look = ((looks - looks.mean(0)) / looks.std(0).clamp(min=1e-6)).numpy()
    found = end.copy()
    for rows in blocks(transition, place[start]):
        cost = _in_means(cdist(look[start[rows]], look[end[rows]], "sqeuclidean"))
        cost = cost + _in_means(cdist(place[start[rows]], place[end[rows]]))
        if tile is not None:
            cost[tile[start[rows]][:, None] == tile[end[rows]][None]] = len(rows) * (1 + cost.max())
        found[rows] = end[rows][linear_sum_assignment(cost)[1]]
    return found


def blocks(transition: NDArray[np.int64], place: NDArray[np.floating]) -> Iterator[NDArray[np.int64]]:
    """Yield the pairs of each transition in parts of at most :data:`MOST` that lie together, halved until they fit."""
    parts = [np.flatnonzero(transition == number) for number in np.unique(transition)]
    while parts:
        rows = parts.pop()
        if len(rows) <= MOST:
            yield rows
            continue
        longest = np.ptp(place[rows], axis=0).argmax()
        order = rows[np.argsort(place[rows, longest], kind="stable")]
        parts += [order[: len(order) // 2], order[len(order) // 2 :]]


def _in_means(distance: NDArray[np.floating]) -> NDArray[np.floating]:
    return distance / max(float(distance.mean()), TINY)


def looks_of(canvas: Tensor, dapi: int | None = None) -> Tensor:
    """Return (n, looks) of canvases: size and elongation, mean and sd of every stain; the same whichever way they lie.

    Of the nucleus too, and how far from the middle of the cell it lies, where it has an outline.
    """
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
    axes = torch.linalg.eigvalsh(moments + torch.eye(2) / 12)
    return area.log(), (axes[:, 1] / axes[:, 0]).log() / 2, middle


def level_and_spread(stains: Tensor, share: Tensor) -> list[Tensor]:
    """Return mean (n,) of every stain (n, c, y, x) within shapes, then its sd."""
    area = share.sum((1, 2)).clamp(min=1)[:, None]
    mean = torch.einsum("nyx,ncyx->nc", share, stains) / area
    variance = torch.einsum("nyx,ncyx->nc", share, (stains - mean[:, :, None, None]).square()) / area
    return [*mean.unbind(1), *variance.clamp(min=0).sqrt().unbind(1)]
