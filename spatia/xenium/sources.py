"""Pixels of a bundle, opened: stains, labels and H&E as blocks in the slide's frame."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spatia import keys
from spatia.errors import SpatiaError
from spatia.xenium import he as he_frame
from spatia.xenium import masks, reading
from spatia.xenium.layouts import AlignedImage, Bundle
from spatia.xenium.masks import CELL, NUCLEUS, FilledOutlines, LabelMap, MaskReader
from spatia.xenium.rasters import Raster
from spatia.xenium.stack import Choice, StainReader, tiles_line_up
from spatia.xenium.tiffs import RESTORE
from spatia.xenium.window import Window

if TYPE_CHECKING:
    import zarr

# share of cells whose mask must be found where their outline lies; 1.0 on all genuine bundles seen, but outlines are
# simplified and thin cells may lose the point that is looked at
_MIN_AGREEMENT = 0.98


@dataclass
class Agreement:
    """Do masks and outlines speak of the same cells? One point inside every outline is looked up in the mask.

    Attributes
    ----------
    xy_px : (n, 2) points in the bundle's pixels, sorted by y
    labels : (n,) the label expected there
    found : (n,) the label read there
    """

    xy_px: np.ndarray
    labels: np.ndarray
    found: np.ndarray

    def look(self, block: np.ndarray, y0: int, x0: int) -> None:
        """Note what a block of labels, whose first pixel is (y0, x0), has at the points in it."""
        first, end = np.searchsorted(self.xy_px[:, 1], [y0, y0 + block.shape[0]])
        x, y = (self.xy_px[first:end] - (x0, y0)).T
        inside = (x >= 0) & (x < block.shape[1])
        self.found[first:end][inside] = block[y[inside], x[inside]]

    @property
    def share(self) -> float:
        """Share of points where the expected label was found."""
        return float((self.found == self.labels).mean()) if len(self.labels) else 1.0

    @property
    def n_swapped(self) -> int:
        """Cells found in the mask of a cell that is itself found elsewhere; a thin cell's point is only beside it."""
        is_wrong = self.found != self.labels
        return int(np.isin(self.found[is_wrong], self.labels[is_wrong]).sum())


@dataclass
class LabelSource:
    """Labels of cells or nuclei and where they come from.

    Attributes
    ----------
    reader : of blocks of labels in the bundle's pixels
    agreement : of masks and outlines, None when outlines are filled or absent
    outlines : the file of the outlines
    """

    reader: MaskReader | FilledOutlines
    agreement: Agreement | None
    outlines: Path | None = None

    @property
    def origin(self) -> str:
        """``masks`` or ``outlines``."""
        return "outlines" if isinstance(self.reader, FilledOutlines) else "masks"

    def check(self, bundle: Bundle) -> None:
        """After all blocks were read: refuse masks that do not fit the outlines."""
        if self.agreement is None or (self.agreement.share >= _MIN_AGREEMENT and not self.agreement.n_swapped):
            return
        wrong = int((self.agreement.found != self.agreement.labels).sum())
        drawn = "" if self.outlines is None else self.outlines.name
        raise SpatiaError(
            f"{bundle.masks}: expected the masks where {drawn} draws the cells, found {wrong} of "
            f"{len(self.agreement.labels)} cells elsewhere: pixel_size ({bundle.pixel_size_um:g} um) is wrong, or the "
            f"files are of two segmentations; {RESTORE}"
        )

    def count_without_pixels(self, labels: np.ndarray) -> int:
        """After all blocks were read: return how many of ``labels`` have no pixel at all."""
        if isinstance(self.reader, FilledOutlines):
            return int((~np.isin(labels, self.reader.labels)).sum())
        return int((~np.isin(labels, np.flatnonzero(self.reader.seen))).sum())


@dataclass(frozen=True)
class Sources:
    """Everything with pixels, in the slide's frame."""

    rasters: tuple[Raster, ...]
    cell_labels: LabelSource
    nucleus_labels: LabelSource | None
    he_coverage: float | None

    def check(self, bundle: Bundle) -> None:
        """After all blocks were read: refuse masks of cells or nuclei that do not fit their outlines."""
        self.cell_labels.check(bundle)
        if self.nucleus_labels is not None:
            self.nucleus_labels.check(bundle)


@contextlib.contextmanager
def open_sources(
    bundle: Bundle,
    window: Window,
    choices: Sequence[Choice],
    labels: pd.Series,
    label_maps: dict[int, LabelMap],
    group: zarr.Group | None,
    boundaries: dict[str, Path],
    he: AlignedImage | None,
) -> Iterator[Sources]:
    """Open all images and masks; closes them at the end.

    Parameters
    ----------
    choices : image of every stain
    labels : ``cell_label`` of the cells that are kept, index ``cell_id``
    label_maps, group : of ``cells.zarr.zip``, empty and None where there is none
    boundaries : element name -> file of the outlines of all cells
    """
    stains = [StainReader(choice.image, tiles_line_up(choice.image, (window.y0, window.x0))) for choice in choices]
    he_reader = None if he is None else he_frame.open_he(he, bundle.shape_px)
    try:
        cells = _cell_labels(bundle, window, labels, label_maps, group, boundaries[keys.CELL_BOUNDARIES])
        nuclei = _nucleus_labels(bundle, window, labels, label_maps, group, boundaries.get(keys.NUCLEUS_BOUNDARIES))
        rasters = [_stain_raster(bundle, window, stains), _label_raster(keys.CELL_LABELS, window, cells)]
        if nuclei is not None:
            rasters.append(_label_raster(keys.NUCLEUS_LABELS, window, nuclei))
        if he_reader is not None:
            rasters.append(_he_raster(window, he_reader))
        coverage = None if he_reader is None else he_frame.coverage(he_reader, bundle.shape_px)
        yield Sources(tuple(rasters), cells, nuclei, coverage)
    finally:
        for stain in stains:
            stain.close()
        if he_reader is not None:
            he_reader.close()


def _stain_raster(bundle: Bundle, window: Window, stains: Sequence[StainReader]) -> Raster:
    def read(channel: int, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return stains[channel].read(*window.shift(y0, y1, x0, x1))[None]

    return Raster(f"images/{keys.MORPHOLOGY}", (len(stains), *window.shape), bundle.dtype, read)


def _label_raster(name: str, window: Window, source: LabelSource) -> Raster:
    def read(channel: int, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        top, bottom, left, right = window.shift(y0, y1, x0, x1)
        block = source.reader.read(top, bottom, left, right)
        if source.agreement is not None:
            source.agreement.look(block, top, left)
        return block[None]

    return Raster(f"labels/{name}", (1, *window.shape), np.dtype(np.uint32), read)


def _he_raster(window: Window, reader: he_frame.HeReader) -> Raster:
    def read(channel: int, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return reader.read(*window.shift(y0, y1, x0, x1))

    return Raster(f"images/{keys.HE}", (3, *window.shape), np.dtype(np.uint8), read, channels_per_block=3)


def _cell_labels(
    bundle: Bundle,
    window: Window,
    labels: pd.Series,
    label_maps: dict[int, LabelMap],
    group: zarr.Group | None,
    boundaries: Path,
) -> LabelSource:
    array = None if group is None else masks.mask_array(_file(bundle), group, CELL)
    if array is None or CELL not in label_maps:
        return LabelSource(_fill_outlines(bundle, boundaries, labels), None)
    _check_mask_shape(bundle, array)
    reader = MaskReader(_file(bundle), array, masks.make_lookup(label_maps[CELL], labels))
    return LabelSource(reader, _points_inside(bundle, window, boundaries, labels), boundaries)


def _nucleus_labels(
    bundle: Bundle,
    window: Window,
    labels: pd.Series,
    label_maps: dict[int, LabelMap],
    group: zarr.Group | None,
    boundaries: Path | None,
) -> LabelSource | None:
    array = None
    if group is not None and NUCLEUS in label_maps:  # else it has no pixel: to look again would take seconds
        array = masks.mask_array(_file(bundle), group, NUCLEUS)
    if array is not None:
        _check_mask_shape(bundle, array)
        reader = MaskReader(_file(bundle), array, masks.make_lookup(label_maps[NUCLEUS], labels))
        points = None if boundaries is None else _points_inside(bundle, window, boundaries, labels)
        return LabelSource(reader, points, boundaries)
    return None if boundaries is None else LabelSource(_fill_outlines(bundle, boundaries, labels), None)


def _fill_outlines(bundle: Bundle, boundaries: Path, labels: pd.Series) -> FilledOutlines:
    return masks.fill_outlines(reading.read_outlines(boundaries), labels, bundle.pixel_size_um)


def _file(bundle: Bundle) -> Path:
    assert bundle.masks is not None, "a group of masks was opened, so there is a file"
    return bundle.masks


def _check_mask_shape(bundle: Bundle, array: zarr.Array) -> None:
    if array.dtype.kind not in "ui":
        raise SpatiaError(f"{bundle.masks}: expected masks of whole numbers, found {array.dtype}; {RESTORE}")
    if tuple(array.shape) != bundle.shape_px:
        raise SpatiaError(
            f"{bundle.masks}: expected masks of {bundle.shape_px[0]} x {bundle.shape_px[1]} px as the images have, "
            f"found {array.shape}; the files are not of one slide, {RESTORE}"
        )


def _points_inside(bundle: Bundle, window: Window, boundaries: Path, labels: pd.Series) -> Agreement:
    """Return a point inside every outline of a kept cell; of those outside of the window nothing will be read."""
    import shapely

    outlines = reading.read_outlines(boundaries)
    kept = outlines.select(outlines.index.isin(labels.index))
    points = [shapely.get_coordinates(shapely.point_on_surface(shapes)) for _, shapes in kept.batches()]
    xy_px = np.floor(np.concatenate([np.zeros((0, 2)), *points]) / bundle.pixel_size_um).astype(np.int64)
    xy_px = xy_px.clip(0, np.array(bundle.shape_px[::-1]) - 1)
    expected = labels.loc[kept.cell_ids].to_numpy().astype(np.uint32)
    x, y = xy_px.T
    is_read = (x >= window.x0) & (x < window.x1) & (y >= window.y0) & (y < window.y1)
    xy_px, expected = xy_px[is_read], expected[is_read]
    order = np.argsort(xy_px[:, 1], kind="stable")
    return Agreement(xy_px[order], expected[order], np.zeros(len(expected), np.uint32))
