"""A diffusion transformer (DiT, Peebles and Xie 2023): patches, blocks with adaLN-zero, patches again."""

from __future__ import annotations

import torch
from timm.layers import Attention, Mlp, PatchEmbed
from torch import Tensor, nn

from spatia.model.positions import sincos_2d
from spatia.model.unet import zeroed
from spatia.model.velocity_shape import VelocityShape

MLP_RATIO = 4


class AdaptiveBlock(nn.Module):
    """Transformer block whose norms are scaled and shifted, and whose branches are gated, by the condition."""

    def __init__(self, width: int, heads: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width, elementwise_affine=False) for _ in range(2)])
        self.attention = Attention(width, heads, qkv_bias=True, proj_drop=dropout)
        self.mlp = Mlp(width, MLP_RATIO * width, drop=dropout)
        self.film = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(embedding, 6 * width)))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (b, tokens, width); equal to ``x`` before training."""
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = self.film(condition)[:, None].chunk(6, dim=2)
        x = x + gate_1 * self.attention(self.norms[0](x) * (1 + scale_1) + shift_1)
        return x + gate_2 * self.mlp(self.norms[1](x) * (1 + scale_2) + shift_2)


class DiT(nn.Module):
    """(b, c + maps, side, side) and a condition (b, embedding) -> (b, c, side, side), zero before training."""

    def __init__(self, n_channels: int, shape: VelocityShape, n_maps: int = 0) -> None:
        super().__init__()
        self.n_channels, self.patch_px, self.grid = n_channels, shape.patch_px, shape.field_px // shape.patch_px
        self.embed = PatchEmbed(shape.field_px, shape.patch_px, n_channels + n_maps, shape.width)
        rows, columns = torch.meshgrid(torch.arange(self.grid), torch.arange(self.grid), indexing="ij")
        position = sincos_2d(torch.stack([rows.flatten(), columns.flatten()], dim=1), shape.width)
        self.register_buffer("position", position, persistent=False)
        self.blocks = nn.ModuleList(
            [AdaptiveBlock(shape.width, shape.heads, shape.embedding, shape.dropout) for _ in range(shape.depth)]
        )
        self.norm = nn.LayerNorm(shape.width, elementwise_affine=False)
        self.film = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(shape.embedding, 2 * shape.width)))
        self.leave = zeroed(nn.Linear(shape.width, n_channels * shape.patch_px**2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return what ``x`` becomes under ``condition``."""
        tokens = self.embed(x) + self.position
        for block in self.blocks:
            tokens = block(tokens, condition)
        scale, shift = self.film(condition)[:, None].chunk(2, dim=2)
        patches = self.leave(self.norm(tokens) * (1 + scale) + shift)
        squares = patches.reshape(len(x), self.grid, self.grid, self.n_channels, self.patch_px, self.patch_px)
        return squares.permute(0, 3, 1, 4, 2, 5).reshape(len(x), self.n_channels, *x.shape[2:])
