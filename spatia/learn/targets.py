"""The morphology profiles of a batch, which embeddings are asked for."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from spatia.cells.profiles import STAIN_NAMES, cell_profiles
from spatia.learn.batches import CellBatch


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
