"""slide.zarr + QC table -> the pixels of every kept cell at native resolution, 8 bit (docs/outputs.md, crops)."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from spatia import keys
from spatia.cells.blocks import Block, count_blocks, walk_blocks
from spatia.cells.cropping import (
    MASK_BOX_COLUMNS,
    N_MASK_PX,
    N_WINDOW_PX,
    WINDOW_PX,
    ReadBlock,
    add_offsets,
    count_pixels,
    cut_cells,
    plan_crops,
    slide_boxes,
)
from spatia.cells.crops import FORMAT, write_crops
from spatia.cells.filters import REASONS
from spatia.cells.grids import storage_order
from spatia.cells.scaling import Scaling, scale_by_extremes, scale_by_percentiles
from spatia.columns import read_columns, read_text, take
from spatia.config import CropParams, load_params
from spatia.errors import SpatiaError
from spatia.io import whole_dir
from spatia.machine import available_cpus
from spatia.progress import progress
from spatia.xenium.store import SlideStore, open_slide

# of the QC table, what cropping needs
MASK_COLUMNS = (keys.CELL_LABEL, *MASK_BOX_COLUMNS, N_MASK_PX, N_WINDOW_PX, WINDOW_PX)

if TYPE_CHECKING:
    import pyarrow as pa

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
    limit_threads()
    scaling = read_scaling(args.histograms, store, params)
    window_px = round(params.window_um / store.pixel_size_um)
    cell_ids, index = plan_index(args.cells, store, window_px, len(scaling.stains))
    blocks = progress(walk_blocks(store.shape_px), "crop", total=count_blocks(store.shape_px), unit="block")
    luts = scaling.luts(np.dtype(store.image.dtype))
    header = describe(args.slide, store, scaling, window_px, index["is_clipped"])
    with whole_dir(args.out) as folder:
        cut = cut_cells(slide_boxes(index), blocks, block_reader(store), luts)
        write_crops(folder, header, cell_ids, index, cut)
    log.info("%s: %d crops of %d stains, %d clipped", args.slide, header["n_cells"], len(luts), header["n_clipped"])


def plan_index(path: Path, store: SlideStore, window_px: int, n_stains: int) -> tuple[pa.Array, dict[str, NDArray]]:
    """Return the ids and the numeric columns of ``index.parquet`` for the kept cells of the QC table ``path``."""
    cell_ids, cells = read_kept_cells(path, store, MASK_COLUMNS)
    plan = plan_crops(cells, window_px)
    n_pixels = count_pixels(store.cell_labels, cells, plan, window_px)
    return cell_ids, add_offsets(plan, n_pixels, n_stains)


def read_kept_cells(path: Path, store: SlideStore, names: Sequence[str]) -> tuple[pa.Array, dict[str, NDArray]]:
    """Return the ids and the columns ``names`` of a QC table's kept cells, in storage order.

    One column at a time: a million cells with all their measures would be half a gigabyte.

    Raises
    ------
    SpatiaError
        If no cell is kept; the message says how many each filter removed.
    """
    kept = np.flatnonzero(read_columns(path, [keys.KEEP])[keys.KEEP])
    if not len(kept):
        raise SpatiaError(f"{path}: expected a kept cell, found none of {_removed(path)}; relax the filters of qc")
    places = read_columns(path, (keys.X_UM, keys.Y_UM, keys.CELL_LABEL))
    places = {name: column[kept] for name, column in places.items()}
    rows = kept[storage_order(places, store.pixel_size_um, store.shape_px)]
    cells = {name: read_columns(path, [name])[name][rows] for name in names}
    return take(read_text(path, keys.CELL_ID), rows), cells


def _removed(path: Path) -> str:
    reasons = read_text(path, keys.REASON).to_pylist()
    counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in REASONS if reason in reasons)
    return f"{len(reasons)} cells ({counts or 'an empty slide'})"


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


def limit_threads() -> None:
    """Let zarr decode with as many threads as there are CPUs for us: its default counts the machine's."""
    zarr.config.set({"threading.max_workers": available_cpus()})


def block_reader(store: SlideStore) -> ReadBlock:
    """Return how a block's labels and stains (with H&E where present) are read."""

    def read(block: Block) -> tuple[NDArray, NDArray]:
        area = (slice(None), *block.slices)
        stains = np.asarray(store.image[area])
        if store.he is not None:  # 8 bit fits into whatever type the stains have
            stains = np.concatenate([stains, np.asarray(store.he[area]).astype(stains.dtype)])
        return np.asarray(store.cell_labels[block.slices]), stains

    return read


def describe(
    slide: str, store: SlideStore, scaling: Scaling, window_px: int, is_clipped: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return ``crops.json``."""
    return {
        "format": FORMAT,
        "slide": slide,
        "stains": list(scaling.stains),
        "window_px": window_px,
        "pixel_size_um": store.pixel_size_um,
        "scaling": scaling.to_dict(),
        "n_cells": len(is_clipped),
        "n_clipped": int(is_clipped.sum()),
    }
