"""Tiles + labels (or marker genes) -> cell type, lineage, state, niche classes and split of every kept cell."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

import spatia
from spatia import keys
from spatia.cells.markers import assign_types, score_types, spread_types, type_lineages
from spatia.cells.naming import NAMED, name_cells, parse_names
from spatia.cells.niche_classes import classify_niches
from spatia.config import load_params, params_to_dict
from spatia.errors import SpatiaError
from spatia.io import read_json, read_sparse, read_table, whole_dir, write_json, write_table
from spatia.measure.splits import distance_to_edge, split_by_blocks
from spatia.report.labels import read_labels
from spatia.transition_params import StatesParams
from spatia.transition_plan import NICHE_PREFIX
from spatia.transitions.basis import log_normalise, median_total

FORMAT = 1
SIDES = ("left", "right", "top", "bottom")

log = logging.getLogger("spatia.states")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia states``."""
    parser.add_argument("--slide", required=True, metavar="NAME")
    parser.add_argument("--tiles", type=Path, required=True, metavar="DIR", help="what tile wrote")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="csv or parquet: cell_id (or Barcode) and labels")
    parser.add_argument("--names", type=Path, metavar="YAML", help="label -> cell_type, lineage, state")
    parser.add_argument("--markers", type=Path, metavar="TSV", help="marker genes, for slides without labels")
    parser.add_argument("--split", required=True, choices=keys.SPLITS, help="of the slide")
    parser.add_argument("--edge", choices=SIDES, help="edge shared with a slide of another split")
    parser.add_argument("--params", type=Path, required=True, metavar="YAML", help="as config/stages/states.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of states to write")


def run(args: argparse.Namespace) -> None:
    """Name every kept cell, class its surroundings, say which side of the split it is on; write a table."""
    params = load_params(args.params, StatesParams)
    places, header = read_table(args.tiles / "cells.parquet"), read_json(args.tiles / "tiles.json")
    position_um = places[[keys.X_UM, keys.Y_UM]].to_numpy(np.float64)
    split = split_cells(position_um, header, args.split, args.edge, params)
    # a test block of a training slide teaches nothing; other slides learn their types from all of their own counts
    is_reference = (split != "test") | (args.split != "train")
    named, source = name_all(args, pd.Index(places[keys.CELL_ID]), is_reference, params)
    niches = classify_niches(named, position_um, params.axes(), params.min_neighbours).add_prefix(NICHE_PREFIX)
    cells = pd.concat([places[[keys.CELL_ID]], named, niches], axis=1).assign(split=split)
    with whole_dir(args.out) as folder:
        write_table(folder / "states.parquet", cells)
        write_json(folder / "states.json", describe(args, cells, source, params))
    n_named = int((cells["cell_type"] != "").sum())
    log.info("%s: %d of %d cells have a type, from %s", args.slide, n_named, len(cells), source)


def name_all(
    args: argparse.Namespace, cell_ids: pd.Index, is_reference: np.ndarray, params: StatesParams
) -> tuple[pd.DataFrame, str]:
    """Return ``cell_type``, ``lineage``, ``state`` of the kept cells and where they come from."""
    if args.labels is not None:
        return names_from_labels(args.labels, cell_ids, read_names(args.names, params)), str(args.labels)
    if args.markers is None:
        raise SpatiaError(f"slide {args.slide}: expected --labels or --markers, found neither")
    return names_from_markers(args.tiles, args.markers, is_reference, params), f"markers of {args.markers}"


def names_from_labels(path: Path, cell_ids: pd.Index, names: Mapping[str, dict[str, str]]) -> pd.DataFrame:
    """Return the names of cells that a file of labels gives, "" for cells it does not have."""
    try:
        named = name_cells(read_labels(path, cell_ids), names)
    except ValueError as problem:
        raise SpatiaError(f"{path}: {problem}; add names to config/stages/states.yaml") from None
    return named.reindex(cell_ids).fillna("").reset_index(drop=True)


def read_names(path: Path | None, params: StatesParams) -> dict[str, dict[str, str]]:
    """Return label -> names: the run's own file, or those of the parameters."""
    if path is None:
        return parse_names(params.names)
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    if not isinstance(content, dict):
        raise SpatiaError(f"{path}: expected a YAML mapping of labels to names, found {type(content).__name__}")
    try:
        return parse_names(content)
    except ValueError as problem:
        raise SpatiaError(f"{path}: {problem}") from None


def names_from_markers(tiles: Path, path: Path, is_reference: np.ndarray, params: StatesParams) -> pd.DataFrame:
    """Return the names of cells by their marker genes; states stay unknown."""
    if not path.is_file():
        raise SpatiaError(f"{path}: expected a table of marker genes, found no such file; correct --markers")
    markers = pd.read_csv(path, sep="\t", comment="#")
    counts, genes = (
        read_sparse(tiles / "cell_counts.npz"),
        read_table(tiles / "genes.parquet")["gene"].to_numpy(np.str_),
    )
    try:
        lineage = type_lineages(markers)
        scores = score_types(
            log_normalise(counts, median_total(counts)), genes, markers, is_reference,
            params.marker_background, params.min_marker_genes,
        )  # fmt: skip
    except ValueError as problem:
        raise SpatiaError(f"{path}: {problem}; give the slide a file of labels") from None
    named = assign_types(scores, params.min_marker_score, params.marker_margin)
    if params.min_probability is not None:
        named = spread_types(counts, named, is_reference, params.min_probability)
    cell_type = pd.Series(named, dtype=object)
    return pd.DataFrame({"cell_type": cell_type, "lineage": cell_type.map(lineage).fillna(""), "state": ""})


def split_cells(
    position_um: np.ndarray, header: Mapping[str, Any], split: str, edge: str | None, params: StatesParams
) -> np.ndarray:
    """Return the side of every cell, ``(n,)`` of str: the slide's split, ``test`` in its test block, "" left out."""
    position_px = position_um / header["pixel_size_um"]
    sides = np.full(len(position_px), split, dtype="<U5")
    if edge:
        shape_px = (header["height_px"], header["width_px"])
        sides[distance_to_edge(position_px, edge, shape_px) < params.buffer_px] = ""  # type: ignore[arg-type]
    if params.test_share and split == "train":
        rng = np.random.default_rng(params.seed)
        try:
            block = split_by_blocks(position_px, params.test_share, rng, buffer_px=params.buffer_px)
        except ValueError as problem:
            raise SpatiaError(f"slide {header['slide']}: test_share {params.test_share}: {problem}") from None
        sides[~block.train] = ""
        sides[block.test] = "test"
    return sides


def describe(args: argparse.Namespace, cells: pd.DataFrame, source: str, params: StatesParams) -> dict[str, Any]:
    """Return ``states.json``."""
    columns = [*NAMED, *(name for name in cells if str(name).startswith(NICHE_PREFIX)), "split"]
    return {
        "format": FORMAT,
        "slide": args.slide,
        "spatia_version": spatia.__version__,
        "source": source,
        "split": args.split,
        "edge": args.edge or "",
        "n_cells": len(cells),
        "counts": {column: cells[column].value_counts().to_dict() for column in columns},
        "params": params_to_dict(params),
    }
