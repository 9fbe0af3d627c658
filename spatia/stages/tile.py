"""slide.zarr + QC table -> niche and tissue of every kept cell, counts per cell, niche and tissue.

Images of niches and tissues are not copied: a chunk of slide.zarr is a tissue window
(:func:`spatia.cells.grids.read_tile`).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from spatia import keys
from spatia.cells.grids import place_cells
from spatia.cells.neighbourhoods import Neighbourhoods, find_neighbourhoods, sum_counts, tidy_counts
from spatia.config import TileParams, load_params
from spatia.errors import SpatiaError
from spatia.io import whole_dir, write_json, write_sparse, write_table
from spatia.stages.crop import read_kept_cells
from spatia.xenium.store import SlideStore, open_slide

FORMAT = 1

log = logging.getLogger("spatia.tile")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``spatia tile``."""
    parser.add_argument("--slide", required=True, metavar="NAME", help="the slide's name, stored with the tiles")
    parser.add_argument("--zarr", required=True, type=Path, metavar="SLIDE.ZARR", help="what ingest wrote")
    parser.add_argument("--cells", required=True, type=Path, metavar="PARQUET", help="the cell table of qc")
    parser.add_argument("--params", required=True, type=Path, metavar="YAML", help="as config/stages/tile.yaml")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="output: the tables")


def run(args: argparse.Namespace) -> None:
    """Place the kept cells, in the crops' order, on both grids; sum their counts."""
    params = load_params(args.params, TileParams)
    store = open_slide(args.zarr)
    cell_ids, cells = read_kept_cells(args.cells, store, (keys.X_UM, keys.Y_UM))
    counts = read_counts_of(store, cell_ids.to_pylist())
    x_px, y_px = (cells[name] / store.pixel_size_um for name in (keys.X_UM, keys.Y_UM))
    places = place_cells(x_px, y_px, store.shape_px, params.niche_px, params.niches_per_tissue)
    found = find_neighbourhoods(places, params.niche_px, params.niches_per_tissue)
    with whole_dir(args.out) as folder:
        write_tiles(folder, {keys.CELL_ID: cell_ids.to_pylist(), **cells}, counts, found)
        write_table(folder / "genes.parquet", store.genes)
        write_json(folder / "tiles.json", describe(args.slide, store, params, counts, found))
    log.info(
        "%s: %d cells in %d niches, %d tissues", args.slide, counts.shape[0], len(found.niches), len(found.tissues)
    )


def read_counts_of(store: SlideStore, cell_ids: list[str]) -> sparse.csr_matrix:
    """Return the counts of cells, joined by ``cell_id``, in the order of ``cell_ids``."""
    rows = store.read_cells().index.get_indexer(pd.Index(cell_ids))
    if (rows < 0).any():
        missing = cell_ids[int(np.argmin(rows))]
        raise SpatiaError(f"{store.path}: expected every cell of the QC table, {missing} is missing; run 'spatia qc'")
    return tidy_counts(store.read_counts()[rows])


def write_tiles(folder: Path, cells: dict[str, Any], counts: sparse.csr_matrix, found: Neighbourhoods) -> None:
    """Write the tables of cells, niches and tissues and the three count matrices."""
    places = {
        keys.CELL_ID: cells[keys.CELL_ID],
        keys.NICHE: found.niche_of_cell,
        keys.TISSUE: found.tissue_of_cell,
        keys.X_UM: cells[keys.X_UM],
        keys.Y_UM: cells[keys.Y_UM],
    }
    write_table(folder / "cells.parquet", pd.DataFrame(places))
    write_sparse(folder / "cell_counts.npz", counts)
    groups = ((keys.NICHE, found.niche_of_cell, found.niches), (keys.TISSUE, found.tissue_of_cell, found.tissues))
    for name, group, table in groups:
        summed = sum_counts(counts, group, len(table))
        n_counts = np.asarray(summed.sum(axis=1)).ravel().astype(np.int64)
        write_table(folder / f"{name}s.parquet", table.assign(n_counts=n_counts))
        write_sparse(folder / f"{name}_counts.npz", summed)


def describe(
    slide: str, store: SlideStore, params: TileParams, counts: sparse.csr_matrix, found: Neighbourhoods
) -> dict[str, Any]:
    """Return ``tiles.json``."""
    height, width = store.shape_px
    return {
        "format": FORMAT,
        "slide": slide,
        "niche_px": params.niche_px,
        "niches_per_tissue": params.niches_per_tissue,
        "pixel_size_um": store.pixel_size_um,
        "height_px": height,
        "width_px": width,
        "n_cells": counts.shape[0],
        "n_genes": counts.shape[1],
        "n_niches": len(found.niches),
        "n_tissues": len(found.tissues),
    }
