"""slide.zarr + QC table -> the pixels of every kept cell at native resolution, 8 bit (docs/outputs.md, crops)."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spatia import keys
from spatia.cells.blocks import Block, count_blocks, walk_blocks
from spatia.cells.cropping import ReadBlock, add_offsets, count_inside, cut_cells, plan_crops, slide_boxes
from spatia.cells.crops import FORMAT, write_crops
from spatia.cells.filters import REASONS
from spatia.cells.grids import kept_in_order
from spatia.cells.scaling import Scaling, scale_by_extremes, scale_by_percentiles
from spatia.config import CropParams, load_params
from spatia.errors import SpatiaError
from spatia.io import read_table, whole_dir
from spatia.progress import progress
from spatia.xenium.store import SlideStore, open_slide

log = logging.getLogger("spatia.crop")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``spatia crop``."""
    parser.add_argument("--slide", required=True, metavar="NAME", help="the slide's name, stored with the crops")
    parser.add_argument("--zarr", required=True, type=Path, metavar="SLIDE.ZARR", help="what ingest wrote")
    parser.add_argument("--cells", required=True, type=Path, metavar="PARQUET", help="the cell table of qc")
    parser.add_argument("--histograms", required=True, type=Path, metavar="NPZ", help="the histograms of qc")
    parser.add_argument("--params", required=True, type=Path, metavar="YAML", help="as config/stages/crop.yaml")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="output: the crops")


def run(args: argparse.Namespace) -> None:
    """Plan every crop, then cut them in one pass over the slide."""
    params = load_params(args.params, CropParams)
    store = open_slide(args.zarr)
    cells = read_kept_cells(args.cells, store)
    scaling = read_scaling(args.histograms, store, params)
    window_px = round(params.window_um / store.pixel_size_um)
    index = plan_index(cells, store, window_px, len(scaling.stains))
    blocks = progress(walk_blocks(store.shape_px), "crop", total=count_blocks(store.shape_px), unit="block")
    luts = scaling.luts(np.dtype(store.image.dtype))
    with whole_dir(args.out) as folder:
        cut = cut_cells(slide_boxes(index), blocks, block_reader(store), luts)
        write_crops(folder, describe(args.slide, store, scaling, window_px, index), index, cut)
    log.info("%s: %d crops of %d stains, %d clipped", args.slide, len(index), len(luts), index["is_clipped"].sum())


def read_kept_cells(path: Path, store: SlideStore) -> pd.DataFrame:
    """Return the kept cells of a QC table in storage order.

    Raises
    ------
    SpatiaError
        If no cell is kept; the message says how many each filter removed.
    """
    if not path.is_file():
        raise SpatiaError(f"{path}: expected the cell table of 'spatia qc', found none")
    cells = read_table(path)
    kept = kept_in_order(cells, store.pixel_size_um, store.shape_px)
    if not len(kept):
        counts = cells[keys.REASON].value_counts()
        removed = ", ".join(f"{counts[reason]} {reason}" for reason in REASONS if reason in counts) or "no cells at all"
        raise SpatiaError(f"{path}: expected at least one kept cell, found none of {len(cells)} ({removed}); relax qc")
    return kept


def read_scaling(path: Path, store: SlideStore, params: CropParams) -> Scaling:
    """Return the 8-bit scaling of the slide's stains, H&E (never scaled) behind them where the slide has it."""
    if not path.is_file():
        raise SpatiaError(f"{path}: expected the histograms of 'spatia qc', found none")
    with np.load(path) as content:
        stains, histograms = tuple(content["stains"].tolist()), content["counts"]
    if stains != store.stains:
        raise SpatiaError(
            f"{path}: expected the stains of {store.path} ({', '.join(store.stains)}), found {', '.join(stains)}; "
            "run 'spatia qc' on this slide again"
        )
    if params.scaling == "minmax":
        scaling = scale_by_extremes(stains, histograms)
    else:
        scaling = scale_by_percentiles(stains, histograms, params.low_percentile, params.high_percentile)
    return scaling if store.he is None else scaling.with_he()


def plan_index(cells: pd.DataFrame, store: SlideStore, window_px: int, n_stains: int) -> pd.DataFrame:
    """Return ``index.parquet`` before a pixel is cut; only the masks of clipped cells are looked at."""
    plan = plan_crops(cells, window_px)
    is_clipped = plan["is_clipped"].to_numpy()
    plan.loc[is_clipped, "n_pixels"] = count_inside(store.cell_labels, plan[is_clipped])
    return add_offsets(plan, n_stains)


def block_reader(store: SlideStore) -> ReadBlock:
    """Return how a block's labels and stains (with H&E where present) are read."""

    def read(block: Block) -> tuple[NDArray, list[NDArray]]:
        area = (slice(None), *block.slices)
        stains = list(np.asarray(store.image[area]))
        if store.he is not None:
            stains += list(np.asarray(store.he[area]))
        return np.asarray(store.cell_labels[block.slices]), stains

    return read


def describe(slide: str, store: SlideStore, scaling: Scaling, window_px: int, index: pd.DataFrame) -> dict[str, Any]:
    """Return ``crops.json``."""
    return {
        "format": FORMAT,
        "slide": slide,
        "stains": list(scaling.stains),
        "window_px": window_px,
        "pixel_size_um": store.pixel_size_um,
        "scaling": scaling.to_dict(),
        "n_cells": len(index),
        "n_clipped": int(index["is_clipped"].sum()),
    }
