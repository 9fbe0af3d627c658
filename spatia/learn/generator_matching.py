"""Which target of its transition a control learns from, where expression leaves that open.

Where the rows of a plan are nearly flat (docs/transitions.md), a pair carries the difference of the two populations
and little of the single cell: target and control then differ in size, orientation and brightness for no reason, and
what is learned is a blur over all that. Among the same pairs of one transition and slide, targets are therefore handed
out anew, so that images differ least in sum: an optimal transport plan of images within that of expression. Controls,
targets and how often each occurs stay the same, and so does every difference of the populations.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from spatia.transitions.canvas import turn

MOST = 2000  # pairs matched at once; more are split at random
SIDE_PX = 12  # of the images compared: coarse form and brightness, no texture


def rematch(
    canvas: Tensor, start: NDArray[np.int64], end: NDArray[np.int64], transition: NDArray[np.int64], seed: int,
    tile: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """Return ``end`` (pairs,) in another order within each transition, nearer to ``start`` in image.

    Parameters
    ----------
    canvas
        (cells, c, y, x) of which ``start`` and ``end`` are rows.
    transition
        (pairs,) its number.
    tile
        (cells,) niche of each cell, where images are niche tiles: those of one niche are the same image, and are kept
        apart as they are in ``start`` and ``end``.
    """
    coarse = functional.adaptive_avg_pool2d(canvas, SIDE_PX)
    coarse = coarse / coarse.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
    found = end.copy()
    for rows in blocks(transition, np.random.default_rng(seed)):
        cost = turned_distances(coarse[start[rows]], coarse[end[rows]])
        if tile is not None:
            cost[tile[start[rows]][:, None] == tile[end[rows]][None]] = len(rows) * (1 + cost.max())
        found[rows] = end[rows][linear_sum_assignment(cost)[1]]
    return found


def blocks(transition: NDArray[np.int64], generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the pairs of each transition in random parts of at most :data:`MOST`, about equally large."""
    for number in np.unique(transition):
        rows = generator.permutation(np.flatnonzero(transition == number))
        yield from np.array_split(rows, -(-len(rows) // MOST))


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
