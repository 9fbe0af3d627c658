"""The folders of one slide, opened for the dataset: crops, tiles and counts, memory-mapped where they are large."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from spatia import keys
from spatia.cells.crops import Crops, mask_bytes_of, open_crops
from spatia.cells.scaling import HE_STAINS
from spatia.errors import SpatiaError
from spatia.io import read_json, read_table
from spatia.machine import release_pages

TILES_FORMAT = 1


@dataclass(frozen=True)
class SlideFiles:
    """Where a slide's files are, and which of its cells take part.

    ``image`` (slide.zarr) is needed for tiles and context only. ``cells`` is a list of cell ids, or a boolean per
    row of the crops; None takes all.
    """

    name: str
    crops: Path
    tiles: Path
    image: Path | None = None
    cells: Sequence[str] | NDArray[np.bool_] | None = None

    @classmethod
    def of_run(cls, run: Path | str, name: str, cells: Sequence[str] | NDArray[np.bool_] | None = None) -> SlideFiles:
        """Return the files of slide ``name`` in the folder of a run (docs/outputs.md)."""
        results = Path(run) / "results"
        crops, tiles = results / "crop" / name / "crops", results / "tile" / name / "tiles"
        return cls(name, crops, tiles, results / "ingest" / name / "slide.zarr", cells)


def join_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``starts[0], starts[0] + 1, ...`` for ``lengths[0]`` numbers, then likewise for the others."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


@dataclass(frozen=True)
class CountRows:
    """A CSR matrix of counts on disk: row starts in memory, entries mapped."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.integer]
    values: NDArray[np.number]

    def release_pages(self) -> None:
        """Give back the memory that what was read takes."""
        release_pages(self.indices)
        release_pages(self.values)

    def take(
        self, rows: NDArray[np.int64], place: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
        """Return genes, values and entries per row of ``rows``; ``place`` gives each column's gene, -1 = none."""
        starts = self.indptr[rows]
        lengths = self.indptr[rows + 1] - starts
        entries = join_ranges(starts, lengths)
        genes, values = place[self.indices[entries]], self.values[entries].astype(np.int32)
        is_kept = (genes >= 0) & (values != 0)
        if is_kept.all():
            return genes, values, lengths
        kept_before = np.concatenate([[0], np.cumsum(is_kept)])
        ends = np.cumsum(lengths)
        return genes[is_kept], values[is_kept], kept_before[ends] - kept_before[ends - lengths]


@dataclass(frozen=True)
class Slide:
    """One opened slide. Rows of ``crops``, ``cells`` and ``cell_counts`` are the same cells.

    ``rows`` are the cells that take part, ordered by niche; those of ``niche_rows[k]`` (a row of ``niches``) are
    ``rows[niche_starts[k] : niche_starts[k + 1]]``.
    """

    files: SlideFiles
    crops: Crops
    cell_ids: NDArray[np.str_]
    position_um: NDArray[np.float32]
    niches: pd.DataFrame
    tissues: pd.DataFrame
    niche_px: int
    niches_per_tissue: int
    genes: tuple[str, ...]
    cell_counts: CountRows
    niche_counts: CountRows
    tissue_counts: CountRows
    rows: NDArray[np.int64]
    niche_rows: NDArray[np.int64]
    niche_starts: NDArray[np.int64]

    def release_pages(self) -> None:
        """Give back the memory that mapped files take: all that was read of them counts as the process' otherwise."""
        for mapped in (self.crops.pixel_bytes, self.crops.mask_bytes):
            release_pages(mapped)
        for counts in (self.cell_counts, self.niche_counts, self.tissue_counts):
            counts.release_pages()

    @cached_property
    def tree(self) -> KDTree:
        """Where the cells are, in um."""
        return KDTree(self.position_um)

    @cached_property
    def boxes(self) -> NDArray[np.int64]:
        """(cells, 4) top, left, height, width of the mask box inside the window."""
        return np.stack([self.crops.columns[name] for name in ("box_y", "box_x", "box_h", "box_w")], axis=1)

    @cached_property
    def niche_tissue(self) -> NDArray[np.int64]:
        """(niches,) row of the tissue table for each row of the niche table."""
        return self.niches[keys.TISSUE].to_numpy(np.int64)

    @cached_property
    def niche_place(self) -> NDArray[np.int64]:
        """(niches, 2) row and column of each niche inside its tissue."""
        return self.niches[["row", "col"]].to_numpy(np.int64) % self.niches_per_tissue


def open_slide_files(files: SlideFiles) -> Slide:
    """Open the crops and tiles of one slide.

    Raises
    ------
    SpatiaError
        If a file is missing or of another format, crops and tiles hold other cells, or a selected cell is unknown.
    """
    crops = open_crops(files.crops)
    _check_offsets(files.crops, crops)
    tiles = Path(files.tiles)
    header = read_json(tiles / "tiles.json")
    if header.get("format") != TILES_FORMAT:
        raise SpatiaError(
            f"{tiles}: expected format {TILES_FORMAT}, found {header.get('format')}; run spatia tile again"
        )
    cells = read_table(tiles / "cells.parquet")
    cell_ids = crops.index[keys.CELL_ID].to_numpy(np.str_)
    if not np.array_equal(cells[keys.CELL_ID].to_numpy(np.str_), cell_ids):
        raise SpatiaError(f"{tiles}: expected the {len(cell_ids)} cells of {files.crops} in their order, found others")
    selected = _selected_rows(files, cell_ids)
    niche = cells[keys.NICHE].to_numpy(np.int64)[selected]
    order = np.argsort(niche, kind="stable")
    niche_rows, starts = np.unique(niche[order], return_index=True)
    return Slide(
        files=files,
        crops=crops,
        cell_ids=cell_ids,
        position_um=cells[[keys.X_UM, keys.Y_UM]].to_numpy(np.float32),
        niches=read_table(tiles / "niches.parquet"),
        tissues=read_table(tiles / "tissues.parquet"),
        niche_px=int(header["niche_px"]),
        niches_per_tissue=int(header["niches_per_tissue"]),
        genes=_panel(tiles / "genes.parquet"),
        cell_counts=map_counts(tiles / "cell_counts.npz"),
        niche_counts=map_counts(tiles / "niche_counts.npz"),
        tissue_counts=map_counts(tiles / "tissue_counts.npz"),
        rows=selected[order],
        niche_rows=niche_rows,
        niche_starts=np.append(starts, len(niche)).astype(np.int64),
    )


def all_stains(slides: Sequence[Slide]) -> tuple[str, ...]:
    """Return the stains of all slides in order of appearance, H&E last."""
    stains = list(dict.fromkeys(stain for slide in slides for stain in slide.crops.stains))
    return tuple(s for s in stains if s not in HE_STAINS) + tuple(s for s in stains if s in HE_STAINS)


def check_alike(slides: Sequence[Slide]) -> None:
    """Refuse slides that no batch can hold together, or that have no selected cell."""
    if not sum(len(slide.rows) for slide in slides):
        raise SpatiaError("dataset: expected slides with selected cells, found none; check the selection and QC")
    first = slides[0]
    for slide in slides[1:]:
        for what, ours, theirs in (
            ("window_px", slide.crops.window_px, first.crops.window_px),
            ("pixel_size_um", slide.crops.header["pixel_size_um"], first.crops.header["pixel_size_um"]),
            ("niche_px", slide.niche_px, first.niche_px),
            ("niches_per_tissue", slide.niches_per_tissue, first.niches_per_tissue),
        ):
            if ours != theirs:
                raise SpatiaError(
                    f"slide {slide.files.name}: expected {what} {theirs} as on slide {first.files.name}, found {ours}; "
                    "crop and tile both with the same parameters"
                )


def map_counts(path: Path) -> CountRows:
    """Map the CSR matrix that ``spatia.io.write_sparse`` wrote: nothing but the row starts is read."""
    if not path.is_file():
        raise SpatiaError(f"{path}: expected a matrix of counts, found none; run spatia tile")
    indptr, indices, values = (_map_member(path, f"{name}.npy") for name in ("indptr", "indices", "data"))
    return CountRows(indptr.astype(np.int64), indices, values)


def _map_member(path: Path, member: str) -> np.ndarray:
    """Map one array of an npz file; numpy's own ``mmap_mode`` does not reach into the zip container."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED:
            raise SpatiaError(f"{path}: expected uncompressed arrays, found compressed ones; run spatia tile again")
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(stream)
            header_bytes = stream.tell()
    with open(path, "rb") as handle:
        # the local header repeats the name and has its own extra field; only it says where the data starts
        handle.seek(info.header_offset + 26)
        name_bytes, extra_bytes = np.frombuffer(handle.read(4), "<u2").tolist()
    start = info.header_offset + 30 + name_bytes + extra_bytes + header_bytes
    if shape[0] == 0:
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r", offset=start, shape=shape))


def _check_offsets(path: Path, crops: Crops) -> None:
    """The compiled loops trust these numbers; a wrong one would write outside its array."""
    top, left, height, width, pixel, n_pixels, mask = (
        crops.columns[name] for name in ("box_y", "box_x", "box_h", "box_w", "pixel_offset", "n_pixels", "mask_offset")
    )
    is_inside = (np.minimum(top, left) >= 0) & (np.maximum(top + height, left + width) <= crops.window_px)
    is_stored = (np.minimum(pixel, mask) >= 0) & (np.minimum(height, width) >= 0)
    is_stored &= pixel + n_pixels * len(crops.stains) <= len(crops.pixel_bytes)
    is_stored &= mask + mask_bytes_of(height, width) <= len(crops.mask_bytes)
    bad = np.flatnonzero(~(is_inside & is_stored))
    if len(bad):
        cell_id = crops.index[keys.CELL_ID].iloc[int(bad[0])]
        raise SpatiaError(f"{path}: expected masks inside window and files, found cell {cell_id} outside; crop again")


def _panel(path: Path) -> tuple[str, ...]:
    genes = tuple(read_table(path)["gene"].astype(str))
    if len(set(genes)) < len(genes):
        twice = next(gene for gene in genes if genes.count(gene) > 1)
        raise SpatiaError(f"{path}: expected every gene once, found {twice} more than once; rename it in the panel")
    return genes


def _selected_rows(files: SlideFiles, cell_ids: NDArray[np.str_]) -> NDArray[np.int64]:
    if files.cells is None:
        return np.arange(len(cell_ids))
    chosen = np.asarray(files.cells)
    if chosen.dtype == bool:
        if chosen.shape != cell_ids.shape:
            raise SpatiaError(
                f"cells of slide {files.name}: expected {len(cell_ids)} booleans, one per row of {files.crops}, "
                f"found shape {chosen.shape}"
            )
        return np.flatnonzero(chosen)
    chosen = chosen.astype(np.str_)
    unknown = chosen[~np.isin(chosen, cell_ids)]
    if len(unknown):
        raise SpatiaError(
            f"cells of slide {files.name}: {len(unknown)} of {len(chosen)} are not in {files.crops}, "
            f"such as {str(unknown[0])!r}; take ids of kept cells"
        )
    return np.flatnonzero(np.isin(cell_ids, chosen))
