"""A batch as the model sees it: what is masked, thinned or dropped, cells in the order that packs best."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from spatia.learn.batches import CellBatch, SparseCounts
from spatia.learn.gene_view import view_genes
from spatia.learn.masking import choose_dropped, choose_tokens, round_down
from spatia.learn.settings import MaskParams
from spatia.learn.targets import batch_profiles
from spatia.model.genes import GeneTokens
from spatia.model.image import Normaliser, Patches, tile_patches
from spatia.model.packed import Runs, tokens_of
from spatia.model.shape import ModelShape


@dataclass(frozen=True)
class HiddenPatches:
    """What the image decoder is asked for, in the order of the first ``n`` images."""

    n: int
    position: Tensor  # (h, 2)
    runs: Runs
    target: Tensor  # (h, c, p, p) normalised
    weight: Tensor  # (h, c, p, p) 1 where the target counts


@dataclass(frozen=True)
class TileView:
    """Niche or tissue tiles of a batch as input and targets."""

    patches: Patches
    hidden: HiddenPatches
    counts: Tensor  # (n, g) summed counts, target
    on_panel: Tensor  # (n, g) bool


@dataclass(frozen=True)
class CellView:
    """Cells of a batch as input and targets; ``order`` gives the batch's cell at each place."""

    order: Tensor
    tissue_image_is_missing: Tensor  # (tissues,) bool, windows that lost all images, their tile too
    patches: Patches
    hidden: HiddenPatches
    genes: GeneTokens
    counts: Tensor  # (b, g) target
    on_panel: Tensor  # (b, g) bool
    profile: Tensor | None  # (b, p) morphology profiles, target; NaN for stains the slide lacks


@dataclass(frozen=True)
class BatchView:
    """All that the model needs of a batch, cells in the view's order."""

    cell_id: tuple[str, ...]
    cell_row: Tensor  # (b,) row in the slide's crops
    cells: CellView
    niche: Tensor  # (b,) index of each cell's niche
    niche_row: Tensor  # (n,) row in the slide's niche table
    niche_tissue: Tensor  # (n,) index of each niche's tissue
    niche_place: Tensor  # (n, 2) middle of each niche, in tokens of its tissue tile
    tissue_row: Tensor  # (k,)
    niches: TileView | None
    tissues: TileView | None
    around: Tensor | None = None  # (b, g) summed counts of the slide's other cells near each cell, target


def view_batch(
    batch: CellBatch,
    normalise: Normaliser,
    shape: ModelShape,
    params: MaskParams,
    generator: torch.Generator,
    with_targets: bool = True,
) -> BatchView:
    """Return a batch masked as ``params`` say; its tiles, where it has them, as far up as the model's levels go.

    Profiles are targets of training alone; they take as long to make as a quarter of an embedding.
    """
    cells = view_cells(batch, normalise, shape, params, generator, with_targets)
    order = cells.order.tolist()
    has_tiles = batch.niche_tiles is not None and shape.levels != "cell"
    is_full = float(torch.rand(1, generator=generator)) < params.full_share
    see = _TileSeer(normalise, shape, 0.0 if is_full else params.mask_ratio, generator)
    slide_of_niche = batch.tissue_slide[batch.niche_tissue]
    missing = cells.tissue_image_is_missing
    niches = tissues = None
    if has_tiles:
        niches = see(batch.niche_tiles, batch, slide_of_niche, missing[batch.niche_tissue], batch.niche_counts,
                     shape.niche_shrink)  # fmt: skip
    if has_tiles and shape.levels == "tissue":
        tissues = see(batch.tissue_tiles, batch, batch.tissue_slide, missing, batch.tissue_counts, 1)
    return BatchView(
        cell_id=tuple(batch.cell_id[place] for place in order),
        cell_row=batch.cell_row[cells.order],
        cells=cells,
        niche=batch.niche[cells.order],
        niche_row=batch.niche_row,
        niche_tissue=batch.niche_tissue,
        niche_place=_middles(batch, shape),
        tissue_row=batch.tissue_row,
        niches=niches,
        tissues=tissues,
        around=None if batch.around is None else batch.around[cells.order],
    )


def _middles(batch: CellBatch, shape: ModelShape) -> Tensor:
    """Return where niches are on the scale on which the tissue's image tokens are."""
    if batch.niche_tiles is None:
        return batch.niche_place
    tokens = batch.niche_tiles.shape[3] / 2**shape.tissue_level / shape.tile_patch_px
    return batch.niche_place * tokens + (tokens - 1) / 2


@dataclass(frozen=True)
class _TileSeer:
    normalise: Normaliser
    shape: ModelShape
    ratio: float
    generator: torch.Generator

    def __call__(
        self,
        tiles: Tensor | None,
        batch: CellBatch,
        slide: Tensor,
        is_missing: Tensor,
        counts: SparseCounts,
        shrink: int,
    ) -> TileView:
        assert tiles is not None
        patches, hidden = view_tiles(
            tiles, batch.has_stain[slide], is_missing, self.normalise, self.shape.tile_patch_px, shrink, self.ratio,
            self.generator,
        )  # fmt: skip
        return TileView(patches, hidden, counts.dense(), batch.on_panel[slide])


def view_cells(
    batch: CellBatch,
    normalise: Normaliser,
    shape: ModelShape,
    params: MaskParams,
    generator: torch.Generator,
    with_targets: bool = True,
) -> CellView:
    """Return the cells of a batch, masked as ``params`` say.

    Cells whose image has hidden patches come first; among equals, cells of equal length are neighbours
    (:mod:`spatia.model.packed`).
    """
    lengths = batch.cu_seqlens.diff().long()
    dropped = choose_dropped(batch.tissue, params, generator)
    is_masked = torch.rand(len(batch), generator=generator) >= params.full_share
    n_visible = torch.where(is_masked, (lengths * (1 - params.mask_ratio)).round().long().clamp(min=1), lengths)
    n_visible = round_down(n_visible, params.pack).masked_fill(dropped.image, 0)
    n_hidden = torch.where(is_masked | dropped.image, round_down(lengths - n_visible, params.pack), 0)
    order = _order(n_hidden == 0, n_hidden, n_visible)
    tokens = tokens_of(lengths, order)
    lengths, n_visible, n_hidden = lengths[order], n_visible[order], n_hidden[order]
    turns = torch.rand(len(batch), 3, generator=generator) < (0.5 if params.turn else 0)
    patches = _all_patches(batch, order, tokens, lengths, dropped.image[order], turns[order], normalise)
    is_visible, is_hidden = choose_tokens(lengths, n_visible, n_hidden, generator)
    if shape.profile:
        seen = torch.zeros(len(tokens), dtype=torch.bool).index_fill(0, tokens[is_visible], True)
        patches = dataclasses.replace(patches, profile=batch_profiles(batch, seen)[order])
    counts, on_panel = batch.counts.dense()[order], batch.on_panel[batch.slide][order]
    return CellView(
        order=order,
        tissue_image_is_missing=dropped.tissue_image,
        patches=patches.take(is_visible, Runs.of(n_visible)),
        hidden=_hide(patches, is_hidden, n_hidden, int((n_hidden > 0).sum())),
        genes=view_genes(counts, on_panel, dropped.genes[order], shape, params, generator),
        counts=counts,
        on_panel=on_panel,
        profile=batch_profiles(batch)[order] if with_targets else None,
    )


def view_tiles(
    tiles: Tensor, has_stain: Tensor, is_missing: Tensor, normalise: Normaliser, patch_px: int, shrink: int,
    ratio: float, generator: torch.Generator,
) -> tuple[Patches, HiddenPatches]:  # fmt: skip
    """Return tiles (n, c, y, x) as patches of which a share ``ratio`` is hidden; 0 hides none.

    Parameters
    ----------
    has_stain, is_missing
        (n, c) and (n,) bool. A missing tile is seen as nothing and asked for nothing.
    """
    pixels = tile_patches(tiles, patch_px, shrink)
    n, per_tile = pixels.shape[:2]
    side = tiles.shape[3] // shrink // patch_px
    place = torch.arange(per_tile)
    position = torch.stack([place // side, place % side], dim=1).repeat(n, 1)
    measured = has_stain.repeat_interleave(per_tile, dim=0)[:, :, None, None]
    values = normalise(pixels.flatten(0, 1), measured)
    lengths = torch.full((n,), per_tile)
    n_visible = torch.full((n,), max(1, round(per_tile * (1 - ratio)))).masked_fill(is_missing, 0)
    patches = Patches(
        values, torch.ones(len(values), patch_px, patch_px), position, has_stain, Runs.of(lengths), is_missing
    )  # fmt: skip
    n_hidden = (lengths - n_visible).masked_fill(is_missing, 0)
    is_visible, is_hidden = choose_tokens(lengths, n_visible, n_hidden, generator)
    n_asked = n if is_hidden.any() else 0
    return patches.take(is_visible, Runs.of(n_visible)), _hide(patches, is_hidden, n_hidden, n_asked)


def _order(*columns: Tensor) -> Tensor:
    """Sort by all columns of whole numbers, the first first."""
    key = torch.zeros_like(columns[0], dtype=torch.int64)
    for column in columns:
        key = key * (int(column.max()) + 1) + column
    return torch.argsort(key, stable=True)


def _all_patches(
    batch: CellBatch,
    order: Tensor,
    tokens: Tensor,
    lengths: Tensor,
    is_missing: Tensor,
    turns: Tensor,
    normalise: Normaliser,
) -> Patches:
    has_stain = batch.has_stain[batch.slide][order]
    pixels, inside, position = batch.tokens[tokens], batch.token_inside[tokens], batch.token_position[tokens]
    if turns.any():
        last = -(-batch.window_px // inside.shape[1]) - 1
        pixels, inside, position = turn(pixels, inside, position, turns.repeat_interleave(lengths, dim=0), last)
    measured = inside[:, None] & has_stain.repeat_interleave(lengths, dim=0)[:, :, None, None]
    return Patches(
        normalise(pixels, measured), inside.float(), position, has_stain, Runs.of(lengths), is_missing
    )  # fmt: skip


def turn(pixels: Tensor, inside: Tensor, position: Tensor, turns: Tensor, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror or turn cells: patches and their places in the window change together, so no pixel is resampled.

    Parameters
    ----------
    pixels, inside, position
        (t, c, p, p), (t, p, p), (t, 2).
    turns
        (t, 3) bool: mirrored top to bottom, left to right, along the diagonal.
    last
        Number of the last row and column of the window's patches.
    """
    for axis in range(2):
        here = turns[:, axis]
        pixels = torch.where(here[:, None, None, None], pixels.flip(2 + axis), pixels)
        inside = torch.where(here[:, None, None], inside.flip(1 + axis), inside)
        mirrored = position.clone()
        mirrored[:, axis] = last - position[:, axis]
        position = torch.where(here[:, None], mirrored, position)
    here = turns[:, 2]
    pixels = torch.where(here[:, None, None, None], pixels.transpose(2, 3), pixels)
    inside = torch.where(here[:, None, None], inside.transpose(1, 2), inside)
    return pixels, inside, torch.where(here[:, None], position.flip(1), position)


def _hide(patches: Patches, is_hidden: Tensor, n_hidden: Tensor, n: int) -> HiddenPatches:
    tokens = is_hidden.nonzero()[:, 0]
    stains = patches.runs.spread(patches.has_stain)[tokens]
    inside = patches.inside[tokens]
    weight = inside[:, None] * stains[:, :, None, None]
    return HiddenPatches(n, patches.position[tokens], Runs.of(n_hidden[:n]), patches.values[tokens], weight)
