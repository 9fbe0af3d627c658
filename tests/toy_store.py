"""A hand-made ``slide.zarr``: 1100 x 1300 px (four chunks, unequal sides), 3 stains, cells in every awkward place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from scipy import sparse

from spatia import keys
from spatia.xenium.store import FORMAT, ROOT_ATTRIBUTE

SHAPE = (1100, 1300)
STAINS = (keys.DAPI, keys.BOUNDARY_STAIN, keys.INTERIOR_RNA_STAIN)
N_GENES = 12
FIRST_LABEL = 70_001  # does not fit into 16 bits
UNKNOWN_LABEL = 5  # in the mask, not in the table

# name: (centre y, centre x, radius y, radius x) of an ellipse
CELLS = {
    "across_chunk_columns": (300, 1024, 21, 30),
    "across_chunk_rows": (1022, 400, 25, 17),
    "across_four_chunks": (1024, 1025, 23, 28),
    "at_top_left": (4, 6, 14, 19),
    "at_bottom_right": (1092, 1290, 17, 15),
    "tall": (500, 600, 80, 20),  # 161 px: clipped in one direction
    "large": (200, 200, 75, 90),  # clipped in both
    "touching_a": (700, 200, 20, 18),
    "touching_b": (700, 232, 20, 18),
    "even_box": (800, 800.5, 12, 14.5),
    "odd_box": (850, 900, 13, 16),
    "no_counts": (60, 500, 15, 15),
    "few_counts": (60, 600, 15, 16),
    "controls": (60, 700, 15, 17),
    "small": (60, 800, 4, 5),
}
NO_MASK = "no_mask"  # in the table, not in the mask
NAMES = (*CELLS, NO_MASK)


def toy_labels() -> np.ndarray:
    """Return the masks, (y, x) uint32; cell i has label ``FIRST_LABEL`` + 3 i."""
    labels = np.zeros(SHAPE, np.uint32)
    ys, xs = np.ogrid[: SHAPE[0], : SHAPE[1]]
    for index, (y, x, height, width) in enumerate(CELLS.values()):
        body = ((ys - y) / height) ** 2 + ((xs - x) / width) ** 2 <= 1
        labels[body & (labels == 0)] = label_of(index)
    labels[1000:1005, 100:105] = UNKNOWN_LABEL
    return labels


def label_of(index: int) -> int:
    """Return the label of a cell of ``NAMES``."""
    return FIRST_LABEL + 3 * index


def toy_image(dtype: type = np.uint16, seed: int = 0) -> np.ndarray:
    """Return noise (c, y, x) in which every pixel differs from its neighbours; the last stain saturates."""
    top = np.iinfo(dtype).max
    image = np.random.default_rng(seed).integers(top // 50, top // 4, (len(STAINS), *SHAPE)).astype(dtype)
    image[-1, :, 900:] = top
    return image


def toy_counts(seed: int = 1) -> np.ndarray:
    """Return counts (cells, genes): 5 per gene, but none and 3 in all for the cells named so."""
    counts = np.random.default_rng(seed).poisson(5.0, (len(NAMES), N_GENES))
    counts[NAMES.index("no_counts")] = 0
    counts[NAMES.index("few_counts")] = np.eye(1, N_GENES, dtype=int)[0] * 3
    return counts


def write_toy_store(path: Path, image: np.ndarray | None = None, he: np.ndarray | None = None) -> Path:
    """Write the toy slide; ``image`` (c, y, x) and ``he`` (3, y, x) replace the defaults (noise, none)."""
    image = toy_image() if image is None else image
    labels = toy_labels()
    root = zarr.open_group(path, mode="w")
    head = {"format": FORMAT, "slide": "toy", "species": "human", "pixel_size_um": keys.PIXEL_SIZE_UM}
    root.attrs[ROOT_ATTRIBUTE] = head | {"origin_um": [0.0, 0.0]}
    _write_element(root, f"images/{keys.MORPHOLOGY}", image)
    _write_element(root, f"labels/{keys.CELL_LABELS}", labels)
    if he is not None:
        _write_element(root, f"images/{keys.HE}", he)
    _write_table(root, labels)
    return path


def _write_element(root: zarr.Group, name: str, pixels: np.ndarray) -> None:
    group = root.create_group(name)
    channels = [{"label": stain} for stain in STAINS]
    group.attrs["ome"] = {"multiscales": [{"datasets": [{"path": "0"}]}], "omero": {"channels": channels}}
    chunks = (1,) * (pixels.ndim - 2) + (keys.CHUNK_PX, keys.CHUNK_PX)
    array = group.create_array("0", shape=pixels.shape, chunks=chunks, dtype=pixels.dtype, fill_value=0)
    array[...] = pixels


def _write_table(root: zarr.Group, labels: np.ndarray) -> None:
    from anndata.io import write_elem

    table = root.create_group(f"tables/{keys.TABLE}")
    counts = toy_counts()
    write_elem(table, "X", sparse.csr_matrix(counts.astype(np.int32)))
    write_elem(table, "obs", _cells(labels, counts))
    genes = [f"G{index}" for index in range(N_GENES)]
    write_elem(table, "var", pd.DataFrame({"gene_id": [f"ENSG{g}" for g in genes]}, index=pd.Index(genes)))


def _cells(labels: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    pixel = keys.PIXEL_SIZE_UM
    rows = []
    for index in range(len(NAMES)):
        ys, xs = np.nonzero(labels == label_of(index))
        y, x = (ys.mean() + 0.5, xs.mean() + 0.5) if len(ys) else (1050.0, 50.0)
        rows.append((NAMES[index], label_of(index), x * pixel, y * pixel, len(ys) * pixel**2, len(ys) * pixel**2 / 4))
    names = [keys.CELL_ID, keys.CELL_LABEL, keys.X_UM, keys.Y_UM, keys.CELL_AREA_UM2, keys.NUCLEUS_AREA_UM2]
    cells = pd.DataFrame(rows, columns=names, index=[str(row) for row in range(len(rows))])
    n_controls = np.where(cells[keys.CELL_ID] == "controls", 20, 0)
    n_genes = (counts > 0).sum(axis=1)
    return cells.assign(n_counts=counts.sum(axis=1), n_genes=n_genes, n_controls=n_controls)
