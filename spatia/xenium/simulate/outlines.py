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
_GROWTH = 1.25


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
    simple = [_valid(outline) for outline in outlines]
    open_ = [index for index, outline in enumerate(simple) if len(outline) > max_vertices]
    tolerance = _FIRST_TOLERANCE_PX
    while open_:
        polygons = shapely.simplify([shapely.Polygon(simple[index]) for index in open_], tolerance)
        for index, polygon in zip(open_, polygons, strict=True):
            simple[index] = shapely.get_coordinates(polygon)
        open_ = [index for index in open_ if len(simple[index]) > max_vertices]
        tolerance *= _GROWTH
    return simple


def _valid(outline: np.ndarray) -> np.ndarray:
    """Return the outline, cut to its largest loop where it touches itself at a corner."""
    if len(outline) == 0:
        return outline
    polygon = shapely.Polygon(outline)
    if polygon.is_valid:
        return outline
    parts = [part for part in shapely.get_parts(shapely.make_valid(polygon)) if part.geom_type == "Polygon"]
    return shapely.get_coordinates(max(parts, key=lambda part: part.area).exterior)
