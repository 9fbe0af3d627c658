"""Which cells train and which test: positions and names of cells -> two disjoint masks.

A split is made before anything is learned or paired (A26). Where train and test lie on the same piece of tissue, a
buffer keeps them apart: cells share niches, tissue windows and staining with their neighbours.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Side = Literal["left", "right", "top", "bottom"]


@dataclass(frozen=True)
class Split:
    """Two disjoint sets of cells, neither of them empty.

    Attributes
    ----------
    train, test
        (n,) masks of the cells. A cell in neither is left out.

    Raises
    ------
    ValueError
        If a side is empty or a cell is on both.
    """

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name, mask in (("train", self.train), ("test", self.test)):
            if not mask.any():
                raise ValueError(
                    f"split: expected cells on both sides, found no {name} cell among {len(mask)}; "
                    "use a smaller buffer or another test set"
                )
        n_both = int((self.train & self.test).sum())
        if n_both:
            raise ValueError(f"split: expected disjoint sides, found {n_both} cells on both")

    @property
    def n_left_out(self) -> int:
        """Cells that are neither in train nor in test."""
        return int((~(self.train | self.test)).sum())


def split_by_donor(
    donor: ArrayLike, test_donors: Collection[str], train_donors: Collection[str] | None = None
) -> Split:
    """Return the cells of some donors as test set, those of others as train set.

    Parameters
    ----------
    donor
        (n,) name of each cell's donor.
    test_donors, train_donors
        Their names. Default of the latter: all other donors.

    Raises
    ------
    ValueError
        If a donor is unknown or on both sides, or a side is empty.
    """
    names = np.asarray(donor).astype(str)
    test = _members(names, test_donors)
    return Split(~test if train_donors is None else _members(names, train_donors), test)


def distance_to_edge(position_px: NDArray[np.floating], side: Side, shape_px: tuple[int, int]) -> NDArray[np.float64]:
    """Return how far each cell lies from one edge of its region, (n,) px.

    Parameters
    ----------
    position_px
        (n, 2) x and y in the region's frame.
    side
        The edge.
    shape_px
        Height and width of the region.
    """
    height, width = shape_px
    x, y = np.asarray(position_px, np.float64).T
    distances = {"left": x, "right": width - x, "top": y, "bottom": height - y}
    if side not in distances:
        raise ValueError(f"side: expected one of {', '.join(distances)}, found {side!r}")
    return distances[side]


def split_by_region(
    region: ArrayLike,
    train_regions: Collection[str],
    test_regions: Collection[str],
    edge_distance_px: NDArray[np.floating],
    buffer_px: float,
) -> Split:
    """Return the cells of some regions as train, of others as test set, without those near a shared edge.

    Parameters
    ----------
    region
        (n,) name of each cell's region.
    train_regions, test_regions
        Their names; cells of other regions are left out.
    edge_distance_px
        (n,) distance of each cell to the edge that its region shares with one of the other side
        (:func:`distance_to_edge`), infinite where it shares none.
    buffer_px
        Cells closer than this are left out on both sides.

    Raises
    ------
    ValueError
        If a region is unknown or on both sides, or a side is empty.
    """
    names, distance = np.asarray(region).astype(str), np.asarray(edge_distance_px, np.float64)
    if distance.shape != names.shape:
        raise ValueError(f"edge_distance_px: expected one per cell, shape {names.shape}, found {distance.shape}")
    is_far = distance >= buffer_px
    return Split(_members(names, train_regions) & is_far, _members(names, test_regions) & is_far)


def split_by_blocks(
    position_px: NDArray[np.floating],
    test_share: float,
    generator: np.random.Generator,
    block_px: float = 1024,
    buffer_px: float = 1024,
) -> Split:
    """Return one compact area of a slide as test set, and what lies away from it as train set.

    The test area is made of squares of a grid: a random one that holds cells, and those nearest to it until they
    hold the wanted share. One area rather than scattered squares, because each square costs a buffer around it.

    Parameters
    ----------
    position_px
        (n, 2) x and y of the cells in the slide's frame.
    test_share
        Share of cells to reach, between 0 and 1.
    generator
        Draws the first square.
    block_px
        Side of a square; the default is a tissue window, so that no window is cut.
    buffer_px
        Cells outside the test area but closer to it than this, along either axis, are left out.

    Raises
    ------
    ValueError
        If the share is not between 0 and 1, or a side is empty.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share: expected a share between 0 and 1, found {test_share}")
    position = np.asarray(position_px, np.float64)
    blocks, inverse = np.unique(np.floor(position / block_px), axis=0, return_inverse=True)
    block_of_cell = inverse.ravel()
    n_cells = np.bincount(block_of_cell)
    away = np.square(blocks - blocks[generator.integers(len(blocks))]).sum(axis=1)
    nearest_first = np.argsort(away, kind="stable")
    n_before = np.cumsum(n_cells[nearest_first]) - n_cells[nearest_first]
    chosen = nearest_first[n_before < test_share * len(position)]
    test = np.isin(block_of_cell, chosen)
    is_far = _distance_to_squares(position, blocks[chosen] * block_px, block_px) >= buffer_px
    return Split(~test & is_far, test)


def _distance_to_squares(
    position: NDArray[np.float64], corners: NDArray[np.float64], side: float
) -> NDArray[np.float64]:
    """Return the distance to the nearest square, the larger of both axes', (n,): the buffer is square as well."""
    nearest = np.full(len(position), np.inf)
    for corner in corners:
        outside = np.maximum(corner - position, position - (corner + side)).max(axis=1)
        nearest = np.minimum(nearest, np.maximum(outside, 0))
    return nearest


def _members(names: NDArray[Any], chosen: Collection[str]) -> NDArray[np.bool_]:
    if isinstance(chosen, str):
        raise TypeError(f"expected a collection of names, found the text {chosen!r}; write [{chosen!r}]")
    unknown = sorted(set(chosen) - set(names.tolist()))
    if unknown:
        known = ", ".join(sorted(set(names.tolist())))
        raise ValueError(f"split: expected names among {known}; found {', '.join(unknown)}")
    return np.isin(names, list(chosen))
