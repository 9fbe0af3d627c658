"""The outlines of all cells as one array of vertices.

A polygon object of GEOS takes 2.5 KB, so ``spatialdata_io`` and geopandas hold 260 MB for every 100,000 cells; as
vertices they take 20 MB. Polygons are made in batches, where something needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spatia import keys

if TYPE_CHECKING:
    import geopandas

BATCH = 1024  # polygons that exist at a time: 3 MB


@dataclass(frozen=True)
class Outlines:
    """Closed rings in micrometres; a cell has one, or several where it has several nuclei.

    Attributes
    ----------
    cell_ids : (cells,) text
    xy : (vertices, 2) ring after ring
    starts : (rings + 1,) where in ``xy`` a ring starts
    first_ring : (cells + 1,) which rings are a cell's
    """

    cell_ids: np.ndarray
    xy: np.ndarray
    starts: np.ndarray
    first_ring: np.ndarray

    def __len__(self) -> int:
        return len(self.cell_ids)

    @cached_property
    def index(self) -> pd.Index:
        """The cells, as geopandas would have them."""
        return pd.Index(self.cell_ids, name=keys.CELL_ID)

    @property
    def geometry(self) -> geopandas.GeoSeries:
        """All polygons at once; for few cells only."""
        import geopandas

        return geopandas.GeoSeries(self.shapes(0, len(self)), index=self.index)

    def shapes(self, first: int, end: int) -> np.ndarray:
        """Return cells ``first`` to ``end`` as (n,) Polygons, MultiPolygons where there are several rings."""
        import shapely

        rings = slice(self.first_ring[first], self.first_ring[end])
        starts = self.starts[rings.start : rings.stop + 1]
        lengths = np.diff(starts)
        xy = self.xy[starts[0] : starts[-1]].astype(np.float64)
        polygons = shapely.polygons(shapely.linearrings(xy, indices=np.repeat(np.arange(len(lengths)), lengths)))
        n_rings = np.diff(self.first_ring[first : end + 1])
        owner = np.repeat(np.arange(end - first), n_rings)
        if (n_rings == 1).all():
            return np.asarray(polygons)
        shapes = np.asarray(shapely.multipolygons(polygons, indices=owner))
        shapes[n_rings == 1] = polygons[(n_rings == 1)[owner]]
        return shapes

    def batches(self, first: int = 0, end: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ids and shapes of cells ``first`` to ``end``, some at a time."""
        end = len(self) if end is None else end
        for start in range(first, end, BATCH):
            stop = min(start + BATCH, end)
            yield self.cell_ids[start:stop], self.shapes(start, stop)

    def rings(self, cell: int) -> Iterator[np.ndarray]:
        """Yield the (n, 2) vertices of every ring of a cell."""
        for ring in range(self.first_ring[cell], self.first_ring[cell + 1]):
            yield self.xy[self.starts[ring] : self.starts[ring + 1]]

    def bounds(self) -> np.ndarray:
        """Return (cells, 4): left, top, right, bottom."""
        if not len(self):
            return np.zeros((0, 4))
        first = self.starts[self.first_ring[:-1]]
        return np.hstack([np.minimum.reduceat(self.xy, first), np.maximum.reduceat(self.xy, first)]).astype(np.float64)

    def select(self, is_kept: np.ndarray) -> Outlines:
        """Return the cells where ``is_kept``, (cells,) bool, is true."""
        if is_kept.all():
            return self
        n_rings = np.diff(self.first_ring)
        keeps_ring = np.repeat(is_kept, n_rings)
        lengths = np.diff(self.starts)
        return Outlines(
            self.cell_ids[is_kept],
            self.xy[np.repeat(keeps_ring, lengths)],
            offsets(lengths[keeps_ring]),
            offsets(n_rings[is_kept]),
        )


def offsets(lengths: np.ndarray) -> np.ndarray:
    """Return where each of consecutive runs starts, and the end: (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def from_shapes(cell_ids: np.ndarray, shapes: np.ndarray) -> Outlines:
    """Return polygons and multipolygons as outlines; holes, which cells do not have, are filled."""
    import shapely

    parts, owner = shapely.get_parts(shapes, return_index=True)
    xy, ring = shapely.get_coordinates(shapely.get_exterior_ring(parts), return_index=True)
    lengths = np.bincount(ring, minlength=len(parts))
    return Outlines(cell_ids, xy, offsets(lengths), offsets(np.bincount(owner, minlength=len(shapes))))


def join(parts: Sequence[Outlines]) -> Outlines:
    """Return the cells of all parts, one part after the other."""
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    n_rings = np.concatenate([np.diff(part.first_ring) for part in parts])
    ids, xy = (np.concatenate([getattr(part, name) for part in parts]) for name in ("cell_ids", "xy"))
    return Outlines(ids, xy, offsets(lengths), offsets(n_rings))


def from_vertices(xy: np.ndarray, codes: np.ndarray, cell_ids: np.ndarray) -> Outlines:
    """Return the outlines of a boundaries table, in order of first appearance.

    Vertices are grouped by cell, wherever they stand; a ring ends where it comes back to its first vertex, so that the
    nuclei of one cell stay apart also where the table does not number them (early 2.0).

    Parameters
    ----------
    xy : (n, 2) vertices
    codes : (n,) place of each vertex's cell in ``cell_ids``, which is in order of first appearance
    """
    if (codes[1:] < codes[:-1]).any():
        order = np.argsort(codes, kind="stable")
        xy, codes = xy[order], codes[order]
    starts = _ring_starts(xy, codes)
    n_rings = np.bincount(codes[starts], minlength=len(cell_ids))
    return Outlines(cell_ids, xy, np.append(starts, len(xy)), offsets(n_rings))


def _ring_starts(xy: np.ndarray, codes: np.ndarray) -> np.ndarray:
    if not len(codes):
        return np.zeros(0, np.int64)
    first = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    end = np.append(first[1:], len(codes))
    blocks = [slice(cell, cell + BATCH) for cell in range(0, len(first), BATCH)]
    closing = np.concatenate([_closing_rows(xy, first[block], end[block]) for block in blocks])
    # nearly all cells: closed once, by their last vertex
    is_simple = np.isin(end - 1, closing) & (np.searchsorted(closing, end) - np.searchsorted(closing, first) == 1)
    extra = [start for a, b in zip(first[~is_simple], end[~is_simple], strict=True) for start in _split(xy, a, b)]
    return np.sort(np.concatenate([first[is_simple], np.array(extra, np.int64)]))


def _closing_rows(xy: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the rows of consecutive cells that come back to their cell's first row, which itself does not count."""
    is_first_again = (xy[first[0] : end[-1]] == np.repeat(xy[first], end - first, axis=0)).all(axis=1)
    is_first_again[first - first[0]] = False
    return first[0] + np.flatnonzero(is_first_again)


def _split(xy: np.ndarray, first: int, end: int) -> Iterator[int]:
    start = first
    while start < end:
        yield start
        closing = np.flatnonzero((xy[start + 1 : end] == xy[start]).all(axis=1))
        start = start + 2 + int(closing[0]) if len(closing) else end
