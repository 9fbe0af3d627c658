"""Which patches are seen, which genes are hidden, which modality is dropped: every random choice of pretraining."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spatia.learn.settings import MaskParams


@dataclass(frozen=True)
class Dropped:
    """Which cells (b,) lose their image or their genes, none both; which tissues (k,) lose every image."""

    image: Tensor
    genes: Tensor
    tissue_image: Tensor


def choose_dropped(tissue: Tensor, params: MaskParams, generator: torch.Generator) -> Dropped:
    """Choose cells, and whole tissue windows, that lose a modality; ``tissue`` (b,) numbers each cell's window."""
    alone = torch.rand(len(tissue), generator=generator)
    together = torch.rand(int(tissue.max()) + 1, generator=generator)
    shared, single = params.drop_together, 1 - params.drop_together
    tissue_image = together < params.drop_image * shared
    tissue_genes = together >= 1 - params.drop_genes * shared
    genes = tissue_genes[tissue] | (alone >= 1 - params.drop_genes * single)
    image = tissue_image[tissue] | (alone < params.drop_image * single)
    return Dropped(image & (tissue_image[tissue] | ~genes), genes & ~tissue_image[tissue], tissue_image)


def choose_tokens(
    lengths: Tensor, n_visible: Tensor, n_hidden: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return (t,) bool twice: randomly chosen tokens of each packed sequence that are seen, and that are asked for.

    Parameters
    ----------
    lengths, n_visible, n_hidden
        (b,) tokens of each sequence, and how many of them are to be seen and asked for.
    """
    sequence = torch.arange(len(lengths)).repeat_interleave(lengths)
    noise = torch.rand(len(sequence), generator=generator, dtype=torch.float64)
    order = torch.argsort(sequence + noise)
    starts = lengths.cumsum(0) - lengths
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - starts[sequence]
    is_visible = rank < n_visible[sequence]
    return is_visible, ~is_visible & (rank < (n_visible + n_hidden)[sequence])


def round_down(numbers: Tensor, step: int) -> Tensor:
    """Return multiples of ``step``; numbers below it stay as they are."""
    return torch.where(numbers >= step, numbers // step * step, numbers)


def thin_counts(counts: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return counts of which each transcript is kept with chance ``share``."""
    if share >= 1:
        return counts
    kept = counts.clone()
    some = counts > 0
    kept[some] = torch.binomial(counts[some], torch.full_like(counts[some], share), generator=generator)
    return kept
