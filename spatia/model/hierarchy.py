"""The whole model: cells from image and genes, niches from cells and tiles, tissue from niches, fused (eq. 2 - 6)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from spatia.cells.profiles import profile_size
from spatia.model.genes import GeneDecoder, GeneEncoder, GeneTokens
from spatia.model.image import ImageDecoder, ImageEncoder, Normaliser, Patches, ProfileScale
from spatia.model.packed import CrossAttention, Runs, join
from spatia.model.positions import sincos_2d
from spatia.model.shape import ModelShape

GATE = 0.1  # A19


@dataclass(frozen=True)
class CellCodes:
    """What the cell level makes of b cells: the embedding and the fused tokens that decoders read."""

    z: Tensor  # (b, embedding)
    image_tokens: Tensor
    image_runs: Runs
    gene_tokens: Tensor
    gene_runs: Runs


@dataclass(frozen=True)
class Levels:
    """What the whole model makes of a batch; None above the model's highest level."""

    cells: CellCodes
    fused: Tensor  # (b, embedding) z
    niche: Tensor | None = None  # (n, embedding) z^n
    tissue: Tensor | None = None  # (n, embedding) z^t, one per niche
    niche_tokens: tuple[Tensor, Runs] | None = None
    tissue_tokens: tuple[Tensor, Runs] | None = None


class CellLevel(nn.Module):
    """Image and genes of each cell -> ``z^c`` (eq. 2; section 4.1)."""

    def __init__(self, shape: ModelShape, n_stains: int, n_genes: int) -> None:
        super().__init__()
        s = shape
        self.image = ImageEncoder(
            n_stains, s.patch_px, s.image_width, s.image_depth, s.image_heads, s.mlp_ratio, s.dropout,
            profile_size(n_stains) if s.profile else 0,
        )  # fmt: skip
        self.profile_scale = ProfileScale(profile_size(n_stains))
        self.genes = GeneEncoder(n_genes, s.gene_width, s.gene_depth, s.gene_heads, s.mlp_ratio, s.dropout)
        if s.cross_attention:
            self.image_fusion = CrossAttention(s.image_width, s.gene_width, s.image_heads, GATE)
            self.gene_fusion = CrossAttention(s.gene_width, s.image_width, s.gene_heads, GATE)
        self.is_fused = s.cross_attention
        # each modality has half of the embedding to itself: added up, the louder one drowns the other's details
        n_profile = profile_size(n_stains) if s.profile else 0
        self.image_half = nn.Linear(2 * s.image_width + n_profile, s.embedding // 2)
        self.gene_half = nn.Linear(3 * s.gene_width, s.embedding // 2)
        self.image_decoder = ImageDecoder(
            n_stains, s.patch_px, s.image_width, s.decoder_width, s.decoder_depth, s.decoder_heads, s.mlp_ratio
        )
        self.token_width = s.image_width
        self.gene_to_image = nn.Linear(s.gene_width, s.image_width)
        self.gene_decoder = GeneDecoder(n_genes, s.gene_width, s.gene_heads, s.image_width, s.embedding)

    def forward(self, patches: Patches, genes: GeneTokens) -> CellCodes:
        """Return the codes of b cells; both inputs hold them in one order."""
        if patches.profile is not None:
            patches = dataclasses.replace(patches, profile=self.profile_scale(patches.profile))
        image, image_runs = self.image(patches)
        gene, gene_runs = self.genes(genes)
        if self.is_fused:
            image, gene = (
                self.image_fusion(image, image_runs, gene, gene_runs),
                self.gene_fusion(gene, gene_runs, image, image_runs),
            )
        image_parts, gene_parts = [image_runs.first_and_mean(image)], [gene_runs.first_and_mean(gene)]
        if self.image.from_profile is not None:
            assert patches.profile is not None
            image_parts.append(patches.profile.masked_fill(patches.is_missing[:, None], 0).nan_to_num(0.0))
        gene_parts.append(self.genes.sum_up(genes)[genes.place])
        z = torch.cat([self.image_half(torch.cat(image_parts, 1)), self.gene_half(torch.cat(gene_parts, 1))], dim=1)
        return CellCodes(z, image, image_runs, gene, gene_runs)

    def memory(self, codes: CellCodes) -> tuple[Tensor, Runs]:
        """Return all tokens of each cell, as the gene decoder reads them."""
        return join([(codes.image_tokens, codes.image_runs), (self.gene_to_image(codes.gene_tokens), codes.gene_runs)])


class TileLevel(nn.Module):
    """What niches and tissue share: an encoder of tiles, a query over their tokens, decoders of pixels and counts."""

    def __init__(self, shape: ModelShape, n_stains: int, n_genes: int) -> None:
        super().__init__()
        s = shape
        self.image = ImageEncoder(
            n_stains, s.tile_patch_px, s.image_width, s.tile_depth, s.image_heads, s.mlp_ratio, s.dropout
        )
        self.look = CrossAttention(s.embedding, s.image_width, s.gene_heads)
        self.image_decoder = ImageDecoder(
            n_stains, s.tile_patch_px, s.image_width, s.decoder_width, s.decoder_depth, s.decoder_heads, s.mlp_ratio
        )
        self.gene_decoder = GeneDecoder(n_genes, s.gene_width, s.gene_heads, s.image_width, s.embedding)


class NicheLevel(TileLevel):
    """Eq. 5: the mean of a niche's cells looks at the niche's image tokens."""

    def forward(self, z_cell: Tensor, niche: Tensor, tokens: Tensor, token_runs: Runs) -> Tensor:
        """Return ``z^n`` (n, embedding).

        Parameters
        ----------
        z_cell, niche
            (b, embedding) cells, (b,) the niche of each.
        tokens, token_runs
            Of the n niche tiles.
        """
        n = token_runs.n_sequences
        # float32: under autocast a sum of a hundred bfloat16 rows would lose more than their rounding
        total = torch.zeros(n, z_cell.shape[1], device=z_cell.device).index_add(0, niche, z_cell.float())
        mean = total / niche.bincount(minlength=n)[:, None].clamp(min=1)
        return self.look(mean, Runs((n,), (1,)), tokens, token_runs)


class TissueLevel(TileLevel):
    """Eq. 6: each niche looks at the tissue window's image tokens and at all its niches (A23)."""

    def __init__(self, shape: ModelShape, n_stains: int, n_genes: int) -> None:
        super().__init__(shape, n_stains, n_genes)
        self.niche_token = nn.Linear(shape.embedding, shape.image_width)

    def forward(
        self, z_niche: Tensor, niche_tissue: Tensor, niche_place: Tensor, tokens: Tensor, token_runs: Runs
    ) -> Tensor:
        """Return ``z^t`` (n, embedding), one per niche.

        Parameters
        ----------
        z_niche, niche_tissue, niche_place
            (n, embedding), (n,) the tissue of each niche, (n, 2) its row and column there, in tokens of the tile.
        tokens, token_runs
            Of the tissue tiles.
        """
        order = torch.argsort(niche_tissue, stable=True)
        runs = Runs.of(niche_tissue.bincount(minlength=token_runs.n_sequences))
        place = sincos_2d(niche_place[order], tokens.shape[1]).to(z_niche.dtype)
        context, context_runs = join([(tokens, token_runs), (self.niche_token(z_niche[order]) + place, runs)])
        return self.look(z_niche[order], runs, context, context_runs)[torch.argsort(order)]


class Fusion(nn.Module):
    """Eq. 4 (A22): ``z = z^c + attention(z^c over z^c, z^n, z^t)``; without attention, the mean of the three.

    The last ``direct_width / 2`` values of each half of ``z`` are not the cell's but those of niche and tissue, through
    a linear layer (ours; :class:`~spatia.model.shape.ModelShape`).
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(3, shape.embedding))
        self.is_fused = shape.cross_attention
        if self.is_fused:
            self.look = CrossAttention(shape.embedding, shape.embedding, shape.gene_heads)
        n_above = ("cell", "niche", "tissue").index(shape.levels)
        self.direct = None
        if self.is_fused and n_above and shape.direct_width:
            self.direct = nn.Linear(n_above * shape.embedding, shape.direct_width)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return ``z`` (b, embedding) from each cell's (b, embedding) at one, two or three levels, the cell's first."""
        if len(levels) == 1:
            return levels[0]
        stacked = torch.stack(levels, dim=1) + self.level[: len(levels)]
        if not self.is_fused:
            return stacked.mean(1)
        n = len(stacked)
        z = self.look(levels[0], Runs((n,), (1,)), stacked.flatten(0, 1), Runs((n,), (len(levels),)))
        if self.direct is None:
            return z
        halves, above = z.unflatten(1, (2, -1)), self.direct(torch.cat(levels[1:], dim=1)).unflatten(1, (2, -1))
        return torch.cat([halves[..., : -above.shape[2]], above], dim=2).flatten(1)


class Inputs(Protocol):
    """What the model reads of a batch (:class:`spatia.learn.view.BatchView`)."""

    @property
    def cells(self) -> CellInputs: ...  # noqa: D102
    @property
    def niches(self) -> TileInputs | None: ...  # noqa: D102
    @property
    def tissues(self) -> TileInputs | None: ...  # noqa: D102
    @property
    def niche(self) -> Tensor: ...  # noqa: D102
    @property
    def niche_tissue(self) -> Tensor: ...  # noqa: D102
    @property
    def niche_place(self) -> Tensor: ...  # noqa: D102


class CellInputs(Protocol):
    """Image and genes of cells, in one order."""

    @property
    def patches(self) -> Patches: ...  # noqa: D102
    @property
    def genes(self) -> GeneTokens: ...  # noqa: D102


class TileInputs(Protocol):
    """Images of tiles."""

    @property
    def patches(self) -> Patches: ...  # noqa: D102


class Spatia(nn.Module):
    """All levels.

    Parameters
    ----------
    shape
        Sizes and switches.
    n_stains, n_genes
        Stains and genes the model knows, in the order of its vocabulary.
    """

    stain_mean: Tensor  # of sqrt(value / 255) inside the training cells
    stain_sd: Tensor

    def __init__(self, shape: ModelShape, n_stains: int, n_genes: int) -> None:
        super().__init__()
        self.shape = shape
        self.cell = CellLevel(shape, n_stains, n_genes)
        self.niche = NicheLevel(shape, n_stains, n_genes) if shape.levels != "cell" else None
        self.tissue = TissueLevel(shape, n_stains, n_genes) if shape.levels == "tissue" else None
        self.fusion = Fusion(shape)
        self.register_buffer("stain_mean", torch.full((n_stains,), 0.5))
        self.register_buffer("stain_sd", torch.full((n_stains,), 0.25))
        self.profile = nn.Linear(shape.embedding, profile_size(n_stains))  # linear: what it finds, linear probes find

    def normaliser(self) -> Normaliser:
        """Return the model's scaling of grey values, on the CPU, where views are made."""
        return Normaliser(self.stain_mean.cpu(), self.stain_sd.cpu())

    def forward(self, inputs: Inputs) -> Levels:
        """Return every level's embeddings of a batch of whole niches."""
        codes = self.cell(inputs.cells.patches, inputs.cells.genes)
        if self.niche is None or inputs.niches is None:
            return Levels(codes, self.fusion([codes.z]))
        niche_tokens = self.niche.image(inputs.niches.patches)
        z_niche = self.niche(codes.z, inputs.niche, *niche_tokens)
        if self.tissue is None or inputs.tissues is None:
            return Levels(codes, self.fusion([codes.z, z_niche[inputs.niche]]), z_niche, niche_tokens=niche_tokens)
        tissue_tokens = self.tissue.image(inputs.tissues.patches)
        z_tissue = self.tissue(z_niche, inputs.niche_tissue, inputs.niche_place, *tissue_tokens)
        z = self.fusion([codes.z, z_niche[inputs.niche], z_tissue[inputs.niche]])
        return Levels(codes, z, z_niche, z_tissue, niche_tokens, tissue_tokens)
