"""An ADM-style U-Net: residual blocks with scale-shift norm (FiLM), zero-initialised where they add (A3/4)."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from spatia.model.velocity_shape import VelocityShape

GROUPS = 8


def zeroed(module: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Return ``module`` with zero weights: what it is added to passes unchanged at first."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class FilmBlock(nn.Module):
    """Residual block; the condition scales and shifts its second norm."""

    def __init__(self, n_in: int, n_out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(GROUPS, n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1))
        self.film = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * n_out))
        self.norm = nn.GroupNorm(GROUPS, n_out)
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), zeroed(nn.Conv2d(n_out, n_out, 3, padding=1)))
        self.past = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (b, n_out, y, x)."""
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        inner = self.norm(self.first(x)) * (1 + scale) + shift
        return self.past(x) + self.second(inner)


class SelfAttention(nn.Module):
    """Attention over all positions, added to what comes in."""

    def __init__(self, n_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, n_channels)
        self.qkv = nn.Conv2d(n_channels, 3 * n_channels, 1)
        self.out = zeroed(nn.Conv2d(n_channels, n_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (b, c, y, x)."""
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        found = functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(found.transpose(2, 3).reshape(b, c, height, width))


class UNet(nn.Module):
    """(b, c + maps, side, side) and a condition (b, embedding) -> (b, c, side, side), zero before training."""

    def __init__(self, n_channels: int, shape: VelocityShape, n_maps: int = 0) -> None:
        super().__init__()
        self.stem_px = shape.stem_px
        n_stem = n_channels * shape.stem_px**2
        widths = [shape.channels * multiple for multiple in shape.multipliers]
        self.enter = nn.Conv2d((n_channels + n_maps) * shape.stem_px**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        skips = [widths[0]]
        now = widths[0]
        for level, width in enumerate(widths):
            for _ in range(shape.blocks):
                self.down.append(FilmBlock(now, width, shape.embedding, shape.dropout))
                now = width
                skips.append(now)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                skips.append(now)
        self.middle = nn.ModuleList([FilmBlock(now, now, shape.embedding, shape.dropout) for _ in range(2)])
        self.attend = SelfAttention(now, shape.heads) if shape.attention else nn.Identity()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(shape.blocks + 1):
                self.up.append(FilmBlock(now + skips.pop(), width, shape.embedding, shape.dropout))
                now = width
            if level:
                self.grow.append(nn.Conv2d(now, now, 3, padding=1))
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, now), nn.SiLU(), zeroed(nn.Conv2d(now, n_stem, 3, padding=1)))
        self.blocks, self.n_levels = shape.blocks, len(widths)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return what ``x`` becomes under ``condition``."""
        x = self.enter(functional.pixel_unshuffle(x, self.stem_px))
        skips = [x]
        blocks, ups = iter(self.down), iter(self.up)
        for level in range(self.n_levels):
            for _ in range(self.blocks):
                x = next(blocks)(x, condition)
                skips.append(x)
            if level < self.n_levels - 1:
                x = self.shrink[level](x)
                skips.append(x)
        x = self.middle[1](self.attend(self.middle[0](x, condition)), condition)
        for level in range(self.n_levels):
            for _ in range(self.blocks + 1):
                x = next(ups)(torch.cat([x, skips.pop()], dim=1), condition)
            if level < self.n_levels - 1:
                x = self.grow[level](functional.interpolate(x, scale_factor=2.0))
        return functional.pixel_shuffle(self.leave(x), self.stem_px)
