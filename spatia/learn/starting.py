"""Public weights as the start of our networks: ViT-MAE for the image encoders, scPRINT for the gene encoder.

Not taken: their layer norms' epsilon (1e-12 and 1e-6; ours is timm's), and scPRINT's value encoder, which reads shares
of a cell's counts where ours reads log1p counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spatia.errors import SpatiaError
from spatia.learn.scprint import scprint_weights
from spatia.learn.vit_mae import VitMaeWeights, vit_mae_weights
from spatia.learn.weights import read_weights
from spatia.model.hierarchy import Spatia
from spatia.model.image import ImageDecoder, ImageEncoder


def start_images(model: Spatia, source: str) -> str:
    """Start every image encoder and decoder from a ViT-MAE checkpoint; return where it comes from.

    Patch projections take one stain's share of the colour projection. Tiles have patches of another side, so their
    projection is resized. Decoders are taken where their width fits, else they start from scratch.
    """
    stored = read_weights(source)
    levels: list[nn.Module] = [model.cell, *(level for level in (model.niche, model.tissue) if level is not None)]
    notes = set()
    for level in levels:
        encoder, decoder = level.image, level.image_decoder
        assert isinstance(encoder, ImageEncoder)
        assert isinstance(decoder, ImageDecoder)
        patch_px = decoder.patch_px
        found = vit_mae_weights(stored, patch_px, depth=len(encoder.blocks), width=encoder.width)
        _load_blocks(encoder.blocks, found.encoder_blocks, found.n_heads, "image_heads")
        encoder.norm.load_state_dict(found.encoder_norm)
        n_stains = len(encoder.stain_weight)
        with torch.no_grad():
            # stains add up: each brings its share
            encoder.stain_weight.copy_(found.patch_weight.expand(n_stains, -1, -1) / n_stains)
            encoder.stain_bias.copy_(found.patch_bias.expand(n_stains, -1) / n_stains)
            encoder.cls.copy_(found.cls)
        notes.add(_start_decoder(decoder, found))
    return f"{stored.origin} ({'; '.join(sorted(notes))})"


def start_genes(model: Spatia, source: str, genes: Sequence[str], gene_ids: Sequence[str]) -> str:
    """Start the gene encoder from an scPRINT checkpoint; return where it comes from and how many genes it knew."""
    stored = read_weights(source)
    encoder = model.cell.genes
    width = encoder.embedding.weight.shape[1]
    found = scprint_weights(stored, genes, gene_ids, depth=len(encoder.blocks), width=width)
    _load_blocks(encoder.blocks, found.blocks, found.n_heads, "gene_heads")
    encoder.norm.load_state_dict(found.norm)
    known = found.is_known
    embedding = found.gene_embedding if found.gene_position is None else found.gene_embedding + found.gene_position
    with torch.no_grad():
        encoder.embedding.weight[known] = embedding[known].to(encoder.embedding.weight)
    return f"{stored.origin} ({found.n_known} of {len(genes)} genes known)"


def _start_decoder(decoder: ImageDecoder, found: VitMaeWeights) -> str:
    fits = found.decoder_width == decoder.width and len(found.decoder_blocks) >= len(decoder.blocks)
    if not fits or found.decoder_embed is None or found.decoder_norm is None or found.mask_token is None:
        return "decoder from scratch"
    blocks = found.decoder_blocks[: len(decoder.blocks)]
    _load_blocks(decoder.blocks, blocks, found.decoder_n_heads, "decoder_heads")
    decoder.norm.load_state_dict(found.decoder_norm)
    decoder.embed.load_state_dict(found.decoder_embed)
    with torch.no_grad():
        decoder.mask_token.copy_(found.mask_token)
    return "with decoder"


def _load_blocks(blocks: nn.ModuleList, found: Sequence[dict[str, Tensor]], n_heads: int | None, key: str) -> None:
    for block, tensors in zip(blocks, found, strict=True):
        n_ours = int(block.attn.num_heads)  # type: ignore[union-attr, arg-type]
        if n_ours != n_heads:
            raise SpatiaError(f"{key}: the starting weights have {n_heads} heads, the model {n_ours}; set {key}")
        try:
            block.load_state_dict(tensors)
        except RuntimeError as problem:
            raise SpatiaError(f"starting weights do not fit the model's blocks: {problem}; see mlp_ratio") from None
