"""What ``spatia generate`` wrote, and the real frames that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spatia import keys
from spatia.cells.crops import Crops
from spatia.cells.frames import shrunk_frames
from spatia.errors import SpatiaError
from spatia.io import read_json, read_table

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
TRAJECTORIES = "trajectories.npz"
CELL_COLUMNS = ("row", keys.CELL_ID, "transition_tag", "method")


def judged_plans(folder: Path) -> pd.DataFrame:
    """Return the rows of ``plans.tsv``, as text, of which generated cells are judged: a test block's, else all.

    A training slide with a test block (``test_share``) has plans of both sides, and its generator learned from one.
    """
    plans = read_table(folder / "plans.tsv").fillna("").astype(str)
    is_test = plans["split"] == "test"
    return plans[is_test] if is_test.any() else plans


def judged_pairs(folder: Path) -> pd.DataFrame:
    """Return the pairs of a slide with which generated cells are compared: those of its judged plans."""
    pairs = read_table(folder / "pairs.parquet")
    return pairs[pairs["split"].isin(judged_plans(folder)["split"])]


@dataclass(frozen=True)
class Generated:
    """Generated images of one slide.

    Attributes
    ----------
    path
        Their folder.
    header
        ``generate.json``.
    cells
        ``row`` (of ``images``), ``cell_id``, ``transition_tag``, ``method``.
    images
        (n, c, p, p) uint8, memory-mapped.
    """

    path: Path
    header: dict[str, Any]
    cells: pd.DataFrame
    images: NDArray[np.uint8]

    @property
    def stains(self) -> tuple[str, ...]:
        """Names of the stains, in the order of the images."""
        return tuple(self.header["stains"])

    @property
    def image_px(self) -> int:
        """Side of an image."""
        return int(self.header["image_px"])

    @property
    def pixel_size_um(self) -> float:
        """Side of a pixel."""
        return float(self.header["pixel_size_um"])


def open_generated(path: Path | str) -> Generated:
    """Open a folder of generated images.

    Raises
    ------
    SpatiaError
        If a file is missing, of another format, or does not fit the others.
    """
    path = Path(path)
    header = read_json(path / "generate.json")
    if header.get("format") != FORMAT:
        found = header.get("format")
        raise SpatiaError(f"{path / 'generate.json'}: expected format {FORMAT}, found {found!r}; generate again")
    cells = read_table(path / "cells.parquet")
    missing = [name for name in CELL_COLUMNS if name not in cells]
    if missing:
        raise SpatiaError(f"{path / 'cells.parquet'}: expected the column {missing[0]!r}, found none; generate again")
    images = np.load(path / "images.npy", mmap_mode="r")
    expected = (len(cells), len(header["stains"]), header["image_px"], header["image_px"])
    if images.shape != expected or images.dtype != np.uint8:
        raise SpatiaError(
            f"{path / 'images.npy'}: expected uint8 images of shape {expected} as in cells.parquet and generate.json, "
            f"found {images.dtype} {images.shape}; generate again"
        )
    return Generated(path, header, cells, images)


def real_frames(
    crops: Crops, cell_ids: Sequence[str], stains: Sequence[str], image_px: int, where: str
) -> NDArray[np.uint8]:
    """Return crops of cells (n, c, image_px, image_px) in the order and with the stains asked for; absent stains are 0.

    Raises
    ------
    SpatiaError
        If a cell has no crop, or no stain is there.
    """
    rows = crops.index.reset_index().set_index(keys.CELL_ID)["index"].reindex(list(cell_ids))
    if rows.isna().any():
        lost = rows.index[rows.isna()][0]
        raise SpatiaError(f"{where}: cell {lost!r} has no crop on slide {crops.slide}; run the stages of one run again")
    if not set(stains) & set(crops.stains):
        raise SpatiaError(
            f"{where}: expected a stain of slide {crops.slide} ({', '.join(crops.stains)}), found {', '.join(stains)}"
        )
    frames = shrunk_frames(crops, rows.astype(int), image_px)
    found = np.zeros((len(frames), len(stains), image_px, image_px), np.uint8)
    for place, stain in enumerate(stains):
        if stain in crops.stains:
            found[:, place] = frames[:, crops.stains.index(stain)]
    return found
