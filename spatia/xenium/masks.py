"""Labels of cells and nuclei: the bundle's own masks, or its outlines filled where it has none.

``cells.zarr.zip`` (zarr v2 in a zip) has ``masks/0`` (nuclei) and ``masks/1`` (cells). What a mask's value means
changed: XOA before 1.3 writes the integer ``cell_id``, 1.3 - 1.9 list ``seg_mask_value``, from 2.0 on value p + 1 is
polygon p of ``polygon_sets/{k}/cell_index``. Nuclei are relabelled to the label of the cell that owns them, so that
one number joins both masks and the table.
"""

from __future__ import annotations

import math
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from spatia.errors import SpatiaError
from spatia.keys import CHUNK_PX
from spatia.xenium.outlines import Outlines
from spatia.xenium.reading import naming
from spatia.xenium.tiffs import RESTORE

NUCLEUS, CELL = 0, 1  # names of the arrays in masks/ and polygon_sets/

_UNKNOWN = np.uint32(0xFFFFFFFF)
_LETTERS = np.frombuffer(b"abcdefghijklmnop", np.uint8)  # 10x writes ids in base 16 with these digits


@dataclass(frozen=True)
class LabelMap:
    """Which cell a mask's value belongs to: ``labels[i]`` is a value, ``cell_ids[i]`` the cell that owns it."""

    labels: np.ndarray
    cell_ids: np.ndarray
    rule: str


@dataclass
class MaskReader:
    """Blocks of one mask in the bundle's pixels, relabelled, and what was seen while reading.

    Attributes
    ----------
    file : the zip, for messages
    array : (y, x) the mask
    lookup : (largest value + 1,) uint32: new label of every value, 0 for cells that are left out
    seen : (largest new label + 1,) bool: labels that have at least one pixel so far
    """

    file: Path
    array: zarr.Array
    lookup: np.ndarray
    seen: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        known = self.lookup[self.lookup != _UNKNOWN]
        self.seen = np.zeros(int(known.max(initial=0)) + 1, bool)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return the (h, w) uint32 labels of a window. Threads may call this."""
        with naming(self.file, "a segmentation mask"):
            values = np.asarray(self.array[y0:y1, x0:x1])
        beyond = int(values.max(initial=0))
        if beyond < len(self.lookup) and values.min(initial=0) >= 0:
            labels = self.lookup[values]
            if labels.max(initial=0) < _UNKNOWN:
                self.seen[labels] = True
                return labels
            beyond = int(values[labels == _UNKNOWN][0])
        raise SpatiaError(
            f"{self.file}: expected only cells of its own list in masks/{self.array.name.rsplit('/')[-1]}, "
            f"found the value {beyond}, which is none; {RESTORE}"
        )


@dataclass(frozen=True)
class FilledOutlines:
    """Labels from outlines: a pixel belongs to the outline its centre lies in, the highest label where two overlap.

    Attributes
    ----------
    outlines : in micrometres
    labels : (cells,) uint32
    bounds_px : (cells, 4) left, top, right, bottom
    pixel_size_um : side of a pixel
    """

    outlines: Outlines
    labels: np.ndarray
    bounds_px: np.ndarray
    pixel_size_um: float

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return the (h, w) uint32 labels of a window. Threads may call this."""
        from skimage.measure import grid_points_in_poly

        labels = np.zeros((y1 - y0, x1 - x0), np.uint32)
        left, top, right, bottom = self.bounds_px.T
        touches = (left < x1) & (right > x0) & (top < y1) & (bottom > y0)
        for cell in np.flatnonzero(touches)[np.argsort(self.labels[touches], kind="stable")]:
            row, end_row = max(math.floor(top[cell]), y0), min(math.ceil(bottom[cell]), y1)
            column, end_column = max(math.floor(left[cell]), x0), min(math.ceil(right[cell]), x1)
            target = labels[row - y0 : end_row - y0, column - x0 : end_column - x0]
            for ring in self.outlines.rings(cell):
                xy = ring.astype(np.float64) / self.pixel_size_um
                # whole coordinates are tested: shifted by half a pixel they are the pixels' centres
                corners = np.column_stack([xy[:, 1] - row - 0.5, xy[:, 0] - column - 0.5])
                target[grid_points_in_poly(target.shape, corners)] = self.labels[cell]
        return labels


def open_masks(file: Path) -> zarr.Group:
    """Open ``cells.zarr.zip`` after a look at its entries' names.

    Raises
    ------
    SpatiaError
        If it is no zip, has entries that point outside of it, or is no zarr.
    """
    with naming(file, "a zip file"), zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    for name in names:
        if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
            raise SpatiaError(
                f"{file}: expected entries inside the archive, found the path {name!r}, which leads out of it; "
                "do not use this file, get the bundle from its source again"
            )
    with naming(file, "a zarr in a zip"):
        return zarr.open_group(zarr.storage.ZipStore(file, read_only=True), mode="r", use_consolidated=False)


def mask_array(file: Path, group: zarr.Group, which: int) -> zarr.Array | None:
    """Return the mask of cells or nuclei, or None where the bundle has none; an empty nucleus mask is none."""
    with naming(file, "a segmentation mask"):
        node = group.get(f"masks/{which}")
        if not isinstance(node, zarr.Array):
            return None
        return node if which == CELL or _has_pixels(node) else None


def read_label_map(file: Path, group: zarr.Group, which: int, cell_ids: np.ndarray) -> LabelMap:
    """Return which cell each value of a mask belongs to; ``cell_ids`` are those that the archive lists."""
    with naming(file, "the list of cells of a mask"):
        if f"polygon_sets/{which}/cell_index" in group:
            owner = np.asarray(_array(group, f"polygon_sets/{which}/cell_index")[...]).astype(np.int64)
            if len(owner) and not (owner.min() >= 0 and owner.max() < len(cell_ids)):
                raise SpatiaError(
                    f"{file}: expected owners among {len(cell_ids)} cells, found {owner.max()}; {RESTORE}"
                )
            return LabelMap(np.arange(1, len(owner) + 1), cell_ids[owner], "polygon_sets")
        if "seg_mask_value" in group:
            values = np.asarray(_array(group, "seg_mask_value")[...]).astype(np.int64)
            return LabelMap(values, cell_ids, "seg_mask_value")
        if all(text.isdigit() for text in cell_ids):
            return LabelMap(cell_ids.astype(np.int64), cell_ids, "integer cell_id")
    raise SpatiaError(
        f"{file}: expected polygon_sets, seg_mask_value or integer cell ids to say which cell a mask's value is, "
        f"found none of them; {RESTORE}"
    )


def read_mask_cells(file: Path, group: zarr.Group) -> np.ndarray:
    """Return the ids of the cells that the archive lists, as text."""
    with naming(file, "the list of cells of a mask"):
        return _cell_ids(np.asarray(_array(group, "cell_id")[...]))


def number_cells(cell_ids: pd.Index, label_map: LabelMap | None) -> pd.Series:
    """Return the ``cell_label`` of every cell, index ``cell_id``: the mask's value, or 1, 2, ... without masks.

    A cell that no value of the mask belongs to gets a number beyond all of them; one with several gets the first.
    """
    if label_map is None:
        return pd.Series(np.arange(1, len(cell_ids) + 1, dtype=np.uint32), index=cell_ids)
    first = pd.Series(label_map.labels, index=label_map.cell_ids)
    found = first[~first.index.duplicated()].reindex(cell_ids)
    n_absent = int(found.isna().sum())
    found[found.isna()] = np.arange(n_absent) + int(label_map.labels.max(initial=0)) + 1
    return found.astype(np.uint32)


def make_lookup(label_map: LabelMap, new_labels: pd.Series) -> np.ndarray:
    """Return the table from a mask's value to the cell's label in ``new_labels`` (index ``cell_id``; absent: 0)."""
    lookup = np.full(int(label_map.labels.max(initial=0)) + 1, _UNKNOWN, np.uint32)
    lookup[0] = 0
    lookup[label_map.labels] = new_labels.reindex(label_map.cell_ids).fillna(0).to_numpy().astype(np.uint32)
    return lookup


def fill_outlines(outlines: Outlines, labels: pd.Series, pixel_size_um: float) -> FilledOutlines:
    """Return labels from the outlines (micrometres) of the cells in ``labels`` (index ``cell_id``)."""
    kept = outlines.select(outlines.index.isin(labels.index))
    values = labels.loc[kept.cell_ids].to_numpy().astype(np.uint32)
    return FilledOutlines(kept, values, kept.bounds() / pixel_size_um, pixel_size_um)


def _has_pixels(array: zarr.Array) -> bool:
    height, width = array.shape
    for y in range(0, height, CHUNK_PX):
        for x in range(0, width, CHUNK_PX):
            if np.any(array[y : y + CHUNK_PX, x : x + CHUNK_PX]):
                return True
    return False


def _array(group: zarr.Group, name: str) -> Any:
    node = group[name]
    if not isinstance(node, zarr.Array):
        raise TypeError(f"{name} is no array")
    return node


def _cell_ids(raw: np.ndarray) -> np.ndarray:
    """Return ids as text: integers as they are, (prefix, suffix) pairs as 10x spells them, ``aaaaficg-1``."""
    if raw.ndim == 1 or raw.shape[1] == 1:
        return raw.ravel().astype(str).astype(object)
    prefix = raw[:, 0].astype(np.uint32)
    digits = (prefix[:, None] >> np.arange(28, -4, -4, dtype=np.uint32)) & 15
    letters = np.ascontiguousarray(_LETTERS[digits]).view("S8").ravel().astype(str)
    return np.array([f"{text}-{suffix}" for text, suffix in zip(letters, raw[:, 1], strict=True)], dtype=object)
