"""Fixed 2-D sine-cosine positions."""

from __future__ import annotations

import torch
from torch import Tensor

WAVELENGTH = 100.0  # in tokens, of the slowest pair: grids here are 4 to 32 tokens wide


def sincos_2d(position: Tensor, width: int) -> Tensor:
    """Return (t, width) positions for (t, 2) rows and columns, in tokens; half of ``width`` for each axis."""
    quarter = width // 4
    rates = WAVELENGTH ** (-torch.arange(quarter, device=position.device) / quarter)
    angles = position.float()[:, :, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)
