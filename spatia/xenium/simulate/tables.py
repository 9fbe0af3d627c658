"""The tables of a bundle: cells, outlines and transcripts, as data frames with the layout's columns and types."""

from __future__ import annotations

import gzip
import string
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import ndimage, sparse

from spatia.xenium.simulate.bundle_rows import BundleRows
from spatia.xenium.simulate.cells_zarr import METHODS
from spatia.xenium.simulate.layout_facts import COUNTED_TYPES, LayoutFacts
from spatia.xenium.simulate.outlines import Outlines
from spatia.xenium.simulate.slide import SimulatedSlide

_FOV_UM = 400.0  # edge of a field of view; only its name is visible in a bundle
_ROW_GROUP = 1_000_000
_CATEGORIES = {
    "Gene Expression": "predesigned_gene",
    "Negative Control Probe": "negative_control_probe",
    "Negative Control Codeword": "negative_control_codeword",
    "Unassigned Codeword": "unassigned_codeword",
    "Genomic Control": "genomic_control_probe",
}


def save_table(path: Path, table: pd.DataFrame) -> None:
    """Write ``table`` as zstd parquet or, by its ending, as csv.gz with quoted texts."""
    if path.suffix == ".parquet":
        pq.write_table(
            pa.Table.from_pandas(table, preserve_index=False), path, compression="zstd", row_group_size=_ROW_GROUP
        )
        return
    content = table.apply(_decoded).to_csv(index=False, quoting=2, lineterminator="\n")  # 2: quote what is no number
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write(content.encode())


def summarise_cells(slide: SimulatedSlide, rows: BundleRows) -> pd.DataFrame:
    """Return the columns of ``cell_summary``, one row per cell in file order; lengths in micrometres."""
    cells = slide.cells.iloc[rows.label - 1].reset_index(drop=True)
    n_nuclei = np.bincount(rows.nucleus_row, minlength=len(rows.label))
    y, x = _nucleus_centres(slide, rows)
    return pd.DataFrame(
        {
            "cell_centroid_x": cells["x_um"].astype(float),
            "cell_centroid_y": cells["y_um"].astype(float),
            "cell_area": cells["cell_area_um2"].astype(float),
            "nucleus_centroid_x": x,
            "nucleus_centroid_y": y,
            "nucleus_area": cells["nucleus_area_um2"].astype(float).where(n_nuclei > 0),
            "z_level": 0.0 if slide.stack is None else float(len(slide.stack) // 2),
            "nucleus_count": n_nuclei.astype(float),
        }
    )


def cell_table(
    summary: pd.DataFrame,
    counts: sparse.csr_matrix,
    features: pd.DataFrame,
    rows: BundleRows,
    method: int,
    facts: LayoutFacts,
) -> pd.DataFrame:
    """Return ``cells.parquet``; ``counts`` has its rows in file order."""
    table = pd.DataFrame(
        {
            "cell_id": rows.ids_as(facts),
            "x_centroid": summary["cell_centroid_x"],
            "y_centroid": summary["cell_centroid_y"],
        }
    )
    for column, kind in COUNTED_TYPES.items():
        table[column] = _row_sums(counts[:, np.flatnonzero(features["type"] == kind)])
    table["total_counts"] = _row_sums(counts)
    table["cell_area"] = summary["cell_area"]
    table["nucleus_area"] = summary["nucleus_area"]
    table["nucleus_count"] = summary["nucleus_count"].astype(np.int64)
    table["segmentation_method"] = METHODS[method]
    return table[["cell_id", "x_centroid", "y_centroid", *facts.cell_columns]]


def boundary_table(
    outlines: Outlines, owner: np.ndarray, rows: BundleRows, pixel_size_um: float, facts: LayoutFacts
) -> pd.DataFrame:
    """Return ``cell_boundaries`` or ``nucleus_boundaries``, one row per vertex.

    Parameters
    ----------
    owner : (n_outlines,) row of the cell of each outline
    """
    vertices = (outlines.vertices * pixel_size_um).astype(np.float32)
    table = pd.DataFrame(
        {
            "cell_id": outlines.repeated(rows.ids_as(facts)[owner]),
            "vertex_x": vertices[:, 0],
            "vertex_y": vertices[:, 1],
        }
    )
    if facts.has_nucleus_numbers:
        table["label_id"] = outlines.repeated(np.arange(1, len(owner) + 1))
    return table


def transcript_table(slide: SimulatedSlide, rows: BundleRows, facts: LayoutFacts) -> pd.DataFrame:
    """Return ``transcripts.parquet``, sorted by field of view."""
    transcripts = slide.transcripts
    assert transcripts is not None
    fov, fov_names = _fields_of_view(transcripts)
    transcripts = transcripts.iloc[np.argsort(fov, kind="stable")].reset_index(drop=True)
    fov = np.sort(fov)
    kinds = slide.features["type"].to_numpy()[transcripts["feature"]]
    names = slide.features["name"].to_numpy(object)[transcripts["feature"]]
    within = np.arange(len(fov)) - np.searchsorted(fov, fov)
    table = pd.DataFrame(
        {
            "transcript_id": ((fov + 1) * 2**48 + within).astype(np.uint64),
            "cell_id": _transcript_cells(transcripts["label"].to_numpy(), rows, facts),
            "overlaps_nucleus": transcripts["overlaps_nucleus"].astype(np.uint8),
            "feature_name": _as_stored(names, facts),
            "x_location": transcripts["x_um"].astype(np.float32),
            "y_location": transcripts["y_um"].astype(np.float32),
            "z_location": transcripts["z_um"].astype(np.float32),
            "qv": transcripts["qv"].astype(np.float32),
            "fov_name": _as_stored(fov_names[fov], facts),
            "nucleus_distance": _nucleus_distance(slide, transcripts),
            "codeword_index": transcripts["feature"].astype(np.int32),
            "codeword_category": pd.Series(kinds).map(_CATEGORIES).to_numpy(object),
            "is_gene": kinds == "Gene Expression",
        }
    )
    return table[list(facts.transcript_columns)]


def cluster_table(counts: sparse.csr_matrix, ids: np.ndarray, n_clusters: int = 8, seed: int = 0) -> pd.DataFrame:
    """Return ``clusters.csv``: k-means on principal components of expression, in place of 10x's graph clusters."""
    from scipy.cluster.vq import kmeans2

    if len(ids) == 0:
        return pd.DataFrame({"Barcode": ids, "Cluster": np.zeros(0, np.int64)})
    n_clusters = min(n_clusters, len(ids))
    per_cell = np.maximum(_row_sums(counts), 1)
    logs = np.log1p(np.asarray(counts.todense(), np.float32) * (np.median(per_cell) / per_cell)[:, None])
    centred = logs - logs.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    _, cluster = kmeans2(centred @ axes[:, -20:], n_clusters, minit="++", rng=seed)
    by_size = np.argsort(np.argsort(-np.bincount(cluster, minlength=n_clusters), kind="stable"), kind="stable")
    return pd.DataFrame({"Barcode": ids, "Cluster": by_size[cluster] + 1})


def _decoded(column: pd.Series) -> pd.Series:
    is_bytes = len(column) > 0 and isinstance(column.iloc[0], bytes)
    return column.str.decode("utf-8") if is_bytes else column


def _row_sums(counts: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=1)).ravel().astype(np.int64)


def _as_stored(texts: np.ndarray, facts: LayoutFacts) -> np.ndarray:
    if not facts.text_is_bytes:
        return texts.astype(object)
    return np.char.encode(texts.astype(str), "utf-8").astype(object)


def _transcript_cells(labels: np.ndarray, rows: BundleRows, facts: LayoutFacts) -> np.ndarray:
    ids = rows.ids_as(facts)
    nowhere = b"UNASSIGNED" if facts.text_is_bytes else "UNASSIGNED"
    last = np.array([-1 if facts.has_number_ids else nowhere], ids.dtype)
    return np.concatenate([ids, last])[rows.row_of_label[labels]]  # row -1: in no cell


def _nucleus_centres(slide: SimulatedSlide, rows: BundleRows) -> tuple[np.ndarray, np.ndarray]:
    """Return y, x in micrometres of every cell's nuclear pixels; NaN without any."""
    ys, xs = np.nonzero(slide.nucleus_labels)
    row = rows.row_of_label[slide.nucleus_labels[ys, xs]]
    n_pixels = np.bincount(row, minlength=len(rows.label)).astype(float)
    n_pixels[n_pixels == 0] = np.nan
    return tuple(  # type: ignore[return-value]
        np.bincount(row, (axis + 0.5) * slide.pixel_size_um, len(rows.label)) / n_pixels for axis in (ys, xs)
    )


def _fields_of_view(transcripts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each transcript's field of view and the names (``A1``, ``B1``, ...) of the numbers."""
    row = (transcripts["y_um"].to_numpy() // _FOV_UM).astype(np.int64)
    column = (transcripts["x_um"].to_numpy() // _FOV_UM).astype(np.int64)
    found, number = np.unique(np.stack([row, column]), axis=1, return_inverse=True)
    names = [f"{string.ascii_uppercase[r % 26]}{c + 1}" for r, c in found.T]
    return number.ravel(), np.array(names, dtype=object)


def _nucleus_distance(slide: SimulatedSlide, transcripts: pd.DataFrame) -> np.ndarray:
    """Return micrometres from each transcript to the nearest nucleus, 0 inside."""
    if not slide.nucleus_labels.any():
        return np.full(len(transcripts), np.nan, np.float32)
    distance = ndimage.distance_transform_edt(slide.nucleus_labels == 0).astype(np.float32)
    height, width = distance.shape
    x = np.clip(transcripts["x_um"].to_numpy() / slide.pixel_size_um, 0, width - 1).astype(np.int64)
    y = np.clip(transcripts["y_um"].to_numpy() / slide.pixel_size_um, 0, height - 1).astype(np.int64)
    return distance[y, x] * np.float32(slide.pixel_size_um)
