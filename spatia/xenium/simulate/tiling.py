"""A bundle, real or simulated -> the same tissue rows x columns times as one big bundle, for benchmarks.

Every copy's cells get ids of their own (the suffix of ``aaaaficg-1`` counts the copies). Files are written copy by
copy, so memory depends on the source, not on the result. H&E images and csv twins are left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zarr

from spatia import io
from spatia.progress import progress
from spatia.xenium.simulate.cells_zarr import mask_chunks
from spatia.xenium.simulate.tiling_images import Repeat, repeat_image
from spatia.xenium.simulate.zarr_zip import ZarrZip

_X_COLUMNS = ("x_centroid", "vertex_x", "x_location")
_Y_COLUMNS = ("y_centroid", "vertex_y", "y_location")
_TABLES = ("cells", "cell_boundaries", "nucleus_boundaries", "transcripts")
_CLUSTERS = Path("analysis") / "clustering" / "gene_expression_graphclust" / "clusters.csv"
_MASK_OF_TABLE = {"nucleus_boundaries": 0, "cell_boundaries": 1}


@dataclass(frozen=True)
class _Source:
    """What every file's copy needs to know of the source.

    Attributes
    ----------
    size_um : (height, width) of one copy
    n_cells, n_outlines : added to mask values and rows; outlines of nuclei, of cells
    step : added to an id's suffix, or to a number id, per copy
    """

    size_um: tuple[float, float]
    n_cells: int
    n_outlines: tuple[int, int]
    step: int

    def ids(self, ids: np.ndarray, tile: int) -> np.ndarray:
        """Return the ids (numbers, bytes or text) of copy ``tile``; of what is no cell, the same."""
        if ids.dtype.kind in "iu":
            return np.where(ids > 0, ids + tile * self.step, ids).astype(ids.dtype)
        if len(ids) and isinstance(ids[0], bytes):
            return np.array([self._renamed(name.decode(), tile).encode() for name in ids], object)
        return np.array([self._renamed(str(name), tile) for name in ids], object)

    def _renamed(self, name: str, tile: int) -> str:
        if name.isdecimal():
            return str(int(name) + tile * self.step)
        letters, dash, suffix = name.rpartition("-")
        return f"{letters}-{int(suffix) + tile * self.step}" if dash else name


def tile_bundle(source: Path, out: Path, rows: int, columns: int) -> None:
    """Write the bundle ``source``, repeated ``rows`` x ``columns`` times, as the bundle ``out``."""
    repeat = Repeat(rows, columns)
    with io.whole_dir(out) as partial:
        with zarr.storage.ZipStore(source / "cells.zarr.zip", mode="r") as store:
            group = zarr.open_group(store, mode="r")
            about = _describe(source, group)
            _repeat_zarr(group, partial / "cells.zarr.zip", about, repeat)
        for name in _TABLES:
            if (source / f"{name}.parquet").exists():
                _repeat_table(source, partial, name, about, repeat)
        _repeat_matrix(source / "cell_feature_matrix.h5", partial / "cell_feature_matrix.h5", about, repeat)
        _repeat_images(source, partial, repeat)
        _repeat_documents(source, partial, about, repeat)


def _describe(source: Path, group: Any) -> _Source:
    experiment = io.read_json(source / "experiment.xenium")
    ids = group["cell_id"][:]
    height, width = group["masks/1"].shape
    pixel = float(experiment["pixel_size"])
    step = int(ids.max() if ids.ndim == 1 else ids[:, 1].max())
    n_without_sets = step if ids.ndim == 1 else len(ids)  # before 1.3 mask values were ids, until 2.0 rows
    n_nuclei, n_cells = (
        group[path].shape[0] if path in group else n_without_sets
        for path in ("polygon_sets/0/cell_index", "polygon_sets/1/cell_index")
    )
    return _Source((height * pixel, width * pixel), len(ids), (n_nuclei, n_cells), step)


# --- cells.zarr.zip ---


def _repeat_zarr(group: Any, out: Path, about: _Source, repeat: Repeat) -> None:
    attributes = group.attrs.asdict()
    if "number_cells" in attributes:
        attributes["number_cells"] = about.n_cells * repeat.n_tiles
    with ZarrZip(out) as store:
        store.group("", attributes)
        for path, item in sorted(group.members(max_depth=None)):
            if isinstance(item, zarr.Group):
                store.group(path)
            elif path in ("masks/0", "masks/1"):
                _repeat_mask(store, path, item[:], about.n_outlines[int(path[-1])], repeat)
            elif path == "masks/homogeneous_transform":
                store.array(path, item[:])
            else:
                _repeat_array(store, path, item, about, repeat)


def _repeat_mask(store: ZarrZip, path: str, mask: np.ndarray, n_outlines: int, repeat: Repeat) -> None:
    height, width = mask.shape
    shape = (height * repeat.rows, width * repeat.columns)

    def read(window: tuple[slice, ...]) -> np.ndarray:
        ys, xs = (np.arange(part.start, part.stop) for part in window)
        values = mask[(ys % height)[:, None], xs % width]
        tile = ((ys // height)[:, None] * repeat.columns + xs // width).astype(mask.dtype)
        return np.add(values, tile * mask.dtype.type(n_outlines), out=values, where=values > 0)

    store.chunked_array(path, shape, mask.dtype, mask_chunks(shape), read, codec="zstd")


def _repeat_array(store: ZarrZip, path: str, source: Any, about: _Source, repeat: Repeat) -> None:
    """Repeat an array over cells or outlines, one chunk per copy."""
    values = source[:]
    axis = 1 if path.startswith("polygon_") and not path.startswith("polygon_sets") else 0  # (2, n, ...) before 2.0
    n_per_tile = values.shape[axis]
    shape = tuple(size * repeat.n_tiles if a == axis else size for a, size in enumerate(values.shape))
    attributes = source.attrs.asdict()
    columns = list(attributes.get("column_names", ()))

    def read(window: tuple[slice, ...]) -> np.ndarray:
        tile = window[axis].start // max(1, n_per_tile)
        return _shifted(path, values, columns, tile, about, repeat)

    store.chunked_array(path, shape, values.dtype, tuple(max(1, size) for size in values.shape), read)
    if attributes:
        store.attributes(path, attributes)


def _shifted(
    path: str, values: np.ndarray, columns: list[str], tile: int, about: _Source, repeat: Repeat
) -> np.ndarray:
    """Return an array of ``cells.zarr.zip`` as copy ``tile`` has it."""
    row, column = repeat.place(tile)
    name = path.rpartition("/")[2]
    down, across = row * about.size_um[0], column * about.size_um[1]
    if name == "cell_id":
        return values + np.uint32(tile * about.step) * (np.arange(values.shape[-1]) == 1 if values.ndim == 2 else 1)
    if name in ("cell_index", "seg_mask_value"):
        return values + tile * about.n_cells
    if name in ("vertices", "polygon_vertices"):
        return values + np.tile(np.array([across, down], values.dtype), values.shape[-1] // 2)
    if name == "cell_summary":
        shift = [across if c.endswith("_x") else down if c.endswith("_y") else 0.0 for c in columns]
        return values + np.array(shift)
    return values


# --- tables and matrix ---


def _repeat_table(source: Path, out: Path, name: str, about: _Source, repeat: Repeat) -> None:
    with pq.ParquetFile(source / f"{name}.parquet") as file:
        last_id = max((_largest(file, group) for group in range(file.num_row_groups)), default=0)
        with pq.ParquetWriter(out / f"{name}.parquet", file.schema_arrow, compression="zstd") as writer:
            for tile in progress(range(repeat.n_tiles), f"tile {name}"):
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    writer.write_table(_shifted_table(table, name, tile, last_id + 1, about, repeat))


def _largest(file: pq.ParquetFile, group: int) -> int:
    if "transcript_id" not in file.schema_arrow.names:
        return 0
    return pc.max(file.read_row_group(group, columns=["transcript_id"])[0]).as_py() or 0


def _shifted_table(table: pa.Table, name: str, tile: int, id_step: int, about: _Source, repeat: Repeat) -> pa.Table:
    row, column = repeat.place(tile)
    shifts: dict[str, float | int] = dict.fromkeys(_X_COLUMNS, column * about.size_um[1])
    shifts |= dict.fromkeys(_Y_COLUMNS, row * about.size_um[0])
    shifts["transcript_id"] = tile * id_step
    shifts["label_id"] = tile * about.n_outlines[_MASK_OF_TABLE.get(name, 1)]
    for index, field in enumerate(table.schema):
        values = table.column(index)
        if field.name == "cell_id":
            # few cells, many rows: rename each once
            coded = values.combine_chunks().dictionary_encode()
            renamed = pa.array(about.ids(coded.dictionary.to_numpy(zero_copy_only=False), tile), field.type)
            table = table.set_column(index, field, renamed.take(coded.indices))
        elif field.name in shifts:
            shift = pa.scalar(shifts[field.name], field.type)
            table = table.set_column(index, field, pc.add(values, shift))
    return table


def _repeat_matrix(source: Path, out: Path, about: _Source, repeat: Repeat) -> None:
    with h5py.File(source) as old, h5py.File(out, "w") as new:
        for key, value in old.attrs.items():
            new.attrs[key] = value
        matrix = new.create_group("matrix")
        old.copy("matrix/features", matrix)
        barcodes = old["matrix/barcodes"][:].astype("U")
        widest = about.ids(barcodes, repeat.n_tiles - 1).astype("S").dtype
        ids = (about.ids(barcodes, tile).astype(widest) for tile in range(repeat.n_tiles))
        _append(matrix, "barcodes", ids)
        for name in ("data", "indices"):
            values = old[f"matrix/{name}"][:]
            _append(matrix, name, (values for _ in range(repeat.n_tiles)))
        indptr = old["matrix/indptr"][:]
        starts = (indptr[1:] + tile * indptr[-1] for tile in range(repeat.n_tiles))
        _append(matrix, "indptr", (part for parts in ((indptr[:1],), starts) for part in parts))
        n_features, n_cells = old["matrix/shape"][:]
        matrix["shape"] = np.array([n_features, n_cells * repeat.n_tiles], np.int32)


def _append(group: h5py.Group, name: str, parts: Iterator[np.ndarray]) -> None:
    dataset = None
    for part in parts:
        if dataset is None:
            chunk = (max(1, min(80_000, len(part))),)
            dataset = group.create_dataset(name, (0,), part.dtype, chunks=chunk, maxshape=(None,), compression="gzip")
        dataset.resize(len(dataset) + len(part), axis=0)
        dataset[len(dataset) - len(part) :] = part


# --- images and documents ---


def _repeat_images(source: Path, out: Path, repeat: Repeat) -> None:
    paths = [*source.glob("morphology*.ome.tif"), *source.glob("morphology_focus/*.ome.tif")]
    for path in progress(sorted(paths), "tile images"):
        copy = out / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        repeat_image(path, copy, repeat)


def _repeat_documents(source: Path, out: Path, about: _Source, repeat: Repeat) -> None:
    experiment = io.read_json(source / "experiment.xenium")
    io.write_json(out / "experiment.xenium", experiment | {"num_cells": about.n_cells * repeat.n_tiles})
    if (source / "gene_panel.json").exists():
        shutil.copyfile(source / "gene_panel.json", out / "gene_panel.json")
    if (source / _CLUSTERS).exists():
        clusters = pd.read_csv(source / _CLUSTERS)
        copies = [
            clusters.assign(Barcode=about.ids(clusters["Barcode"].to_numpy(), tile)) for tile in range(repeat.n_tiles)
        ]
        (out / _CLUSTERS).parent.mkdir(parents=True)
        pd.concat(copies).to_csv(out / _CLUSTERS, index=False, lineterminator="\n")
