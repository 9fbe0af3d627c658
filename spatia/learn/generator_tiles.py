"""Niche tiles as a generator reads them: the tile in which a cell lies, by cell id (A12: the second target)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from spatia import keys
from spatia.cells.crops import open_crops
from spatia.cells.frames import shrink, shrink_weights
from spatia.cells.grids import inside_slide
from spatia.errors import SpatiaError
from spatia.io import read_json, read_table
from spatia.learn.generator_cells import CellBlock, ContextReader, places_of_stains
from spatia.learn.windows import ChunkCache, WindowPlaces, open_image, read_windows
from spatia.transitions.canvas import to_canvas

CACHE_BYTES = 1 << 28


class TileReader:
    """Reads niche tiles of one slide; what a cell's own crop is for cells, the tile around it is here.

    Parameters
    ----------
    name, crops, tiles, zarr
        The slide, and what ``crop``, ``tile`` and ``ingest`` wrote; the crops say how stains become 8 bit.
    context
        Reads the embeddings of the cells.
    stains, image_px
        Which channels, in which order, and the side of the images.

    Raises
    ------
    SpatiaError
        If the slide lacks a stain.
    """

    def __init__(
        self, name: str, crops: Path, tiles: Path, zarr: Path, context: ContextReader, stains: Sequence[str],
        image_px: int,
    ) -> None:  # fmt: skip
        self.name, self.image_px, self.context = name, image_px, context
        self.dapi: int | None = None  # a tile has many nuclei
        opened = open_crops(crops)
        self.niche_px = int(read_json(tiles / "tiles.json")["niche_px"])
        if image_px > self.niche_px:
            raise SpatiaError(
                f"slide {name}: expected image_px of {self.niche_px} or less, a niche's, found {image_px}"
            )
        channels = places_of_stains(name, opened, stains)
        self._stain_place = np.full(len(opened.stains), -1, np.int64)
        self._stain_place[channels] = np.arange(len(channels))
        # the pyramid level whose tile is the smallest that is still large enough
        self._level = int(np.log2(self.niche_px // image_px))
        self._weights = shrink_weights(self.niche_px >> self._level, image_px)
        self._full_weights = shrink_weights(self.niche_px, image_px)
        self._cache = ChunkCache(lambda slide, level: open_image(zarr, name, opened.scaling, level), CACHE_BYTES)
        self._shape_px = open_image(zarr, name, opened.scaling, 0).store.shape_px
        self._pixel_um = float(opened.header["pixel_size_um"])
        places = read_table(tiles / "cells.parquet")
        self._niche_of = pd.Series(places[keys.NICHE].to_numpy(np.int64), index=places[keys.CELL_ID].astype(str))
        niches = read_table(tiles / "niches.parquet")
        self._y0, self._x0 = niches["y0"].to_numpy(np.int64), niches["x0"].to_numpy(np.int64)

    @property
    def window_um(self) -> float:
        """Side of an image."""
        return self.niche_px * self._pixel_um

    @property
    def pixel_size_um(self) -> float:
        """Side of a pixel of the images."""
        return self.window_um / self.image_px

    def niche_of(self, cell_ids: Sequence[str]) -> np.ndarray:
        """Return the niche of each cell."""
        missing = [cell_id for cell_id in cell_ids if cell_id not in self._niche_of.index]
        if missing:
            raise SpatiaError(f"slide {self.name}: expected a niche of cell {missing[0]!r}, found none; tile again")
        return self._niche_of.loc[list(cell_ids)].to_numpy()

    def read(self, cell_ids: Sequence[str]) -> CellBlock:
        """Return the tiles of cells in the order asked for; the outline is the part that lies on the slide."""
        if not len(cell_ids):  # a slide without pairs
            canvas = torch.empty(0, int((self._stain_place >= 0).sum()) + 1, self.image_px, self.image_px)
            return CellBlock(canvas, self.context.read(cell_ids), np.empty((0, 2)))
        niche = self.niche_of(cell_ids)
        places = WindowPlaces(0, self._stain_place, self._y0[niche], self._x0[niche])
        n_stains = int((self._stain_place >= 0).sum())
        windows = read_windows(self._cache, self._level, [places], n_stains, self.niche_px).numpy()
        frames = np.stack([shrink(window, self._weights) for window in windows])
        coverage = np.stack([self._coverage(y0, x0) for y0, x0 in zip(places.y0, places.x0, strict=True)])
        place_um = np.stack([places.y0, places.x0], axis=1).astype(np.float64) * self._pixel_um
        return CellBlock(to_canvas(frames, coverage), self.context.read(cell_ids), place_um)

    def _coverage(self, y0: int, x0: int) -> np.ndarray:
        inside = inside_slide(int(y0), int(x0), self.niche_px, self._shape_px)
        return shrink(255 * inside[None].astype(np.uint8), self._full_weights)[0]
