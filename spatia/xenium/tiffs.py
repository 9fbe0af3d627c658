"""Windows of TIFF planes: only the tiles that a window touches are read and decoded.

``tifffile.imread`` and the readers built on it (``dask_image`` and so ``spatialdata_io``) decode a whole plane at
once: 5 GB for a full slide. Here memory is one window, whatever the slide's area.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tifffile

from spatia.errors import SpatiaError

# what it logs about broken files is said once, by the error that follows
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

RESTORE = "copy the file again from the instrument or the download"


class PlaneReader:
    """One plane (page) of a TIFF file, read window by window.

    Attributes
    ----------
    file : the TIFF
    shape : (height, width) in pixels
    n_samples : values per pixel: 1 for a stain, 3 or 4 for a colour image
    dtype : of a value
    tile : (height, width) of the file's tiles; a strip counts as a tile of full width
    """

    def __init__(self, file: Path, page: int = 0, cache_bytes: int = 0) -> None:
        self.file = Path(file)
        self._tiff, self._page = _open_page(self.file, page)
        keyframe = self._page.keyframe
        self.shape = (int(keyframe.imagelength), int(keyframe.imagewidth))
        self.n_samples = int(keyframe.samplesperpixel)
        self.dtype = np.dtype(keyframe.dtype)
        self._is_planar = self.n_samples > 1 and keyframe.planarconfig == 2
        self.tile = _tile_shape(keyframe, self.shape)
        self._decode = keyframe.decode
        self._handle = os.open(self.file, os.O_RDONLY)
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return the window as (h, w), or (h, w, samples) where a pixel has several. Threads may call this."""
        window = np.zeros((y1 - y0, x1 - x0, self.n_samples), self.dtype)
        rows, columns = self.tile
        for row in range(y0 // rows, math.ceil(y1 / rows)):
            for column in range(x0 // columns, math.ceil(x1 / columns)):
                self._paste(window, y0, x0, row, column)
        return window[..., 0] if self.n_samples == 1 else window

    def segments(self) -> list[tuple[int, int]]:
        """Return (offset, bytes) of every tile as the file's own directory lists them."""
        return list(zip(self._page.dataoffsets, self._page.databytecounts, strict=True))

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
        self._tiff.close()

    def __enter__(self) -> PlaneReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _paste(self, window: np.ndarray, y0: int, x0: int, row: int, column: int) -> None:
        rows, columns = self.tile
        per_row, per_column = math.ceil(self.shape[1] / columns), math.ceil(self.shape[0] / rows)
        for sample in range(self.n_samples if self._is_planar else 1):
            tile = self._tile(sample * per_row * per_column + row * per_row + column)
            top, left = row * rows, column * columns
            y, x = max(y0, top), max(x0, left)
            y_end = min(y0 + window.shape[0], top + tile.shape[0])
            x_end = min(x0 + window.shape[1], left + tile.shape[1])
            target = slice(sample, sample + 1) if self._is_planar else slice(None)
            part = tile[y - top : y_end - top, x - left : x_end - left]
            window[y - y0 : y_end - y0, x - x0 : x_end - x0, target] = part

    def _tile(self, index: int) -> np.ndarray:
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        tile = self._decode_tile(index)
        if self._cache_bytes:
            with self._lock:
                self._cache[index] = tile
                while sum(t.nbytes for t in self._cache.values()) > self._cache_bytes:
                    self._cache.popitem(last=False)
        return tile

    def _decode_tile(self, index: int) -> np.ndarray:
        offset, count = self._page.dataoffsets[index], self._page.databytecounts[index]
        data = os.pread(self._handle, count, offset) if count else None
        if data is not None and len(data) < count:
            size = os.fstat(self._handle).st_size
            raise SpatiaError(
                f"{self.file}: expected {count} bytes at offset {offset}, found the end of the file at {size}: "
                f"it is truncated; {RESTORE}"
            )
        try:
            segment, _, shape = self._decode(data, index)
        except Exception as problem:  # codecs raise whatever they like on bad bytes; the line must name the file
            raise SpatiaError(
                f"{self.file}: expected an image, found bytes in tile {index} that are none "
                f"({type(problem).__name__}: {problem}); {RESTORE}"
            ) from None
        if segment is None:  # a sparse tile: nothing stored means background
            return np.zeros((shape[1], shape[2], 1 if self._is_planar else self.n_samples), self.dtype)
        return np.asarray(segment)[0, : shape[1], : shape[2]]


def _open_page(file: Path, page: int) -> tuple[tifffile.TiffFile, Any]:
    try:
        tiff = tifffile.TiffFile(file)
    except FileNotFoundError:
        raise SpatiaError(f"{file}: expected a TIFF image, found none; {RESTORE}") from None
    except Exception as problem:  # tifffile raises struct, value, key ... errors on garbage
        raise SpatiaError(f"{file}: expected a TIFF image, found something else ({problem}); {RESTORE}") from None
    try:
        found: Any = tiff.pages[page]
        found.keyframe.decode  # noqa: B018  built once here, so that threads share it
    except Exception as problem:
        tiff.close()
        raise SpatiaError(
            f"{file}: expected a TIFF with at least {page + 1} page(s), found a broken one ({problem}); {RESTORE}"
        ) from None
    return tiff, found


def _tile_shape(keyframe: Any, shape: tuple[int, int]) -> tuple[int, int]:
    if keyframe.is_tiled:
        return int(keyframe.tilelength), int(keyframe.tilewidth)
    return min(int(keyframe.rowsperstrip), shape[0]), shape[1]
