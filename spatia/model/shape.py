"""Sizes and switches of the model; loads no torch, so that configuration stays light."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

Shape = TypeVar("Shape")
Preset = Literal["tiny", "small", "base"]
Levels = Literal["cell", "niche", "tissue"]

_AT_LEAST_ONE = (
    "image_width", "image_depth", "image_heads", "decoder_width", "decoder_depth", "decoder_heads", "gene_width",
    "gene_depth", "gene_heads", "max_gene_tokens", "embedding", "patch_px", "tile_patch_px", "tile_depth",
    "niche_shrink",
)  # fmt: skip
_WIDTHS_OF_HEADS = (
    ("image_width", "image_heads"),
    ("decoder_width", "decoder_heads"),
    ("gene_width", "gene_heads"),
    ("embedding", "gene_heads"),
)


@dataclass(frozen=True)
class ModelShape:
    """Everything that decides which tensors a model has.

    The defaults are the ``small`` preset: a workstation without GPU. ``base`` is the paper's (Table 10).

    Attributes
    ----------
    image_width, image_depth, image_heads
        ViT over the cell's patches; the niche and tissue encoders have ``tile_depth`` blocks of the same width.
    decoder_width, decoder_depth, decoder_heads
        Of the image decoders.
    gene_width, gene_depth, gene_heads
        Transformer over genes.
    max_gene_tokens, zero_gene_tokens
        Genes of a cell that become tokens: all that are not zero, then at least so many zeros, filled up to a multiple
        of 8 so that cells pack, and at most ``max_gene_tokens`` (A25). An on-panel gene that is no token is a zero.
    embedding
        Width of every embedding: cell, niche, tissue and fused.
    patch_px, tile_patch_px, niche_shrink, tissue_level
        Side of a cell's patch (A32) and of a tile's patch; by how much a niche tile is averaged before, and the
        pyramid level (1 / 2 ** level) at which a tissue window is read.
    profile
        The class token of a cell's image starts from its morphology profile (:mod:`spatia.cells.profiles`).
    levels
        The highest level: cell alone, with niches (eq. 5), with tissue (eq. 6).
    cross_attention
        Fuse image and gene tokens, and the three levels (eq. 4), by attention; otherwise pooled vectors are joined.
    direct_width
        So many values of ``z``, half of them at the end of each half, are those of niche and tissue through a linear
        layer (ours); 0 = none. How much attention takes of niche and tissue depends on the cell, which no linear probe
        can undo; added to all values, they would blur what the others say of the cell.
    """

    image_width: int = 128
    image_depth: int = 4
    image_heads: int = 4
    decoder_width: int = 96
    decoder_depth: int = 1
    decoder_heads: int = 4
    gene_width: int = 128
    gene_depth: int = 2
    gene_heads: int = 4
    max_gene_tokens: int = 128
    zero_gene_tokens: int = 8
    embedding: int = 192
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    patch_px: int = 8
    tile_patch_px: int = 16
    tile_depth: int = 2
    niche_shrink: int = 2
    tissue_level: int = 3
    profile: bool = True
    levels: Levels = "tissue"
    cross_attention: bool = True
    direct_width: int = 16

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} should be at least 1, found {getattr(self, name)}")
        for width, heads in _WIDTHS_OF_HEADS:
            if getattr(self, width) % getattr(self, heads):
                found = f"{width} {getattr(self, width)} and {heads} {getattr(self, heads)}"
                raise ValueError(f"{width} should be a multiple of {heads}, found {found}")
        if self.image_width % 4 or self.decoder_width % 4 or self.embedding % 4:
            raise ValueError("image_width, decoder_width and embedding should be multiples of 4 (2-D positions)")
        if self.levels not in ("cell", "niche", "tissue"):
            raise ValueError(f"levels should be cell, niche or tissue, found {self.levels!r}")
        if self.direct_width % 2 or not 0 <= self.direct_width < self.embedding:
            should_be = f"even, at least 0 and less than embedding {self.embedding}"
            raise ValueError(f"direct_width should be {should_be}, found {self.direct_width}")


PRESETS: dict[str, ModelShape] = {
    "tiny": ModelShape(
        image_width=32, image_depth=1, image_heads=2, decoder_width=32, decoder_heads=2,
        gene_width=32, gene_depth=1, gene_heads=2, max_gene_tokens=24, embedding=32, tile_depth=1, direct_width=4,
    ),
    "small": ModelShape(),
    "base": ModelShape(
        image_width=768, image_depth=12, image_heads=12, decoder_width=512, decoder_depth=8, decoder_heads=16,
        gene_width=256, gene_depth=8, gene_heads=4, max_gene_tokens=1000, zero_gene_tokens=64, embedding=768,
        dropout=0.1, tile_depth=12, niche_shrink=1, tissue_level=2, direct_width=64,
    ),
}  # fmt: skip


def shape_of(preset: str, **changes: object) -> ModelShape:
    """Return a preset with some values changed.

    Raises
    ------
    ValueError
        If there is no such preset.
    """
    return change_preset(PRESETS, preset, **changes)


def change_preset(presets: Mapping[str, Shape], preset: str, **changes: object) -> Shape:
    """Return one of the presets with some values changed.

    Raises
    ------
    ValueError
        If there is no such preset.
    """
    if preset not in presets:
        raise ValueError(f"preset should be one of {', '.join(presets)}, found {preset!r}")
    return dataclasses.replace(presets[preset], **changes)  # type: ignore[type-var]
