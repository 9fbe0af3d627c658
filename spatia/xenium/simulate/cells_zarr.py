"""``cells.zarr.zip``: masks, cell ids, outlines and the cell summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spatia.xenium.simulate.bundle_rows import BundleRows
from spatia.xenium.simulate.layout_facts import LayoutFacts
from spatia.xenium.simulate.outlines import Outlines
from spatia.xenium.simulate.zarr_zip import ZarrZip

_MAX_CHUNK_PX = 1024
_SETS = ("nucleus", "cell")  # masks/0 and masks/1
METHODS = (
    "Segmented by boundary stain (ATP1A1+CD45+E-Cadherin)",
    "Segmented by interior stain (18S)",
    "Segmented by nucleus expansion of 5.0µm",
    "Segmented by nuclear stain (DAPI)",
)
NUCLEAR_METHOD = 3
_SUMMARY = {
    "cell_centroid_x": "Cell centroid in X",
    "cell_centroid_y": "Cell centroid in Y",
    "cell_area": "Cell area",
    "nucleus_centroid_x": "Nucleus centroid in X",
    "nucleus_centroid_y": "Nucleus centroid in Y",
    "nucleus_area": "Nucleus area",
    "z_level": "z_level",
    "nucleus_count": "Nucleus count",
}


def write_cells_zarr(
    path: Path,
    rows: BundleRows,
    summary: pd.DataFrame,
    outlines: tuple[Outlines, Outlines],
    method: int,
    pixel_size_um: float,
    facts: LayoutFacts,
) -> None:
    """Write ``cells.zarr.zip``.

    Parameters
    ----------
    summary : the columns of the cell summary, in file order of cells
    outlines : of the nuclei, of the cells
    method : index into ``METHODS`` of how the cells were segmented
    """
    with ZarrZip(path) as store:
        store.group("", root_attributes(len(rows.ids), facts))
        store.array("cell_id", packed_ids(rows.ids, facts))
        write_masks(store, (rows.nucleus_mask, rows.cell_mask), pixel_size_um)
        if facts.has_nucleus_numbers:
            _write_polygon_sets(store, rows, outlines, method, pixel_size_um, facts)
        else:
            _write_old_polygons(store, rows, outlines, pixel_size_um, facts)
        columns = [name for name in _SUMMARY if name in summary]
        about = {"column_names": columns, "column_descriptions": [_SUMMARY[name] for name in columns]}
        store.array("cell_summary", summary[columns].to_numpy(np.float64), about)


def root_attributes(n_cells: int, facts: LayoutFacts) -> dict[str, Any]:
    """Return the attributes of the root group."""
    major, minor = facts.zarr_version
    attributes: dict[str, Any] = {
        "major_version": major,
        "minor_version": minor,
        "name": "CellSegmentationDataset",
        "number_cells": n_cells,
        "polygon_set_descriptions": ["DAPI-based nuclei segmentation", "Cell Segmentation"],
        "polygon_set_display_names": ["Nucleus boundaries", "Cell boundaries"],
        "polygon_set_names": list(_SETS),
        "spatial_units": "microns",
    }
    return attributes | ({"segmentation_methods": list(METHODS)} if facts.has_nucleus_numbers else {})


def packed_ids(ids: np.ndarray, facts: LayoutFacts) -> np.ndarray:
    """Return ids as (n,) numbers (layout 1.0) or (n, 2) pairs of the letters' number and the suffix, uint32."""
    if facts.has_number_ids:
        return ids.astype(np.uint32)
    parts = np.char.partition(ids.astype(str), "-") if len(ids) else np.zeros((0, 3), str)
    to_hex = str.maketrans("abcdefghijklmnop", "0123456789abcdef")
    numbers = [(int(letters.translate(to_hex), 16), int(suffix)) for letters, _, suffix in parts]
    return np.array(numbers, np.uint32).reshape(-1, 2)


def write_masks(store: ZarrZip, masks: tuple[np.ndarray, np.ndarray], pixel_size_um: float) -> None:
    """Write the nucleus mask, the cell mask and the transform from micrometres to their pixels."""
    store.group("masks")
    scale = np.diag([1 / pixel_size_um, 1 / pixel_size_um, 1, 1]).astype(np.float32)
    store.array("masks/homogeneous_transform", scale)
    for index, mask in enumerate(masks):
        store.chunked_array(
            f"masks/{index}", mask.shape, mask.dtype, mask_chunks(mask.shape), mask.__getitem__, codec="zstd"
        )


def mask_chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a chunk shape: the image's, halved as often as it takes to fit 1024 px, as genuine files have it."""
    chunks = shape
    while max(chunks) > _MAX_CHUNK_PX:
        chunks = tuple(-(-size // 2) for size in chunks)
    return chunks


def _write_polygon_sets(
    store: ZarrZip,
    rows: BundleRows,
    outlines: tuple[Outlines, Outlines],
    method: int,
    pixel_size_um: float,
    facts: LayoutFacts,
) -> None:
    owners = (rows.nucleus_row, np.arange(len(rows.ids)))
    store.group("polygon_sets")
    for index, (owner, outline) in enumerate(zip(owners, outlines, strict=True)):
        store.group(f"polygon_sets/{index}")
        store.array(f"polygon_sets/{index}/vertices", _padded(outline, facts.max_vertices) * np.float32(pixel_size_um))
        store.array(f"polygon_sets/{index}/num_vertices", outline.counts.astype(np.int32))
        store.array(f"polygon_sets/{index}/cell_index", owner.astype(np.uint32))
        value = method if index else NUCLEAR_METHOD
        store.array(f"polygon_sets/{index}/method", np.full(len(owner), value, np.uint32))


def _write_old_polygons(
    store: ZarrZip, rows: BundleRows, outlines: tuple[Outlines, Outlines], pixel_size_um: float, facts: LayoutFacts
) -> None:
    vertices = np.stack([_padded(outline, facts.max_vertices) for outline in outlines]) * np.float32(pixel_size_um)
    store.array("polygon_vertices", vertices)
    store.array("polygon_num_vertices", np.stack([outline.counts for outline in outlines]).astype(np.int32))
    if not facts.has_number_ids:
        store.array("seg_mask_value", np.arange(1, len(rows.ids) + 1, dtype=np.uint32))


def _padded(outlines: Outlines, max_vertices: int) -> np.ndarray:
    """Return (n, 2 * max_vertices) float32: x, y, x, y ..., the last vertex repeated to the end."""
    starts = np.cumsum(outlines.counts) - outlines.counts
    steps = np.minimum(np.arange(max_vertices), np.maximum(outlines.counts, 1)[:, None] - 1)
    padded = np.zeros((len(starts), max_vertices, 2), np.float32)
    has_any = outlines.counts > 0
    padded[has_any] = outlines.vertices[(starts[:, None] + steps)[has_any]]
    return padded.reshape(len(starts), 2 * max_vertices)
