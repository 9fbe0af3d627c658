"""The cell table of a slide: counts, areas and positions of the cells inside the window."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spatia import keys
from spatia.errors import SpatiaError
from spatia.xenium.layouts import Bundle
from spatia.xenium.outlines import Outlines, from_shapes, join
from spatia.xenium.reading import TRANSCRIPT_COLUMNS, Counts, as_text, check_transcripts, naming
from spatia.xenium.window import Window

if TYPE_CHECKING:
    from anndata import AnnData
    from dask.dataframe import DataFrame
    from scipy import sparse

REGION = "region"

_BLOCK_CELLS = 2**14


def cells_inside(cells: pd.DataFrame, window: Window, pixel_size_um: float) -> np.ndarray:
    """Return which cells have their centroid in the window, (n,) bool."""
    x, y = (cells[column].to_numpy(np.float64) / pixel_size_um for column in ("x_centroid", "y_centroid"))
    # the slide's last row and column include their outer edge: a centroid may lie on the image's border
    return (x >= window.x0) & (x <= window.x1) & (y >= window.y0) & (y <= window.y1)


def refuse_empty(is_inside: np.ndarray, window: Window, pixel_size_um: float) -> None:
    """Raise where no cell is left."""
    if not is_inside.any():
        limits = [f"{limit * pixel_size_um:.1f}" for limit in (window.x0, window.y0, window.x1, window.y1)]
        raise SpatiaError(
            f"roi_um: expected cells in {', '.join(limits)} um (x0, y0, x1, y1), found none of {len(is_inside)}; "
            "choose a part with tissue"
        )


def make_table(cells: pd.DataFrame, counts: Counts, labels: pd.Series, origin_um: tuple[float, float]) -> AnnData:
    """Return the table of the slide's cells, columns as in docs/outputs.md.

    Parameters
    ----------
    cells : the cells that are kept, index ``cell_id``, columns of ``cells.parquet``
    counts : of the same cells in the same order
    labels : ``cell_label`` of every cell, index ``cell_id``
    origin_um : (x, y) of the slide's origin in the bundle
    """
    import anndata
    from spatialdata.models import TableModel

    xy = cells[["x_centroid", "y_centroid"]].to_numpy(np.float64) - origin_um
    controls = [column for column in keys.CONTROL_COLUMNS if column in cells]
    n_counts, n_genes = _sum_rows(counts.matrix)
    obs = pd.DataFrame(
        {
            keys.CELL_ID: cells.index.to_numpy(),
            keys.CELL_LABEL: labels.loc[cells.index].to_numpy().astype(np.uint32),
            REGION: pd.Categorical([keys.CELL_LABELS] * len(cells)),
            keys.X_UM: xy[:, 0],
            keys.Y_UM: xy[:, 1],
            keys.CELL_AREA_UM2: _column(cells, "cell_area"),
            keys.NUCLEUS_AREA_UM2: _column(cells, "nucleus_area"),
            keys.N_COUNTS: n_counts,
            keys.N_GENES: n_genes,
            keys.N_CONTROLS: cells[controls].sum(axis=1).to_numpy(np.int64),
        },
        index=cells.index.to_numpy(),
    )
    var = pd.DataFrame({"gene_id": counts.genes["gene_id"].to_numpy()}, index=counts.genes["gene"].to_numpy())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        table = anndata.AnnData(counts.matrix, obs=obs, var=var, obsm={"spatial": xy})
        return TableModel.parse(table, region=keys.CELL_LABELS, region_key=REGION, instance_key=keys.CELL_LABEL)


def place_outlines(outlines: Outlines, kept: pd.Index, window: Window, bundle: Bundle) -> Outlines:
    """Return the outlines of the kept cells in the slide's frame, cut at the window where it is a part."""
    import shapely

    found = outlines.select(outlines.index.isin(kept))
    if window == Window(0, bundle.shape_px[0], 0, bundle.shape_px[1]) or not len(found):
        return found
    origin = window.origin_um(bundle.pixel_size_um)
    edges = [limit * bundle.pixel_size_um for limit in (window.x0, window.y0, window.x1, window.y1)]
    return join(
        [
            from_shapes(ids, shapely.transform(_clip(shapes, edges), lambda xy: xy - origin))
            for ids, shapes in found.batches()
        ]
    )


def read_transcripts(bundle: Bundle, window: Window) -> DataFrame:
    """Return the transcripts inside the window, lazily: ``x``, ``y``, ``z`` in micrometres of the slide's frame."""
    import dask.dataframe

    if bundle.transcripts is None:
        raise SpatiaError(
            f"{bundle.path}/transcripts.parquet: expected the transcripts for `transcripts: true`, found none; copy "
            "them into the bundle, or set `transcripts: false`"
        )
    origin = window.origin_um(bundle.pixel_size_um)
    check_transcripts(bundle.transcripts)
    with naming(bundle.transcripts, "a parquet table of transcripts"):
        table = dask.dataframe.read_parquet(bundle.transcripts, columns=list(TRANSCRIPT_COLUMNS))
        meta = _place_transcripts(table._meta, window, bundle.pixel_size_um, origin)
        return table.map_partitions(_place_transcripts, window, bundle.pixel_size_um, origin, meta=meta)


def _place_transcripts(
    part: pd.DataFrame, window: Window, pixel_size_um: float, origin_um: tuple[float, float]
) -> pd.DataFrame:
    x, y = part["x_location"] / pixel_size_um, part["y_location"] / pixel_size_um
    part = part[(x >= window.x0) & (x <= window.x1) & (y >= window.y0) & (y <= window.y1)]
    return pd.DataFrame(
        {
            "x": (part["x_location"] - origin_um[0]).astype(np.float32),
            "y": (part["y_location"] - origin_um[1]).astype(np.float32),
            "z": part["z_location"].astype(np.float32),
            "feature_name": as_text(part["feature_name"]),
            keys.CELL_ID: as_text(part["cell_id"]),
            "qv": part["qv"].astype(np.float32),
        },
        index=part.index,
    )


def _sum_rows(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts and the genes of every cell, (cells,) int64; some at a time, scipy adds on a 64 bit copy."""
    n_counts, n_genes = np.zeros((2, matrix.shape[0]), np.int64)
    for first in range(0, matrix.shape[0], _BLOCK_CELLS):
        block = matrix[first : first + _BLOCK_CELLS]
        n_counts[first : first + _BLOCK_CELLS] = np.asarray(block.sum(axis=1, dtype=np.int64)).ravel()
        n_genes[first : first + _BLOCK_CELLS] = np.asarray((block > 0).sum(axis=1)).ravel()
    return n_counts, n_genes


def _column(cells: pd.DataFrame, name: str) -> np.ndarray:
    return cells[name].to_numpy(np.float64) if name in cells else np.full(len(cells), np.nan)


def _clip(shapes: np.ndarray, edges: list[float]) -> np.ndarray:
    """Cut polygons at a box; what a box leaves of an invalid polygon is repaired first."""
    import shapely

    inside = shapely.box(*edges)
    is_whole = shapely.contains(inside, shapely.box(*shapely.bounds(shapes).T))
    cut = shapes.copy()
    cut[~is_whole] = [_only_area(shapely.intersection(shapely.make_valid(s), inside), s) for s in shapes[~is_whole]]
    return cut


def _only_area(cut: object, whole: object) -> object:
    """Return the polygons of ``cut``; a cell cut to nothing keeps its outline."""
    import shapely

    parts = [part for part in shapely.get_parts(cut) if part.geom_type == "Polygon" and not part.is_empty]
    if not parts:
        return whole
    return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)
