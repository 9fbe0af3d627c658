"""Generated images and the real cells they are compared with -> one table of CellProfiler's features.

Real crops are shrunk to the generator's pixels and meet the same segmenter as generated images (decision A9).
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import spatia
from spatia import keys
from spatia.cells.crops import open_crops
from spatia.config import load_params, params_to_dict
from spatia.errors import SpatiaError
from spatia.generated import Generated, judged_pairs, open_generated, real_frames
from spatia.io import read_json, read_table, whole_dir, write_json, write_table
from spatia.machine import available_cpus
from spatia.measure.feature_columns import Column
from spatia.measure.features import Measured, Recipe, feature_columns, join_measured, measure_chunks, split_chunks
from spatia.progress import progress
from spatia.transition_params import FeaturesParams

FORMAT = 1
REAL = "real"  # `kind` of real cells; of generated ones it is the method
RECIPE = ("threshold", "rim_share", "min_cell_um2")  # parameters on which a cell's features depend

log = logging.getLogger("spatia.features")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia features``."""
    parser.add_argument("--slide", required=True, metavar="NAME")
    parser.add_argument("--generated", type=Path, required=True, metavar="DIR", help="what generate wrote")
    parser.add_argument("--crops", type=Path, required=True, metavar="DIR")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="what pair wrote; a slide to apply has none")
    parser.add_argument(
        "--known", type=Path, metavar="DIR", help="features of the same slide: real cells in it are not measured again"
    )
    parser.add_argument("--params", type=Path, required=True, metavar="YAML", help="as config/stages/features.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of features to write")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="default: one per CPU there is")


def run(args: argparse.Namespace) -> None:
    """Measure every image; write the table and its dictionary whole."""
    params = load_params(args.params, FeaturesParams)
    generated = open_generated(args.generated)
    if generated.header.get("target", "cell") != "cell":
        raise SpatiaError(f"{args.generated}: expected images of cells, found niche tiles, which have no such features")
    real_ids = choose_real_cells(generated, args.pairs, params)
    columns = feature_columns(generated.stains)
    known = read_known(args.known, args.slide, generated, params) if args.known else None
    new_ids = real_ids if known is None else [cell_id for cell_id in real_ids if cell_id not in known.index]
    frames = real_frames(open_crops(args.crops), new_ids, generated.stains, generated.image_px, f"slide {args.slide}")
    recipe = make_recipe(generated, params)
    images = [(REAL, frames), ("generated", generated.images)]
    n_processes = args.processes or available_cpus()
    measured = [measure(f"{args.slide}: {what}", part, recipe, n_processes) for what, part in images]
    places = pd.concat([describe_real(new_ids), describe_generated(generated)], ignore_index=True)
    table = make_table(places, join_measured(measured), columns)
    if known is not None:
        table = with_known(table, known, real_ids)
    with whole_dir(args.out) as folder:
        write_table(folder / "features.parquet", table)
        write_table(folder / "columns.tsv", pd.DataFrame([dataclasses.asdict(column) for column in columns]))
        write_json(folder / "features.json", describe(args.slide, generated, table, columns, params))
    log.info("%s: %d images, %d columns, %d not segmented", args.slide, len(table), len(columns),
             int((~table["is_segmented"]).sum()))  # fmt: skip


def choose_real_cells(generated: Generated, pairs: Path | None, params: FeaturesParams) -> list[str]:
    """Return the ids of the real cells to measure: the generated ones' controls, then those of the slide's pairs."""
    controls = generated.cells[keys.CELL_ID].astype(str).drop_duplicates().tolist()
    if pairs is None:
        return controls
    table = judged_pairs(pairs)
    others = pd.concat([table["x_tgt_id"], table["x_ctrl_id"]]).astype(str).drop_duplicates()
    others = others[~others.isin(controls)]
    if params.max_cells is not None and len(others) > params.max_cells:
        chosen = np.random.default_rng(params.seed).choice(len(others), params.max_cells, replace=False)
        others = others.iloc[np.sort(chosen)]
    return controls + others.tolist()


def read_known(folder: Path, slide: str, generated: Generated, params: FeaturesParams) -> pd.DataFrame:
    """Return the rows of real cells of another table, indexed by cell id.

    Raises
    ------
    SpatiaError
        If its cells were measured in another way: slide, stains, size, recipe, versions.
    """
    header = read_json(folder / "features.json")
    expected = how_measured(slide, generated) | {key: getattr(params, key) for key in RECIPE}
    found = {key: header["params"].get(key) if key in RECIPE else header.get(key) for key in expected}
    other = [key for key, value in expected.items() if found[key] != value]
    if other:
        key = other[0]
        raise SpatiaError(
            f"{folder}: expected cells measured with {key} {expected[key]!r}, found {found[key]!r}; leave --known out"
        )
    table = read_table(folder / "features.parquet")
    return table[table["kind"] == REAL].set_index(keys.CELL_ID)


def how_measured(slide: str, generated: Generated) -> dict[str, Any]:
    """Return on what the features of a real cell depend, beside the cell and the recipe."""
    return {
        "format": FORMAT,
        "slide": slide,
        "spatia_version": spatia.__version__,
        "cp_measure_version": metadata.version("cp-measure"),
        "stains": list(generated.stains),
        "image_px": generated.image_px,
        "pixel_size_um": generated.pixel_size_um,
    }


def with_known(table: pd.DataFrame, known: pd.DataFrame, real_ids: list[str]) -> pd.DataFrame:
    """Return a table with the rows of known cells put in, real cells in the order of ``real_ids``."""
    is_real = table["kind"] == REAL
    taken = known.loc[[cell_id for cell_id in real_ids if cell_id in known.index]].reset_index()
    real = pd.concat([table[is_real], taken[table.columns]]).set_index(keys.CELL_ID).loc[real_ids].reset_index()
    return pd.concat([real[table.columns], table[~is_real]], ignore_index=True)


def make_recipe(generated: Generated, params: FeaturesParams) -> Recipe:
    """Return how these images are measured."""
    try:
        return Recipe(
            stains=generated.stains,
            threshold=params.threshold,
            rim_share=params.rim_share,
            min_cell_px=params.min_cell_um2 / generated.pixel_size_um**2,
        )
    except ValueError as problem:
        raise SpatiaError(f"{generated.path}: {problem}") from None


def measure(what: str, images: NDArray[np.uint8], recipe: Recipe, n_processes: int) -> Measured:
    """Measure images behind a progress bar."""
    chunks = split_chunks(images)
    if not chunks:
        return Measured(np.zeros((0, len(feature_columns(recipe.stains)))), np.zeros(0, np.str_))
    parts = measure_chunks(chunks, recipe, n_processes)
    return join_measured(list(progress(parts, f"features {what}", total=len(chunks), unit="chunk")))


def describe_real(cell_ids: list[str]) -> pd.DataFrame:
    """Return who the rows of real cells are."""
    return pd.DataFrame({"kind": REAL, keys.CELL_ID: cell_ids, "transition_tag": ""})


def describe_generated(generated: Generated) -> pd.DataFrame:
    """Return who the rows of generated cells are, in the images' order."""
    cells = generated.cells.sort_values("row")
    return pd.DataFrame(
        {
            "kind": cells["method"].astype(str).to_numpy(),
            keys.CELL_ID: cells[keys.CELL_ID].astype(str).to_numpy(),
            "transition_tag": cells["transition_tag"].astype(str).to_numpy(),
        }
    )


def make_table(places: pd.DataFrame, measured: Measured, columns: list[Column]) -> pd.DataFrame:
    """Return ``features.parquet``: who, whether and why not, then the features."""
    values = pd.DataFrame(measured.features, columns=[column.name for column in columns])
    facts = pd.DataFrame({"is_segmented": measured.reason == "", "reason": measured.reason})
    return pd.concat([places, facts, values], axis=1)


def describe(
    slide: str, generated: Generated, table: pd.DataFrame, columns: list[Column], params: FeaturesParams
) -> dict[str, Any]:
    """Return ``features.json``."""
    failed = table.loc[~table["is_segmented"], ["kind", "reason"]].agg(": ".join, axis=1)
    return {
        **how_measured(slide, generated),
        "n_columns": len(columns),
        "n_images": {str(kind): int(n) for kind, n in table["kind"].value_counts(sort=False).items()},
        "n_not_segmented": {str(name): int(n) for name, n in failed.value_counts(sort=False).items()},
        "params": params_to_dict(params),
    }
