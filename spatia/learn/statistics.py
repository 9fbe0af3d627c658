"""What a model is told about its training slides before the first step: stain levels, mean counts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spatia.learn.dataset import CellDataset
from spatia.learn.targets import batch_profiles
from spatia.model.hierarchy import Spatia

N_CELLS = 20_000  # enough for means


def fit_statistics(model: Spatia, cells: CellDataset) -> None:
    """Set the scaling of grey values and the decoders' starting counts from the training cells."""
    sums = torch.zeros(3, len(cells.stains), dtype=torch.float64)
    counts = _MeanCounts(len(cells.genes))
    niches, tissues = _MeanCounts(len(cells.genes)), _MeanCounts(len(cells.genes))
    profiles: list[Tensor] = []
    seen = 0
    for number in range(len(cells.plan(0))):
        batch = cells[0, number]
        roots = (batch.tokens.float() / 255).sqrt()
        stained = batch.has_stain[batch.slide].repeat_interleave(batch.cu_seqlens.diff().long(), dim=0)
        weight = batch.token_inside[:, None] & stained[:, :, None, None]
        for row, values in enumerate((weight, roots * weight, roots.square() * weight)):
            sums[row] += values.sum((0, 2, 3), dtype=torch.float64)
        counts.add(batch.counts.dense(), batch.on_panel[batch.slide])
        niches.add(batch.niche_counts.dense(), batch.on_panel[batch.tissue_slide[batch.niche_tissue]])
        tissues.add(batch.tissue_counts.dense(), batch.on_panel[batch.tissue_slide])
        profiles.append(batch_profiles(batch))
        seen += len(batch)
        # a stain or gene that few slides have may come late
        if seen >= N_CELLS and sums[0].all() and counts.n.all():
            break
    mean = sums[1] / sums[0].clamp(min=1)
    variance = sums[2] / sums[0].clamp(min=1) - mean.square()
    model.stain_mean.copy_(mean)
    model.stain_sd.copy_(variance.clamp(min=1e-4).sqrt())
    _set_profile_scale(model, torch.cat(profiles).double())
    model.cell.gene_decoder.set_level(counts.mean())
    for level, means in ((model.niche, niches), (model.tissue, tissues)):
        if level is not None:
            level.gene_decoder.set_level(means.mean())


def _set_profile_scale(model: Spatia, profiles: Tensor) -> None:
    """Take mean and sd over the cells whose slide has the stain."""
    n = profiles.isfinite().sum(0).clamp(min=1)
    mean = profiles.nansum(0) / n
    variance = (profiles - mean).square().nansum(0) / n
    model.cell.profile_scale.mean.copy_(mean)
    model.cell.profile_scale.sd.copy_(variance.sqrt().clamp(min=1e-2))


class _MeanCounts:
    """Mean counts per gene over the rows whose panel has it."""

    def __init__(self, n_genes: int) -> None:
        self.total, self.n = np.zeros(n_genes), np.zeros(n_genes)

    def add(self, counts: Tensor, on_panel: Tensor) -> None:
        self.total += (counts * on_panel).sum(0).double().numpy()
        self.n += on_panel.sum(0).numpy()

    def mean(self) -> Tensor:
        return torch.from_numpy(self.total / np.maximum(self.n, 1)).float()
