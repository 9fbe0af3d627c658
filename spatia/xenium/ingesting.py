"""A checked bundle -> the content of a ``slide.zarr`` and the record of how it came about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from spatia import __version__, keys
from spatia.errors import SpatiaError
from spatia.io import checksum
from spatia.xenium import masks, reading, tables
from spatia.xenium.checking import BundleTables, check_images, check_tables
from spatia.xenium.layouts import EXPERIMENT, MASKS, AlignedImage, Bundle
from spatia.xenium.masks import CELL, NUCLEUS, LabelMap
from spatia.xenium.outlines import Outlines
from spatia.xenium.reading import Counts
from spatia.xenium.sources import Sources, open_sources
from spatia.xenium.stack import Choice, choose_images
from spatia.xenium.store import FORMAT
from spatia.xenium.tiffs import RESTORE
from spatia.xenium.window import Window, make_window
from spatia.xenium.writing import SlideContent

if TYPE_CHECKING:
    import zarr
    from anndata import AnnData


@dataclass(frozen=True)
class Request:
    """What the user wants from a bundle.

    Attributes
    ----------
    slide, species : from the sheet of slides
    projection : decision A33
    transcripts : whether they are copied
    roi_um : (x0, y0, x1, y1) of the bundle, None for all of it
    he : an H&E image that is not in the bundle
    """

    slide: str
    species: str
    projection: Literal["focus", "max"] = "focus"
    transcripts: bool = False
    roi_um: tuple[float, float, float, float] | None = None
    he: AlignedImage | None = None


@dataclass(frozen=True)
class Plan:
    """A bundle with everything decided and checked that can be before its pixels are read.

    Attributes
    ----------
    bundle, request : what is there, what is wanted
    content : tables as the bundle has them
    window : part of the bundle
    choices : image of every stain
    labels : ``cell_label`` of the cells in the window, index ``cell_id``
    label_maps : cell of every mask value, by CELL and NUCLEUS; empty without masks
    group : the opened masks, or None
    notes : what a user should know
    """

    bundle: Bundle
    request: Request
    content: BundleTables
    window: Window
    choices: list[Choice]
    labels: pd.Series
    label_maps: dict[int, LabelMap]
    group: zarr.Group | None
    notes: list[str]

    @property
    def he(self) -> AlignedImage | None:
        """The H&E image: the one asked for, else the bundle's."""
        return self.request.he or self.bundle.he


def make_plan(bundle: Bundle, request: Request, decode_one: bool = False) -> Plan:
    """Check a bundle and decide what becomes of it.

    Parameters
    ----------
    decode_one : also decode one tile of every plane (ingest decodes all of them anyway)

    Raises
    ------
    SpatiaError
        If it cannot be ingested as asked.
    """
    choices, notes = choose_images(bundle, request.projection)
    check_images([*bundle.focus, *bundle.stack], request.he or bundle.he, decode_one)
    window = make_window(bundle.shape_px, bundle.pixel_size_um, request.roi_um)
    content = check_tables(bundle)
    group, label_maps = _open_label_maps(bundle, content.cells)
    all_labels = masks.number_cells(content.cells.index, label_maps.get(CELL))
    is_inside = tables.cells_inside(content.cells, window, bundle.pixel_size_um)
    tables.refuse_empty(is_inside, window, bundle.pixel_size_um)
    labels = all_labels if is_inside.all() else all_labels[is_inside]  # a copy would have a hash table of its own
    notes = [*notes, *bundle.notes, *content.notes]
    if group is not None and CELL not in label_maps:
        notes.append(f"{MASKS} has no masks/{CELL}: cell labels are the filled outlines")
    return Plan(bundle, request, content, window, choices, labels, label_maps, group, notes)


@contextmanager
def open_content(plan: Plan) -> Iterator[tuple[SlideContent, Sources]]:
    """Open the images and masks of a plan and yield what is to be written."""
    bundle, kept = plan.bundle, plan.labels.index
    origin_um = plan.window.origin_um(bundle.pixel_size_um)
    content = plan.content

    def make_table() -> AnnData:
        cells, counts = content.cells, content.counts
        if len(kept) < len(cells):
            rows = cells.index.get_indexer(kept)
            cells, counts = cells.iloc[rows], Counts(counts.cell_ids[rows], counts.genes, counts.matrix[rows])
        return tables.make_table(cells, counts, plan.labels, origin_um)

    def make_outlines() -> dict[str, Outlines]:
        return {
            name: tables.place_outlines(reading.read_outlines(file), kept, plan.window, bundle)
            for name, file in content.boundaries.items()
        }

    transcripts = tables.read_transcripts(bundle, plan.window) if plan.request.transcripts else None
    with open_sources(
        bundle, plan.window, plan.choices, plan.labels, plan.label_maps, plan.group, content.boundaries, plan.he
    ) as sources:
        yield (
            SlideContent(
                slide=plan.request.slide,
                species=plan.request.species,
                pixel_size_um=bundle.pixel_size_um,
                origin_um=origin_um,
                rasters=sources.rasters,
                stains=tuple(choice.image.stain for choice in plan.choices),
                make_table=make_table,
                make_outlines=make_outlines,
                transcripts=transcripts,
            ),
            sources,
        )


def describe_result(plan: Plan, sources: Sources) -> dict[str, Any]:
    """Return ``ingest.json`` but for the checksums; call it after all blocks were read."""
    bundle, content = plan.bundle, plan.content
    without = sources.cell_labels.count_without_pixels(plan.labels.to_numpy())
    notes = list(plan.notes)
    if without:
        notes.append(f"{without} of {len(plan.labels)} cells have no pixel in the mask")
    agreement = sources.cell_labels.agreement
    return {
        "format": FORMAT,
        "slide": plan.request.slide,
        "species": plan.request.species,
        "layout": bundle.layout,
        "xoa_version": bundle.software,
        "reader": content.reader,
        "spatia_version": __version__,
        "pixel_size_um": bundle.pixel_size_um,
        "shape_px": list(plan.window.shape),
        "bundle_shape_px": list(bundle.shape_px),
        "roi_um": None if plan.request.roi_um is None else list(plan.request.roi_um),
        "origin_um": list(plan.window.origin_um(bundle.pixel_size_um)),
        "stains": [choice.image.stain for choice in plan.choices],
        "projection": {choice.image.stain: choice.projection for choice in plan.choices},
        "labels": sources.cell_labels.origin,
        "nucleus_labels": None if sources.nucleus_labels is None else sources.nucleus_labels.origin,
        "has_nucleus_boundaries": keys.NUCLEUS_BOUNDARIES in content.boundaries,
        "he": None if plan.he is None else {"file": plan.he.file.name, "coverage": sources.he_coverage},
        "transcripts": plan.request.transcripts,
        "n_cells": len(plan.labels),
        "n_cells_in_bundle": len(content.cells),
        "n_cells_without_mask": without,
        "mask_outline_agreement": None if agreement is None else agreement.share,
        "n_genes": len(content.counts.genes),
        "panel": bundle.specs.get("panel_name"),
        "missing": [{"part": part.part, "consequence": part.consequence} for part in _missing(plan)],
        "notes": notes,
    }


def checksums(plan: Plan) -> dict[str, str]:
    """Return ``blake2b`` (128 bit) of every file that was read, by its path in the bundle (elsewhere: its name)."""
    bundle = plan.bundle
    files = [bundle.path / EXPERIMENT, bundle.cells, bundle.matrix, bundle.cell_boundaries, bundle.nucleus_boundaries]
    files += [bundle.masks, *(choice.image.file for choice in plan.choices)]
    files += [] if plan.he is None else [plan.he.file, plan.he.alignment]
    files += [bundle.transcripts] if plan.request.transcripts else []
    named = {_name_in(bundle, file): file for file in files if file is not None}
    return {name: checksum(named[name]) for name in sorted(named)}


def _name_in(bundle: Bundle, file: Path) -> str:
    return file.relative_to(bundle.path).as_posix() if file.is_relative_to(bundle.path) else file.name


def _missing(plan: Plan) -> list[Any]:
    return [part for part in plan.bundle.missing if not (part.part == "H&E image" and plan.he is not None)]


def _open_label_maps(bundle: Bundle, cells: pd.DataFrame) -> tuple[zarr.Group | None, dict[int, LabelMap]]:
    if bundle.masks is None:
        return None, {}
    group = masks.open_masks(bundle.masks)
    ids = masks.read_mask_cells(bundle.masks, group)
    _check_mask_cells(bundle, ids, cells.index)
    ids = cells.index.to_numpy()[cells.index.get_indexer(pd.Index(ids))]  # the same objects: a text takes 60 bytes
    found = [which for which in (CELL, NUCLEUS) if masks.mask_array(bundle.masks, group, which) is not None]
    return group, {which: masks.read_label_map(bundle.masks, group, which, ids) for which in found}


def _check_mask_cells(bundle: Bundle, ids: np.ndarray, cells: pd.Index) -> None:
    listed = pd.Index(ids)
    extra, absent = listed.difference(cells), cells.difference(listed)
    if len(extra) or len(absent) or not listed.is_unique:
        example = (*extra[:1], *absent[:1], *listed[listed.duplicated()][:1])[0]
        raise SpatiaError(
            f"{bundle.masks}: expected the {len(cells)} cells of {bundle.cells.name}, found {len(listed)}, of which "
            f"{len(extra)} are not there and {len(absent)} are absent ({example}); the files are not of one "
            f"run, {RESTORE}"
        )
