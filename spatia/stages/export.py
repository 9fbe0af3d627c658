"""Export: all tables of a slide -> AnnData (kept cells), annotated SpatialData, cell groups for Xenium Explorer."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import spatia
from spatia import keys
from spatia.cells.crops import INDEX_FILE
from spatia.errors import SpatiaError
from spatia.io import read_json, read_table, whole_dir, whole_file
from spatia.report.explorer import cell_groups, groups_csv
from spatia.report.labels import label_column, read_labels, storable_name
from spatia.xenium.store import SlideStore, ignore_snakemake_timestamp, open_slide
from spatia.xenium.writing import quiet_library, sort_metadata

if TYPE_CHECKING:
    from anndata import AnnData

SAMPLE_COLUMNS = ("donor", "tissue", "disease", "species", "split")
# a cell's place in the tissue grid is called `tissue` in the tables; the organ of the sheet keeps out of its way
SAMPLE_NAMES = {"tissue": "organ"}
# file of the embed stage -> key of obsm
OBSM_KEYS = {
    "z": "X_spatia",
    "z_cell": "X_spatia_cell",
    "z_niche": "X_spatia_niche",
    "z_tissue": "X_spatia_tissue",
    "z_image": "X_spatia_image",
    "z_genes": "X_spatia_genes",
}
PER_NICHE = ("z_niche", "z_tissue")
NOWHERE = -1  # niche and tissue and cluster of cells that were removed
_ELEMENTS = ("images", "labels", "shapes", "points")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia export``."""
    parser.add_argument("--slide", required=True, metavar="NAME")
    parser.add_argument("--zarr", type=Path, required=True, metavar="DIR", help="slide.zarr")
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="ingest.json")
    parser.add_argument("--qc-cells", type=Path, required=True, metavar="FILE", help="cells.parquet of qc")
    parser.add_argument("--crops", type=Path, required=True, metavar="DIR", help="crops of the slide")
    parser.add_argument("--tiles", type=Path, required=True, metavar="DIR", help="tiles of the slide")
    parser.add_argument("--embeddings", type=Path, required=True, metavar="DIR", help="embeddings of the slide")
    parser.add_argument("--labels", default="", metavar="FILE", help="csv of cell_id and labels; '' for none")
    parser.add_argument("--sample", default="{}", metavar="JSON", help="the slide's line in the sheet, as JSON")
    parser.add_argument("--h5ad", type=Path, required=True, metavar="FILE", help="AnnData to write")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="SpatialData store to write")
    parser.add_argument("--explorer", type=Path, required=True, metavar="DIR", help="folder of csv files to write")


def run(args: argparse.Namespace) -> int:
    """Read a slide's tables, join them by cell id, write the three exports."""
    slide = open_slide(args.zarr)
    cells = _join(slide.read_cells(), read_table(args.qc_cells), str(args.qc_cells))
    tiles = _by_id(read_table(args.tiles / "cells.parquet"))
    crops = _by_id(read_table(args.crops / INDEX_FILE))
    labels = read_labels(Path(args.labels), cells.index) if args.labels else None
    _check_members(cells, tiles, str(args.tiles))
    _check_members(cells, crops, str(args.crops))
    embedded = read_embeddings(args.embeddings)
    _check_members(cells, embedded.cells, str(args.embeddings))
    table = annotate(cells, tiles, crops, labels, args.slide, _read_sample(args.sample))
    table["cluster"] = embedded.cells["cluster"].reindex(table.index).fillna(NOWHERE).astype(np.int32)
    everything = make_anndata(slide, table, read_json(args.record))
    add_embeddings(everything, embedded)
    kept = everything[everything.obs[keys.KEEP].to_numpy(bool)].copy()
    with whole_file(args.h5ad) as partial:
        kept.write_h5ad(partial)
    write_store(slide, everything, args.store)
    with whole_dir(args.explorer) as folder:
        for name, groups in cell_groups(cells, tiles, labels, embedded.cells["cluster"]).items():
            (folder / f"{name}.csv").write_text(groups_csv(groups), encoding="utf-8")
    return 0


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of the kept cells; ``cells`` has one row each, index ``cell_id``, and their cluster."""

    cells: pd.DataFrame
    record: dict[str, Any]
    arrays: dict[str, np.ndarray]  # key of obsm -> (cells, width)


def read_embeddings(folder: Path) -> Embeddings:
    """Return what embed wrote, every level as one row per cell."""
    record, cells = read_json(folder / "embed.json"), read_table(folder / "cells.parquet")
    arrays = {}
    for name, key in OBSM_KEYS.items():
        path = folder / f"{name}.npy"
        if path.exists():
            values = np.load(path, mmap_mode="r")
            arrays[key] = values[cells[keys.NICHE]] if name in PER_NICHE else values
    return Embeddings(_by_id(cells), record, arrays)


def add_embeddings(table: AnnData, found: Embeddings) -> None:
    """Add every embedding to ``obsm``; cells that were removed have NaN."""
    rows = found.cells.index.get_indexer(table.obs_names)
    for key, values in found.arrays.items():
        full = np.full((len(rows), values.shape[1]), np.nan, np.float32)
        full[rows >= 0] = values[rows[rows >= 0]]
        table.obsm[key] = full
    table.uns["spatia"]["embed"] = json.dumps(found.record, sort_keys=True)


def annotate(
    cells: pd.DataFrame,
    tiles: pd.DataFrame,
    crops: pd.DataFrame,
    labels: pd.DataFrame | None,
    slide: str,
    sample: dict[str, str],
) -> pd.DataFrame:
    """Return all that is known about each cell, in the bundle's order, joined by ``cell_id``.

    Parameters
    ----------
    cells : measures, filters and positions of every cell
    tiles, crops : membership and crop index of the kept cells
    labels : the user's annotations, or None
    sample : donor, tissue, disease, species and split of the slide
    """
    table = cells.copy()
    for level in (keys.NICHE, keys.TISSUE):
        table[level] = tiles[level].reindex(table.index).fillna(NOWHERE).astype(np.int32)
    table["is_clipped"] = table.index.isin(crops.index[crops["is_clipped"].astype(bool)])
    table[keys.SLIDE] = pd.Categorical([slide] * len(table))
    for column in SAMPLE_COLUMNS:
        if sample.get(column):
            table[SAMPLE_NAMES.get(column, column)] = pd.Categorical([sample[column]] * len(table))
    if labels is not None:
        named = labels.reindex(table.index).rename(columns=lambda name: label_column(str(name))).astype("category")
        table = table.join(named)
    return table.rename(columns=storable_name)


def make_anndata(slide: SlideStore, table: pd.DataFrame, record: dict[str, Any]) -> AnnData:
    """Return counts and ``table`` as AnnData; ``obsm["spatial"]`` is in the bundle's micrometres."""
    from anndata import AnnData

    var = slide.genes.set_index("gene")
    var.index.name = None
    obs = table.copy()
    # anndata cannot hold an index and a column of one name, and spatialdata wants the column
    obs.index.name = None
    obs[keys.CELL_ID] = obs.index
    obs["region"] = pd.Categorical([keys.CELL_LABELS] * len(obs))
    spatial = table[[keys.X_UM, keys.Y_UM]].to_numpy(float) + np.asarray(slide.origin_um)
    origin = {
        "version": spatia.__version__,
        "slide": slide.slide,
        "species": slide.species,
        "pixel_size_um": slide.pixel_size_um,
        "origin_um": np.asarray(slide.origin_um),
        "stains": list(slide.stains),
        "spatial_frame": "bundle, micrometres",
        "ingest": json.dumps(record, sort_keys=True),
    }
    return AnnData(X=slide.read_counts(), obs=obs, var=var, obsm={"spatial": spatial}, uns={"spatia": origin})


def write_store(slide: SlideStore, table: AnnData, path: Path) -> None:
    """Write a new SpatialData store: the slide's images, labels and outlines as they are, and ``table``.

    Element folders are copied as files, so that no pixel is decoded and memory stays flat; only the table is new.
    """
    import zarr
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    parsed = TableModel.parse(table, region=keys.CELL_LABELS, region_key="region", instance_key=keys.CELL_LABEL)
    with whole_dir(path) as folder, quiet_library():
        ignore_snakemake_timestamp()
        folder.rmdir()  # spatialdata writes into a new folder only
        SpatialData(tables={keys.TABLE: parsed}).write(folder)
        for name in _ELEMENTS:
            if (slide.path / name).is_dir():
                shutil.copytree(slide.path / name, folder / name, dirs_exist_ok=True)
        root = zarr.open_group(folder, mode="r+", use_consolidated=False)
        root.attrs.update(dict(zarr.open_group(slide.path, mode="r", use_consolidated=False).attrs))
        zarr.consolidate_metadata(folder)
        sort_metadata(folder)


def _join(cells: pd.DataFrame, measured: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the slide's table with the QC columns beside it; the ids must be the same set."""
    measured = _by_id(measured)
    if len(measured) != len(cells) or not measured.index.is_unique or not measured.index.isin(cells.index).all():
        raise SpatiaError(
            f"{where}: expected the {len(cells)} cells of the slide once each, found {measured.index.nunique()}"
            f" different ids in {len(measured)} rows; run spatia qc again"
        )
    # what both have, QC measured
    return cells.drop(columns=cells.columns.intersection(measured.columns)).join(measured)


def _by_id(table: pd.DataFrame) -> pd.DataFrame:
    if keys.CELL_ID in table:
        table = table.set_index(keys.CELL_ID)
    table.index = table.index.astype(str)
    table.index.name = keys.CELL_ID
    return table


def _check_members(cells: pd.DataFrame, members: pd.DataFrame, where: str) -> None:
    """Crops and tiles must hold exactly the kept cells: otherwise they were made with other filters."""
    kept = cells.index[cells[keys.KEEP].astype(bool)]
    if len(members) != len(kept) or not kept.isin(members.index).all():
        raise SpatiaError(
            f"{where}: expected the {len(kept)} kept cells, found {len(members)} others; run that stage again"
        )


def _read_sample(text: str) -> dict[str, str]:
    try:
        sample = json.loads(text)
    except ValueError:
        raise SpatiaError(f"--sample: expected a JSON object, found {text!r}") from None
    if not isinstance(sample, dict):
        raise SpatiaError(f"--sample: expected a JSON object, found {text!r}")
    return {str(key): str(value) for key, value in sample.items()}
