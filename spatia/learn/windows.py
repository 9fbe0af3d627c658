"""Unmasked windows of a slide (niche tiles, tissue tiles, surroundings of cells) through a cache of decoded chunks.

A chunk of ``slide.zarr`` is one tissue window. Decoding it costs far more than copying from it, and the niches of a
shuffle window lie in few chunks, so chunks are kept, already 8 bit, until ``max_bytes`` is reached.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spatia import keys
from spatia.cells.grids import read_tile
from spatia.cells.scaling import HE_STAINS, Scaling
from spatia.errors import SpatiaError
from spatia.xenium.store import SlideStore, open_slide


@dataclass(frozen=True)
class SlideImage:
    """One level of a slide's images and the tables that make them 8 bit."""

    store: SlideStore  # its ``image``, ``he`` and ``shape_px`` are those of the level
    luts: tuple[NDArray[np.uint8], ...]  # per stain of the crops, in their order
    level: int = 0


def open_image(path: Path | None, name: str, scaling: Scaling, level: int) -> SlideImage:
    """Open level ``level`` (0 = full resolution, each next one half the side) of a slide's images, or its last one.

    Raises
    ------
    SpatiaError
        If there is no such slide, or its stains are not those of the crops.
    """
    if path is None:
        raise SpatiaError(f"slide {name}: tiles and context need slide.zarr, found none; give SlideFiles.image")
    store = open_slide(path)
    found = store.stains + (HE_STAINS if store.he is not None else ())
    if found[: len(scaling.stains)] != scaling.stains:
        raise SpatiaError(f"{path}: expected the stains of the crops, {scaling.stains}, found {found}; crop again")
    level = min(level, len(store.image_levels) - 1)
    image = store.image_levels[level]
    he = store.he_levels[level] if store.he is not None else None
    at_level = dataclasses.replace(store, image=image, he=he, shape_px=(image.shape[1], image.shape[2]))
    return SlideImage(at_level, tuple(scaling.luts(np.dtype(image.dtype))), level)


@dataclass(frozen=True)
class WindowPlaces:
    """Windows of one slide."""

    slide: int
    stain_place: NDArray[np.int64]  # channel of the batch for each stain of the slide, -1 = none
    y0: NDArray[np.int64]  # (windows,) top left, px at full resolution
    x0: NDArray[np.int64]


class ChunkCache:
    """Decoded chunks, the least recently used go first.

    Parameters
    ----------
    open_slide_image
        ``(slide, level) -> SlideImage``; called once for each.
    max_bytes
        Upper bound of the memory, apart from the one chunk in use.
    """

    def __init__(self, open_slide_image: Callable[[int, int], SlideImage], max_bytes: int) -> None:
        self._open = open_slide_image
        self._max_bytes = max_bytes
        self._images: dict[tuple[int, int], SlideImage] = {}
        self._chunks: OrderedDict[tuple[int, int, int, int], NDArray[np.uint8]] = OrderedDict()
        self._n_bytes = 0
        self.n_decoded = 0

    def read(self, slide: int, level: int, y0: int, x0: int, size: int) -> NDArray[np.uint8]:
        """Return the square ``(stains, size, size)`` with its top left at (``y0``, ``x0``), 0 beyond the slide."""
        image = self._image(slide, level)
        height, width = image.store.shape_px
        window = np.zeros((len(image.luts), size, size), np.uint8)
        chunk_px = keys.CHUNK_PX
        for row in range(max(y0, 0) // chunk_px, -(-min(y0 + size, height) // chunk_px)):
            for column in range(max(x0, 0) // chunk_px, -(-min(x0 + size, width) // chunk_px)):
                top, left = row * chunk_px, column * chunk_px
                y, y_end = max(y0, top), min(y0 + size, top + chunk_px)
                x, x_end = max(x0, left), min(x0 + size, left + chunk_px)
                chunk = self._chunk(slide, level, row, column)
                part = chunk[:, y - top : y_end - top, x - left : x_end - left]
                window[:, y - y0 : y_end - y0, x - x0 : x_end - x0] = part
        return window

    def stored_level(self, slide: int, level: int) -> int:
        """Return the level that is read for ``level``: small slides have few."""
        return self._image(slide, level).level

    def _image(self, slide: int, level: int) -> SlideImage:
        if (slide, level) not in self._images:
            self._images[slide, level] = self._open(slide, level)
        return self._images[slide, level]

    def _chunk(self, slide: int, level: int, row: int, column: int) -> NDArray[np.uint8]:
        key = (slide, level, row, column)
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return self._chunks[key]
        image = self._image(slide, level)
        chunk_px = keys.CHUNK_PX
        chunk = read_tile(image.store, image.luts, row * chunk_px, column * chunk_px, chunk_px)
        self.n_decoded += 1
        self._chunks[key] = chunk
        self._n_bytes += chunk.nbytes
        while self._n_bytes > self._max_bytes and len(self._chunks) > 1:
            self._n_bytes -= self._chunks.popitem(last=False)[1].nbytes
        return chunk


def read_windows(
    cache: ChunkCache, level: int, places: Sequence[WindowPlaces], n_stains: int, size: int
) -> torch.Tensor:
    """Return windows of ``size`` px at full resolution, read at ``level``, as (n, n_stains, side, side) uint8."""
    side = size >> level
    windows = torch.zeros(sum(len(place.y0) for place in places), n_stains, side, side, dtype=torch.uint8)
    target = iter(windows.numpy())
    for place in places:
        is_wanted = place.stain_place >= 0
        stored = cache.stored_level(place.slide, level)
        for y0, x0 in zip(place.y0.tolist(), place.x0.tolist(), strict=True):
            window = cache.read(place.slide, stored, y0 >> stored, x0 >> stored, size >> stored)
            next(target)[place.stain_place[is_wanted]] = _shrink(window[is_wanted], level - stored)
    return windows


def _shrink(window: NDArray[np.uint8], halvings: int) -> NDArray[np.uint8]:
    """Return (c, y, x) averaged over squares of 2 ** ``halvings`` pixels, rounded."""
    if not halvings:
        return window
    c, height, width = window.shape
    step = 1 << halvings
    squares = window.reshape(c, height // step, step, width // step, step)
    return np.rint(squares.mean((2, 4))).astype(np.uint8)
