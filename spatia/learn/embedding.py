"""A model applied to slides: every cell, niche and tissue, nothing masked, in bounded memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spatia.learn.dataset import CellDataset, LoadParams
from spatia.learn.devices import Machine, move
from spatia.learn.objective import reconstruct
from spatia.learn.order import BatchOrder
from spatia.learn.settings import NOTHING_HIDDEN, MaskParams
from spatia.learn.slides import SlideFiles
from spatia.learn.view import BatchView, view_batch
from spatia.machine import return_freed_memory
from spatia.model.hierarchy import Spatia

Variant = Literal["fused", "image", "genes"]
VARIANTS: tuple[Variant, ...] = ("fused", "image", "genes")
# (A35): without genes everywhere; without any image, tiles included
_MASKS: dict[Variant, MaskParams] = {
    "fused": NOTHING_HIDDEN,
    "image": dataclasses.replace(NOTHING_HIDDEN, drop_genes=1.0, drop_together=1.0),
    "genes": dataclasses.replace(NOTHING_HIDDEN, drop_image=1.0, drop_together=1.0),
}
RELEASE_EVERY = 4  # batches; pages of mapped files would add up to the size of the slide, and gaps in the heap
CACHE_MB = 64  # batches come in the order of storage: a chunk is read once


@dataclass(frozen=True)
class Embedded:
    """Embeddings of one batch, on the CPU, cells in the order of ``cell_row``; None above the model's levels."""

    cell_row: Tensor  # (b,) row of the slide's crops
    niche_row: Tensor  # (n,) row of the slide's niche table
    z_cell: Tensor  # (b, embedding)
    z: Tensor
    z_niche: Tensor | None  # (n, embedding)
    z_tissue: Tensor | None  # (n, embedding), one per niche (eq. 6)


def open_for_embedding(slide: SlideFiles, model: Spatia, stains: tuple[str, ...], genes: tuple[str, ...],
                       cells_per_batch: int) -> CellDataset:  # fmt: skip
    """Return a slide's batches of whole tissue windows in the order of storage, in the model's stains and genes."""
    has_tiles = model.niche is not None
    params = LoadParams(
        cells_per_batch,
        whole="tissue",
        shuffle=False,
        patch_px=model.shape.patch_px,
        tiles=has_tiles,
        tissue_level=model.shape.tissue_level,
        cache_mb=CACHE_MB,
    )
    return CellDataset([slide], params, stains, genes)


def embed_cells(
    model: Spatia,
    cells: CellDataset,
    machine: Machine,
    variants: tuple[Variant, ...] = VARIANTS,
    hidden: Tensor | None = None,
) -> Iterator[dict[Variant, Embedded]]:
    """Yield the embeddings of every batch, in each of ``variants``.

    Nothing is random: the same slide, model and batch size give the same numbers.

    Parameters
    ----------
    hidden
        (genes,) bool, genes of the model that are treated as if no panel had them.
    """
    model.eval()
    for n_done, key in enumerate(BatchOrder(cells)):
        if n_done % RELEASE_EVERY == 0:
            for slide in cells.slides:
                slide.release_pages()
            return_freed_memory()
        batch = cells[key]
        if hidden is not None:
            batch = dataclasses.replace(batch, on_panel=batch.on_panel & ~hidden)
        yield {variant: _embed(model, _view(model, cells, batch, _MASKS[variant]), machine) for variant in variants}


def embed_slide(
    model: Spatia,
    cells: CellDataset,
    machine: Machine,
    variants: tuple[Variant, ...] = VARIANTS,
    hidden: Tensor | None = None,
) -> dict[str, np.ndarray]:
    """Return ``z_cell_<variant>`` and ``z_<variant>`` of a slide that fits in memory, rows as in its crops."""
    n = len(cells.slides[0].cell_ids)
    names = [f"{level}_{variant}" for variant in variants for level in ("z_cell", "z")]
    found = {name: np.zeros((n, model.shape.embedding), np.float32) for name in names}
    for batch in embed_cells(model, cells, machine, variants, hidden):
        for variant, part in batch.items():
            rows = part.cell_row.numpy()
            found[f"z_cell_{variant}"][rows], found[f"z_{variant}"][rows] = part.z_cell.numpy(), part.z.numpy()
    return found


@torch.no_grad()
def _embed(model: Spatia, view: BatchView, machine: Machine) -> Embedded:
    with machine.autocast():
        levels = model(move(view, machine.device))
    above = [None if z is None else z.float().cpu() for z in (levels.niche, levels.tissue)]
    return Embedded(view.cell_row, view.niche_row, levels.cells.z.float().cpu(), levels.fused.float().cpu(), *above)


def _view(model: Spatia, cells: CellDataset, batch: object, mask: MaskParams, seed: int = 0) -> BatchView:
    generator = torch.Generator().manual_seed(seed)
    return view_batch(batch, model.normaliser(), model.shape, mask, generator, with_targets=False)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reconstructions:
    """Cells as they are, as the encoder saw them, and with the hidden patches filled by the decoder.

    Attributes
    ----------
    cell_row : (k,) row of the slide's crops
    original, masked, reconstructed : (k, c, window, window) uint8; hidden patches are 0 in ``masked``
    """

    cell_row: Tensor
    original: Tensor
    masked: Tensor
    reconstructed: Tensor


@torch.no_grad()
def reconstruct_cells(
    model: Spatia, cells: CellDataset, machine: Machine, n: int, mask_ratio: float, seed: int
) -> Reconstructions:
    """Hide patches of up to ``n`` cells of one batch in the middle of the slide and let the model fill them."""
    model.eval()
    mask = dataclasses.replace(NOTHING_HIDDEN, mask_ratio=mask_ratio, full_share=0.0)
    batch = cells[0, len(cells.plan(0)) // 2]
    view = _view(model, cells, batch, mask, seed)
    if not view.cells.hidden.n:
        none = torch.zeros(0, len(cells.stains), cells.window_px, cells.window_px, dtype=torch.uint8)
        return Reconstructions(torch.zeros(0, dtype=torch.long), none, none, none)
    on_device = move(view, machine.device)
    with machine.autocast():
        codes = model.cell(on_device.cells.patches, on_device.cells.genes)
        filled = reconstruct(
            model.cell.image_decoder, codes.image_tokens, codes.image_runs, on_device.cells.patches,
            on_device.cells.hidden,
        ).float().cpu()  # fmt: skip
    chosen = torch.randperm(view.cells.hidden.n, generator=torch.Generator().manual_seed(seed))[:n].sort().values
    normalise = model.normaliser()
    frames, _ = batch.frames()
    original = frames[view.cells.order[chosen]]
    masked, reconstructed = original.clone(), original.clone()
    side = model.shape.patch_px
    grey = normalise.invert(filled)
    ends = view.cells.hidden.runs.lengths_of().cumsum(0)
    for k, cell in enumerate(chosen.tolist()):
        start = int(ends[cell - 1]) if cell else 0
        for patch in range(start, int(ends[cell])):
            row, column = (view.cells.hidden.position[patch].long() * side).tolist()
            place = (k, slice(None), slice(row, row + side), slice(column, column + side))
            masked[place] = 0
            reconstructed[place] = grey[patch] * (view.cells.hidden.weight[patch] > 0)
    return Reconstructions(view.cell_row[chosen], original, masked, reconstructed)
