"""Read what ``spatia embed`` wrote about one slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spatia import keys
from spatia.errors import SpatiaError
from spatia.io import read_json, read_table

FUSED, IMAGE, GENES = "fused", "image", "genes"
CLUSTER = "cluster"
VECTOR_FILES = {FUSED: "z.npy", IMAGE: "z_image.npy", GENES: "z_genes.npy"}
RECONSTRUCTIONS = "reconstructions.npz"


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of a slide.

    Attributes
    ----------
    record : content of ``embed.json``
    cells : one row per crop, in the crops' order, with ``cell_id``, ``x_um``, ``y_um`` and ``cluster``
    vectors : per variant the final embeddings (n, width), on disk; ``fused`` is always there
    """

    record: dict[str, Any]
    cells: pd.DataFrame
    vectors: dict[str, np.ndarray]

    @property
    def clusters(self) -> np.ndarray:
        """The cluster of every cell."""
        return self.cells[CLUSTER].to_numpy(np.int64)


def open_embeddings(folder: Path) -> Embeddings:
    """Open the embeddings of a slide.

    Raises
    ------
    SpatiaError
        If the files do not agree about how many cells there are.
    """
    record = read_json(folder / "embed.json")
    cells = read_table(folder / "cells.parquet")
    if keys.CELL_ID not in cells:
        cells = cells.reset_index()
    vectors = {
        variant: np.load(folder / name, mmap_mode="r")
        for variant, name in VECTOR_FILES.items()
        if variant == FUSED or variant in record["variants"]
    }
    expected = record["n_cells"], record["width"]
    if len(cells) != expected[0]:
        raise SpatiaError(f"{folder}: expected {expected[0]} cells, found {len(cells)}; run 'spatia embed' again")
    for variant, values in vectors.items():
        if values.shape != expected:
            where = folder / VECTOR_FILES[variant]
            raise SpatiaError(f"{where}: expected shape {expected}, found {values.shape}; run 'spatia embed' again")
    return Embeddings(record, cells, vectors)


@dataclass(frozen=True)
class Reconstructions:
    """Cells that the model completed, all (k, c, y, x) uint8.

    Attributes
    ----------
    cell_ids : (k,) text
    original : the crops
    masked : 0 where the model saw nothing
    reconstructed : what was hidden, filled in by the model
    stains : c names
    """

    cell_ids: list[str]
    original: np.ndarray
    masked: np.ndarray
    reconstructed: np.ndarray
    stains: tuple[str, ...]


def read_reconstructions(path: Path) -> Reconstructions:
    """Return the cells in ``reconstructions.npz``."""
    with np.load(path) as stored:
        return Reconstructions(
            cell_ids=stored["cell_id"].astype(str).tolist(),
            original=stored["original"],
            masked=stored["masked"],
            reconstructed=stored["reconstructed"],
            stains=tuple(stored["stains"].astype(str).tolist()),
        )
