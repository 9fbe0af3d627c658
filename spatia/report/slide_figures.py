"""All figures of one slide, from whichever of its files exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spatia import keys
from spatia.cells.crops import Crops, context_window, open_crops
from spatia.cells.grids import read_tile
from spatia.cells.scaling import HE_STAINS, Scaling
from spatia.io import read_json, read_table
from spatia.report import fields, figures, gallery, overview
from spatia.report.draw_groups import draw_groups
from spatia.report.plots import Picture
from spatia.report.slide_embeddings import embedding_groups
from spatia.report.slide_files import SlideFiles
from spatia.xenium.store import SlideStore, open_slide

WINDOW_UM = 95.0  # a window at full resolution: about ten cells a side
GALLERY_CELLS = 8
STAIN_PX = 900  # the longer side of a stain's panel before the page shrinks it
TISSUE_PX = keys.NICHE_PX * keys.NICHES_PER_TISSUE


def draw_slide(files: SlideFiles, qc: dict[str, Any] | None, seed: int) -> tuple[list[Picture], list[str]]:
    """Return the figures of a slide and one line for every group of figures whose files could not be read."""
    return draw_groups(_groups(files, qc, seed))


def _groups(
    files: SlideFiles, qc: dict[str, Any] | None, seed: int
) -> list[tuple[str, Sequence[Path], Callable[[], list[Picture]]]]:
    # ingest.json is written after the store, so it says that the store is whole
    store = [files.zarr, files.record]
    return [
        ("The overview", store, lambda: _slide_pictures(files)),
        ("The gallery", [*store, files.crops], lambda: draw_gallery_of(files, seed)),
        ("The cells' measures", [files.qc_cells, files.qc_summary], lambda: _cell_histograms(files, qc or {})),
        ("The grey values", [files.histograms], lambda: [_grey_values(files)]),
        ("The map of counts", [files.qc_cells, *store], lambda: _count_map(files)),
        ("Cells per niche", [files.tiles], lambda: [_cells_per_niche(files)]),
        *embedding_groups(files, seed),
    ]


def _slide_pictures(files: SlideFiles) -> list[Picture]:
    store = open_slide(files.zarr)
    cells = read_table(files.qc_cells) if files.qc_cells.exists() else store.read_cells()
    has_filters = keys.KEEP in cells
    kept_ids = set(cells.index[cells[keys.KEEP].astype(bool)]) if has_filters else set()
    boxes = overview.choose_windows(
        cells[keys.X_UM].to_numpy(), cells[keys.Y_UM].to_numpy(), fields.size_um(store), WINDOW_UM
    )
    field = fields.read_overview(store, overview.OVERVIEW_PX)
    diameter_um = 2 * float(np.sqrt(cells[keys.CELL_AREA_UM2].median() / np.pi))
    ids, rings = _outlines(store) if overview.are_outlines_legible(field, diameter_um) else ([], [])
    is_kept = np.array([cell_id in kept_ids for cell_id in ids], bool) if has_filters else None
    kept_labels = cells.loc[cells[keys.KEEP].astype(bool), keys.CELL_LABEL].to_numpy() if has_filters else None
    windows = [fields.read_window(store, box, kept_labels) for box in boxes]
    pictures = [
        overview.draw_overview(field, rings, is_kept, boxes, len(cells)),
        overview.draw_windows(windows),
        overview.draw_stains(fields.read_overview(store, STAIN_PX)),
    ]
    he = fields.read_he_overview(store, STAIN_PX)
    if he is not None:
        pictures.append(overview.draw_he(he, field.box_um, fields.read_he_window(store, boxes[0]), windows[0]))
    if has_filters:
        pictures.insert(1, overview.draw_removed(fields.read_overview(store, STAIN_PX), cells))
    return pictures


def _outlines(store: SlideStore) -> tuple[list[str], list[np.ndarray]]:
    pairs = list(store.iterate_rings("cell"))
    return [cell_id for cell_id, _ in pairs], [ring for _, ring in pairs]


def _cell_histograms(files: SlideFiles, qc: dict[str, Any]) -> list[Picture]:
    cells = read_table(files.qc_cells)
    return [] if cells.empty else [figures.draw_cell_histograms(cells, qc.get("params") or {})]


def _count_map(files: SlideFiles) -> list[Picture]:
    cells = read_table(files.qc_cells)
    return [] if cells.empty else [figures.draw_count_map(cells, fields.size_um(open_slide(files.zarr)))]


def _grey_values(files: SlideFiles) -> Picture:
    with np.load(files.histograms) as stored:
        histograms = dict(zip(stored["stains"].tolist(), stored["counts"], strict=True))
    scaling = open_crops(files.crops).scaling if files.crops.exists() else Scaling((), (), ())
    limits = {s: (low, high) for s, low, high in zip(scaling.stains, scaling.low, scaling.high, strict=True)}
    return figures.draw_grey_values(histograms, limits)


def _cells_per_niche(files: SlideFiles) -> Picture:
    header = read_json(files.tiles / "tiles.json")
    niches = read_table(files.tiles / "niches.parquet")
    return figures.draw_cells_per_niche(niches["n_cells"].to_numpy(), header["niche_px"] * header["pixel_size_um"])


def draw_gallery_of(files: SlideFiles, seed: int) -> list[Picture]:
    """Return the gallery of a slide, nothing if no cell was kept."""
    store, crops = open_slide(files.zarr), open_crops(files.crops)
    if not len(crops):
        return []
    cells = read_table(files.qc_cells)
    rows = gallery.choose_cells(len(crops), GALLERY_CELLS, np.random.default_rng(seed))
    chosen = [_gallery_cell(store, crops, row, cells) for row in rows]
    stains = tuple(stain for stain in crops.stains if stain not in HE_STAINS)
    return [gallery.draw_gallery(chosen, stains, store.pixel_size_um)]


def _gallery_cell(store: SlideStore, crops: Crops, row: int, cells: pd.DataFrame) -> gallery.GalleryCell:
    place = crops.index.iloc[row]
    cell = cells.loc[place[keys.CELL_ID]]
    n_stains = len(store.stains)
    corner = {"y0": place["y0"], "x0": place["x0"]}
    context, _ = context_window(store, crops.scaling, corner, crops.window_px)
    luts = crops.scaling.luts(np.dtype(store.image.dtype))[:n_stains]
    niche_at = _tile_corner(store, cell, keys.NICHE_PX)
    tissue_at = _tile_corner(store, cell, TISSUE_PX)
    return gallery.GalleryCell(
        cell_id=str(place[keys.CELL_ID]),
        note=f"{cell[keys.N_COUNTS]:.0f} transcripts",
        crop=crops.frame(row)[:n_stains],
        mask=crops.mask(row),
        context=context[:n_stains],
        crop_at=(int(place["y0"]), int(place["x0"])),
        niche=read_tile(store, luts, *niche_at, keys.NICHE_PX),
        niche_at=niche_at,
        tissue=fields.read_small_tile(store, luts, *tissue_at, TISSUE_PX, keys.NICHE_PX),
        tissue_at=tissue_at,
        tissue_px=TISSUE_PX,
        he=np.moveaxis(context[n_stains:], 0, -1) if len(context) > n_stains else None,
    )


def _tile_corner(store: SlideStore, cell: pd.Series, side_px: int) -> tuple[int, int]:
    """Return the top left pixel (y0, x0) of the standard grid's tile that holds a cell's centroid."""
    height, width = store.shape_px
    x = min(int(cell[keys.X_UM] / store.pixel_size_um), width - 1)
    y = min(int(cell[keys.Y_UM] / store.pixel_size_um), height - 1)
    return y // side_px * side_px, x // side_px * side_px
