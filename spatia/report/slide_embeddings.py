"""The figures of a slide's embeddings, from the files that ``spatia embed`` wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from spatia import keys
from spatia.cells.crops import Crops, context_window, open_crops
from spatia.cells.scaling import HE_STAINS
from spatia.errors import SpatiaError
from spatia.io import read_table
from spatia.report import embedding_figures, fields
from spatia.report.embedding_figures import VARIANT_TEXT, CellMap
from spatia.report.embedding_layout import MIN_UMAP_CELLS, lay_out, nearest_cells, sample_rows
from spatia.report.embeddings import (
    FUSED,
    IMAGE,
    RECONSTRUCTIONS,
    Embeddings,
    open_embeddings,
    read_reconstructions,
)
from spatia.report.group_colours import UNLABELLED, group_rare_labels
from spatia.report.labels import read_labels
from spatia.report.neighbour_gallery import NeighbourCell, Neighbourhood, choose_queries, draw_neighbours
from spatia.report.plots import Picture
from spatia.report.reconstructions import draw_reconstructions
from spatia.report.slide_files import SlideFiles
from spatia.xenium.store import SlideStore, open_slide

UMAP_CELLS = 8000
SMALL_UMAP_CELLS = 2500  # the small maps of one modality
N_QUERIES, N_NEIGHBOURS = 6, 5
MOST_LABELS = 4  # annotations that are drawn

Group = tuple[str, Sequence[Path], Callable[[], list[Picture]]]


def embedding_groups(files: SlideFiles, seed: int) -> list[Group]:
    """Return the groups of figures of a slide's embeddings: what, the files needed, and a function that draws."""
    embedded = [files.embed_record]
    on_slide = [*embedded, files.zarr, files.record]
    lay_out_once = cache(lambda: lay_out_cells(open_embeddings(files.embeddings), seed))
    # the labels' file itself is not asked for: one that the sheet names and that is not there is a problem
    labelled = [] if files.labels is None else embedded
    groups: list[Group] = [
        ("The map of cells", embedded, lambda: _cell_map(files, lay_out_once())),
        ("The labels on the map of cells", labelled, lambda: draw_label_maps_of(files, lay_out_once())),
        ("The clusters on the slide", on_slide, lambda: _cluster_maps(files)),
        ("Nearest neighbours", [*on_slide, files.crops], lambda: draw_neighbours_of(files, seed)),
        ("The reconstructions", [*on_slide, files.embeddings / RECONSTRUCTIONS], lambda: _reconstructions(files)),
    ]
    return [group for group in groups if group[1]]


def lay_out_cells(embedded: Embeddings, seed: int) -> CellMap | None:
    """Return the maps of a random sample of cells, or None of too few cells."""
    rows = sample_rows(len(embedded.cells), UMAP_CELLS, np.random.default_rng(seed))
    if len(rows) < MIN_UMAP_CELLS:
        return None
    most = {variant: UMAP_CELLS if variant == FUSED else SMALL_UMAP_CELLS for variant in embedded.vectors}
    points = {variant: lay_out(values[rows[: most[variant]]], seed) for variant, values in embedded.vectors.items()}
    return CellMap(rows, points)


def _cell_map(files: SlideFiles, shown: CellMap | None) -> list[Picture]:
    if shown is None:
        return []
    embedded = open_embeddings(files.embeddings)
    counts = None
    if files.qc_cells.exists():
        counts = read_table(files.qc_cells)[keys.N_COUNTS].reindex(embedded.cells[keys.CELL_ID]).to_numpy(float)
        counts = np.nan_to_num(counts[shown.rows])
    return [embedding_figures.draw_umap(shown, embedded.clusters[shown.rows], counts, len(embedded.cells))]


def draw_label_maps_of(files: SlideFiles, shown: CellMap | None) -> list[Picture]:
    """Return the map of cells by the user's labels; nothing without a map or labels."""
    if shown is None or files.labels is None:
        return []
    cell_ids = pd.Index(open_embeddings(files.embeddings).cells[keys.CELL_ID])
    labels = read_labels(files.labels, cell_ids).reindex(cell_ids[shown.rows]).fillna(UNLABELLED)
    drawn = {str(name): group_rare_labels(labels[name].to_numpy(str)) for name in labels.columns[:MOST_LABELS]}
    return [embedding_figures.draw_label_maps(shown.points[FUSED], drawn)]


def _cluster_maps(files: SlideFiles) -> list[Picture]:
    embedded = open_embeddings(files.embeddings)
    x_um, y_um = (embedded.cells[name].to_numpy(float) for name in (keys.X_UM, keys.Y_UM))
    where = x_um, y_um, embedded.clusters, fields.size_um(open_slide(files.zarr))
    return [embedding_figures.draw_cluster_map(*where), embedding_figures.draw_clusters_apart(*where)]


def draw_neighbours_of(files: SlideFiles, seed: int) -> list[Picture]:
    """Return the gallery of nearest neighbours; nothing if the slide has one cell."""
    embedded, crops, store = open_embeddings(files.embeddings), open_crops(files.crops), open_slide(files.zarr)
    if len(embedded.cells) < 2:
        return []
    if not np.array_equal(embedded.cells[keys.CELL_ID], crops.index[keys.CELL_ID]):
        raise SpatiaError(f"{files.embeddings}: expected the cells of {files.crops}, found others; run 'spatia embed'")
    queries = choose_queries(embedded.clusters, N_QUERIES, np.random.default_rng(seed))
    variants = [variant for variant in (FUSED, IMAGE) if variant in embedded.vectors]
    found = [nearest_cells(embedded.vectors[variant], queries, N_NEIGHBOURS)[0] for variant in variants]
    shown = [
        Neighbourhood(
            _neighbour_cell(store, crops, embedded, int(query)),
            [[_neighbour_cell(store, crops, embedded, int(row)) for row in rows[place]] for rows in found],
        )
        for place, query in enumerate(queries)
    ]
    stains = [stain for stain in crops.stains if stain not in HE_STAINS]
    return [draw_neighbours(shown, [VARIANT_TEXT[v] for v in variants], stains, store.pixel_size_um)]


def _neighbour_cell(store: SlideStore, crops: Crops, embedded: Embeddings, row: int) -> NeighbourCell:
    cell = embedded.cells.iloc[row]
    corner = {name: crops.columns[name][row] for name in ("y0", "x0")}
    context, _ = context_window(store, crops.scaling, corner, crops.window_px)
    return NeighbourCell(
        cell_id=str(cell[keys.CELL_ID]),
        cluster=int(embedded.clusters[row]),
        context=context[: len(store.stains)],
        mask=crops.mask(row),
        at_um=(float(cell[keys.X_UM]), float(cell[keys.Y_UM])),
    )


def _reconstructions(files: SlideFiles) -> list[Picture]:
    cells = read_reconstructions(files.embeddings / RECONSTRUCTIONS)
    return [draw_reconstructions(cells, open_slide(files.zarr).pixel_size_um)] if cells.cell_ids else []
