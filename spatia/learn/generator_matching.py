"""Which target of its transition a control learns from, where expression leaves that open.

Where the rows of a plan are nearly flat (docs/transitions.md), a pair carries the difference of the two populations
and little of the single cell: target and control then differ in size, elongation and brightness for no reason, and
what is learned is a blur over all that. Among the same pairs of one transition and slide, targets are therefore handed
out anew, so that the two look alike and lie near each other: an optimal transport plan of looks and places within that
of expression. Looks are a few numbers per cell, all of equal weight (:mod:`spatia.transitions.looks`): by the pixels
themselves, brightness would outweigh shape.

Places count because targets of one state look different from place to place. A plan has to use every target alike, so
where targets are common in one niche and rare in another, most controls are given one from another niche than their
own, and nothing is left of what a control's surroundings tell about its target. So targets are first drawn anew near
each control, by place alone: drawn by look they would all be like their control. A transition between niches is the
exception, since there a change of surroundings is what is asked for: how often each target occurs stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

MOST = 2000  # pairs matched at once; more are split into compact areas
# square of how far "near" reaches, as a share of the mean squared distance of controls and targets
REACH = 0.01
TINY = 1e-30


def rematch(
    looks: Tensor, place: NDArray[np.floating], start: NDArray[np.int64], end: NDArray[np.int64],
    transition: NDArray[np.int64], tile: NDArray[np.int64] | None = None, is_local: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """Return a target (pairs,) for each of ``start``, of the same transition and nearer in look and place.

    Squared distances of looks, in units of their mean over all pairings, and a cost of places are summed. That is the
    distance in units of its mean, and targets are ``end`` in another order; or, where ``is_local``, half the squared
    distance in units of the reach (:data:`REACH`), and targets are drawn from those in ``end`` with weight exp(-cost).

    Parameters
    ----------
    looks, place
        (cells, k) and (cells, 2), of which ``start`` and ``end`` are rows.
    transition
        (pairs,) its number.
    tile
        (cells,) niche of each cell, where images are niche tiles: those of one niche are the same image, and are kept
        apart as they are in ``start`` and ``end``.
    is_local
        (pairs,) whether targets are drawn near their control first, the same for all of a transition; default: none.
    """
    look = ((looks - looks.mean(0)) / looks.std(0).clamp(min=1e-6)).numpy()
    found = end.copy()
    generator = np.random.default_rng(0)
    for rows in blocks(transition, place[start]):
        if is_local is not None and is_local[rows[0]]:
            found[rows] = draw_near(place, start[rows], end[rows], generator)
            cost = _in_reaches(place[start[rows]], place[found[rows]])
        else:
            cost = _in_means(cdist(place[start[rows]], place[end[rows]]))
        cost = cost + _in_means(cdist(look[start[rows]], look[found[rows]], "sqeuclidean"))
        if tile is not None:
            cost[tile[start[rows]][:, None] == tile[end[rows]][None]] = len(rows) * (1 + cost.max())
        found[rows] = found[rows][linear_sum_assignment(cost)[1]]
    return found


def draw_near(
    place: NDArray[np.floating], start: NDArray[np.int64], end: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return a random one of the targets in ``end`` for each of ``start``, those that lie near it more often."""
    targets = np.unique(end)
    cost = _in_reaches(place[start], place[targets])
    # the least of cost + Gumbel noise is a draw with weight exp(-cost)
    return targets[(cost - generator.gumbel(size=cost.shape)).argmin(axis=1)]


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


def _in_reaches(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.floating]:
    return _in_means(cdist(first, second, "sqeuclidean")) / (2 * REACH)


def _in_means(distance: NDArray[np.floating]) -> NDArray[np.floating]:
    return distance / max(float(distance.mean()), TINY)
