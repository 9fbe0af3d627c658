"""What pretraining minimises on one batch, level by level and jointly (App. B, C)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spatia.learn.losses import pixel_loss, profile_loss, zinb_loss
from spatia.learn.settings import LossWeights
from spatia.learn.view import BatchView, CellView, HiddenPatches, TileView
from spatia.model.hierarchy import CellCodes, Spatia, TileLevel
from spatia.model.image import ImageDecoder, Patches
from spatia.model.packed import Runs

N_QUERIES = 128  # genes that the token decoder is asked for in one step

Losses = dict[str, Tensor]  # a loss of something that no cell or tile of the batch was asked for is not there
LOSS_NAMES = (
    "image_cell",
    "image_profile",
    "gene_tokens",
    "gene_cell",
    "image_niche",
    "gene_niche",
    "image_tissue",
    "gene_tissue",
    "gene_fused",
    "gene_around",
    "image_profile_fused",
)
Objective = Callable[[Spatia, BatchView, torch.Generator], Losses]


def cell_losses(model: Spatia, view: BatchView, generator: torch.Generator) -> Losses:
    """Return the losses of the cell level alone."""
    codes = model.cell(view.cells.patches, view.cells.genes)
    return _cell_losses(model, view.cells, codes, generator)


def tile_losses(model: Spatia, view: BatchView, generator: torch.Generator) -> Losses:
    """Return the losses of the niche and tissue levels alone: their tiles' pixels; the cells stay unseen."""
    losses: Losses = {}
    for name, level, tiles in (("niche", model.niche, view.niches), ("tissue", model.tissue, view.tissues)):
        if level is not None and tiles is not None:
            losses |= _tile_image_loss(f"image_{name}", level, tiles, level.image(tiles.patches))
    return losses


def joint_losses(model: Spatia, view: BatchView, generator: torch.Generator) -> Losses:
    """Return the losses of all levels the model has, for a batch of whole niches (eq. 2 - 6)."""
    levels = model(view)
    losses = _cell_losses(model, view.cells, levels.cells, generator)
    if levels.niche is not None and model.niche is not None and view.niches is not None:
        losses |= _tile_image_loss("image_niche", model.niche, view.niches, levels.niche_tokens)
        losses["gene_niche"] = _count_loss(model.niche, levels.niche, view.niches)
    if levels.tissue is not None and model.tissue is not None and view.tissues is not None:
        losses |= _tile_image_loss("image_tissue", model.tissue, view.tissues, levels.tissue_tokens)
        losses["gene_tissue"] = _count_loss(model.tissue, levels.tissue, view.tissues, view.niche_tissue)
    if levels.niche is not None:
        losses |= _fused_losses(model, levels.fused, view)
    return losses


def total_loss(losses: Losses, weights: LossWeights) -> Tensor:
    """Return the weighted sum, 0 without losses; names are ``<image or gene>_<what>``."""
    kind = {"image": weights.image, "gene": weights.gene}
    level = {"niche": weights.niche, "tissue": weights.tissue, "profile": weights.profile, "around": weights.around}
    terms = [kind[name.split("_")[0]] * level.get(name.split("_")[1], 1.0) * loss for name, loss in losses.items()]
    return torch.stack(terms).sum() if terms else torch.zeros((), requires_grad=True)


def _cell_losses(model: Spatia, view: CellView, codes: CellCodes, generator: torch.Generator) -> Losses:
    cell = model.cell
    asked = torch.randperm(view.counts.shape[1], generator=generator)[:N_QUERIES].to(view.counts.device)
    counts = cell.gene_decoder.read_tokens(*cell.memory(codes), asked)
    image = _image_loss(
        "image_cell", cell.image_decoder, codes.image_tokens, codes.image_runs, view.patches, view.hidden
    )
    return {
        **image,
        "gene_tokens": zinb_loss(counts, view.counts[:, asked], view.on_panel[:, asked]),
        "gene_cell": _embedding_loss(model, codes.z, view),
        **_profile_loss("image_profile", model, codes.z, view),
    }


def _fused_losses(model: Spatia, z: Tensor, view: BatchView) -> Losses:
    """Return what ``z`` is asked for: the cell's own counts and profile, and the counts of the cells around it."""
    losses = {"gene_fused": _embedding_loss(model, z, view.cells)}
    if model.niche is not None and view.around is not None:
        found = model.niche.gene_decoder.read_embedding(z)
        losses["gene_around"] = zinb_loss(found, view.around, view.cells.on_panel)
    return losses | _profile_loss("image_profile_fused", model, z, view.cells)


def _profile_loss(name: str, model: Spatia, z: Tensor, view: CellView) -> Losses:
    if view.profile is None:
        return {}
    return {name: profile_loss(model.profile(z), model.cell.profile_scale(view.profile))}


def _embedding_loss(model: Spatia, z: Tensor, view: CellView) -> Tensor:
    return zinb_loss(model.cell.gene_decoder.read_embedding(z), view.counts, view.on_panel)


def _count_loss(level: TileLevel, z: Tensor, tiles: TileView, tile: Tensor | None = None) -> Tensor:
    """Return the loss of summed counts, read from embeddings of ``tile`` (n,) or of each tile."""
    counts, on_panel = (tiles.counts, tiles.on_panel) if tile is None else (tiles.counts[tile], tiles.on_panel[tile])
    return zinb_loss(level.gene_decoder.read_embedding(z), counts, on_panel)


def _tile_image_loss(name: str, level: TileLevel, tiles: TileView, tokens: tuple[Tensor, Runs] | None) -> Losses:
    assert tokens is not None
    return _image_loss(name, level.image_decoder, *tokens, tiles.patches, tiles.hidden)


def _image_loss(
    name: str, decoder: ImageDecoder, tokens: Tensor, runs: Runs, patches: Patches, hidden: HiddenPatches
) -> Losses:
    """Return the loss of the hidden patches; nothing if none was hidden."""
    if not hidden.n:
        return {}
    return {name: pixel_loss(reconstruct(decoder, tokens, runs, patches, hidden), hidden.target, hidden.weight)}


def reconstruct(decoder: ImageDecoder, tokens: Tensor, runs: Runs, patches: Patches, hidden: HiddenPatches) -> Tensor:
    """Return (h, c, p, p) pixels of the hidden patches."""
    asked, visible = runs.first(hidden.n), patches.runs.first(hidden.n)
    return decoder(
        tokens[: asked.n_tokens], asked, patches.position[: visible.n_tokens], visible, hidden.position, hidden.runs
    )
