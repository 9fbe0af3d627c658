"""Outlines of labelled regions: traced along pixel edges, then simplified to a few vertices.

As in genuine bundles, vertices lie on pixel corners and the outline approximates the mask, which stays the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from scipy import ndimage

# steps between pixel corners (y, x): right, down, left, up; the region lies on the right-hand side
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
# the pixels ahead of a corner, (to the left, to the right) of the way, as offsets from that corner
_AHEAD = (((-1, 0), (0, 0)), ((0, 0), (0, -1)), ((0, -1), (-1, -1)), ((-1, -1), (-1, 0)))
_FIRST_TOLERANCE_PX = 0.5
_GROWTH = 1.4
_POLYGON = 3  # shapely's number for the type


@dataclass(frozen=True)
class Outlines:
    """Closed outlines of labels 1..n, one after the other.

    Attributes
    ----------
    vertices : (n_vertices, 2) x, y in pixels (corner of pixel (0, 0) is the origin); the last repeats the first
    counts : (n,) vertices of each outline, 0 for a label without pixels
    """

    vertices: np.ndarray
    counts: np.ndarray

    def repeated(self, values: np.ndarray) -> np.ndarray:
        """Return one value per outline as one value per vertex."""
        return np.repeat(values, self.counts)


def outline_labels(labels: np.ndarray, n_labels: int, max_vertices: int) -> Outlines:
    """Return the outline of every label's largest piece, of at most ``max_vertices`` vertices.

    Parameters
    ----------
    labels : (y, x) integers, 0 is background
    """
    boxes = ndimage.find_objects(labels, max_label=n_labels) if n_labels else []
    corners: list[np.ndarray] = []
    for label, box in enumerate(boxes, start=1):
        if box is None:
            corners.append(np.zeros((0, 2)))
        else:
            origin = np.array([box[1].start, box[0].start])
            corners.append(_trace(_largest_piece(labels[box] == label)) + origin)
    simple = _simplify(corners, max_vertices)
    counts = np.array([len(outline) for outline in simple], np.int64)
    return Outlines(np.concatenate([np.zeros((0, 2)), *simple]), counts)


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    pieces, n_pieces = ndimage.label(mask)
    if n_pieces == 1:
        return mask
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def _trace(mask: np.ndarray) -> np.ndarray:
    """Return the corners (x, y) of one 4-connected region's outer edge, clockwise on screen, first = last."""
    padded = np.pad(mask, 1)
    start = y, x = divmod(int(np.argmax(padded)), padded.shape[1])  # the topmost row's first pixel
    inside = padded.tolist()  # plain lists: ten times faster to index one by one
    corners = [start]
    direction = 0
    while True:
        y, x = y + _STEPS[direction][0], x + _STEPS[direction][1]
        (left_y, left_x), (right_y, right_x) = _AHEAD[direction]
        if not inside[y + right_y][x + right_x]:
            turned = (direction + 1) % 4
        elif inside[y + left_y][x + left_x]:
            turned = (direction - 1) % 4
        else:
            turned = direction
        if (y, x) == start and turned == 0:
            break
        if turned != direction:
            corners.append((y, x))
            direction = turned
    return np.array([*corners, start], float)[:, ::-1] - 1  # the padding's pixel


def _simplify(outlines: list[np.ndarray], max_vertices: int) -> list[np.ndarray]:
    """Drop vertices with a tolerance that grows until no outline has more than ``max_vertices``."""
    drawn = [index for index, outline in enumerate(outlines) if len(outline)]
    if not drawn:
        return outlines
    lengths = [len(outlines[index]) for index in drawn]
    rings = shapely.linearrings(
        np.concatenate([outlines[index] for index in drawn]), indices=np.repeat(np.arange(len(drawn)), lengths)
    )
    traced = _largest_loops(shapely.polygons(rings))
    simple = traced.copy()
    tolerance = _FIRST_TOLERANCE_PX
    while (too_many := shapely.get_num_coordinates(simple) > max_vertices).any():
        simple[too_many] = _simplified(traced[too_many], tolerance)
        tolerance *= _GROWTH
    result = list(outlines)
    for index, polygon in zip(drawn, simple, strict=True):
        result[index] = shapely.get_coordinates(polygon)
    return result


def _simplified(polygons: np.ndarray, tolerance: float) -> np.ndarray:
    simple = shapely.simplify(polygons, tolerance, preserve_topology=False)
    is_broken = ~shapely.is_valid(simple) | shapely.is_empty(simple) | (shapely.get_type_id(simple) != _POLYGON)
    simple[is_broken] = shapely.simplify(polygons[is_broken], tolerance)  # slower, and never breaks one
    return simple


def _largest_loops(polygons: np.ndarray) -> np.ndarray:
    """Return the polygons, cut to their largest loop where they touch themselves at a corner."""
    for index in np.flatnonzero(~shapely.is_valid(polygons)):
        parts = shapely.get_parts(shapely.make_valid(polygons[index]))
        largest = parts[np.argmax(shapely.area(parts))]
        polygons[index] = shapely.Polygon(largest.exterior)
    return polygons
