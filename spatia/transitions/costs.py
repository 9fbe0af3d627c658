"""The cost of going from one cell to another, whole or block by block of rows (A14, A15)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = slice | NDArray[np.int64]
Distance = Literal["euclidean", "squared"]
MEDIAN_SAMPLE = 2000  # cells of a side that the median distance is taken from, evenly spaced
BLOCK_BYTES = 1 << 22  # of a block of rows in float64: it stays in the cache while it is worked on
LEAST_ROWS = 16


class Cost(Protocol):
    """A cost matrix ``(n, m)`` that gives its rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """Controls and targets."""
        ...

    def rows(self, rows: Rows) -> Array:
        """Return these rows, ``(b, m)``, as an array of its own."""
        ...


@dataclass(frozen=True)
class DenseCost:
    """A cost matrix in memory.

    Raises
    ------
    ValueError
        If it has no rows or columns, or is not finite.
    """

    matrix: Array

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or 0 in self.matrix.shape:
            raise ValueError(f"cost: expected a matrix with rows and columns, found shape {self.matrix.shape}")
        if not np.isfinite(self.matrix.sum()):
            raise ValueError("cost: expected finite numbers, found NaN or infinity")

    @property
    def shape(self) -> tuple[int, int]:
        """Controls and targets."""
        return self.matrix.shape  # type: ignore[return-value]

    def rows(self, rows: Rows) -> Array:
        """Return a copy of these rows."""
        return self.matrix[rows].astype(np.float64)


@dataclass(frozen=True)
class Cells:
    """One side of a transition.

    Attributes
    ----------
    points
        ``(n, d)`` places in the joint PCA.
    position_um
        ``(n, 2)`` places on the slide.
    """

    points: Array
    position_um: Array

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: Rows) -> Cells:
        """Return some of the cells."""
        return Cells(self.points[rows], self.position_um[rows])


@dataclass(frozen=True)
class CostRule:
    """How unlike two cells are: ``D / median(D) + spatial_weight * min(d / spatial_scale_um, 1)`` (A14, A15).

    Attributes
    ----------
    distance
        ``euclidean`` as in eq. 8, or its square.
    spatial_weight, spatial_scale_um
        ``lambda`` and ``d0``; without weight the place on the slide does not count, as in the authors' code.
    """

    distance: Distance = "euclidean"
    spatial_weight: float = 0.0
    spatial_scale_um: float = 1.0


@dataclass(frozen=True)
class BlockedCost:
    """A cost matrix that is computed where it is needed: memory grows with the cells, not with their pairs.

    Attributes
    ----------
    controls, targets
        Both sides.
    rule
        The cost.
    median
        Of the distances in PCA space, taken from a sample of at most 2,000 cells of each side.

    Raises
    ------
    ValueError
        If a side is empty, a place is not finite, or the median is 0: half of the cells are the same.
    """

    controls: Cells
    targets: Cells
    rule: CostRule
    median: float = field(init=False)

    def __post_init__(self) -> None:
        for side in (self.controls, self.targets):
            if not len(side):
                raise ValueError("cost: expected cells on both sides, found an empty one")
            if not (np.isfinite(side.points).all() and np.isfinite(side.position_um).all()):
                raise ValueError("cost: expected finite places of all cells, found NaN or infinity")
        sample = [side.take(_evenly(len(side))) for side in (self.controls, self.targets)]
        median = float(np.median(_distances(sample[0].points, sample[1].points, self.rule.distance)))
        if not median > 0:
            raise ValueError("cost: expected cells that differ, found a median distance of 0 in PCA space")
        object.__setattr__(self, "median", median)

    @property
    def shape(self) -> tuple[int, int]:
        """Controls and targets."""
        return len(self.controls), len(self.targets)

    def rows(self, rows: Rows) -> Array:
        """Return these rows."""
        some = self.controls.take(rows)
        cost = _distances(some.points, self.targets.points, self.rule.distance)
        cost /= self.median
        if self.rule.spatial_weight:
            far = _distances(some.position_um, self.targets.position_um, "euclidean")
            far /= self.rule.spatial_scale_um
            cost += self.rule.spatial_weight * np.minimum(far, 1, out=far)
        return cost


def dense(cost: Cost) -> DenseCost:
    """Return the whole matrix of a cost."""
    n, m = cost.shape
    matrix = np.empty((n, m))
    for rows in row_blocks(n, m):
        matrix[rows] = cost.rows(rows)
    return DenseCost(matrix)


def row_blocks(n: int, m: int) -> Iterator[slice]:
    """Yield blocks of rows of a matrix ``(n, m)`` that fit into the cache."""
    size = max(LEAST_ROWS, BLOCK_BYTES // (8 * m))
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _distances(a: Array, b: Array, distance: Distance) -> Array:
    """Return distances ``(n, m)`` by one matrix product: several times faster than one pair after the other.

    Its rounding is that of the squared lengths, so both clouds are moved to where their coordinates are small.
    """
    centre = b.mean(axis=0)
    a, b = a - centre, b - centre
    squared = a @ b.T
    squared *= -2
    squared += np.square(a).sum(axis=1)[:, None]
    squared += np.square(b).sum(axis=1)
    np.maximum(squared, 0, out=squared)
    return squared if distance == "squared" else np.sqrt(squared, out=squared)


def _evenly(n: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(n, MEDIAN_SAMPLE)).astype(np.int64))
