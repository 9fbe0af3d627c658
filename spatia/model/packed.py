"""Sequences of unequal length, packed one behind the other, and attention inside each of them.

Cells have between one and a few hundred tokens. Padding them to the longest would cost most of the time, so tokens
of all cells lie in one (t, d) tensor: everything that works token by token runs on it as it is. Only attention needs
to know where a cell ends. The batch is ordered so that sequences of equal length are neighbours; each such *run* is
then a view (n, length, d), without a single copied or masked token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Runs:
    """Runs of consecutive sequences of equal length: ``counts[k]`` sequences of ``lengths[k]`` tokens each."""

    counts: tuple[int, ...]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Tensor) -> Runs:
        """Return the runs of sequences with these lengths, (b,) integers of at least 1, in the given order."""
        values, counts = torch.unique_consecutive(lengths, return_counts=True)
        return cls(tuple(counts.tolist()), tuple(values.tolist()))

    @cached_property
    def sizes(self) -> list[int]:
        """Tokens of each run."""
        return [count * length for count, length in zip(self.counts, self.lengths, strict=True)]

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return sum(self.counts)

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return sum(self.sizes)

    def first(self, n: int) -> Runs:
        """Return the runs of the first ``n`` sequences."""
        ends = torch.tensor((0, *self.counts)).cumsum(0).clamp(max=n).diff().tolist()
        kept = [(count, length) for count, length in zip(ends, self.lengths, strict=True) if count]
        return Runs(tuple(count for count, _ in kept), tuple(length for _, length in kept))

    def split(self, values: Tensor) -> Iterator[Tensor]:
        """Yield (n, length, ...) views of ``values`` (t, ...), run by run."""
        for part, count, length in zip(values.split(self.sizes), self.counts, self.lengths, strict=True):
            yield part.view(count, length, *part.shape[1:])

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of each sequence, (b, ...)."""
        return torch.cat([part.mean(1) for part in self.split(values)])

    def first_and_mean(self, values: Tensor) -> Tensor:
        """Return the first token of each sequence beside the mean of all, (b, 2 d) for ``values`` (t, d)."""
        return torch.cat([torch.cat([part[:, 0], part.mean(1)], dim=1) for part in self.split(values)])

    def spread(self, rows: Tensor) -> Tensor:
        """Return one row per token, (t, ...), from one row per sequence (b, ...)."""
        return rows.repeat_interleave(self.lengths_of(rows.device), dim=0)

    def lengths_of(self, device: torch.device | str = "cpu") -> Tensor:
        """Return (b,) lengths."""
        numbers = (self.lengths, self.counts)
        lengths, counts = (torch.tensor(some, dtype=torch.long, device=device) for some in numbers)
        return lengths.repeat_interleave(counts)


def reorder(values: Tensor, runs: Runs, order: Tensor) -> tuple[Tensor, Runs]:
    """Return the sequences in the order ``order`` (b,): sequence ``order[i]`` comes i-th."""
    lengths, order = runs.lengths_of(), order.cpu()
    return values[tokens_of(lengths, order).to(values.device)], Runs.of(lengths[order])


def tokens_of(lengths: Tensor, order: Tensor) -> Tensor:
    """Return the tokens (t,) of the sequences ``order``, where sequences of ``lengths`` (b,) lie end to end."""
    starts = (lengths.cumsum(0) - lengths)[order]
    taken = lengths[order]
    before = taken.cumsum(0) - taken
    return torch.arange(int(taken.sum())) + (starts - before).repeat_interleave(taken)


def pair_runs(queries: Runs, keys: Runs) -> tuple[Runs, Runs]:
    """Return both with the same counts: runs are cut where either of the two begins a new one."""
    pairs = torch.stack([queries.lengths_of(), keys.lengths_of()], dim=1)
    values, counts = torch.unique_consecutive(pairs, dim=0, return_counts=True)
    cut = tuple(counts.tolist())
    return Runs(cut, tuple(values[:, 0].tolist())), Runs(cut, tuple(values[:, 1].tolist()))


def join(parts: Sequence[tuple[Tensor, Runs]]) -> tuple[Tensor, Runs]:
    """Join sequences end to end: sequence i of the result is that of the first part, then of the second, ..."""
    runs = [part[1] for part in parts]
    lengths = torch.stack([run.lengths_of() for run in runs], dim=1)
    values, counts = torch.unique_consecutive(lengths, dim=0, return_counts=True)
    cut = counts.tolist()
    views = [Runs(tuple(cut), tuple(values[:, k].tolist())).split(tensor) for k, (tensor, _) in enumerate(parts)]
    joined = [torch.cat(pieces, dim=1).flatten(0, 1) for pieces in zip(*views, strict=True)]
    return torch.cat(joined), Runs(tuple(cut), tuple(values.sum(1).tolist()))


def self_attend(qkv: Tensor, runs: Runs) -> Tensor:
    """Return attention of every sequence to itself.

    Parameters
    ----------
    qkv
        (t, 3, heads, d).
    runs
        Where sequences begin.

    Returns
    -------
    (t, heads * d)
    """
    out = []
    for part in runs.split(qkv):
        q, k, v = part.permute(2, 0, 3, 1, 4)
        out.append(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(out)


def cross_attend(q: Tensor, kv: Tensor, query_runs: Runs, key_runs: Runs) -> Tensor:
    """Return attention (t, heads * d) of sequences of ``q`` (t, heads, d) to their own of ``kv`` (s, 2, heads, d)."""
    query_runs, key_runs = pair_runs(query_runs, key_runs)
    out = []
    for q_part, kv_part in zip(query_runs.split(q), key_runs.split(kv), strict=True):
        k, v = kv_part.permute(2, 0, 3, 1, 4)
        found = scaled_dot_product_attention(q_part.transpose(1, 2), k, v)
        out.append(found.transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(out)


def run_block(block: nn.Module, x: Tensor, runs: Runs) -> Tensor:
    """Apply a timm ``Block`` to packed tokens (t, d): the same numbers as the block on each sequence alone."""
    parts: Any = block
    attention = parts.attn
    qkv = attention.qkv(parts.norm1(x)).view(len(x), 3, attention.num_heads, attention.head_dim)
    found = attention.proj_drop(attention.proj(self_attend(qkv, runs)))
    x = x + parts.drop_path1(parts.ls1(found))
    return x + parts.drop_path2(parts.ls2(parts.mlp(parts.norm2(x))))


def make_blocks(width: int, depth: int, heads: int, mlp_ratio: float, dropout: float = 0.0) -> nn.ModuleList:
    """Return ``depth`` timm transformer blocks."""
    return nn.ModuleList(
        Block(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True, proj_drop=dropout) for _ in range(depth)
    )


class CrossAttention(nn.Module):
    """Pre-norm cross-attention with residual and a gate: ``x + gate * attention(x, context)``, then an MLP likewise.

    Parameters
    ----------
    width, context_width
        Of queries and of what they look at.
    gate
        Start value of the learned gates (A19).
    """

    def __init__(
        self, width: int, context_width: int, heads: int, gate: float | None = None, mlp_ratio: float = 2.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.context_norm = nn.LayerNorm(width), nn.LayerNorm(context_width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(context_width, 2 * width)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        start = 1.0 if gate is None else gate
        self.gate = nn.Parameter(torch.full((2, 1), start), requires_grad=gate is not None)

    def forward(self, x: Tensor, runs: Runs, context: Tensor, context_runs: Runs) -> Tensor:
        """Return (t, width) for ``x`` (t, width) looking at ``context`` (s, context_width), sequence by sequence."""
        d = x.shape[1] // self.heads
        q = self.query(self.norm(x)).view(len(x), self.heads, d)
        kv = self.key_value(self.context_norm(context)).view(len(context), 2, self.heads, d)
        x = x + self.gate[0] * self.project(cross_attend(q, kv, runs, context_runs))
        return x + self.gate[1] * self.mlp(self.mlp_norm(x))
