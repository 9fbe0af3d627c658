"""What a Xenium bundle is, from the files that are there.

Software versions differ in which files a bundle has and how the files join; the version string is only a hint
(``R&D``, resegmented and repackaged bundles). Only headers are read here; :mod:`spatia.xenium.checking` looks inside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spatia import keys
from spatia.errors import SpatiaError
from spatia.io import read_json
from spatia.xenium.ome import Ome, read_ome
from spatia.xenium.stains import KIT_ORDER, canonical_stain
from spatia.xenium.tiffs import RESTORE, PlaneReader

EXPERIMENT = "experiment.xenium"
CELLS = "cells.parquet"
MATRIX = "cell_feature_matrix.h5"
CELL_BOUNDARIES = "cell_boundaries.parquet"
NUCLEUS_BOUNDARIES = "nucleus_boundaries.parquet"
MASKS = "cells.zarr.zip"
TRANSCRIPTS = "transcripts.parquet"
STACK = "morphology.ome.tif"
FOCUS_FILE = "morphology_focus.ome.tif"
FOCUS_FOLDER = "morphology_focus"
MIP_FILE = "morphology_mip.ome.tif"
HE_SUFFIX = "he_image.ome.tif"
ALIGNMENT_SUFFIX = "alignment.csv"


@dataclass(frozen=True)
class StainImage:
    """One stain: the page, or pages of a z-stack, that hold it."""

    stain: str
    file: Path
    pages: tuple[int, ...]


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
            f"{path}: expected the folder of a Xenium bundle, found {'a file' if path.exists() else 'none'}"
        )
    specs = read_json(_required(path, EXPERIMENT, "its folder is not a Xenium bundle's"))
    pixel_size_um = _pixel_size(path / EXPERIMENT, specs)
    missing: list[Missing] = []
    notes: list[str] = []
    focus, linked_missing = find_focus(path)
    stack = find_stack(path)
    missing += [_missing_stain(file, stain) for file, stain in linked_missing]
    shape_px, dtype = _common_image_shape(path, (*focus, *stack), pixel_size_um)
    optional = {name: _optional(path, name) for name in (NUCLEUS_BOUNDARIES, MASKS, TRANSCRIPTS)}
    missing += _absent_parts(path, optional, focus, stack)
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
        transcripts=optional[TRANSCRIPTS],
        focus=focus,
        stack=stack,
        he=he,
        missing=tuple(missing),
        notes=tuple(notes),
    )


def find_focus(path: Path) -> tuple[tuple[StainImage, ...], list[tuple[str, str]]]:
    """Return the focus images and the (file, stain) of those that a header names but nobody finds."""
    folder = path / FOCUS_FOLDER
    if folder.is_dir():
        # "._name" files are what macOS leaves on foreign disks
        files = sorted(f for f in folder.iterdir() if f.name.endswith(".ome.tif") and not f.name.startswith("._"))
    else:
        files = [file for file in (path / FOCUS_FILE,) if file.is_file()]
    images: list[StainImage] = []
    linked: dict[str, str] = {}
    for file in files:
        ome = read_ome(file)
        images += _stains_of_file(file, ome)
        linked.update(_linked_stains(ome))
    _refuse_duplicate_stains(images)
    present = {file.name for file in files}
    return tuple(_dapi_first(images)), [(name, stain) for name, stain in linked.items() if name not in present]


def find_stack(path: Path) -> tuple[StainImage, ...]:
    """Return the z-stack by stain; where there is none, the projection that XOA 1.x wrote of it."""
    for name in (STACK, MIP_FILE):
        if (path / name).is_file():
            return tuple(_stains_of_file(path / name, read_ome(path / name)))
    return ()


def _stains_of_file(file: Path, ome: Ome | None) -> list[StainImage]:
    if ome is None:
        return [StainImage(_stain_from_name(file), file, (0,))]
    planes = ome.planes(file.name)
    if not planes:  # a renamed file of a linked set: its number says which channel it is
        number = _number(file)
        return [StainImage(_channel_name(ome, number or 0, file), file, (0,))]
    pages: dict[int, list[int]] = {}
    for channel, _, page in planes:
        pages.setdefault(channel, []).append(page)
    beyond = max(page for found in pages.values() for page in found)
    if beyond >= ome.n_pages:
        raise SpatiaError(
            f"{file}: expected {beyond + 1} pages as its OME-XML says, found {ome.n_pages}: it is incomplete; {RESTORE}"
        )
    return [StainImage(_channel_name(ome, channel, file), file, tuple(found)) for channel, found in pages.items()]


def _channel_name(ome: Ome, channel: int, file: Path) -> str:
    name = ome.channels[channel] if channel < len(ome.channels) else None
    if name is None and len(ome.channels) == 1:
        name = ome.channels[0]
    return _stain_from_name(file) if name is None else canonical_stain(name)


def _stain_from_name(file: Path) -> str:
    named = re.fullmatch(r"ch\d+_(.+)\.ome\.tif", file.name)
    if named:
        return canonical_stain(named.group(1))
    number = _number(file)
    if number is not None and number < len(KIT_ORDER):
        return KIT_ORDER[number]
    return keys.DAPI if number is None else f"stain_{number}"


def _number(file: Path) -> int | None:
    found = re.search(r"(?:_|ch)(\d{4})", file.name)
    return int(found.group(1)) if found else None


def _linked_stains(ome: Ome | None) -> dict[str, str]:
    if ome is None:
        return {}
    links = [(entry.file, entry.c) for entry in ome.tiff_data if entry.file is not None]
    return {file: canonical_stain((ome.channels[c] if c < len(ome.channels) else None) or file) for file, c in links}


def _refuse_duplicate_stains(images: list[StainImage]) -> None:
    seen: dict[str, Path] = {}
    for image in images:
        if image.stain in seen:
            raise SpatiaError(
                f"{image.file}: expected one image per stain, found {image.stain!r} also in {seen[image.stain].name}; "
                "remove the one that does not belong to this slide"
            )
        seen[image.stain] = image.file


def _dapi_first(images: list[StainImage]) -> list[StainImage]:
    return sorted(images, key=lambda image: image.stain != keys.DAPI)


def _missing_stain(file: str, stain: str) -> Missing:
    return Missing(
        f"{FOCUS_FOLDER}/{file}", f"stain {stain} is absent; the slide is ingested with the stains that are there"
    )


def _common_image_shape(
    path: Path, images: tuple[StainImage, ...], pixel_size_um: float
) -> tuple[tuple[int, int], np.dtype]:
    if not images:
        raise SpatiaError(
            f"{path}: expected morphology images ({FOCUS_FOLDER}/, {FOCUS_FILE} or {STACK}), found none; {RESTORE}"
        )
    if not any(image.stain == keys.DAPI for image in images):
        names = ", ".join(image.stain for image in images)
        raise SpatiaError(f"{path}: expected a {keys.DAPI} image, found only {names}; {RESTORE}")
    first: PlaneReader | None = None
    for image in images:
        with PlaneReader(image.file, image.pages[0]) as plane:
            _check_plane(plane, first)
            first = first or plane
        _check_physical_size(image.file, pixel_size_um)
    assert first is not None
    return first.shape, first.dtype


def _check_plane(plane: PlaneReader, first: PlaneReader | None) -> None:
    if plane.n_samples != 1 or plane.dtype not in (np.uint8, np.uint16):
        raise SpatiaError(
            f"{plane.file}: expected one 8- or 16-bit value per pixel, found {plane.n_samples} of {plane.dtype}; {RESTORE}"
        )
    if first is not None and (plane.shape, plane.dtype) != (first.shape, first.dtype):
        raise SpatiaError(
            f"{plane.file}: expected {first.shape[0]} x {first.shape[1]} pixels of {first.dtype} as in {first.file.name}, "
            f"found {plane.shape[0]} x {plane.shape[1]} of {plane.dtype}; the files are not of one slide, {RESTORE}"
        )


def _check_physical_size(file: Path, pixel_size_um: float) -> None:
    ome = read_ome(file)
    written = None if ome is None else ome.pixel_size_um
    if written is not None and abs(written / pixel_size_um - 1) > 0.01:
        raise SpatiaError(
            f"{file}: expected pixels of {pixel_size_um} um as {EXPERIMENT} says, found {written:g} um in the image's "
            f"header; correct pixel_size in {EXPERIMENT}"
        )


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

    from spatia.xenium.reading import read_schema

    schema = read_schema(_required(path, CELLS, "the table of cells"))
    has_integer_ids = "cell_id" in schema.names and pa.types.is_integer(schema.field("cell_id").type)
    return schema.names, has_integer_ids


def _required(path: Path, name: str, what: str) -> Path:
    file = path / name
    if not file.is_file():
        raise SpatiaError(f"{file}: expected this file ({what}), found none; {RESTORE}")
    return file


def _optional(path: Path, name: str) -> Path | None:
    return path / name if (path / name).is_file() else None


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
            f"{alignment}: expected the 3 x 3 alignment of {files[0].name}, found none; export it from Xenium Explorer, "
            "or move the image out of the bundle to go on without H&E"
        )
    return AlignedImage(files[0], alignment)
