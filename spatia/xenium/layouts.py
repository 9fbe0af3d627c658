"""What a Xenium bundle is, from the files that are there.

Software versions differ in which files a bundle has and how the files join; the version string is only a hint
(``R&D``, resegmented and repackaged bundles). Only headers are read here; :mod:`spatia.xenium.checking` looks inside.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spatia.errors import SpatiaError
from spatia.xenium.images import (
    EXPERIMENT,
    FOCUS_FILE,
    FOCUS_FOLDER,
    MIP_FILE,
    STACK,
    StainImage,
    common_shape,
    find_focus,
    find_stack,
)
from spatia.xenium.reading import read_schema
from spatia.xenium.tiffs import RESTORE

CELLS = "cells.parquet"
MATRIX = "cell_feature_matrix.h5"
CELL_BOUNDARIES = "cell_boundaries.parquet"
NUCLEUS_BOUNDARIES = "nucleus_boundaries.parquet"
MASKS = "cells.zarr.zip"
TRANSCRIPTS = "transcripts.parquet"
HE_SUFFIX = "he_image.ome.tif"
ALIGNMENT_SUFFIX = "alignment.csv"


@dataclass(frozen=True)
class AlignedImage:
    """An H&E image and the csv of its 3 x 3 matrix (H&E pixel -> morphology pixel); None: already aligned."""

    file: Path
    alignment: Path | None


@dataclass(frozen=True)
class Missing:
    """A part that the bundle does not have, and what that means."""

    part: str
    consequence: str


@dataclass(frozen=True)
class Bundle:
    """One Xenium bundle, as found on disk; only headers have been read.

    Attributes
    ----------
    path : the bundle's folder
    layout : ``1.0-1.2``, ``1.3-1.9``, ``2.x``, ``3.x`` or ``4.x``: the software whose files these are
    software : the version string, as written in the bundle (a hint only)
    specs : content of ``experiment.xenium``
    pixel_size_um : side of a full-resolution pixel
    shape_px : (height, width) of the morphology images
    dtype : of the morphology images
    cells, matrix, cell_boundaries : files that every bundle has
    nucleus_boundaries, masks, transcripts : files that may be absent
    focus : in-focus images by stain, empty where there are none
    stack : z-stacks by stain (10x writes DAPI only), empty where there are none
    he : H&E image that lies in the bundle
    missing : parts that are absent and what is done about it
    notes : oddities that do not matter enough to refuse
    """

    path: Path
    layout: str
    software: str
    specs: dict[str, Any]
    pixel_size_um: float
    shape_px: tuple[int, int]
    dtype: np.dtype
    cells: Path
    matrix: Path
    cell_boundaries: Path
    nucleus_boundaries: Path | None
    masks: Path | None
    transcripts: Path | None
    focus: tuple[StainImage, ...]
    stack: tuple[StainImage, ...]
    he: AlignedImage | None
    missing: tuple[Missing, ...]
    notes: tuple[str, ...]


def describe_bundle(path: Path | str) -> Bundle:
    """Return what the Xenium bundle in the folder ``path`` consists of.

    Raises
    ------
    SpatiaError
        If a part without which nothing can be done is missing or unreadable.
    """
    path = Path(path)
    if not path.is_dir():
        raise SpatiaError(
            f"{path}: expected the folder of a Xenium bundle, found {'a file' if path.exists() else 'none'}; "
            "correct the path"
        )
    specs = _read_specs(_required(path, EXPERIMENT, "its folder is not a Xenium bundle's"))
    pixel_size_um = _pixel_size(path / EXPERIMENT, specs)
    missing: list[Missing] = []
    notes: list[str] = []
    focus, linked_missing = find_focus(path, notes)
    stack = find_stack(path, notes)
    missing += [_missing_stain(file, stain) for file, stain in linked_missing]
    shape_px, dtype = common_shape(path, (*focus, *stack), pixel_size_um)
    optional = {name: _optional(path, name) for name in (NUCLEUS_BOUNDARIES, MASKS, TRANSCRIPTS)}
    missing += _absent_parts(path, optional, focus, stack)
    transcripts = optional[TRANSCRIPTS]
    if transcripts is not None:
        read_schema(transcripts)  # its end: a copy that stopped shows, whether it is needed or not
    he = _find_he(path, missing)
    return Bundle(
        path=path,
        layout=_layout(path),
        software=_software(specs),
        specs=specs,
        pixel_size_um=pixel_size_um,
        shape_px=shape_px,
        dtype=dtype,
        cells=_required(path, CELLS, "the table of cells"),
        matrix=_required(path, MATRIX, "the counts"),
        cell_boundaries=_required(path, CELL_BOUNDARIES, "the outlines of the cells"),
        nucleus_boundaries=optional[NUCLEUS_BOUNDARIES],
        masks=optional[MASKS],
        transcripts=transcripts,
        focus=focus,
        stack=stack,
        he=he,
        missing=tuple(missing),
        notes=tuple(notes),
    )


def _missing_stain(file: str, stain: str) -> Missing:
    return Missing(
        f"{FOCUS_FOLDER}/{file}", f"stain {stain} is absent; the slide is ingested with the stains that are there"
    )


def _read_specs(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))  # editors on Windows add the mark
    except (ValueError, RecursionError, OSError) as problem:
        reason = type(problem).__name__ if isinstance(problem, RecursionError) else problem
        raise SpatiaError(f"{file}: expected JSON, found something else ({reason}); {RESTORE}") from None
    if not isinstance(content, dict):
        raise SpatiaError(f"{file}: expected a JSON object, found {type(content).__name__}; {RESTORE}")
    return content


def _pixel_size(file: Path, specs: dict[str, Any]) -> float:
    value = specs.get("pixel_size")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0.01 <= float(value) <= 10:  # type: ignore[arg-type]
        found = "none" if value is None else repr(value)
        raise SpatiaError(f"{file}: expected pixel_size between 0.01 and 10 micrometres, found {found}; {RESTORE}")
    return float(value)  # type: ignore[arg-type]


def _software(specs: dict[str, Any]) -> str:
    ranger = specs.get("xenium_ranger")
    if isinstance(ranger, dict) and ranger.get("version"):  # resegmented: the ranger wrote the files
        return str(ranger["version"])
    return str(specs.get("analysis_sw_version", "unknown"))


def _layout(path: Path) -> str:
    folder = path / FOCUS_FOLDER
    if folder.is_dir() and any(re.match(r"ch\d+_.*\.ome\.tif$", file.name) for file in folder.iterdir()):
        return "4.x"
    columns, has_integer_ids = _cell_columns(path)
    if has_integer_ids:
        return "1.0-1.2"
    if (path / FOCUS_FILE).is_file() or (path / MIP_FILE).is_file():
        return "1.3-1.9"
    return "3.x" if "genomic_control_counts" in columns else "2.x"


def _cell_columns(path: Path) -> tuple[list[str], bool]:
    import pyarrow as pa

    schema = read_schema(_required(path, CELLS, "the table of cells"))
    has_integer_ids = "cell_id" in schema.names and pa.types.is_integer(schema.field("cell_id").type)
    return schema.names, has_integer_ids


def _required(path: Path, name: str, what: str) -> Path:
    file = path / name
    if not file.is_file():
        found = "a folder" if file.is_dir() else "none"
        raise SpatiaError(f"{file}: expected this file ({what}), found {found}; {RESTORE}")
    return file


def _optional(path: Path, name: str) -> Path | None:
    return _required(path, name, "or nothing of this name") if (path / name).exists() else None


def _absent_parts(
    path: Path, optional: dict[str, Path | None], focus: tuple[StainImage, ...], stack: tuple[StainImage, ...]
) -> list[Missing]:
    consequences = {
        MASKS: "labels are the filled outlines, by the rule that a pixel belongs to the outline its centre lies in",
        NUCLEUS_BOUNDARIES: "no nucleus outlines; nucleus labels only if the masks have nuclei",
        TRANSCRIPTS: "nothing; only `transcripts: true` would need it",
    }
    absent = [Missing(name, text) for name, text in consequences.items() if optional[name] is None]
    if not focus:
        absent.append(Missing("focus images", f"the maximum of {stack[0].file.name} over z is used instead"))
    if not stack:
        absent.append(Missing(STACK, "`projection: max` is not possible"))
    return absent


def _find_he(path: Path, missing: list[Missing]) -> AlignedImage | None:
    files = sorted(file for file in path.glob(f"*{HE_SUFFIX}") if not file.name.startswith("._"))
    if not files:
        missing.append(Missing("H&E image", "no H&E; give one with --he and --he-alignment"))
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise SpatiaError(f"{path}: expected at most one *{HE_SUFFIX}, found {names}; keep the one that belongs here")
    alignment = files[0].with_name(files[0].name.replace(".ome.tif", ALIGNMENT_SUFFIX))
    if not alignment.is_file():
        raise SpatiaError(
            f"{alignment}: expected the 3 x 3 alignment of {files[0].name}, found none; export it from Xenium "
            "Explorer, "
            "or move the image out of the bundle to go on without H&E"
        )
    return AlignedImage(files[0], alignment)
