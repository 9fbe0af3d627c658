"""slide.zarr -> measures of every cell, which are kept and why not, the slide's row, grey-value histograms.

One pass over the slide, block by block; every chunk of the image and of the labels is decoded once.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spatia import keys
from spatia.cells.blocks import count_blocks, walk_blocks
from spatia.cells.cropping import N_MASK_PX, N_WINDOW_PX, WINDOW_PX, count_inside, plan_crops
from spatia.cells.filters import control_rate, first_reason, hits
from spatia.cells.measures import MaskMeasures, add_to_histograms
from spatia.cells.qc import summarise, summarise_stains
from spatia.cells.scaling import n_values
from spatia.config import QcParams, load_params, params_to_dict
from spatia.errors import SpatiaError
from spatia.io import write_arrays, write_json, write_table
from spatia.progress import progress
from spatia.stages.crop import limit_threads
from spatia.xenium.store import SlideStore, open_slide

FORMAT = 1  # of qc.json, cells.parquet and histograms.npz

log = logging.getLogger("spatia.qc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``spatia qc``."""
    parser.add_argument("--slide", required=True, metavar="NAME", help="the slide's name, stored in the summary")
    parser.add_argument("--zarr", required=True, type=Path, metavar="SLIDE.ZARR", help="what ingest wrote")
    parser.add_argument("--params", required=True, type=Path, metavar="YAML", help="as config/stages/qc.yaml")
    parser.add_argument("--cells", required=True, type=Path, metavar="PARQUET", help="output: one row per cell")
    parser.add_argument("--summary", required=True, type=Path, metavar="JSON", help="output: the slide's row")
    parser.add_argument("--histograms", required=True, type=Path, metavar="NPZ", help="output: counts of grey values")


def run(args: argparse.Namespace) -> None:
    """Measure, filter, summarise, write."""
    params = load_params(args.params, QcParams)
    store = open_slide(args.zarr)
    limit_threads()
    saturated_from = int(np.ceil(params.saturated_fraction * (n_values(store.image.dtype) - 1)))
    cells = read_expression(store)
    measures, histograms = measure(store, cells, saturated_from)
    if measures.n_unknown_px:
        log.warning("%s: %d mask pixels belong to cells that the table lacks", args.slide, measures.n_unknown_px)
    cells = apply_filters(add_measures(cells, measures, store, params.window_um), params)
    summary = {
        "format": FORMAT,
        "slide": args.slide,
        **summarise(cells, store.pixel_size_um, store.shape_px),
        "stains": summarise_stains(cells, store.stains, histograms, saturated_from),
        "n_mask_px_without_cell": measures.n_unknown_px,
        "params": params_to_dict(params),
    }
    write_table(args.cells, cells)
    write_arrays(args.histograms, stains=np.array(store.stains, np.str_), counts=histograms)
    write_json(args.summary, summary)
    log.info("%s: %d cells in, %d kept", args.slide, summary["n_cells_in"], summary["n_cells_out"])


def read_expression(store: SlideStore) -> pd.DataFrame:
    """Return the slide's cell table with counts and genes per cell as the matrix has them."""
    cells = store.read_cells()
    counts = store.read_counts()
    if counts.shape[0] != len(cells):
        raise SpatiaError(
            f"{store.path}: expected counts of {len(cells)} cells, found {counts.shape[0]} rows; ingest the slide again"
        )
    labels = cells[keys.CELL_LABEL].to_numpy(np.int64)
    if len(np.unique(labels)) != len(labels) or (labels == 0).any():
        raise SpatiaError(f"{store.path}: expected one {keys.CELL_LABEL} above 0 per cell; ingest the slide again")
    n_counts = np.asarray(counts.sum(axis=1)).ravel().astype(np.int64)
    n_genes = np.asarray((counts > 0).sum(axis=1)).ravel().astype(np.int64)
    rate = control_rate(cells[keys.N_CONTROLS].to_numpy(), n_counts)
    return cells.assign(
        **{keys.CELL_LABEL: labels, keys.N_COUNTS: n_counts, keys.N_GENES: n_genes, "control_rate": rate}
    )


def measure(store: SlideStore, cells: pd.DataFrame, saturated_from: int) -> tuple[MaskMeasures, NDArray[np.int64]]:
    """Return what the one pass over the slide finds: sums per cell, histograms ``(stains, values)``."""
    measures = MaskMeasures(cells[keys.CELL_LABEL].to_numpy(), store.stains, saturated_from)
    histograms = np.zeros((len(store.stains), n_values(store.image.dtype)), np.int64)
    blocks = progress(walk_blocks(store.shape_px), "qc", total=count_blocks(store.shape_px), unit="block")
    for block in blocks:
        labels = np.asarray(store.cell_labels[block.slices])
        stains = list(np.asarray(store.image[(slice(None), *block.slices)]))
        measures.add_block(block.y0, block.x0, labels, stains)
        add_to_histograms(histograms, stains)
    return measures, histograms


def add_measures(cells: pd.DataFrame, measures: MaskMeasures, store: SlideStore, window_um: float) -> pd.DataFrame:
    """Return the cells with everything that filters and crops need to know about their masks."""
    cells = cells.assign(**measures.to_columns())
    cells["nuclear_fraction"] = cells[keys.NUCLEUS_AREA_UM2] / cells[keys.CELL_AREA_UM2]
    window_px = round(window_um / store.pixel_size_um)
    plan = plan_crops(cells, window_px)
    cells["is_clipped"] = plan["is_clipped"]
    cells[N_WINDOW_PX] = count_inside(store.cell_labels, cells[N_MASK_PX].to_numpy(), plan)
    cells[WINDOW_PX] = window_px
    height, width = store.shape_px
    top, left = cells["mask_y0"], cells["mask_x0"]
    bottom, right = top + cells["mask_h"], left + cells["mask_w"]
    at_edge = (top == 0) | (left == 0) | (bottom == height) | (right == width)
    cells["touches_edge"] = at_edge & (cells[N_MASK_PX] > 0)
    x_px, y_px = cells[keys.X_UM] / store.pixel_size_um, cells[keys.Y_UM] / store.pixel_size_um
    cells["is_outside"] = ~(x_px.between(0, width) & y_px.between(0, height))
    return cells


def apply_filters(cells: pd.DataFrame, params: QcParams) -> pd.DataFrame:
    """Return the cells with ``keep`` and ``reason``."""
    removed = hits(
        cells,
        params.min_counts,
        params.min_genes,
        params.max_control_rate,
        params.min_cell_area_um2,
        params.max_cell_area_um2,
    )
    reason = first_reason(removed)
    return cells.assign(**{keys.KEEP: reason == "", keys.REASON: reason})
