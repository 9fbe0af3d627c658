"""H&E brought into the morphology frame: an affine resampling, block by block.

A bundle's ``*_he_imagealignment.csv`` is the 3 x 3 matrix that takes an H&E pixel (x, y, 1) to a morphology pixel.
Coordinates are continuous: the centre of pixel (0, 0) is (0.5, 0.5), in both images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatia.errors import SpatiaError
from spatia.xenium.layouts import AlignedImage
from spatia.xenium.ome import count_pages
from spatia.xenium.tiffs import RESTORE, PlaneReader

BACKGROUND = 255  # outside the H&E image: glass is white
_MAX_SCALE = 20.0  # H&E pixels per morphology pixel, and the inverse; beyond it a matrix is not an alignment
_CACHE_BYTES = 96 * 2**20
_FIX = "export the alignment from Xenium Explorer again"


@dataclass(frozen=True)
class HeReader:
    """An H&E image, read in the morphology frame.

    Attributes
    ----------
    planes : the image: one plane with 3 or 4 samples, or three planes
    to_he : (2, 3) takes a morphology coordinate (x, y, 1) to an H&E coordinate
    n_sub : sampling positions per pixel and axis, more than 1 where H&E is much finer (area averaging)
    """

    planes: tuple[PlaneReader, ...]
    to_he: np.ndarray
    n_sub: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the H&E image in its own pixels."""
        return self.planes[0].shape

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return the window as (3, h, w) uint8. Threads may call this."""
        total = np.zeros((3, y1 - y0, x1 - x0), np.float32)
        steps = (np.arange(self.n_sub) + 0.5) / self.n_sub
        for dy in steps:
            for dx in steps:
                total += self._sample(y0 + dy, x0 + dx, total.shape[1:])
        total /= self.n_sub**2
        return (total + 0.5).astype(np.uint8)

    def close(self) -> None:
        """Close the file."""
        for plane in self.planes:
            plane.close()

    def _sample(self, y: float, x: float, shape: tuple[int, ...]) -> np.ndarray:
        """Return (3, h, w) float32: H&E at the morphology coordinates (x + j, y + i), bilinear."""
        from scipy import ndimage

        (a, b, c), (d, e, f) = self.to_he
        start = np.array([d * x + e * y + f, a * x + b * y + c])  # (y, x) in H&E of output pixel (0, 0)
        matrix = np.array([[e, d], [b, a]])  # (row, column) steps -> (y, x) steps
        window = self._window(start, matrix, shape)
        if window is None:
            return np.full((3, *shape), BACKGROUND, np.float32)
        top, bottom, left, right = window
        source = self._read_source(top, bottom, left, right)
        offset = start - 0.5 - (top, left)  # from coordinates to indices
        sampled = np.stack(
            [
                ndimage.affine_transform(band, matrix, offset, shape, np.float32, order=1, mode="nearest")
                for band in source
            ]
        )
        sampled[:, ~self._is_inside(start, matrix, shape)] = BACKGROUND
        return sampled

    def _window(
        self, start: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]
    ) -> tuple[int, int, int, int] | None:
        corners = np.array([[0, 0], [0, shape[1] - 1], [shape[0] - 1, 0], [shape[0] - 1, shape[1] - 1]])
        reached = corners @ matrix.T + start
        top, left = np.floor(reached.min(axis=0) - 2).astype(int)
        bottom, right = np.ceil(reached.max(axis=0) + 2).astype(int)
        height, width = self.shape
        top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, height), min(right, width)
        return (top, bottom, left, right) if top < bottom and left < right else None

    def _is_inside(self, start: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
        y = start[0] + matrix[0, 0] * rows + matrix[0, 1] * columns
        x = start[1] + matrix[1, 0] * rows + matrix[1, 1] * columns
        return (y >= 0) & (y < self.shape[0]) & (x >= 0) & (x < self.shape[1])

    def _read_source(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        if len(self.planes) == 1:
            return np.moveaxis(self.planes[0].read(top, bottom, left, right)[..., :3], -1, 0)
        return np.stack([plane.read(top, bottom, left, right) for plane in self.planes])


def open_he(image: AlignedImage, shape_px: tuple[int, int]) -> HeReader:
    """Open an H&E image together with its alignment to a morphology image of ``shape_px`` (height, width).

    Raises
    ------
    SpatiaError
        If the image is not 8-bit RGB, or the matrix is none that could align it.
    """
    planes = _open_planes(image.file)
    to_morphology = np.eye(3) if image.alignment is None else read_alignment(image.alignment)
    to_he = np.linalg.inv(to_morphology)[:2]
    scale = math.sqrt(abs(np.linalg.det(to_he[:, :2])))
    reader = HeReader(planes, to_he, max(math.ceil(scale - 0.5), 1))
    if coverage(reader, shape_px) <= 0:
        corners = (np.array([[0, 0, 1], [*reader.shape[::-1], 1]]) @ to_morphology.T)[:, :2].round().tolist()
        reader.close()
        raise SpatiaError(
            f"{image.alignment or image.file}: expected an alignment that puts H&E onto the {shape_px[0]} x "
            f"{shape_px[1]} px "
            f"morphology image, found one that puts its corners to x, y = {corners}; {_FIX}"
        )
    return reader


def read_alignment(file: Path) -> np.ndarray:
    """Return the (3, 3) matrix that takes an H&E pixel (x, y, 1) to a morphology pixel."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
        rows = [[float(value) for value in line.split(",")] for line in lines if line.strip()]
    except FileNotFoundError:
        raise SpatiaError(f"{file}: expected the 3 x 3 alignment of an H&E image, found none; {_FIX}") from None
    except (ValueError, UnicodeDecodeError) as problem:
        raise SpatiaError(f"{file}: expected 3 x 3 numbers, found something else ({problem}); {_FIX}") from None
    if [len(row) for row in rows] != [3, 3, 3] or not np.isfinite(rows).all():
        raise SpatiaError(f"{file}: expected 3 x 3 finite numbers, found {rows}; {_FIX}")
    matrix = np.array(rows)
    scale = math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    if not np.allclose(matrix[2], [0, 0, 1]) or not 1 / _MAX_SCALE <= scale <= _MAX_SCALE:
        raise SpatiaError(
            f"{file}: expected an affine matrix with last row 0, 0, 1 and a scale of {1 / _MAX_SCALE} to {_MAX_SCALE}, "
            f"found last row {matrix[2].tolist()} and scale {scale:.4g}; {_FIX}"
        )
    return matrix


def coverage(reader: HeReader, shape_px: tuple[int, int]) -> float:
    """Return the share of the morphology image that H&E covers, 0 to 1."""
    import shapely

    to_morphology = np.linalg.inv(np.vstack([reader.to_he, [0, 0, 1]]))
    height, width = reader.shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]]) @ to_morphology.T
    morphology = shapely.box(0, 0, shape_px[1], shape_px[0])
    return float(shapely.intersection(shapely.Polygon(corners[:, :2]), morphology).area / morphology.area)


def _open_planes(file: Path) -> tuple[PlaneReader, ...]:
    first = PlaneReader(file, 0, _CACHE_BYTES)
    is_byte = first.dtype == np.uint8
    if is_byte and first.n_samples in (3, 4):
        return (first,)
    if is_byte and first.n_samples == 1 and count_pages(file) == 3:
        return (first, PlaneReader(file, 1, _CACHE_BYTES), PlaneReader(file, 2, _CACHE_BYTES))
    first.close()
    raise SpatiaError(
        f"{file}: expected an 8-bit RGB image (H&E), found {first.n_samples} value(s) of {first.dtype} per "
        f"pixel; {RESTORE}"
    )
