"""One table of broken and odd bundles: each ends in the right result, or in one line and nothing else.

A case names a mutation of a toy bundle and what must come of it: :func:`works` (the same slide as from the unbroken
bundle, apart from what the case says) or :func:`refused` (exit status 1 and one line that names the file, what was
expected, what was found and what to do). ``spatia check`` must come to the same verdict as ``spatia ingest``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import breaking as b
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
import toy

from spatia import keys
from spatia.cli import main
from spatia.xenium.rasters import blocks_of
from spatia.xenium.simulate.slide import LAYOUTS
from spatia.xenium.store import open_slide
from spatia.xenium.writing import SlideContent

FOCUS = "morphology_focus/morphology_focus_{:04d}.ome.tif"
DAPI, BOUNDARY, RNA, PROTEIN = (FOCUS.format(index) for index in range(4))
CH = (
    "morphology_focus/ch0000_dapi.ome.tif",
    "morphology_focus/ch0001_atp1a1_cd45_e-cadherin.ome.tif",
    "morphology_focus/ch0002_18s.ome.tif",
    "morphology_focus/ch0003_alphasma_vimentin.ome.tif",
)
EXPERIMENT, CELLS, MATRIX, MASKS = "experiment.xenium", "cells.parquet", "cell_feature_matrix.h5", "cells.zarr.zip"
OUTLINES, NUCLEI, STACK = "cell_boundaries.parquet", "nucleus_boundaries.parquet", "morphology.ome.tif"
TRANSCRIPTS = "transcripts.parquet"
HE, ALIGNMENT = "toy_he_image.ome.tif", "toy_he_imagealignment.csv"
REMEDIES = ("restore", "correct", "copy", "remove", "leave", "export", "get", "give", "keep", "choose", "set", "check")
WIDTH_UM = toy.SHAPE[1] * 0.2125


@dataclass(frozen=True)
class Expected:
    """What must come of a case.

    Attributes
    ----------
    names : for a refusal, one of these must be named; empty if it works
    apart : parts of the result (of ``summarise``) that differ from the unbroken bundle's
    stains : the stains that are left, None for all
    says : a part of the message or of the notes
    """

    names: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    stains: tuple[str, ...] | None = None
    says: str = ""


def works(*apart: str, stains: tuple[str, ...] | None = None, says: str = "") -> Expected:
    return Expected(apart=apart, stains=stains, says=says)


def refused(*names: str, says: str = "") -> Expected:
    return Expected(names=names, says=says)


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    layout, options : of the toy bundle that is broken
    params : content of ``ingest.yaml``
    arguments : further arguments of ``spatia ingest`` and ``spatia check``
    check : further arguments of ``spatia check``
    folder : the bundle's name
    is_checked : whether ``spatia check`` looks at what is broken here
    is_written : ``slide.zarr`` is written and read back; else what would go into it is compared, which is faster
    """

    name: str
    mutate: b.Mutation
    expected: Expected
    layout: str = "3.0"
    options: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    params: str = ""
    check: tuple[str, ...] = ()
    folder: str = "bundle"
    is_checked: bool = True
    is_written: bool = False


def nothing(bundle: Path) -> None:
    """Break nothing."""


def each(what: str, mutation: Any, names: tuple[str, ...], **more: Any) -> list[Case]:
    """Return one refusal per file."""
    return [Case(f"{what} {name}", mutation(name), refused(name), **more) for name in names]


def set_ids(**changes: int) -> b.Mutation:
    """Return: barcodes of the matrix are copied over others, ``a_to_b`` style places."""

    def change(barcodes: np.ndarray) -> np.ndarray:
        barcodes[changes["to"]] = barcodes[changes["source"]]
        return barcodes

    return b.replace_dataset("barcodes", change)


def swapped(values: np.ndarray, first: int = 0, second: int = 5) -> np.ndarray:
    values = values.copy()
    values[[first, second]] = values[[second, first]]
    return values


def copied(values: np.ndarray, source: int = 0, to: int = 5) -> np.ndarray:
    values = values.copy()
    values[to] = values[source]
    return values


def with_value(values: np.ndarray, place: Any, value: Any) -> np.ndarray:
    values = values.copy()
    values[place] = value
    return values


def renumbered_archive(bundle: Path) -> None:
    """Put the cells of the archive in another order and say so in ``cell_index``: consistent, but by id only."""
    order = np.random.default_rng(3).permutation(toy.N_CELLS)
    row = np.argsort(order)
    for path in ("cell_id", "cell_summary"):
        b.zarr_array(path, lambda values: values[order])(bundle)
    for index in (0, 1):
        b.zarr_array(f"polygon_sets/{index}/cell_index", lambda values: row[values].astype(values.dtype))(bundle)


def exchange_axes(table: pd.DataFrame) -> None:
    table[["x_centroid", "y_centroid"]] = table[["y_centroid", "x_centroid"]].to_numpy()


def move_outline(dx: float) -> b.Mutation:
    def change(table: pd.DataFrame) -> None:
        first = table["cell_id"] == table["cell_id"].iloc[0]
        table.loc[first, "vertex_x"] += np.float32(dx)

    return b.table("cell_boundaries", change)


def only_two_vertices(table: pd.DataFrame) -> pd.DataFrame:
    first = (table["cell_id"] == table["cell_id"].iloc[0]).to_numpy()
    return table[~first | (np.cumsum(first) <= 2)]


def interleaved(table: pd.DataFrame) -> pd.DataFrame:
    """Return the vertices of all cells dealt out in turn: those of one cell keep their order, but lie apart."""
    return table.iloc[np.argsort(table.groupby("cell_id").cumcount(), kind="stable")]


def rename_outline(name: str) -> b.Mutation:
    """Return: the outline of one cell has the id of another, which so has two."""

    def change(content: pd.DataFrame) -> None:
        ids = content["cell_id"].unique()
        content["cell_id"] = content["cell_id"].replace(ids[5], ids[0])

    return b.table(name, change)


def odd_names(names: np.ndarray) -> np.ndarray:
    odd = [b"HLA-A/B", "µ-actin".encode(), b"a b", b"'x\"", b".", b"..", b"/", b"NaN"]
    return np.array([*odd, *names[len(odd) :]], names.dtype)


def giant_mask(entries: dict[str, bytes]) -> None:
    """Claim a mask of exabytes without writing it."""
    header = json.loads(entries["masks/1/.zarray"])
    entries["masks/1/.zarray"] = json.dumps(header | {"shape": [2**30, 2**30], "chunks": [2**30, 2**30]}).encode()


def junk(bundle: Path) -> None:
    """Add what copies between systems leave behind."""
    for name in (".DS_Store", "._cells.parquet", "Thumbs.db", "notes from Jürgen.txt", "morphology_focus/readme.txt"):
        b.overwrite(name, b"\x00junk")(bundle)
    b.overwrite("morphology_focus/._morphology_focus_0000.ome.tif", b"\x00\x05\x16\x07")(bundle)
    b.overwrite("._toy_he_image.ome.tif", b"\x00\x05\x16\x07")(bundle)
    b.overwrite("old results/cells.parquet", b"nothing")(bundle)


def lower_case_stains(bundle: Path) -> None:
    for name in CH:
        for stain in toy.STAINS:
            b.xml(name, f'Name="{stain}"', f'Name="{stain.lower()}"')(bundle)


def upper_case_stains(bundle: Path) -> None:
    for name in (DAPI, BOUNDARY, RNA, PROTEIN):
        for stain in toy.STAINS:
            b.xml(name, f'Name="{stain}"', f'Name="{stain.upper()}"')(bundle)


CASES = [
    # --- nothing is broken: every layout is the slide that was written ---
    *[Case(f"unbroken {layout}", nothing, works(), layout) for layout in LAYOUTS],
    Case("one stain", nothing, works("image", stains=toy.STAINS[:1]), options={"n_stains": 1}),
    Case(
        "three focus files", b.remove(PROTEIN), works("image", stains=toy.STAINS[:3], says="AlphaSMA"), is_written=True
    ),
    # --- files missing ---
    *each("missing", b.remove, (EXPERIMENT, CELLS, MATRIX, OUTLINES)),
    *[Case(f"missing cells.parquet {v}", b.remove(CELLS), refused(CELLS), v) for v in ("1.0", "4.0")],
    Case("missing DAPI", b.remove(DAPI), works(says="maximum")),
    Case(
        "missing DAPI 4.x",
        b.remove(CH[0]),
        works(says="maximum"),
        "4.0",
    ),
    Case("missing DAPI and stack", b.remove(DAPI, STACK), refused("DAPI")),
    Case("missing DAPI and stack 4.x", b.remove(CH[0], STACK), refused("DAPI"), "4.0"),
    Case("missing stain", b.remove(RNA), works("image", stains=(*toy.STAINS[:2], toy.STAINS[3]), says="18S")),
    Case("missing stain 4.x", b.remove(CH[1]), works("image", stains=(toy.STAINS[0], *toy.STAINS[2:])), "4.0"),
    Case("missing masks", b.remove(MASKS), works("cell_labels", "nucleus_labels")),
    Case("missing nucleus outlines", b.remove(NUCLEI), works("nuclei", says=NUCLEI)),
    Case("missing transcripts", b.remove(TRANSCRIPTS), works()),
    Case("missing stack", b.remove(STACK), works()),
    Case(
        "missing stack, max asked for",
        b.remove(STACK),
        refused(STACK),
        params="projection: max",
        check=("--projection=max",),
    ),
    Case("missing focus images", b.remove("morphology_focus"), works("image", stains=toy.STAINS[:1], says=STACK)),
    Case("no image at all", b.remove("morphology_focus", STACK), refused("morphology")),
    Case("missing focus, old layout", b.remove("morphology_focus.ome.tif"), works("image"), "1.4"),
    Case("empty focus folder", b.remove(DAPI, BOUNDARY, RNA, PROTEIN), works("image", stains=toy.STAINS[:1])),
    Case("no side files", b.remove("gene_panel.json", "metrics_summary.csv", "analysis", "cells.csv.gz"), works()),
    *each("a pipe for", b.into_pipe, (EXPERIMENT, CELLS, OUTLINES)),
    Case("a link to itself", b.into_loop(MATRIX), refused(MATRIX)),
    Case("a file for the folder", lambda bundle: (shutil.rmtree(bundle), bundle.touch()), refused("bundle")),
    Case("no such folder", lambda bundle: shutil.rmtree(bundle), refused("bundle")),
    Case("an empty folder", lambda bundle: (shutil.rmtree(bundle), bundle.mkdir()), refused(EXPERIMENT)),
    # --- files cut off ---
    *each("truncated", b.truncate, (EXPERIMENT, CELLS, MATRIX, OUTLINES, NUCLEI, MASKS, DAPI, PROTEIN, HE)),
    *[Case(f"truncated {CH[2]}", b.truncate(CH[2]), refused(CH[2]), "4.0")],
    *[Case(f"truncated {n} {v}", b.truncate(n), refused(n), v) for v in ("1.0", "1.4") for n in (CELLS, MATRIX, MASKS)],
    Case(
        "truncated stack, max", b.truncate(STACK), refused(STACK), params="projection: max", check=("--projection=max",)
    ),
    Case(
        "truncated transcripts, asked for",
        b.truncate(TRANSCRIPTS),
        refused(TRANSCRIPTS),
        params="transcripts: true",
        is_checked=False,
    ),
    Case("only the smallest level cut off", b.truncate(DAPI, 0.98), works()),
    # --- files of other bytes ---
    *each("garbage in", b.garbage, (EXPERIMENT, CELLS, MATRIX, OUTLINES, NUCLEI, MASKS, DAPI, RNA, HE, ALIGNMENT)),
    *each("empty file", lambda name: b.overwrite(name, b""), (EXPERIMENT, CELLS, MATRIX, OUTLINES, MASKS, DAPI, HE)),
    *each("a folder for", b.into_folder, (EXPERIMENT, CELLS, MATRIX, OUTLINES, MASKS, DAPI)),
    Case("overwritten pixels", b.corrupt_middle(BOUNDARY, 0.2), refused(BOUNDARY), check=("--all",)),
    Case("overwritten counts", b.corrupt_middle(MATRIX, 0.3), refused(MATRIX)),
    Case("overwritten mask", b.archive(lambda entries: entries.update({"masks/1/0.0": b"\xa5" * 99})), refused(MASKS)),
    Case("unreadable matrix", b.unreadable(MATRIX), refused(MATRIX)),
    # --- experiment.xenium ---
    Case("broken JSON", b.overwrite(EXPERIMENT, '{"pixel_size": 0.2125,'), refused(EXPERIMENT)),
    Case("JSON list", b.overwrite(EXPERIMENT, "[1, 2]"), refused(EXPERIMENT)),
    Case("JSON null", b.overwrite(EXPERIMENT, "null"), refused(EXPERIMENT)),
    Case("JSON nested too deep", b.overwrite(EXPERIMENT, "[" * 200_000), refused(EXPERIMENT)),
    Case("JSON in Latin-1", b.experiment_encoded("latin-1"), refused(EXPERIMENT)),
    Case("JSON in UTF-16", b.experiment_encoded("utf-16"), refused(EXPERIMENT)),
    Case("JSON with a byte order mark", b.experiment_encoded("utf-8-sig"), works()),
    *[
        Case(f"pixel size {value!r}", b.experiment(pixel_size=value), refused(EXPERIMENT, says="pixel_size"))
        for value in (..., None, 0, -0.2125, float("nan"), float("inf"), "0.2125 um", True, [0.2125], 1e300)
    ],
    Case("pixel size of another slide", b.experiment(pixel_size=0.325), refused("pixel_size")),
    *[
        Case(f"version {value!r}", b.experiment(analysis_sw_version=value), works())
        for value in ("R&D", "", ..., None, 3, ["x"], "xenium-99.0.0.1", "XENIUM 3", "xenium-1.0.2", "xenium-3.0")
    ],
    Case("R&D 1.0", b.experiment(analysis_sw_version="R&D"), works(), "1.0"),
    Case("R&D 1.4", b.experiment(analysis_sw_version="R&D"), works(), "1.4"),
    Case("R&D 4.0", b.experiment(analysis_sw_version="R&D"), works(), "4.0"),
    Case("resegmented", b.experiment(xenium_ranger={"version": "xenium-3.1.0.0"}), works()),
    Case("odd ranger", b.experiment(xenium_ranger="yes"), works()),
    Case("wrong number of cells", b.experiment(num_cells=999), works(says="999")),
    Case("slimmed experiment", b.overwrite(EXPERIMENT, '{"pixel_size": 0.2125}'), works()),
    # --- cells: ids and positions ---
    Case("zero cells", b.table("cells", lambda t: t[:0]), refused(CELLS)),
    Case("swapped ids in cells", b.swap_ids("cells"), refused(CELLS, OUTLINES, MATRIX)),
    Case("duplicate ids in cells", b.table("cells", lambda t: pd.concat([t, t[:1]])), refused(CELLS)),
    Case(
        "a cell renamed as another",
        b.table("cells", lambda t: t.assign(cell_id=copied(t["cell_id"].to_numpy()))),
        refused(CELLS),
    ),
    Case("an id is null", b.set_value("cells", "cell_id", 2, None), refused(CELLS, MATRIX)),
    Case("an id is empty", b.set_value("cells", "cell_id", 2, ""), refused(CELLS, MATRIX)),
    *[
        Case(f"{column} is {value}", b.set_value("cells", column, 3, value), refused(CELLS))
        for column, value in (
            ("x_centroid", np.nan),
            ("y_centroid", np.inf),
            ("x_centroid", -np.inf),
            ("x_centroid", WIDTH_UM + 5),
            ("y_centroid", -3.0),
            ("y_centroid", 1e30),
        )
    ],
    Case("x and y exchanged", b.table("cells", exchange_axes), refused(CELLS, OUTLINES)),
    Case("no x_centroid", b.table("cells", lambda t: t.drop(columns="x_centroid")), refused(CELLS, says="x_centroid")),
    Case("no cell_id", b.table("cells", lambda t: t.drop(columns="cell_id")), refused(CELLS, says="cell_id")),
    Case("positions as text", b.cast("cells", "x_centroid", pa.string()), works()),
    Case("positions as float32", b.cast("cells", "x_centroid", pa.float32()), works("cells")),
    Case("ids as large text", b.cast("cells", "cell_id", pa.large_string()), works()),
    Case("ids as categories", b.cast("cells", "cell_id", pa.dictionary(pa.int32(), pa.string())), works()),
    Case("ids as bytes", b.cast("cells", "cell_id", pa.binary()), works()),
    Case("more columns", b.table("cells", lambda t: t.assign(score=1.5, region="no", x="y")), works()),
    Case("no areas", b.table("cells", lambda t: t.drop(columns=["cell_area", "nucleus_area"])), works("cells")),
    Case(
        "no nuclear areas",
        b.table("cells", lambda t: t.assign(nucleus_area=np.nan, nucleus_count=None)),
        works("cells"),
    ),
    Case("a sum is NaN", b.set_value("cells", "transcript_counts", 1, np.nan), refused(CELLS)),
    Case("a control sum is NaN", b.set_value("cells", "control_probe_counts", 1, np.nan), refused(CELLS)),
    Case("sums as text", b.table("cells", lambda t: t.assign(transcript_counts="many")), refused(CELLS)),
    Case("sums of nothing", b.table("cells", lambda t: t.assign(transcript_counts=0)), refused(MATRIX, CELLS)),
    *[
        Case(f"swapped ids in cells {v}", b.swap_ids("cells"), refused(CELLS, OUTLINES, MATRIX), v)
        for v in ("1.0", "1.4")
    ],
    *[
        Case(f"duplicate ids in cells {v}", b.table("cells", lambda t: pd.concat([t, t[2:3]])), refused(CELLS), v)
        for v in ("1.0", "1.4", "4.0")
    ],
    Case("cells permuted", b.reverse("cells"), works()),
    *[
        Case(f"everything permuted {layout}", nothing, works(), layout, {"shuffled": ("cells", "boundaries", "matrix")})
        for layout in ("1.0", "1.4", "2.0", "4.0")
    ],
    # --- matrix ---
    Case("matrix permuted", b.matrix_rows(lambda n: list(range(n))[::-1]), works()),
    Case("matrix lacks cells", b.matrix_rows(lambda n: list(range(n - 2))), refused(MATRIX)),
    Case("matrix has more cells", b.drop_cells("cells", 4), refused(MATRIX, CELLS)),
    Case("matrix has a cell twice", b.matrix_rows(lambda n: [*range(n), 0]), refused(MATRIX)),
    Case("matrix has no cells", b.matrix_rows(lambda n: [0]), refused(MATRIX)),
    Case("duplicate barcodes", set_ids(source=0, to=5), refused(MATRIX)),
    Case("swapped barcodes", b.replace_dataset("barcodes", swapped), refused(MATRIX)),
    Case("a count is negative", b.replace_dataset("data", lambda v: with_value(v, 0, -1)), refused(MATRIX)),
    Case("a feature index too large", b.replace_dataset("indices", lambda v: with_value(v, 0, 9999)), refused(MATRIX)),
    Case("row starts out of order", b.replace_dataset("indptr", lambda v: with_value(v, 3, 10**6)), refused(MATRIX)),
    Case("counts as float", b.replace_dataset("data", lambda v: v.astype(np.float32)), works()),
    Case("no genes", b.replace_dataset("features/feature_type", lambda v: np.full_like(v, b"Spots")), refused(MATRIX)),
    Case("no feature names", b.matrix(lambda g: g.__delitem__("features/name")), refused(MATRIX)),
    Case("no matrix", b.matrix(lambda g: g.parent.__delitem__("matrix")), refused(MATRIX)),
    Case("fewer feature names", b.replace_dataset("features/name", lambda v: v[:-1]), refused(MATRIX)),
    Case("a gene name twice", b.replace_dataset("features/name", copied), works("genes", "counts")),
    Case("odd gene names", b.replace_dataset("features/name", odd_names), works("genes", "counts")),
    Case(
        "barcodes of another run",
        b.replace_dataset("barcodes", lambda v: np.char.replace(v, b"-1", b"-2")),
        refused(MATRIX),
    ),
    # --- outlines ---
    Case("two outlines for one cell", rename_outline("cell_boundaries"), refused(OUTLINES)),
    Case("swapped ids in nuclei", b.swap_ids("nucleus_boundaries"), refused(NUCLEI)),
    Case("swapped ids in outlines 1.4", b.swap_ids("cell_boundaries"), refused(OUTLINES), "1.4"),
    Case("swapped ids in nuclei 1.0", b.swap_ids("nucleus_boundaries"), refused(NUCLEI), "1.0"),
    Case("swapped ids in outlines", b.swap_ids("cell_boundaries"), refused(OUTLINES)),
    Case("outlines of an unknown cell", b.drop_cells("cells", 1), refused(OUTLINES, MATRIX)),
    Case("a vertex is NaN", b.set_value("cell_boundaries", "vertex_x", 3, np.nan), refused(OUTLINES)),
    Case("a vertex is infinite", b.set_value("cell_boundaries", "vertex_y", 3, np.inf), refused(OUTLINES)),
    Case("an outline outside of the image", move_outline(500), refused(OUTLINES)),
    Case("an outline elsewhere", move_outline(-12), refused(OUTLINES)),
    Case("an outline of two vertices", b.table("cell_boundaries", only_two_vertices), refused(OUTLINES)),
    Case("no outlines in the table", b.table("cell_boundaries", lambda t: t[:0]), refused(OUTLINES)),
    Case("no nuclei in the table", b.table("nucleus_boundaries", lambda t: t[:0]), works("nuclei")),
    Case("one cell without outline", b.drop_cells("cell_boundaries", 6), works("outlines", says="outline")),
    Case("outlines permuted", nothing, works(), options={"shuffled": ("boundaries",)}),
    Case("outlines in pieces", b.table("cell_boundaries", interleaved), works()),
    Case("no label_id (early 2.0)", b.table("cell_boundaries", lambda t: t.drop(columns="label_id")), works(), "2.0"),
    Case("no label_id of nuclei", b.table("nucleus_boundaries", lambda t: t.drop(columns="label_id")), works(), "2.0"),
    Case("no vertex_y", b.table("cell_boundaries", lambda t: t.drop(columns="vertex_y")), refused(OUTLINES)),
    # --- masks ---
    Case("masks of another size", b.zarr_array("masks/1", lambda v: v[:-10, :-10]), refused(MASKS)),
    Case("masks transposed", b.zarr_array("masks/1", lambda v: v.T), refused(MASKS)),
    Case("nucleus masks of another size", b.zarr_array("masks/0", lambda v: v[:100]), refused(MASKS)),
    Case("masks moved by 10 um", b.zarr_array("masks/1", lambda v: np.roll(v, 47, 1)), refused(MASKS)),
    Case("masks of nothing", b.zarr_array("masks/1", lambda v: v * 0), refused(MASKS)),
    Case("a mask value of no cell", b.zarr_array("masks/1", lambda v: with_value(v, (0, 0), 999)), refused(MASKS)),
    Case("masks of floats", b.zarr_array("masks/1", lambda v: v.astype(np.float32)), refused(MASKS)),
    Case("swapped ids in masks", b.zarr_array("cell_id", swapped), refused(MASKS)),
    Case("duplicate ids in masks", b.zarr_array("cell_id", copied), refused(MASKS)),
    Case("swapped ids in masks 1.0", b.zarr_array("cell_id", swapped), works(), "1.0"),  # there a value is an id
    Case("swapped ids in masks 1.4", b.zarr_array("cell_id", swapped), refused(MASKS), "1.4"),
    Case("swapped values in masks 1.4", b.zarr_array("seg_mask_value", swapped), refused(MASKS), "1.4"),
    Case("swapped owners of nuclei", b.zarr_array("polygon_sets/0/cell_index", swapped), refused(MASKS)),
    Case("masks of a giant", b.archive(giant_mask), refused(MASKS)),
    Case("fewer ids in masks", b.zarr_array("cell_id", lambda v: v[:-1]), refused(MASKS)),
    Case("ids of masks renumbered", renumbered_archive, works()),
    Case("owner of a mask unknown", b.zarr_array("polygon_sets/1/cell_index", lambda v: v + 99), refused(MASKS)),
    Case(
        "no cell mask",
        b.archive(lambda e: [e.pop(n) for n in list(e) if n.startswith("masks/1/")]),
        works("cell_labels", says="cells from outlines"),
    ),
    Case(
        "no nucleus mask",
        b.archive(lambda e: [e.pop(n) for n in list(e) if n.startswith("masks/0/")]),
        works("nucleus_labels"),
    ),
    Case("no polygon sets", b.archive(lambda e: [e.pop(n) for n in list(e) if "cell_index" in n]), refused(MASKS)),
    Case(
        "an entry leads out of the zip",
        b.archive(lambda e: e.update({"../../escaped": b"x"})),
        refused(MASKS, says="escaped"),
    ),
    Case(
        "an entry leads to the root", b.archive(lambda e: e.update({"/escaped": b"x"})), refused(MASKS, says="escaped")
    ),
    Case("an entry leads out of Windows", b.archive(lambda e: e.update({"..\\..\\escaped": b"x"})), refused(MASKS)),
    # --- images ---
    Case("a stain of another size", b.image(RNA, lambda v: v[:-16]), refused(RNA)),
    Case("a stain of 8 bits", b.image(RNA, lambda v: (v // 256).astype(np.uint8)), refused(RNA)),
    Case("an image of floats", b.image(DAPI, lambda v: v.astype(np.float32)), refused(DAPI)),
    Case("a stain without OME-XML", b.image(RNA, lambda v: v, keep_xml=False), works()),
    Case(
        "all images smaller",
        b.together(*[b.image(FOCUS.format(i), lambda v: v[:128]) for i in range(4)], b.remove(STACK)),
        refused(CELLS, MASKS, OUTLINES),
    ),
    Case(
        "a stain twice",
        b.together(*[b.xml(n, 'Name="18S"', 'Name="DAPI"') for n in (DAPI, BOUNDARY, RNA, PROTEIN)]),
        refused("DAPI"),
    ),
    Case("stains in lower case", lower_case_stains, works(), "4.0"),
    Case("stains in upper case", upper_case_stains, works()),
    Case("OME-XML of nonsense", b.xml(RNA, "<Pixels", "<Pix"), refused(RNA)),
    Case(
        "focus file renamed", b.rename(RNA, "morphology_focus/morphology_focus_0007.ome.tif"), works("image", "stains")
    ),
    # --- H&E ---
    Case("H&E without alignment", b.remove(ALIGNMENT), refused(ALIGNMENT)),
    Case("alignment without H&E", b.remove(HE), works("he")),
    Case("no H&E", b.remove(HE, ALIGNMENT), works("he")),
    *[
        Case(f"alignment {what}", b.overwrite(ALIGNMENT, text), refused(ALIGNMENT))
        for what, text in (
            ("singular", "1,1,0\n1,1,0\n0,0,1\n"),
            ("all zero", "0,0,0\n0,0,0\n0,0,0\n"),
            ("with NaN", "nan,0,0\n0,1,0\n0,0,1\n"),
            ("infinite", "inf,0,0\n0,1,0\n0,0,1\n"),
            ("transposed", "0,2,0\n-2,0,0\n308,-20,1\n"),
            ("of 2 x 3", "1,0,0\n0,1,0\n"),
            ("of 4 x 4", "1,0,0,0\n0,1,0,0\n0,0,1,0\n0,0,0,1\n"),
            ("of words", "a,b,c\nd,e,f\n0,0,1\n"),
            ("that puts H&E elsewhere", "1,0,90000\n0,1,90000\n0,0,1\n"),
            ("that blows H&E up", "1e6,0,0\n0,1e6,0\n0,0,1\n"),
            ("empty", ""),
        )
    ],
    Case("H&E of 16 bits", b.image(HE, lambda v: v.astype(np.uint16)), refused(HE)),
    Case("H&E in grey", b.image(HE, lambda v: v[..., 0]), refused(HE)),
    Case("two H&E images", lambda bundle: shutil.copy(bundle / HE, bundle / "b_he_image.ome.tif"), refused("he_image")),
    # --- names, places, extra files ---
    *[
        Case(f"folder {name!r}", nothing, works(), folder=name)
        for name in (
            "with spaces",
            "with 'quotes\"",
            "a;b & c|d $HOME `x`",
            "Größe_名前_é",
            "100% (1) [a]{b}*?",
            "-rf",
            "~x",
        )
    ],
    Case("junk files", junk, works()),
    Case("symbolic links", b.into_links, works()),
    Case(
        "H&E with an odd name",
        b.together(b.rename(HE, 'é "1";_he_image.ome.tif'), b.rename(ALIGNMENT, 'é "1";_he_imagealignment.csv')),
        works(),
    ),
    # --- what the user asks for ---
    *[
        Case(f"roi {roi}", nothing, Expected(("roi",)), arguments=(f"--roi-um={roi}",))
        for roi in (
            "1,2,3",
            "a,b,c,d",
            "30,30,10,10",
            "nan,0,10,10",
            "5000,5000,6000,6000",
            "0,0,0,0",
            "-50,-50,-10,-10",
        )
    ],
]


# --- running a case ---


def marks_of(case: Case) -> list[pytest.MarkDecorator]:
    """Return why a case cannot be tried here, if so."""
    is_root = os.geteuid() == 0
    return [pytest.mark.skipif(is_root, reason="root may read every file")] if "unreadable" in case.name else []


@dataclass(frozen=True)
class Outcome:
    """Exit status and messages of one command."""

    status: int
    lines: list[str]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Return a function that copies an unbroken bundle of a layout to a folder."""
    store = tmp_path_factory.mktemp("unbroken")
    made: dict[str, Path] = {}

    def copy(case: Case, folder: Path) -> Path:
        key = f"{case.layout} {sorted(case.options.items())}"
        if key not in made:
            made[key] = toy.toy_bundle(store / str(len(made)), case.layout, **case.options)
        shutil.copytree(made[key], folder)
        return folder

    return copy


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, fresh):
    """Return what an unbroken bundle of every layout becomes; of the first and the last, written and read back."""
    found: dict[str, dict[str, Any]] = {}
    for layout in LAYOUTS:
        folder = tmp_path_factory.mktemp("result")
        case = Case("", nothing, works(), layout)
        command = ingest_command(case, fresh(case, folder / "bundle"), folder)
        with pytest.MonkeyPatch.context() as patch:
            kept = {} if layout in (LAYOUTS[0], LAYOUTS[-1]) else keep_in_memory(patch)
            assert main(command) == 0
        found[layout] = kept or read_back(folder / "out" / "slide.zarr")
    return found


def keep_in_memory(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Make ingest keep its result instead of writing it; what it kept is in the dictionary returned."""
    kept: dict[str, Any] = {}
    patch.setattr("spatia.stages.ingest.write_slide", lambda path, content: kept.update(collect(content)))
    return kept


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=marks_of(case)) for case in CASES])
def test_case(case, fresh, unbroken, monkeypatch, tmp_path, capsys):
    bundle = fresh(case, tmp_path / case.folder)
    case.mutate(bundle)
    before = set(tmp_path.rglob("*"))
    kept = {} if case.is_written else keep_in_memory(monkeypatch)
    ingest = run(ingest_command(case, bundle, tmp_path), capsys)
    check = run(["check", str(bundle), *case.arguments, *case.check], capsys) if case.is_checked else ingest
    if case.expected.names:
        assert_refused(ingest, case.expected, "ingest")
        assert_refused(check, case.expected, "check" if case.is_checked else "ingest")
        left = {path for path in set(tmp_path.rglob("*")) - before if path.is_file() or path.name != "out"}
        assert left == {tmp_path / "ingest.yaml"}, "nothing is left behind"
        return
    assert (ingest.status, check.status) == (0, 0), ingest.lines + check.lines
    found = read_back(tmp_path / "out" / "slide.zarr") if case.is_written else kept
    assert_same_slide(found, unbroken[case.layout], case.expected)
    assert case.expected.says in " ".join(check.lines)


def ingest_command(case: Case, bundle: Path, folder: Path) -> list[str]:
    """Return the command line that ingests ``bundle`` into ``folder/out``."""
    params = folder / "ingest.yaml"
    params.write_text(case.params, encoding="utf-8")
    outputs = [f"--params={params}", f"--zarr={folder / 'out/slide.zarr'}", f"--record={folder / 'out/ingest.json'}"]
    return ["ingest", str(bundle), "--slide=toy", "--species=human", *outputs, *case.arguments]


def run(argv: list[str], capsys) -> Outcome:
    """Run ``spatia`` in this process."""
    capsys.readouterr()
    with warnings.catch_warnings(record=True) as warned:  # pytest would swallow what a user sees on the terminal
        warnings.simplefilter("default")
        status = main(argv)
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if line.strip()]
    return Outcome(status, [*(str(w.message) for w in warned if issubclass(w.category, UserWarning)), *lines])


def assert_refused(outcome: Outcome, expected: Expected, verb: str) -> None:
    """Fail unless there is one line with file, expectation, finding and remedy."""
    assert outcome.status == 1, outcome.lines
    *notes, error = outcome.lines
    assert all(note.startswith("toy: ") for note in notes), notes
    assert error.startswith(f"spatia {verb}: error: ")
    assert any(name in error for name in expected.names), error
    assert expected.says in error
    assert re.search(rf"expected .*found .*[;,:] .*\b({'|'.join(REMEDIES)})\b", error), error


def assert_same_slide(found: dict[str, Any], unbroken: dict[str, Any], expected: Expected) -> None:
    """Fail unless two slides are the same, apart from what is expected to differ."""
    if "stains" not in expected.apart:
        assert found["stains"] == (expected.stains or unbroken["stains"])
        if len(found["stains"]) > 1:  # a stain that is there has its own pixels, whatever became of the others
            places = [unbroken["stains"].index(stain) for stain in found["stains"]]
            np.testing.assert_array_equal(found["image"], unbroken["image"][places])
    for part in sorted(set(unbroken) - set(expected.apart) - {"stains"}):
        assert_same(found[part], unbroken[part], part)


def assert_same(found: Any, expected: Any, part: str) -> None:
    """Fail unless one part of two slides is the same."""
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_like=True, obj=part)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, err_msg=part)
    else:
        assert found == expected, part


# --- a slide, by cell id, whatever its order and numbers ---


def read_back(path: Path) -> dict[str, Any]:
    """Return everything that a ``slide.zarr`` says."""
    slide = open_slide(path)
    rasters = {keys.MORPHOLOGY: slide.image, keys.HE: slide.he, keys.CELL_LABELS: slide.cell_labels}
    rasters[keys.NUCLEUS_LABELS] = slide.nucleus_labels
    return summarise(
        slide.stains,
        {name: raster[:] for name, raster in rasters.items() if raster is not None},
        slide.read_cells(),
        slide.read_counts(),
        slide.genes["gene"].to_numpy(),
        {keys.CELL_BOUNDARIES: slide.read_outlines("cell"), keys.NUCLEUS_BOUNDARIES: slide.read_outlines("nucleus")},
    )


def collect(content: SlideContent) -> dict[str, Any]:
    """Return the same of what is about to be written."""
    rasters = {}
    for raster in content.rasters:
        pixels = np.zeros(raster.shape, raster.dtype)
        for channel, y0, y1, x0, x1 in blocks_of(raster):
            block = raster.read(channel, y0, y1, x0, x1)
            pixels[channel : channel + len(block), y0:y1, x0:x1] = block
        rasters[raster.element.split("/")[1]] = pixels[0] if raster.is_labels else pixels
    obs = content.table.obs.set_index(keys.CELL_ID)
    return summarise(
        content.stains, rasters, obs, content.table.X, content.table.var_names.to_numpy(), content.outlines
    )


def summarise(
    stains: tuple[str, ...],
    rasters: dict[str, np.ndarray],
    cells: pd.DataFrame,
    counts: Any,
    genes: np.ndarray,
    outlines: dict[str, Any],
) -> dict[str, Any]:
    """Return the parts of a slide in a form that two slides can be compared in."""
    cells = cells.set_axis(cells.index.astype(str))
    return {
        "stains": tuple(stains),
        "image": rasters[keys.MORPHOLOGY],
        "he": rasters.get(keys.HE),
        "cells": cells.drop(columns="cell_label").sort_index().rename_axis(None),
        "counts": pd.DataFrame(counts.toarray(), index=cells.index, columns=genes).sort_index().rename_axis(None),
        "genes": tuple(genes),
        "cell_labels": by_id(rasters[keys.CELL_LABELS], cells["cell_label"]),
        "nucleus_labels": by_id(rasters.get(keys.NUCLEUS_LABELS), cells["cell_label"]),
        "outlines": rounded(outlines.get(keys.CELL_BOUNDARIES)),
        "nuclei": rounded(outlines.get(keys.NUCLEUS_BOUNDARIES)),
    }


def by_id(labels: np.ndarray | None, label_of_id: pd.Series) -> np.ndarray | None:
    """Return labels that count the cells in the order of their ids; -1 for the label of no cell."""
    if labels is None:
        return None
    lookup = np.full(int(max(labels.max(), label_of_id.max())) + 1, -1, np.int64)
    lookup[0] = 0
    lookup[label_of_id.sort_index().to_numpy()] = np.arange(1, len(label_of_id) + 1)
    return lookup[labels]


def rounded(outlines: Any) -> dict[str, bytes] | None:
    """Return every cell's shape, to a ten thousandth of a micrometre."""
    if outlines is None:
        return None
    shapes = shapely.normalize(shapely.set_precision(outlines.geometry.to_numpy(), 1e-4))
    return dict(zip(outlines.index.astype(str), shapely.to_wkb(shapes), strict=True))


# --- the yardstick itself ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_unbroken_result_is_what_was_planted(unbroken, layout):
    slide, result = toy.toy_slide(layout), unbroken[layout]
    label = pd.Series(range(1, toy.N_CELLS + 1), index=slide.cell_ids(layout)).sort_index()
    place = np.zeros(toy.N_CELLS + 1, int)
    place[label] = range(1, toy.N_CELLS + 1)
    np.testing.assert_array_equal(result["image"], slide.focus)
    assert result["stains"] == slide.stains
    np.testing.assert_array_equal(result["cell_labels"], place[slide.cell_labels])
    np.testing.assert_array_equal(result["nucleus_labels"], place[slide.nucleus_labels])
    np.testing.assert_array_equal(result["counts"].to_numpy(), slide.counts.toarray()[label - 1, : toy.N_GENES])
    assert list(result["counts"].index) == list(label.index)
    x_um = slide.cells["x_um"].to_numpy()[label - 1]
    np.testing.assert_allclose(result["cells"]["x_um"], x_um, atol=1e-6)


def test_every_file_is_broken_in_some_case():
    names = {case.name for case in CASES}
    assert len(names) == len(CASES)
    for what in ("missing", "truncated", "garbage in"):
        assert {f"{what} {file}" for file in (EXPERIMENT, CELLS, MATRIX, OUTLINES)} <= names
