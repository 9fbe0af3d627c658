"""Exponential moving average of weights: what is sampled with (A5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def decay_at(step: int, decay: float) -> float:
    """Return how much of the average stays at ``step`` (from 0): less at first, so that it forgets the start."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """Move ``average`` towards ``weights`` in place: a <- d a + (1 - d) w; whole numbers are copied."""
    for name, value in average.items():
        if value.is_floating_point():
            value.lerp_(weights[name].to(value), 1 - decay)
        else:
            value.copy_(weights[name])
