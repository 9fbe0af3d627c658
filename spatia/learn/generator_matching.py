"""Which target of its transition a control learns from, where expression leaves that open.

Where the rows of a plan are nearly flat (docs/transitions.md), a pair carries the difference of the two populations
and little of the single cell: target and control then differ in size, orientation and brightness for no reason, and
what is learned is a blur over all that. Among the same pairs of one transition and slide, targets are therefore handed
out anew, so that images differ least and both lie near each other: an optimal transport plan of images and places
within that of expression. Places count, as they do in the plan, because targets of one state look different from place
to place, and what a control's surroundings tell about its target has to stay true. Controls, targets and how often
each occurs stay the same, and so does every difference of the populations.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from spatia.transitions.canvas import turn

MOST = 2000  # pairs matched at once; more are split into compact areas
TINY = 1e-30
SIDE_PX = 12  # of the images compared: coarse form and brightness, no texture


def rematch(
    canvas: Tensor, place: NDArray[np.floating], start: NDArray[np.int64], end: NDArray[np.int64],
    transition: NDArray[np.int64], tile: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """Return ``end`` (pairs,) in another order within each transition, nearer to ``start`` in image and place.

    Squared distances of images and distances of places are summed, each in units of its mean over all pairings.

    Parameters
    ----------
    canvas, place
        (cells, c, y, x) and (cells, 2), of which ``start`` and ``end`` are rows.
    transition
        (pairs,) its number.
    tile
        (cells,) niche of each cell, where images are niche tiles: those of one niche are the same image, and are kept
        apart as they are in ``start`` and ``end``.
    """
    coarse = functional.adaptive_avg_pool2d(canvas, SIDE_PX)
    coarse = coarse / coarse.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
    found = end.copy()
    for rows in blocks(transition, place[start]):
        cost = _in_means(turned_distances(coarse[start[rows]], coarse[end[rows]]))
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


def turned_distances(start: Tensor, end: Tensor) -> NDArray[np.float32]:
    """Return (n, m) squared distances of images, each end in that of its eight positions which is nearest."""
    first = start.flatten(1)
    nearest = None
    for number in range(8):
        second = turn(end, number % 4, number >= 4).flatten(1)
        product = first @ second.T
        nearest = product if nearest is None else torch.maximum(nearest, product)
    assert nearest is not None
    squares = first.square().sum(1)[:, None] + end.flatten(1).square().sum(1)[None]
    return (squares - 2 * nearest).clamp(min=0).numpy()
