"""Crops, tiles and counts of many slides -> shuffled batches of whole niches.

``CellDataset`` answers "batch ``number`` of epoch ``epoch``" and keeps no other state, so the same batches come in
the same order from any number of loader workers, and training resumes by asking for the next number
(:mod:`spatia.learn.order`):

    order = BatchOrder(dataset)
    for batch in DataLoader(dataset, sampler=order, batch_size=None, num_workers=2): ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from spatia.learn.around import sum_around
from spatia.learn.batches import CellBatch, SparseCounts
from spatia.learn.niches import BatchPart, group_niches, join_niches, split_by_slide
from spatia.learn.sampling import EpochPlan, plan_epoch
from spatia.learn.slides import CountRows, SlideFiles, all_stains, check_alike, open_slide_files
from spatia.learn.unpack import unpack_tokens
from spatia.learn.windows import ChunkCache, SlideImage, WindowPlaces, open_image, read_windows

BatchKey = tuple[int, int]  # epoch, number of the batch in it


@dataclass(frozen=True)
class LoadParams:
    """How cells are batched and what a batch holds.

    Attributes
    ----------
    cells_per_batch
        A batch takes whole niches until the next would exceed this; a larger niche is a batch of its own.
    whole
        What is never split: ``niche``, or ``tissue`` where the tissue level needs all its niches together.
    shuffle, seed
        Order of storage, or an order that ``seed`` and the epoch determine.
    window_tissues
        Tissues that are shuffled together: more mix better, fewer read more locally.
    patch_px
        Side of a token (A32).
    tiles, tissue_level
        Read niche tiles and tissue tiles; the latter with a side of 1 / 2 ** tissue_level.
    context
        Read each crop's window with everything that is in it.
    around
        Sum up the counts around each cell.
    cache_mb
        Memory for decoded image chunks, per process.
    """

    cells_per_batch: int = 512
    whole: Literal["niche", "tissue"] = "niche"
    shuffle: bool = True
    seed: int = 0
    window_tissues: int = 32
    patch_px: int = 8
    tiles: bool = False
    tissue_level: int = 0
    context: bool = False
    around: bool = False
    cache_mb: int = 512

    def __post_init__(self) -> None:
        for name, least in (("cells_per_batch", 1), ("window_tissues", 1), ("patch_px", 1), ("tissue_level", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, found {getattr(self, name)}")
        if self.whole not in ("niche", "tissue"):
            raise ValueError(f"whole: expected niche or tissue, found {self.whole!r}")


class CellDataset(Dataset[CellBatch]):
    """Batches of the cells of one or many slides, whose stains and panels may differ.

    Parameters
    ----------
    slides
        Which slides and which of their cells.
    params
        How they are batched.
    stains
        Channels of a batch by name. Default: all stains of all slides, in order of appearance, H&E last.
    genes
        Genes of a batch by name. Default: the union of all panels, sorted.

    Raises
    ------
    SpatiaError
        If the slides cannot be read together or hold no selected cell.
    """

    def __init__(
        self,
        slides: Sequence[SlideFiles],
        params: LoadParams | None = None,
        stains: Sequence[str] | None = None,
        genes: Sequence[str] | None = None,
    ) -> None:
        self.files = tuple(slides)
        self.slides = tuple(open_slide_files(files) for files in self.files)
        check_alike(self.slides)
        self.window_px = self.slides[0].crops.window_px
        self.stains = all_stains(self.slides) if stains is None else tuple(stains)
        self.genes = tuple(sorted({g for s in self.slides for g in s.genes})) if genes is None else tuple(genes)
        stain_place = {stain: place for place, stain in enumerate(self.stains)}
        gene_place = {gene: place for place, gene in enumerate(self.genes)}
        self._stain_places = [_places(slide.crops.stains, stain_place, np.int64) for slide in self.slides]
        self._gene_places = [_places(slide.genes, gene_place, np.int32) for slide in self.slides]
        self._has_stain = _presence(self._stain_places, len(self.stains))
        self._on_panel = _presence(self._gene_places, len(self.genes))
        self._niches = join_niches(self.slides)
        self._load_as(params or LoadParams())

    def _load_as(self, params: LoadParams) -> None:
        self.params = params
        self._groups = group_niches(self._niches, by_tissue=params.whole == "tissue")
        self._plan: tuple[int, EpochPlan] | None = None
        self._chunks = ChunkCache(self._open_image, params.cache_mb << 20)

    def loaded_as(self, params: LoadParams) -> CellDataset:
        """Return the same cells in other batches; what is in memory of the slides is shared."""
        other = CellDataset.__new__(CellDataset)  # not copy.copy: as pickling does, it would open all files again
        vars(other).update(vars(self))
        other._load_as(params)
        return other

    def __reduce__(self) -> tuple[type[CellDataset], tuple[object, ...]]:
        # a worker that is not forked opens the files itself: pickling a memory map would send all it maps
        return CellDataset, (self.files, self.params, self.stains, self.genes)

    @property
    def n_cells(self) -> int:
        """Cells that take part in an epoch."""
        return int(self._niches.n_cells.sum())

    @property
    def n_niches(self) -> int:
        """Niches with at least one of them."""
        return len(self._niches.slide)

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of an epoch; the same everywhere for the same files, parameters and epoch."""
        if self._plan is None or self._plan[0] != epoch:
            params = self.params
            generator = np.random.default_rng([params.seed, epoch]) if params.shuffle else None
            groups = self._groups
            plan = plan_epoch(groups.n_cells, groups.block, params.cells_per_batch, params.window_tissues, generator)
            self._plan = epoch, plan
        return self._plan[1]

    def fingerprint(self) -> str:
        """Return a short text that is the same exactly when the plan of every epoch is."""
        params = self.params
        settings = (params.cells_per_batch, params.whole, params.shuffle, params.seed, params.window_tissues)
        digest = hashlib.sha256(repr((settings, [files.name for files in self.files])).encode())
        for slide in self.slides:
            digest.update(slide.rows.tobytes() + slide.niche_rows.tobytes() + slide.niche_starts.tobytes())
        return digest.hexdigest()[:16]

    def __getitem__(self, key: BatchKey) -> CellBatch:
        """Return batch ``number`` of epoch ``epoch`` for ``key = (epoch, number)``."""
        epoch, number = key
        niches = self._groups.niches_of(self.plan(epoch).batch(number))
        parts = split_by_slide(self._niches, niches, self.slides)
        slide_index = torch.tensor([part.index for part in parts])
        return CellBatch(
            epoch=epoch,
            number=number,
            window_px=self.window_px,
            **self._tokens(parts),
            **self._cells(parts),
            **self._niches_and_tissues(parts),
            slide_index=slide_index,
            has_stain=self._has_stain[slide_index],
            on_panel=self._on_panel[slide_index],
            **(self._tiles(parts) if self.params.tiles else {}),
            **(self._context(parts) if self.params.context else {}),
            **(self._around(parts) if self.params.around else {}),
        )

    def _tokens(self, parts: Sequence[BatchPart]) -> dict[str, Any]:
        cells = [(part.slide, part.rows, self._stain_places[part.index]) for part in parts]
        tokens, inside, position, first_token = unpack_tokens(cells, len(self.stains), self.params.patch_px)
        return {
            "tokens": torch.from_numpy(tokens),
            "token_inside": torch.from_numpy(inside),
            "token_position": torch.from_numpy(position),
            "cu_seqlens": torch.from_numpy(first_token),
        }

    def _cells(self, parts: Sequence[BatchPart]) -> dict[str, Any]:
        n_niches = [len(part.niche_rows) for part in parts]
        return {
            "counts": self._counts(parts, lambda part: (part.slide.cell_counts, part.rows)),
            "cell_id": tuple(cell_id for part in parts for cell_id in part.slide.cell_ids[part.rows].tolist()),
            "cell_row": _join(part.rows for part in parts),
            "position_um": _join(part.slide.position_um[part.rows] for part in parts),
            "niche": _join(part.niche + before for part, before in _counted(parts, n_niches)),
        }

    def _niches_and_tissues(self, parts: Sequence[BatchPart]) -> dict[str, Any]:
        n_tissues = [len(part.tissue_rows) for part in parts]
        return {
            "niche_tissue": _join(part.niche_tissue + before for part, before in _counted(parts, n_tissues)),
            "niche_row": _join(part.niche_rows for part in parts),
            "niche_place": _join(part.slide.niche_place[part.niche_rows] for part in parts),
            "niche_counts": self._counts(parts, lambda part: (part.slide.niche_counts, part.niche_rows)),
            "tissue_slide": torch.arange(len(parts)).repeat_interleave(torch.tensor(n_tissues)),
            "tissue_row": _join(part.tissue_rows for part in parts),
            "tissue_counts": self._counts(parts, lambda part: (part.slide.tissue_counts, part.tissue_rows)),
        }

    def _counts(
        self, parts: Sequence[BatchPart], which: Callable[[BatchPart], tuple[CountRows, NDArray[np.int64]]]
    ) -> SparseCounts:
        taken = []
        for part in parts:
            counts, rows = which(part)
            taken.append(counts.take(rows, self._gene_places[part.index]))
        genes, values, lengths = (np.concatenate(arrays) for arrays in zip(*taken, strict=True))
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        return SparseCounts(
            torch.from_numpy(genes), torch.from_numpy(values), torch.from_numpy(indptr), len(self.genes)
        )

    def _tiles(self, parts: Sequence[BatchPart]) -> dict[str, Any]:
        niche_px, level = self.slides[0].niche_px, self.params.tissue_level
        tissue_px = niche_px * self.slides[0].niches_per_tissue
        niches = [self._places(part, part.slide.niches, part.niche_rows) for part in parts]
        tissues = [self._places(part, part.slide.tissues, part.tissue_rows) for part in parts]
        return {
            "niche_tiles": read_windows(self._chunks, 0, niches, len(self.stains), niche_px),
            "tissue_tiles": read_windows(self._chunks, level, tissues, len(self.stains), tissue_px),
        }

    def _context(self, parts: Sequence[BatchPart]) -> dict[str, Any]:
        windows = [self._places(part, part.slide.crops.index, part.rows) for part in parts]
        return {"context": read_windows(self._chunks, 0, windows, len(self.stains), self.window_px)}

    def _around(self, parts: Sequence[BatchPart]) -> dict[str, Any]:
        n_genes = len(self.genes)
        return {"around": _join(sum_around(p.slide, p.rows, self._gene_places[p.index], n_genes) for p in parts)}

    def _places(self, part: BatchPart, table: pd.DataFrame, rows: NDArray[np.int64]) -> WindowPlaces:
        y0, x0 = (table[name].to_numpy(np.int64)[rows] for name in ("y0", "x0"))
        return WindowPlaces(part.index, self._stain_places[part.index], y0, x0)

    def _open_image(self, slide: int, level: int) -> SlideImage:
        files = self.files[slide]
        return open_image(files.image, files.name, self.slides[slide].crops.scaling, level)


def _join(arrays: Iterable[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(list(arrays)))


def _counted(parts: Sequence[BatchPart], sizes: Sequence[int]) -> Iterator[tuple[BatchPart, int]]:
    """Yield each part with the sum of the sizes before it."""
    return zip(parts, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True)


def _places(names: Sequence[str], place: dict[str, int], dtype: type) -> np.ndarray:
    return np.asarray([place.get(name, -1) for name in names], dtype)


def _presence(places: Sequence[np.ndarray], size: int) -> torch.Tensor:
    present = torch.zeros(len(places), size, dtype=torch.bool)
    for row, place in zip(present, places, strict=True):
        row[torch.from_numpy(place[place >= 0]).long()] = True
    return present
