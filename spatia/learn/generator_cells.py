"""Cells of a slide as a generator reads them: shrunk frames, outlines, frozen embeddings; by cell id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from spatia import keys
from spatia.cells.crops import Crops, open_crops
from spatia.cells.frames import shrink, shrink_weights
from spatia.cells.scaling import HE_STAINS
from spatia.errors import SpatiaError
from spatia.io import read_json, read_table
from spatia.measure.segment import find_nucleus
from spatia.transitions.canvas import to_canvas, turn_by

ContextKind = Literal["full", "cell", "none"]
# arrays of the embeddings folder; those in PER_NICHE have a row per niche, the others per cell
CONTEXT_ARRAYS: dict[str, tuple[str, ...]] = {"full": ("z", "z_niche", "z_tissue"), "cell": ("z_cell",), "none": ()}
PER_NICHE = ("z_niche", "z_tissue")


@dataclass(frozen=True)
class CellBlock:
    """Some cells: canvases (n, channels, side, side) in [-1, 1], contexts (n, w), where they lie (n, 2: y, x) in um."""

    canvas: Tensor
    context: Tensor
    place_um: NDArray[np.float64]


class Reader(Protocol):
    """What reads the images and contexts of cells: crops, or the niche tiles around them."""

    name: str
    image_px: int
    dapi: int | None  # the stain whose nucleus has an outline in canvases

    @property
    def window_um(self) -> float:
        """Side of an image."""

    @property
    def pixel_size_um(self) -> float:
        """Side of a pixel of the images."""

    def read(self, cell_ids: Sequence[str]) -> CellBlock:
        """Return cells in the order asked for."""


class ContextReader:
    """Reads frozen embeddings of one slide's cells.

    Parameters
    ----------
    name, embeddings
        The slide, and what ``embed`` wrote; may be None where ``arrays`` is empty.
    arrays
        Which make a context, side by side.

    Raises
    ------
    SpatiaError
        If one of them is missing.
    """

    def __init__(self, name: str, embeddings: Path | None, arrays: Sequence[str]) -> None:
        self.name = name
        self._values = {array: _map_array(name, embeddings, array) for array in arrays}
        self._niche = pd.Series(dtype=np.int64)
        if arrays and embeddings is not None:
            places = read_table(embeddings / "cells.parquet")
            self._niche = pd.Series(places[keys.NICHE].to_numpy(np.int64), index=places[keys.CELL_ID].astype(str))

    def read(self, cell_ids: Sequence[str]) -> Tensor:
        """Return (n, w); w is 0 without any array."""
        if not self._values:
            return torch.zeros(len(cell_ids), 0)
        row = _rows_of(self.name, self._niche.index, cell_ids, "an embedding")
        niche = self._niche.to_numpy()[row]
        parts = [values[niche if array in PER_NICHE else row] for array, values in self._values.items()]
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))


class CellReader:
    """Reads crops of one slide's cells.

    Parameters
    ----------
    name, crops
        The slide, and what ``crop`` wrote.
    context
        Reads the embeddings of the cells.
    stains, image_px
        Which channels, in which order, and the side of the images.
    nucleus_outline
        Whether canvases hold the nucleus' outline, where there is DAPI.

    Raises
    ------
    SpatiaError
        If the slide lacks a stain.
    """

    def __init__(
        self, name: str, crops: Path, context: ContextReader, stains: Sequence[str], image_px: int,
        nucleus_outline: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.image_px, self.context = name, image_px, context
        self.dapi = dapi_of(stains, nucleus_outline)
        self.crops = open_crops(crops)
        self.channels = places_of_stains(name, self.crops, stains)
        if image_px > self.crops.window_px:
            raise SpatiaError(
                f"slide {name}: expected image_px of {self.crops.window_px} or less, the crops' own, found {image_px}"
            )
        self._weights = shrink_weights(self.crops.window_px, image_px)
        self._row = pd.Index(self.crops.index[keys.CELL_ID].astype(str))

    @property
    def window_um(self) -> float:
        """Side of an image."""
        return float(self.crops.header["pixel_size_um"]) * self.crops.window_px

    @property
    def pixel_size_um(self) -> float:
        """Side of a pixel of the shrunk images."""
        return self.window_um / self.image_px

    def read(self, cell_ids: Sequence[str], angles: NDArray[np.floating] | None = None) -> CellBlock:
        """Return cells in the order asked for, each turned by its angle (n,) in radians, from x towards y.

        Raises
        ------
        SpatiaError
            If the slide has no such cell.
        """
        rows = _rows_of(self.name, self._row, cell_ids, "a crop")
        frames = np.empty((len(rows), len(self.channels), self.image_px, self.image_px), np.uint8)
        coverage = np.empty((len(rows), self.image_px, self.image_px), np.uint8)
        for place, row in enumerate(rows.tolist()):
            frame, mask = self.crops.frame(row)[self.channels], self.crops.mask(row)
            if angles is not None:
                frame, mask = turn_cell(frame, mask, float(angles[place]))
            frames[place] = shrink(frame, self._weights)
            coverage[place] = shrink(255 * mask[None].astype(np.uint8), self._weights)[0]
        corners = self.crops.index[["y0", "x0"]].to_numpy(np.float64)[rows]
        place_um = corners * float(self.crops.header["pixel_size_um"])
        nucleus = None if self.dapi is None else nuclei_of(frames[:, self.dapi], coverage)
        return CellBlock(to_canvas(frames, coverage, self.dapi, nucleus), self.context.read(cell_ids), place_um)


def _rows_of(name: str, index: pd.Index, cell_ids: Sequence[str], what: str) -> NDArray[np.int64]:
    rows = index.get_indexer(pd.Index(cell_ids))
    if (rows < 0).any():
        missing = cell_ids[int(np.flatnonzero(rows < 0)[0])]
        raise SpatiaError(
            f"slide {name}: expected {what} of cell {missing!r}, found none; states, pairs, crops and embeddings are "
            "of different runs, make them anew"
        )
    return rows.astype(np.int64)


def turn_cell(
    frame: NDArray[np.uint8], mask: NDArray[np.bool_], angle: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the crop (c, y, x) and mask (y, x) of a cell, turned around the middle of the window from x towards y.

    Every pixel is that of the crop which lies nearest: anything smoother would take away the noise that real images
    have. At the crops' own resolution this moves nothing by more than half a pixel.
    """
    planes = torch.from_numpy(np.concatenate([frame * mask, mask[None]]).astype(np.float32))[None]
    turned = turn_by(planes, torch.tensor([angle]), "nearest", "zeros")[0].numpy().astype(np.uint8)
    return turned[:-1], turned[-1] > 0


def dapi_of(stains: Sequence[str], nucleus_outline: bool) -> int | None:
    """Return the stain whose nucleus has an outline in canvases, if any."""
    return list(stains).index(keys.DAPI) if nucleus_outline and keys.DAPI in stains else None


def nuclei_of(dapi: NDArray[np.uint8], coverage: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the nuclei (n, y, x) that cells show in DAPI, found as when features are measured."""
    is_cell = coverage >= np.uint8(128)
    found = [find_nucleus(d.astype(np.float32), c) if c.any() else c for d, c in zip(dapi, is_cell, strict=True)]
    return np.array(found, np.bool_).reshape(coverage.shape)


def places_of_stains(name: str, crops: Crops, stains: Sequence[str]) -> list[int]:
    """Return the channels of ``stains`` in the crops.

    Raises
    ------
    SpatiaError
        If the slide lacks one.
    """
    missing = [stain for stain in stains if stain not in crops.stains]
    if missing:
        raise SpatiaError(
            f"slide {name} lacks the stain {missing[0]!r} of the generator (it has {', '.join(crops.stains)}; the "
            f"generator makes {', '.join(stains)}); train one with flow's stains set to what this slide has"
        )
    return [crops.stains.index(stain) for stain in stains]


def shared_stains(slides: dict[str, Path], wanted: str | Sequence[str]) -> tuple[str, ...]:
    """Return the stains of a generator for these slides (name -> crops folder).

    ``microscope``: all stains but H&E that every slide has, in the first slide's order; ``all``: H&E too; or names.

    Raises
    ------
    SpatiaError
        If no stain is shared.
    """
    if not isinstance(wanted, str):
        return tuple(wanted)
    known = {name: open_crops(path).stains for name, path in slides.items()}
    first = next(iter(known.values()))
    found = tuple(s for s in first if all(s in stains for stains in known.values()))
    found = found if wanted == "all" else tuple(s for s in found if s not in HE_STAINS)
    if not found:
        text = "; ".join(f"{name}: {', '.join(stains)}" for name, stains in known.items())
        raise SpatiaError(f"flow: expected a stain that all training slides have, found {text}; set stains")
    return found


def _map_array(name: str, embeddings: Path | None, array: str) -> NDArray[np.float32]:
    if embeddings is None or not (embeddings / f"{array}.npy").is_file():
        levels = read_json(embeddings / "embed.json").get("levels") if embeddings is not None else None
        raise SpatiaError(
            f"slide {name}: expected the embedding {array!r} in {embeddings}, found none (levels: {levels}); embed "
            "with a model of all levels, or train the generator with context: cell or none"
        )
    return np.load(embeddings / f"{array}.npy", mmap_mode="r")
