"""The same images and masks measured by CellProfiler itself: files for it, and what it found beside our features.

``prepare`` writes one image set per cell; CellProfiler runs on them in an environment of its own, in shards;
``collect`` checks that every cell came back, and compares column by column.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

import spatia
from spatia import keys
from spatia.cells.crops import open_crops
from spatia.config import load_params, params_from_dict
from spatia.errors import SpatiaError
from spatia.generated import Generated, open_generated, real_frames
from spatia.io import read_json, read_table, whole_dir, write_json, write_table
from spatia.measure.agreement import compare_columns
from spatia.measure.feature_columns import CELLS, DAPI, NUCLEI, image_name
from spatia.measure.segment import segment
from spatia.progress import progress
from spatia.stages.features import REAL, make_recipe
from spatia.transition_params import CellprofilerParams, FeaturesParams

FORMAT = 1
PLACE = ("kind", keys.CELL_ID, "transition_tag")  # what names an image
AREA = f"{CELLS}_AreaShape_Area"
PIPELINE = "resources/cellprofiler/measure.cppipe"

log = logging.getLogger("spatia.cellprofiler")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia cellprofiler``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="prepare|collect")
    prepare = actions.add_parser("prepare", help="write images, masks and the pipeline")
    prepare.add_argument("--slide", required=True, metavar="NAME")
    prepare.add_argument("--features", type=Path, required=True, metavar="DIR", help="what features wrote")
    prepare.add_argument("--generated", type=Path, required=True, metavar="DIR")
    prepare.add_argument("--crops", type=Path, required=True, metavar="DIR")
    prepare.add_argument("--params", type=Path, required=True, metavar="YAML", help="config/stages/cellprofiler.yaml")
    prepare.add_argument("--pipeline", type=Path, required=True, metavar="CPPIPE", help=PIPELINE)
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    collect = actions.add_parser("collect", help="check and join what CellProfiler wrote, compare it with ours")
    collect.add_argument("--inputs", type=Path, required=True, metavar="DIR", help="what prepare wrote")
    collect.add_argument("--shards", type=Path, nargs="+", required=True, metavar="DIR", help="CellProfiler's outputs")
    collect.add_argument("--features", type=Path, required=True, metavar="DIR")
    collect.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> None:
    """Do what was asked for."""
    (prepare if args.action == "prepare" else collect)(args)


# --- before CellProfiler -----------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> None:
    """Write one image set per chosen cell, ``load_data.csv``, the pipeline and the shards."""
    params = load_params(args.params, CellprofilerParams)
    generated = open_generated(args.generated)
    table = read_table(args.features / "features.parquet")
    chosen = choose_images(table, params)
    images = read_images(table, chosen, generated, args.crops)
    record = args.features / "features.json"
    recipe = make_recipe(generated, params_from_dict(read_json(record).get("params", {}), FeaturesParams, str(record)))
    has_nuclei = recipe.dapi is not None
    with whole_dir(args.out) as folder:
        (folder / "images").mkdir()
        sets = []
        for number, image in enumerate(progress(images, f"cellprofiler {args.slide}", unit="cell"), 1):
            scaled = image.astype(np.float32) / np.float32(255)
            found = segment(scaled, recipe.dapi, recipe.threshold, recipe.rim_share, recipe.min_cell_px)
            check_mask(found.cell, chosen.iloc[number - 1], args.features)
            masks = {CELLS: found.cell} | ({NUCLEI: found.nucleus} if has_nuclei else {})
            sets.append(write_image_set(folder / "images", number, image, generated.stains, masks))
        rows = chosen[list(PLACE)].assign(ImageNumber=np.arange(1, len(chosen) + 1), has_nucleus=[s[1] for s in sets])
        write_table(folder / "rows.tsv", rows)
        load_data = pd.DataFrame([entry for entry, _ in sets])
        with (folder / "load_data.csv").open("w", encoding="utf-8", newline="") as handle:
            load_data.to_csv(handle, index=False)
        write_shards(folder / "shards.tsv", len(chosen), params.shards)
        text = args.pipeline.read_text(encoding="utf-8")
        (folder / "measure.cppipe").write_text(fill_pipeline(text, generated.stains, has_nuclei), encoding="utf-8")
    log.info("%s: %d cells for CellProfiler", args.slide, len(chosen))


def choose_images(table: pd.DataFrame, params: CellprofilerParams) -> pd.DataFrame:
    """Return the rows of the features table that CellProfiler is given: segmented ones, at most ``max_images``."""
    usable = table[table["is_segmented"]]
    if params.only_real:
        usable = usable[usable["kind"] == REAL]
    if params.max_images is not None and len(usable) > params.max_images:
        rows = np.random.default_rng(params.seed).choice(len(usable), params.max_images, replace=False)
        usable = usable.iloc[np.sort(rows)]
    if usable.empty:
        raise SpatiaError("features: expected segmented cells to give to CellProfiler, found none")
    return usable


def read_images(table: pd.DataFrame, chosen: pd.DataFrame, generated: Generated, crops: Path) -> NDArray[np.uint8]:
    """Return the images of some rows of the features table (n, c, p, p)."""
    is_real = (chosen["kind"] == REAL).to_numpy()
    images = np.zeros((len(chosen), len(generated.stains), generated.image_px, generated.image_px), np.uint8)
    ids = chosen.loc[is_real, keys.CELL_ID].astype(str).tolist()
    images[is_real] = real_frames(open_crops(crops), ids, generated.stains, generated.image_px, str(generated.path))
    # generated images stand behind the real ones, in their own order
    n_real = int((table["kind"] == REAL).sum())
    images[~is_real] = generated.images[chosen.index[~is_real].to_numpy() - n_real]
    return images


def check_mask(mask: NDArray[np.bool_], row: pd.Series, features: Path) -> None:
    """Refuse a mask that is not the one that was measured: another version of the segmenter made it."""
    if int(mask.sum()) != int(row[AREA]):
        raise SpatiaError(
            f"{features}: expected the mask of cell {row[keys.CELL_ID]!r} to have {int(row[AREA])} px as measured "
            f"there, found {int(mask.sum())}; run 'spatia features' again"
        )


def write_image_set(
    folder: Path, number: int, image: NDArray[np.uint8], stains: tuple[str, ...], masks: dict[str, NDArray[np.bool_]]
) -> tuple[dict[str, str], bool]:
    """Write the files of one cell; return its row of ``load_data.csv``, and whether it has a nucleus."""
    entry: dict[str, str] = {}
    for stain, plane in zip(stains, image, strict=True):
        name = f"{number:07d}_{image_name(stain)}.tif"
        tifffile.imwrite(folder / name, plane)
        entry |= {f"Image_FileName_{image_name(stain)}": name, f"Image_PathName_{image_name(stain)}": "images"}
    for name, mask in masks.items():
        file = f"{number:07d}_mask_{name}.tif"
        tifffile.imwrite(folder / file, mask.astype(np.uint8))
        entry |= {f"Image_ObjectsFileName_{name}": file, f"Image_ObjectsPathName_{name}": "images"}
    return entry, bool(masks[NUCLEI].any()) if NUCLEI in masks else False


def write_shards(path: Path, n_images: int, n_shards: int) -> None:
    """Write the first and last image number of every shard; a shard beyond the images is empty (first > last)."""
    edges = np.linspace(0, n_images, n_shards + 1).round().astype(int)
    table = pd.DataFrame({"shard": np.arange(n_shards), "first": edges[:-1] + 1, "last": edges[1:]})
    write_table(path, table)


def fill_pipeline(text: str, stains: tuple[str, ...], has_nuclei: bool) -> str:
    """Return the pipeline for these stains."""
    names = ", ".join(image_name(stain) for stain in stains)
    objects = f"{CELLS}, {NUCLEI}" if has_nuclei else CELLS
    for word, value in (("@STAINS@", names), ("@OBJECTS@", objects), ("@NUCLEI@", str(DAPI in stains))):
        text = text.replace(word, value)
    return text


# --- after it ----------------------------------------------------------------------------------------------------


def collect(args: argparse.Namespace) -> None:
    """Join the shards, check them, compare."""
    rows = read_table(args.inputs / "rows.tsv").astype({keys.CELL_ID: str}).fillna({"transition_tag": ""})
    tables = [read_object(args.shards, CELLS, rows)]
    if rows["has_nucleus"].any():
        tables.append(read_object(args.shards, NUCLEI, rows[rows["has_nucleus"]]))
    joined = rows.drop(columns="has_nucleus")
    for table in tables:
        joined = joined.merge(table, on="ImageNumber", how="left", validate="one_to_one")
    columns = read_table(args.features / "columns.tsv").fillna({"stain": ""})
    ours = match_rows(read_table(args.features / "features.parquet"), joined)
    comparison = compare_columns(ours, joined, columns)
    with whole_dir(args.out) as folder:
        write_table(folder / "cellprofiler.parquet", joined)
        write_table(folder / "comparison.tsv", comparison)
        write_json(folder / "cellprofiler.json", describe(joined, comparison))
    log.info("%d cells, %d columns compared, %d equal to 1e-6", len(joined), len(comparison),
             int((comparison["relative"] <= 1e-6).sum()))  # fmt: skip


def read_object(shards: list[Path], name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return CellProfiler's table of one object, one row per image, columns named as ours.

    Raises
    ------
    SpatiaError
        If an image has no row, or more than one: CellProfiler drops failed images and empty masks without a word.
    """
    files = [shard / f"{name}.csv" for shard in shards]
    parts = [pd.read_csv(file) for file in files if file.exists() and file.stat().st_size]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"ImageNumber": pd.Series(dtype=int)})
    found = table["ImageNumber"].value_counts()
    wanted = rows["ImageNumber"]
    lost = [number for number in wanted if found.get(number, 0) != 1]
    if lost:
        raise SpatiaError(
            f"CellProfiler: expected one row in {name}.csv for each of {len(wanted)} images, found "
            f"{found.get(lost[0], 0)} for image {lost[0]} ({len(lost)} such); see the logs of its shards, run it again"
        )
    own = table[table["ImageNumber"].isin(wanted)].drop(columns="ObjectNumber")
    return own.rename(columns={column: f"{name}_{column}" for column in own if column != "ImageNumber"})


def match_rows(features: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the features table for the images that CellProfiler measured, in their order."""
    indexed = features.set_index(list(PLACE))
    return indexed.loc[pd.MultiIndex.from_frame(rows[list(PLACE)])].reset_index()


def describe(joined: pd.DataFrame, comparison: pd.DataFrame) -> dict[str, object]:
    """Return ``cellprofiler.json``."""
    return {
        "format": FORMAT,
        "spatia_version": spatia.__version__,
        "n_images": len(joined),
        "n_columns": len(comparison),
        "n_equal_1e-6": int((comparison["relative"] <= 1e-6).sum()),
        "n_equal_1e-3": int((comparison["relative"] <= 1e-3).sum()),
    }
