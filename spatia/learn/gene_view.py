"""The genes of cells as the model sees them: which become tokens, what is thinned or hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from spatia.learn.masking import thin_counts
from spatia.learn.settings import MaskParams
from spatia.model.genes import GeneTokens
from spatia.model.packed import Runs
from spatia.model.shape import ModelShape

GENES_PACK = 8


def view_genes(
    counts: Tensor,
    on_panel: Tensor,
    is_missing: Tensor,
    shape: ModelShape,
    params: MaskParams,
    generator: torch.Generator,
) -> GeneTokens:
    """Return the gene tokens of cells with ``counts`` (b, g), thinned and partly hidden."""
    gene, value, n_genes = choose_genes(
        thin_counts(counts, params.thin, generator), on_panel, shape.max_gene_tokens, shape.zero_gene_tokens
    )
    n_genes = n_genes.masked_fill(is_missing, 0)
    order = torch.argsort(n_genes, stable=True)
    gene, value, n_genes = gene[order], value[order], n_genes[order]
    is_token = torch.arange(gene.shape[1]) < n_genes[:, None]
    gene, value = gene[is_token], value[is_token]
    is_hidden = torch.rand(len(gene), generator=generator) < params.hide_genes
    return GeneTokens(gene, value, is_hidden, Runs.of(n_genes), is_missing[order], torch.argsort(order))


def choose_genes(counts: Tensor, on_panel: Tensor, most: int, n_zeros: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return gene and value (b, m) of the genes that become tokens, and (b,) how many of them count (A25).

    Non-zero genes first, highest counts first; then zeros of the panel, in the vocabulary's order.
    """
    tie = torch.linspace(0.5, 0, counts.shape[1])
    rank = torch.where(on_panel, counts + tie, -1.0)
    wanted = ((counts > 0) & on_panel).sum(1) + n_zeros
    wanted = (wanted + GENES_PACK - 1) // GENES_PACK * GENES_PACK
    wanted = torch.minimum(wanted, on_panel.sum(1)).clamp(max=most)
    gene = rank.topk(int(wanted.max()) if len(wanted) else 0, dim=1).indices
    return gene, counts.gather(1, gene), wanted
