"""Which file and which pages hold which stain: from OME-XML, else from the files' names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatia import keys
from spatia.errors import SpatiaError
from spatia.xenium.ome import Ome, count_pages, read_ome
from spatia.xenium.stains import KIT_ORDER, canonical_stain
from spatia.xenium.tiffs import RESTORE, PlaneReader

EXPERIMENT = "experiment.xenium"
STACK = "morphology.ome.tif"
FOCUS_FILE = "morphology_focus.ome.tif"
FOCUS_FOLDER = "morphology_focus"
MIP_FILE = "morphology_mip.ome.tif"


@dataclass(frozen=True)
class StainImage:
    """One stain: the page, or pages of a z-stack, that hold it."""

    stain: str
    file: Path
    pages: tuple[int, ...]


def find_focus(path: Path, notes: list[str]) -> tuple[tuple[StainImage, ...], list[tuple[str, str]]]:
    """Return the focus images and the (file, stain) of those that a header names but nobody finds; adds to "
    "``notes``."""
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
        images += _stains_of_file(file, ome, notes)
        linked.update(_linked_stains(ome))
    _refuse_duplicate_stains(images)
    present = {file.name for file in files} | {image.stain for image in images}  # by its stain where it was renamed
    absent = [(name, stain) for name, stain in linked.items() if not {name, stain} & present]
    return tuple(_dapi_first(images)), absent


def find_stack(path: Path, notes: list[str]) -> tuple[StainImage, ...]:
    """Return the z-stack by stain; where there is none, the projection that XOA 1.x wrote of it; adds to ``notes``."""
    for name in (STACK, MIP_FILE):
        if (path / name).is_file():
            return tuple(_stains_of_file(path / name, read_ome(path / name), notes))
    return ()


def _stains_of_file(file: Path, ome: Ome | None, notes: list[str]) -> list[StainImage]:
    if ome is None:
        stain = _stain_from_name(file)
        notes.append(f"{file.name}: no OME-XML, taken as {stain} by its name")
        return [StainImage(stain, file, tuple(range(count_pages(file))))]
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
    if file.name in (STACK, FOCUS_FILE, MIP_FILE) and len(ome.channels) <= 1:
        return keys.DAPI  # by 10x's definition of these files, whatever a channel is called in them
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


def common_shape(path: Path, images: tuple[StainImage, ...], pixel_size_um: float) -> tuple[tuple[int, int], np.dtype]:
    """Return the (height, width) in pixels and the type that all images of a bundle share.

    Raises
    ------
    SpatiaError
        If there are none, no DAPI among them, or they differ in size, type or from ``pixel_size_um``.
    """
    if not images:
        raise SpatiaError(
            f"{path}: expected morphology images ({FOCUS_FOLDER}/, {FOCUS_FILE} or {STACK}), found none; {RESTORE}"
        )
    stains = [image.stain for image in images]
    if keys.DAPI not in stains:
        raise SpatiaError(f"{path}: expected a {keys.DAPI} image, found only {', '.join(stains)}; {RESTORE}")
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
            f"{plane.file}: expected one 8- or 16-bit value per pixel, found {plane.n_samples} of "
            f"{plane.dtype}; {RESTORE}"
        )
    if first is not None and (plane.shape, plane.dtype) != (first.shape, first.dtype):
        raise SpatiaError(
            f"{plane.file}: expected {first.shape[0]} x {first.shape[1]} pixels of {first.dtype} as in "
            f"{first.file.name}, "
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
