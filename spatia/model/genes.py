"""Genes: an encoder over the measured genes of a cell, and a decoder that asks for genes with learned queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from spatia.model.packed import Runs, join, make_blocks, reorder, run_block

INITIAL_SD = 0.02


@dataclass(frozen=True)
class GeneTokens:
    """Measured genes of b cells, packed cell by cell (A25): non-zero ones first; a cell may have none.

    Cells stand in an order of their own, by their number of genes, so that they pack well.

    Attributes
    ----------
    gene : (t,) int64
    value : (t,) float, counts
    is_hidden : (t,) bool, the value is not to be seen
    runs : of the cells; lengths may be 0
    is_missing : (b,) bool, True for cells whose genes are not to be seen at all
    place : (b,) where each cell of the view stands here
    """

    gene: Tensor
    value: Tensor
    is_hidden: Tensor
    runs: Runs
    is_missing: Tensor
    place: Tensor


class GeneEncoder(nn.Module):
    """Gene embedding + continuous value encoder + transformer, one class token per cell in front (scPRINT's style)."""

    def __init__(self, n_genes: int, width: int, depth: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_genes, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.expression = nn.Embedding(n_genes, width)
        nn.init.normal_(self.expression.weight, std=width**-0.5)
        self.value = nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, width))
        self.hidden = nn.Parameter(torch.empty(width).normal_(std=INITIAL_SD))
        self.cls = nn.Parameter(torch.empty(width).normal_(std=INITIAL_SD))
        self.missing = nn.Parameter(torch.empty(width).normal_(std=INITIAL_SD))
        self.blocks = make_blocks(width, depth, heads, mlp_ratio, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: GeneTokens) -> tuple[Tensor, Runs]:
        """Return packed tokens (t + b, width) and their runs, cells in the view's order."""
        value = self.value(torch.log1p(tokens.value)[:, None])
        value = torch.where(tokens.is_hidden[:, None], self.hidden.to(value.dtype), value)
        n = len(tokens.is_missing)
        first = torch.where(tokens.is_missing[:, None], self.missing, self.cls + self.sum_up(tokens)).to(value.dtype)
        x, runs = join([(first, Runs((n,), (1,))), (self.embedding(tokens.gene).to(value.dtype) + value, tokens.runs)])
        for block in self.blocks:
            x = run_block(block, x, runs)
        return reorder(self.norm(x), runs, tokens.place)

    def sum_up(self, tokens: GeneTokens) -> Tensor:
        """Return (b, width): the sum of log1p(count) times a vector per gene, over the values that are seen.

        What linear factor models are good at, a transformer over tokens would first have to learn to add up. Cells
        stand in the tokens' own order.
        """
        level = torch.log1p(tokens.value).masked_fill(tokens.is_hidden, 0)
        cell = torch.arange(len(tokens.is_missing), device=level.device)
        cell = cell.repeat_interleave(tokens.runs.lengths_of(level.device))
        total = level.new_zeros(len(tokens.is_missing), self.expression.embedding_dim)
        return total.index_add(0, cell, self.expression(tokens.gene).to(level.dtype) * level[:, None])


@dataclass(frozen=True)
class CountModel:
    """Zero-inflated negative binomial of counts: everything (b, g) or broadcast to it."""

    log_mean: Tensor
    zero_logit: Tensor
    log_dispersion: Tensor


class GeneDecoder(nn.Module):
    """Learned gene queries -> the distribution of their counts (App. B).

    A query looks at a cell's tokens (A21: from tokens), or reads one embedding. Both share queries' read-out.

    Parameters
    ----------
    n_genes, width, heads
        Of the queries.
    token_width, embedding
        Width of tokens and of embeddings that are read.
    """

    def __init__(self, n_genes: int, width: int, heads: int, token_width: int, embedding: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.query = nn.Parameter(torch.empty(n_genes, width).normal_())
        self.mean_weight = nn.Parameter(torch.empty(n_genes, width).normal_(std=width**-0.5))
        self.zero_weight = nn.Parameter(torch.zeros(n_genes, width))
        self.mean_bias = nn.Parameter(torch.zeros(n_genes))
        self.zero_bias = nn.Parameter(torch.full((n_genes,), -3.0))
        self.log_dispersion = nn.Parameter(torch.zeros(n_genes))
        self.token_norm = nn.LayerNorm(token_width)
        self.key_value = nn.Linear(token_width, 2 * width)
        self.attention_norm = nn.LayerNorm(width)
        self.from_embedding = nn.Sequential(nn.LayerNorm(embedding), nn.Linear(embedding, width))

    def set_level(self, mean_counts: Tensor) -> None:
        """Start from (g,) mean counts instead of one count of each gene."""
        with torch.no_grad():
            self.mean_bias.copy_((mean_counts + 1e-3).log())

    def read_tokens(self, tokens: Tensor, runs: Runs, genes: Tensor) -> CountModel:
        """Return the distribution of ``genes`` (g,) int64 for each sequence of tokens."""
        kv = self.key_value(self.token_norm(tokens)).view(len(tokens), 2, self.heads, -1)
        query = self.query[genes].to(kv.dtype).view(len(genes), self.heads, -1).transpose(0, 1)
        found = []
        for part in runs.split(kv):
            k, v = part.permute(2, 0, 3, 1, 4)
            attended = scaled_dot_product_attention(query.expand(len(part), -1, -1, -1), k, v)
            found.append(attended.transpose(1, 2).flatten(2))
        hidden = self.attention_norm(torch.cat(found))  # (b, g, width)
        log_mean = (hidden * self.mean_weight[genes]).sum(2) + self.mean_bias[genes]
        zero_logit = (hidden * self.zero_weight[genes]).sum(2) + self.zero_bias[genes]
        return CountModel(log_mean, zero_logit, self.log_dispersion[genes])

    def read_embedding(self, embedding: Tensor) -> CountModel:
        """Return the distribution of all genes from (b, embedding)."""
        hidden = self.from_embedding(embedding)
        log_mean = hidden @ self.mean_weight.T + self.mean_bias
        return CountModel(log_mean, hidden @ self.zero_weight.T + self.zero_bias, self.log_dispersion)
