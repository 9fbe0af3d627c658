"""A bundle n x n times the size of another: the same tissue side by side, every copy with cell ids of its own.

Image tiles are copied as the bytes they are: a large bundle costs seconds and decodes exactly like the small one.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tifffile
import zarr
from scipy import sparse

from spatia.xenium.simulate.zarr_zip import ZarrZip


def write_tiled_bundle(source: Path, folder: Path, n: int) -> Path:
    """Write the bundle ``source`` (XOA 2.x or 3.x) n x n times into ``folder`` and return it.

    Raises
    ------
    ValueError
        If the images are not made of whole tiles, so that they cannot be put side by side.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "morphology_focus").mkdir(parents=True)
    shape = (0, 0)
    for file in sorted((source / "morphology_focus").glob("*.ome.tif")):
        shape = _tile_image(file, folder / "morphology_focus" / file.name, n)
    specs = json.loads((source / "experiment.xenium").read_text(encoding="utf-8"))
    step_um = np.array(shape[::-1]) * specs["pixel_size"]  # x, y
    n_cells = _tile_cells(source, folder, n, step_um)
    _tile_matrix(source / "cell_feature_matrix.h5", folder / "cell_feature_matrix.h5", n * n)
    _tile_masks(source / "cells.zarr.zip", folder / "cells.zarr.zip", n)
    specs["num_cells"] = n_cells * n * n
    (folder / "experiment.xenium").write_text(json.dumps(specs), encoding="utf-8")
    return folder


def _tile_image(source: Path, target: Path, n: int) -> tuple[int, int]:
    """Copy the full-resolution page n x n times; return the size of one copy."""
    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages.first
        height, width = page.shape
        rows, columns = height // page.tilelength, width // page.tilewidth
        if (rows * page.tilelength, columns * page.tilewidth) != (height, width):
            raise ValueError(f"{source}: expected whole tiles of {page.tilelength} x {page.tilewidth} px")
        xml = re.sub(r'SizeX="\d+"', f'SizeX="{width * n}"', page.description)
        xml = re.sub(r'SizeY="\d+"', f'SizeY="{height * n}"', xml)
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))

        def encoded() -> Iterator[bytes]:
            for row in range(rows * n):
                for column in range(columns * n):
                    offset, count = segments[(row % rows) * columns + column % columns]
                    tiff.filehandle.seek(offset)
                    yield tiff.filehandle.read(count)

        tifffile.imwrite(
            target,
            encoded(),
            shape=(height * n, width * n),
            dtype=page.dtype,
            tile=(page.tilelength, page.tilewidth),
            compression=page.compression,
            photometric="minisblack",
            description=xml.encode(),
            metadata=None,
            bigtiff=True,
        )
    return height, width


def _copies(n: int) -> Iterator[tuple[int, int, int]]:
    for copy in range(n * n):
        yield copy, copy // n, copy % n


def _own_ids(ids: pd.Series, copy: int) -> pd.Series:
    return ids.str.replace(r"-\d+$", "", regex=True) + f"-{copy + 1}"


def _tile_cells(source: Path, folder: Path, n: int, step_um: np.ndarray) -> int:
    cells, outlines = pd.read_parquet(source / "cells.parquet"), pd.read_parquet(source / "cell_boundaries.parquet")
    all_cells, all_outlines = [], []
    for copy, row, column in _copies(n):
        dx, dy = column * step_um[0], row * step_um[1]
        moved = cells.assign(cell_id=_own_ids(cells["cell_id"], copy))
        all_cells.append(moved.assign(x_centroid=cells["x_centroid"] + dx, y_centroid=cells["y_centroid"] + dy))
        moved = outlines.assign(cell_id=_own_ids(outlines["cell_id"], copy))
        moved["label_id"] += copy * len(cells)
        all_outlines.append(moved.assign(vertex_x=outlines["vertex_x"] + dx, vertex_y=outlines["vertex_y"] + dy))
    pd.concat(all_cells, ignore_index=True).to_parquet(folder / "cells.parquet", index=False)
    pd.concat(all_outlines, ignore_index=True).to_parquet(folder / "cell_boundaries.parquet", index=False)
    return len(cells)


def _tile_matrix(source: Path, target: Path, n_copies: int) -> None:
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        for name, value in old.attrs.items():
            new.attrs[name] = value
        old.copy("matrix/features", new.create_group("matrix"))
        parts = {name: old[f"matrix/{name}"][:] for name in ("data", "indices", "indptr", "shape", "barcodes")}
        one = sparse.csc_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=parts["shape"])
        every = sparse.hstack([one] * n_copies, format="csc")
        ids = pd.Series(parts["barcodes"].astype(str))
        barcodes = pd.concat([_own_ids(ids, copy) for copy in range(n_copies)]).to_numpy().astype("S")
        values = {
            "data": every.data,
            "indices": every.indices.astype(np.int64),
            "indptr": every.indptr.astype(np.int64),
        }
        for name, value in {**values, "shape": np.array(every.shape, np.int32), "barcodes": barcodes}.items():
            new["matrix"].create_dataset(name, data=value, compression="gzip" if name in values else None)


def _tile_masks(source: Path, target: Path, n: int) -> None:
    store = zarr.storage.ZipStore(source, read_only=True)
    old = zarr.open_group(store, mode="r")
    ids = old["cell_id"][:]
    with ZarrZip(target) as new:
        for group in ("", "masks", "polygon_sets", "polygon_sets/0", "polygon_sets/1"):
            new.group(group, dict(old.attrs) if not group else None)
        own = [np.column_stack([ids[:, 0], np.full(len(ids), copy + 1, ids.dtype)]) for copy in range(n * n)]
        new.array("cell_id", np.concatenate(own).astype(np.uint32))
        summary = old["cell_summary"]
        new.array("cell_summary", np.concatenate([summary[:]] * (n * n)), dict(summary.attrs))
        for which in (0, 1):
            owner = old[f"polygon_sets/{which}/cell_index"][:].astype(np.uint32)
            owners = np.concatenate([owner + copy * len(ids) for copy in range(n * n)]).astype(np.uint32)
            new.array(f"polygon_sets/{which}/cell_index", owners)
            _tile_mask(new, old[f"masks/{which}"], f"masks/{which}", n, len(owner))
    store.close()


def _tile_mask(new: ZarrZip, mask: zarr.Array, name: str, n: int, n_labels: int) -> None:
    height, width = mask.shape
    chunk = (min(1024, height), min(1024, width))
    if height % chunk[0] or width % chunk[1]:
        raise ValueError(f"{name}: expected whole chunks of {chunk}, found {mask.shape}")

    def read(window: tuple[slice, ...]) -> np.ndarray:
        copy = window[0].start // height * n + window[1].start // width
        rows = slice(window[0].start % height, (window[0].stop - 1) % height + 1)
        columns = slice(window[1].start % width, (window[1].stop - 1) % width + 1)
        block = mask[rows, columns]
        return np.where(block > 0, block + np.uint32(copy * n_labels), 0).astype(np.uint32)

    new.chunked_array(name, (height * n, width * n), np.dtype(np.uint32), chunk, read)


if __name__ == "__main__":
    write_tiled_bundle(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
