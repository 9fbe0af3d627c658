"""Ways to break a bundle: each takes the folder of a fresh copy and changes something in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile

Mutation = Callable[[Path], None]


def together(*mutations: Mutation) -> Mutation:
    """Return all of them, one after the other."""

    def mutate(bundle: Path) -> None:
        for mutation in mutations:
            mutation(bundle)

    return mutate


# --- whole files ---


def remove(*names: str) -> Mutation:
    """Return: these files or folders are missing."""

    def mutate(bundle: Path) -> None:
        for name in names:
            path = bundle / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return mutate


def truncate(name: str, share: float = 0.5) -> Mutation:
    """Return: the copy of this file stopped at ``share`` of its bytes."""

    def mutate(bundle: Path) -> None:
        content = (bundle / name).read_bytes()
        (bundle / name).write_bytes(content[: int(share * len(content))])

    return mutate


def garbage(name: str) -> Mutation:
    """Return: this file has its length, but other bytes."""

    def mutate(bundle: Path) -> None:
        size = (bundle / name).stat().st_size
        (bundle / name).write_bytes(np.random.default_rng(0).bytes(size))

    return mutate


def corrupt_middle(name: str, share: float = 0.01) -> Mutation:
    """Return: a stretch in the middle of this file is overwritten."""

    def mutate(bundle: Path) -> None:
        content = bytearray((bundle / name).read_bytes())
        size = max(16, int(share * len(content)))
        start = len(content) // 2
        content[start : start + size] = b"\xa5" * size
        (bundle / name).write_bytes(bytes(content))

    return mutate


def overwrite(name: str, content: str | bytes) -> Mutation:
    """Return: this file holds ``content``."""

    def mutate(bundle: Path) -> None:
        (bundle / name).parent.mkdir(exist_ok=True, parents=True)
        (bundle / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return mutate


def into_folder(name: str) -> Mutation:
    """Return: a folder stands where this file should be."""

    def mutate(bundle: Path) -> None:
        (bundle / name).unlink()
        (bundle / name).mkdir()

    return mutate


def into_links(bundle: Path) -> None:
    """Replace every file by a symbolic link to it, as data managers do."""
    store = bundle.with_name(f"{bundle.name} store")
    shutil.copytree(bundle, store)
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            path.unlink()
            path.symlink_to(store / path.relative_to(bundle))


def into_pipe(name: str) -> Mutation:
    """Return: a named pipe stands where this file should be: who opens it waits for ever."""

    def mutate(bundle: Path) -> None:
        (bundle / name).unlink()
        os.mkfifo(bundle / name)

    return mutate


def into_loop(name: str) -> Mutation:
    """Return: this file is a link to itself."""

    def mutate(bundle: Path) -> None:
        (bundle / name).unlink()
        (bundle / name).symlink_to(bundle / name)

    return mutate


def unreadable(name: str) -> Mutation:
    """Return: this file may not be read."""

    def mutate(bundle: Path) -> None:
        (bundle / name).chmod(0)

    return mutate


def rename(old: str, new: str) -> Mutation:
    """Return: this file has another name."""

    def mutate(bundle: Path) -> None:
        (bundle / old).rename(bundle / new)

    return mutate


# --- documents ---


def experiment(**changes: Any) -> Mutation:
    """Return: keys of ``experiment.xenium`` have other values; ``...`` stands for a missing key."""

    def mutate(bundle: Path) -> None:
        content = json.loads((bundle / "experiment.xenium").read_text(encoding="utf-8")) | changes
        content = {key: value for key, value in content.items() if value is not ...}
        (bundle / "experiment.xenium").write_text(json.dumps(content), encoding="utf-8")

    return mutate


def experiment_encoded(encoding: str) -> Mutation:
    """Return: ``experiment.xenium`` has an umlaut and is in this encoding."""

    def mutate(bundle: Path) -> None:
        content = json.loads((bundle / "experiment.xenium").read_text(encoding="utf-8")) | {"run_name": "Größe"}
        (bundle / "experiment.xenium").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))

    return mutate


# --- tables ---


def table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> Mutation:
    """Return: this parquet table is ``change``d (in place, or to what it returns)."""

    def mutate(bundle: Path) -> None:
        path = bundle / f"{name}.parquet"
        content = pd.read_parquet(path)
        changed = change(content)
        (content if changed is None else changed).to_parquet(path, index=False)

    return mutate


def cast(name: str, column: str, kind: pa.DataType) -> Mutation:
    """Return: a column of this parquet table has another type, with the same values."""

    def mutate(bundle: Path) -> None:
        path = bundle / f"{name}.parquet"
        content = pq.read_table(path)
        place = content.schema.get_field_index(column)
        pq.write_table(content.set_column(place, column, content.column(column).cast(kind)), path)

    return mutate


def set_value(name: str, column: str, row: int, value: Any) -> Mutation:
    """Return: one value of this parquet table is another."""

    def change(content: pd.DataFrame) -> None:
        content.loc[row, column] = value

    return table(name, change)


def swap_ids(name: str, first: int = 0, second: int = 5) -> Mutation:
    """Return: two cells have each other's id in this table, in all their rows."""

    def change(content: pd.DataFrame) -> None:
        ids = content["cell_id"].unique()
        renamed = {ids[first]: ids[second], ids[second]: ids[first]}
        content["cell_id"] = content["cell_id"].map(lambda cell: renamed.get(cell, cell))

    return table(name, change)


def drop_cells(name: str, *places: int) -> Mutation:
    """Return: these cells (by place among the ids) are not in this table."""

    def change(content: pd.DataFrame) -> pd.DataFrame:
        gone = content["cell_id"].unique()[list(places)]
        return content[~content["cell_id"].isin(gone)]

    return table(name, change)


def reverse(name: str) -> Mutation:
    """Return: this table's rows stand the other way round."""
    return table(name, lambda content: content.iloc[::-1])


# --- matrix ---


def matrix(change: Callable[[h5py.Group], None]) -> Mutation:
    """Return: the group ``matrix`` of the count matrix is changed in place."""

    def mutate(bundle: Path) -> None:
        with h5py.File(bundle / "cell_feature_matrix.h5", "r+") as file:
            change(file["matrix"])

    return mutate


def replace_dataset(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Mutation:
    """Return: a dataset of the matrix holds what ``change`` makes of it."""

    def edit(group: h5py.Group) -> None:
        values = change(group[name][:])
        del group[name]
        group[name] = values

    return matrix(edit)


def matrix_rows(choose: Callable[[int], list[int]]) -> Mutation:
    """Return: the matrix has these of its n cells, in this order."""

    def edit(group: h5py.Group) -> None:
        indptr = group["indptr"][:]
        rows = choose(len(indptr) - 1)
        parts = [slice(indptr[row], indptr[row + 1]) for row in rows]
        new = {name: np.concatenate([group[name][:][part] for part in parts]) for name in ("data", "indices")}
        new["indptr"] = np.concatenate([[0], np.cumsum([part.stop - part.start for part in parts])])
        new["barcodes"] = group["barcodes"][:][rows]
        new["shape"] = np.array([group["shape"][0], len(rows)], np.int32)
        for name, values in new.items():
            del group[name]
            group[name] = values

    return matrix(edit)


# --- cells.zarr.zip ---


def archive(change: Callable[[dict[str, bytes]], None]) -> Mutation:
    """Return: the entries (name -> bytes) of ``cells.zarr.zip`` are changed in place."""

    def mutate(bundle: Path) -> None:
        path = bundle / "cells.zarr.zip"
        with zipfile.ZipFile(path) as old:
            entries = {name: old.read(name) for name in old.namelist()}
        change(entries)
        with zipfile.ZipFile(path, "w") as new:
            for name, content in entries.items():
                new.writestr(name, content)

    return mutate


def zarr_array(path: str, change: Callable[[np.ndarray], np.ndarray]) -> Mutation:
    """Return: an array of ``cells.zarr.zip`` holds what ``change`` makes of it, in one chunk without codec."""
    import zarr

    def mutate(bundle: Path) -> None:
        store = zarr.storage.ZipStore(bundle / "cells.zarr.zip", mode="r")
        values = np.ascontiguousarray(change(zarr.open_group(store, mode="r")[path][...]))
        store.close()
        archive(lambda entries: _put_array(entries, path, values))(bundle)

    return mutate


def _put_array(entries: dict[str, bytes], path: str, values: np.ndarray) -> None:
    for name in [name for name in entries if name.startswith(f"{path}/") and not name.endswith(".zattrs")]:
        del entries[name]
    header = {
        "chunks": [max(1, size) for size in values.shape],
        "compressor": None,
        "dtype": values.dtype.str,
        "fill_value": 0,
        "filters": None,
        "order": "C",
        "shape": list(values.shape),
        "zarr_format": 2,
    }
    entries[f"{path}/.zarray"] = json.dumps(header).encode()
    if values.size:
        entries[f"{path}/{'.'.join('0' * values.ndim)}"] = values.tobytes()


# --- images ---


def image(name: str, change: Callable[[np.ndarray], np.ndarray], keep_xml: bool = True) -> Mutation:
    """Return: the first plane of this TIFF holds what ``change`` makes of it, in tiles, without levels."""

    def mutate(bundle: Path) -> None:
        path = bundle / name
        with tifffile.TiffFile(path) as tiff:
            pixels, xml = tiff.pages[0].asarray(), tiff.pages[0].description
        tifffile.imwrite(
            path,
            change(pixels),
            tile=(128, 128),
            compression="deflate",
            metadata=None,
            description=xml.encode() if keep_xml else None,
            photometric="rgb" if change(pixels).shape[-1] == 3 else "minisblack",
        )

    return mutate


def rewritten(name: str, **how: Any) -> Mutation:
    """Return: this one-plane TIFF has the same pixels and OME-XML in another form, as tifffile writes it."""

    def mutate(bundle: Path) -> None:
        with tifffile.TiffFile(bundle / name) as tiff:
            pixels, text = tiff.pages[0].asarray(), tiff.pages[0].description
        form = {"byteorder": how.pop("byteorder")} if "byteorder" in how else {}
        with tifffile.TiffWriter(bundle / name, **form) as writer:
            writer.write(pixels, metadata=None, description=text.encode(), photometric="minisblack", **how)

    return mutate


def into_one_file(names: Sequence[str]) -> Mutation:
    """Return: the stains are pages of the first file, which says so."""

    def mutate(bundle: Path) -> None:
        planes = [tifffile.imread(bundle / name, key=0) for name in names]
        text = tifffile.tiffcomment(bundle / names[0])
        text = re.sub(r"<UUID FileName=.*?</UUID>", "", text)
        for page in range(len(names)):
            text = text.replace(f'FirstC="{page}" IFD="0"', f'FirstC="{page}" IFD="{page}"')
        with tifffile.TiffWriter(bundle / names[0]) as writer:
            for page, plane in enumerate(planes):
                writer.write(plane, metadata=None, description=text.encode() if page == 0 else None, tile=(128, 128))
        remove(*names[1:])(bundle)

    return mutate


def xml(name: str, old: str, new: str) -> Mutation:
    """Return: the OME-XML of this TIFF says ``new`` for ``old``."""

    def mutate(bundle: Path) -> None:
        text = tifffile.tiffcomment(bundle / name)
        assert old in text
        tifffile.tiffcomment(bundle / name, text.replace(old, new).encode())

    return mutate
