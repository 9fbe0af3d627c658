"""What embeddings are asked for beside hidden pixels and counts: morphology profiles, the counts around a cell."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from spatia.cells.profiles import STAIN_NAMES, cell_profiles
from spatia.learn.batches import CellBatch

AROUND_UM = 40.0  # the area of 1.7 niches, whose grid cuts through neighbourhoods


def batch_profiles(batch: CellBatch, is_seen: Tensor | None = None) -> Tensor:
    """Return the (b, p) morphology profiles of a batch's cells, NaN for stains that their slide lacks.

    Parameters
    ----------
    is_seen
        (t,) bool, tokens that count; default all.
    """
    if is_seen is not None:
        batch = dataclasses.replace(batch, token_inside=batch.token_inside & is_seen[:, None, None])
    frames, masks = batch.frames()
    profile = torch.from_numpy(cell_profiles(frames.numpy(), masks.numpy()))
    n_shape = profile.shape[1] - len(STAIN_NAMES) * frames.shape[1]
    measured = batch.has_stain[batch.slide].repeat_interleave(len(STAIN_NAMES), dim=1)
    profile[:, n_shape:].masked_fill_(~measured, float("nan"))
    return profile


def sum_around(batch: CellBatch) -> Tensor:
    """Return (b, g) summed counts of the other cells of the batch within ``AROUND_UM`` of each cell."""
    is_near = torch.cdist(batch.position_um, batch.position_um) <= AROUND_UM
    is_near &= batch.slide[:, None] == batch.slide[None, :]
    return is_near.fill_diagonal_(False).float() @ batch.counts.dense()
