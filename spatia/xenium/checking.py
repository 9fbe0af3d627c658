"""Everything that could be wrong with a bundle, found before anything is written.

Reads the tables once (ingest goes on with what was read) and the images' directories; pixels are only sampled here,
:func:`spatia.xenium.sources.open_sources` reads them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from spatia import keys
from spatia.errors import SpatiaError
from spatia.xenium import library, reading
from spatia.xenium.images import EXPERIMENT, StainImage
from spatia.xenium.layouts import AlignedImage, Bundle
from spatia.xenium.memory import release_memory
from spatia.xenium.outlines import Outlines
from spatia.xenium.reading import Counts
from spatia.xenium.stack import check_segments
from spatia.xenium.tiffs import RESTORE

# a centroid is that of the mask, an outline is the mask's, simplified: real ones lie inside by 0.7 um and more
_CENTROID_TOLERANCE_UM = 2.0
# outlines run along pixel corners and are smoothed a little
_VERTEX_TOLERANCE_UM = 1.0


@dataclass(frozen=True)
class BundleTables:
    """The tables of a bundle, checked against each other.

    Attributes
    ----------
    cells : one row per cell, index ``cell_id``, columns as in ``cells.parquet``
    counts : of the genes, in the order of ``cells``
    boundaries : element name -> file of its outlines, which are read again where they are needed: they are large
    reader : what read the counts, and why it was not the library where it was not
    notes : oddities that do not matter enough to refuse
    """

    cells: pd.DataFrame
    counts: Counts
    boundaries: dict[str, Path]
    reader: str
    notes: tuple[str, ...]


def check_tables(bundle: Bundle) -> BundleTables:
    """Read the tables of a bundle and check that they agree.

    Raises
    ------
    SpatiaError
        On the first thing that makes the bundle unfit.
    """
    reason, notes = _check_cells_and_counts(bundle)
    release_memory()
    counts, reader = _read_counts(bundle, reason)  # the most memory of all steps: nothing else is held meanwhile
    release_memory()
    cells = reading.read_cells(bundle.cells)
    counts = _in_order(counts, cells, check_same_cells(bundle, cells, counts))
    boundaries, more = _check_boundaries(bundle, cells)
    return BundleTables(cells, counts, boundaries, reader, (*notes, *more))


def check_images(images: Iterable[StainImage], he: AlignedImage | None, decode_one: bool) -> None:
    """Check that all tiles of all images lie inside their files and, if asked, decode one of every plane."""
    for image in images:
        check_segments(image.file, image.pages, decode_one)
    if he is not None:
        check_segments(he.file, (0,), decode_one)


def check_cells(bundle: Bundle, cells: pd.DataFrame) -> None:
    """Check ids and positions of the cell table."""
    if not len(cells):
        raise SpatiaError(f"{bundle.cells}: expected cells, found none; leave this slide out, or restore the file")
    repeated = cells.index[cells.index.duplicated()]
    if len(repeated):
        raise SpatiaError(
            f"{bundle.cells}: expected every cell once, found {_some(repeated.unique())} more than once; {RESTORE}"
        )
    with reading.naming(bundle.cells, "numbers as positions"):
        xy = cells[["x_centroid", "y_centroid"]].to_numpy(np.float64)
    bad = ~np.isfinite(xy).all(axis=1)
    if bad.any():
        raise SpatiaError(
            f"{bundle.cells}: expected finite positions, found {bad.sum()} cells without "
            f"({_some(cells.index[bad])}); {RESTORE}"
        )
    _check_inside(bundle, bundle.cells, xy, cells.index.to_numpy(), 0.0)
    _check_sums(bundle, cells)


def check_same_cells(bundle: Bundle, cells: pd.DataFrame, counts: Counts) -> np.ndarray:
    """Check that matrix and cell table have the same cells; return the matrix row of each cell."""
    barcodes = pd.Index(counts.cell_ids)
    repeated = barcodes[barcodes.duplicated()]
    if len(repeated):
        raise SpatiaError(
            f"{bundle.matrix}: expected every cell once, found {_some(repeated.unique())} more than once; {RESTORE}"
        )
    _same_ids(bundle.matrix, barcodes, bundle.cells, cells.index)
    return barcodes.get_indexer(cells.index)


def check_outlines(bundle: Bundle, file: Path, cells: pd.DataFrame, outlines: Outlines) -> list[str]:
    """Check outlines against the cell table; return notes."""
    if not len(outlines) and file == bundle.cell_boundaries:
        raise SpatiaError(f"{file}: expected the outlines of {len(cells)} cells, found none; {RESTORE}")
    unknown = outlines.index.difference(cells.index)
    if len(unknown):
        raise SpatiaError(
            f"{file}: expected outlines of the cells in {bundle.cells.name}, found {len(unknown)} of unknown cells "
            f"({_some(unknown)}); {RESTORE}"
        )
    bounds, ids = outlines.bounds(), outlines.cell_ids
    for corner in (bounds[:, :2], bounds[:, 2:]):
        _check_inside(bundle, file, corner, ids, _VERTEX_TOLERANCE_UM)
    if file == bundle.cell_boundaries:
        _check_centroids(bundle, cells.loc[ids], bounds)
    absent = len(cells) - len(outlines)
    if file == bundle.cell_boundaries and absent:
        return [f"{file.name}: {absent} of {len(cells)} cells have no outline"]
    return []


def _check_boundaries(bundle: Bundle, cells: pd.DataFrame) -> tuple[dict[str, Path], list[str]]:
    """Read all outlines and check them; return the files that have any, and notes."""
    files, notes = _boundary_files(bundle), []
    outlines = {name: reading.read_outlines(file) for name, file in files.items()}
    for name, file in files.items():
        notes += check_outlines(bundle, file, cells, outlines[name])
    drawn = {name: file for name, file in files.items() if len(outlines[name])}
    if keys.NUCLEUS_BOUNDARIES in drawn:
        _check_owners(bundle, outlines[keys.NUCLEUS_BOUNDARIES], outlines[keys.CELL_BOUNDARIES])
    return drawn, notes


def _check_centroids(bundle: Bundle, cells: pd.DataFrame, bounds: np.ndarray) -> None:
    xy = cells[["x_centroid", "y_centroid"]].to_numpy(np.float64)
    outside = np.maximum(bounds[:, :2] - xy, xy - bounds[:, 2:]).max(axis=1)
    wrong = outside > _CENTROID_TOLERANCE_UM
    if wrong.any():
        raise SpatiaError(
            f"{bundle.cell_boundaries}: expected outlines around the centroids of {bundle.cells.name}, found "
            f"{wrong.sum()} of {len(cells)} elsewhere ({_some(cells.index[wrong])}, {outside.max():.1f} um away): "
            f"ids are swapped or the files are of two slides; {RESTORE}"
        )


def _check_owners(bundle: Bundle, nuclei: Outlines, cells: Outlines) -> None:
    """Refuse nuclei that do not touch the cell whose id they have."""
    shared = nuclei.index.intersection(cells.index)
    inner, outer = nuclei.bounds()[nuclei.index.get_indexer(shared)], cells.bounds()[cells.index.get_indexer(shared)]
    apart = np.maximum(inner[:, :2] - outer[:, 2:], outer[:, :2] - inner[:, 2:]).max(axis=1)
    wrong = apart > _VERTEX_TOLERANCE_UM
    if wrong.any():
        raise SpatiaError(
            f"{bundle.nucleus_boundaries}: expected nuclei inside the cells of {bundle.cell_boundaries.name}, found "
            f"{wrong.sum()} of {len(shared)} elsewhere ({_some(shared[wrong])}, {apart.max():.1f} um away): ids are "
            f"swapped or the files are of two segmentations; {RESTORE}"
        )


def _check_sums(bundle: Bundle, cells: pd.DataFrame) -> None:
    columns = [name for name in ("transcript_counts", *keys.CONTROL_COLUMNS) if name in cells]
    with reading.naming(bundle.cells, "whole numbers as counts"):
        sums = cells[columns].to_numpy(np.float64)
    bad = ~(np.isfinite(sums) & (sums >= 0)).all(axis=1)
    if bad.any():
        raise SpatiaError(
            f"{bundle.cells}: expected counts of 0 and more in {', '.join(columns)}, found others in {bad.sum()} cells "
            f"({_some(cells.index[bad])}); {RESTORE}"
        )


def _check_inside(bundle: Bundle, file: Path, xy: np.ndarray, ids: np.ndarray, tolerance_um: float) -> None:
    height_um, width_um = (size * bundle.pixel_size_um for size in bundle.shape_px)
    limit = np.array([width_um, height_um]) + tolerance_um
    outside = ((xy < -tolerance_um) | (xy > limit)).any(axis=1)
    if outside.any():
        first = outside.argmax()
        raise SpatiaError(
            f"{file}: expected positions inside the image of {width_um:.1f} x {height_um:.1f} um, found "
            f"{outside.sum()} "
            f"outside (cell {ids[first]} at x {xy[first, 0]:.1f}, y {xy[first, 1]:.1f}); restore the file, or correct "
            f"pixel_size ({bundle.pixel_size_um:g} um) in {EXPERIMENT}"
        )


def _same_ids(file: Path, ids: pd.Index, reference: Path, expected: pd.Index) -> None:
    extra, absent = ids.difference(expected), expected.difference(ids)
    if len(extra) or len(absent):
        example = f"{_some(extra)} only here" if len(extra) else f"{_some(absent)} only there"
        raise SpatiaError(
            f"{file}: expected the {len(expected)} cells of {reference.name}, found {len(ids)}, of which "
            f"{len(extra)} are "
            f"not there and {len(absent)} are absent ({example}); the files are not of one run, {RESTORE}"
        )


def _in_order(counts: Counts, cells: pd.DataFrame, rows: np.ndarray) -> Counts:
    """Return the counts in the order of ``cells`` and with its ids, the same objects: ``rows`` are theirs."""
    is_ordered = (rows == np.arange(len(rows))).all()
    return Counts(cells.index.to_numpy(), counts.genes, counts.matrix if is_ordered else counts.matrix[rows])


def _check_transcript_counts(bundle: Bundle, cells: pd.DataFrame, counts: Counts) -> list[str]:
    """Compare the matrix with the cell table's own sums: the only trace that swapped barcodes leave."""
    if "transcript_counts" not in cells:
        return []
    written = cells["transcript_counts"].to_numpy(np.int64)
    summed = np.asarray(counts.matrix.sum(axis=1, dtype=np.int64)).ravel()
    more = summed > written
    if more.any():
        raise SpatiaError(
            f"{bundle.matrix}: expected at most the transcript_counts of {bundle.cells.name}, found more for "
            f"{more.sum()} of {len(cells)} cells ({_some(cells.index[more])}): ids are swapped or the files are of two "
            f"runs; {RESTORE}"
        )
    fewer = int((summed < written).sum())
    text = f"{bundle.matrix.name}: {fewer} of {len(cells)} cells have fewer gene counts than {bundle.cells.name} says"
    return [f"{text}: a reduced panel?"] if fewer else []


def _check_number(bundle: Bundle, cells: pd.DataFrame) -> list[str]:
    number = bundle.specs.get("num_cells")
    if number is None or number == len(cells):
        return []
    return [f"{EXPERIMENT} speaks of {number} cells, {bundle.cells.name} has {len(cells)}"]


def _boundary_files(bundle: Bundle) -> dict[str, Path]:
    files = {keys.CELL_BOUNDARIES: bundle.cell_boundaries, keys.NUCLEUS_BOUNDARIES: bundle.nucleus_boundaries}
    return {name: file for name, file in files.items() if file is not None}


def _check_cells_and_counts(bundle: Bundle) -> tuple[str | None, list[str]]:
    """Check the cell table and the matrix; return why the library cannot read them, None where it can, and notes."""
    cells = reading.read_cells(bundle.cells)
    check_cells(bundle, cells)
    counts = reading.read_counts(bundle.matrix)
    rows = check_same_cells(bundle, cells, counts)
    reason = library.why_not_library(bundle, cells, counts)
    notes = _check_transcript_counts(bundle, cells, _in_order(counts, cells, rows))
    return reason, [*notes, *_check_number(bundle, cells)]


def _read_counts(bundle: Bundle, reason: str | None) -> tuple[Counts, str]:
    """Return the counts in the order of their file, and who read them: the library, unless there is a reason."""
    if reason is None:
        try:
            return library.read_with_library(bundle), f"spatialdata-io {version('spatialdata-io')}"
        except Exception as problem:  # it raises assertions, index and type errors on what it does not expect
            reason = f"it stopped with {type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
    return reading.read_counts(bundle.matrix), f"spatia, because spatialdata-io cannot: {reason}"


def _some(ids: Iterable[object], n: int = 3) -> str:
    listed: Sequence[str] = [str(cell_id) for cell_id in ids]
    return ", ".join(listed[:n]) + (", ..." if len(listed) > n else "")
