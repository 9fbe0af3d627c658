"""Masked autoencoder over the patches of a cell, or of a niche or tissue tile (paper 4.1; He et al. 2021).

Stains are matched by name: each has its own patch projection, and an absent stain adds nothing (A34).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spatia.model.packed import Runs, join, make_blocks, run_block
from spatia.model.positions import sincos_2d

INITIAL_SD = 0.02


@dataclass(frozen=True)
class Patches:
    """Patches of b images, packed one image behind the other; an image may have none.

    Attributes
    ----------
    values : (t, c, p, p) float, normalised; 0 outside the cell and where the stain is absent
    inside : (t, p, p) float, 1 on the image's own pixels
    position : (t, 2) row and column, in patches
    has_stain : (b, c) bool
    runs : of the images; lengths may be 0
    is_missing : (b,) bool, True for images that are not to be seen at all
    profile : (b, p) morphology profiles of what is seen of each cell (:mod:`spatia.cells.profiles`); tiles have none
    """

    values: Tensor
    inside: Tensor
    position: Tensor
    has_stain: Tensor
    runs: Runs
    is_missing: Tensor
    profile: Tensor | None = None

    def take(self, is_wanted: Tensor, runs: Runs) -> Patches:
        """Return the patches where ``is_wanted`` (t,); ``runs`` are what is left of each image."""
        tokens = is_wanted.nonzero()[:, 0]
        return Patches(
            self.values[tokens], self.inside[tokens], self.position[tokens], self.has_stain, runs, self.is_missing,
            self.profile,
        )  # fmt: skip


@dataclass(frozen=True)
class Normaliser:
    """How 8-bit grey values become network input: ``(sqrt(value / 255) - mean) / sd`` per stain.

    The square root evens out the spread of bright and dim cells, which stain over two orders of magnitude.
    """

    mean: Tensor  # (c,)
    sd: Tensor  # (c,)

    def __call__(self, pixels: Tensor, is_measured: Tensor) -> Tensor:
        """Return float (t, c, p, p) for ``pixels`` in 0..255; 0 where ``is_measured`` (broadcast to it) is not."""
        values = pixels.float().mul_(1 / 255).sqrt_()
        values = (values - self.mean[:, None, None]) / self.sd[:, None, None]
        return values * is_measured

    def invert(self, values: Tensor) -> Tensor:
        """Return grey values, uint8, of normalised (t, c, p, p)."""
        roots = values * self.sd[:, None, None] + self.mean[:, None, None]
        return (roots.clamp(0, 1).square() * 255).round().to(torch.uint8)


class ProfileScale(nn.Module):
    """Standardises morphology profiles by mean and sd of the training cells.

    Parameters
    ----------
    n_numbers
        Length of a profile.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, n_numbers: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_numbers))
        self.register_buffer("sd", torch.ones(n_numbers))

    def forward(self, profile: Tensor) -> Tensor:
        """Return (b, p) standardised profiles, NaN where they were."""
        return (profile - self.mean) / self.sd


class ImageEncoder(nn.Module):
    """Patches -> tokens, with one class token per image in front.

    Parameters
    ----------
    n_stains, patch_px
        Channels and side of a patch.
    width, depth, heads, mlp_ratio, dropout
        Of the transformer.
    n_profile
        Length of the profile that the class token starts from; 0 = none.
    """

    def __init__(
        self, n_stains: int, patch_px: int, width: int, depth: int, heads: int, mlp_ratio: float, dropout: float,
        n_profile: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        n_pixels = patch_px**2
        self.width = width
        self.stain_weight = nn.Parameter(torch.empty(n_stains, n_pixels, width).normal_(std=n_pixels**-0.5 / 2))
        self.stain_bias = nn.Parameter(torch.empty(n_stains, width).normal_(std=INITIAL_SD))
        self.inside_weight = nn.Parameter(torch.empty(n_pixels, width).normal_(std=n_pixels**-0.5 / 2))
        self.cls = nn.Parameter(torch.empty(width).normal_(std=INITIAL_SD))
        self.missing = nn.Parameter(torch.empty(width).normal_(std=INITIAL_SD))
        self.from_profile = nn.Linear(n_profile, width, bias=False) if n_profile else None
        self.blocks = make_blocks(width, depth, heads, mlp_ratio, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, patches: Patches) -> tuple[Tensor, Runs]:
        """Return packed tokens (t + b, width) and their runs."""
        x, runs = join([self._first(patches), (self._embed(patches), patches.runs)])
        for block in self.blocks:
            x = run_block(block, x, runs)
        return self.norm(x), runs

    def _first(self, patches: Patches) -> tuple[Tensor, Runs]:
        n = len(patches.is_missing)
        cls = self.cls
        if self.from_profile is not None:
            assert patches.profile is not None
            cls = cls + self.from_profile(patches.profile.nan_to_num(0.0))
        return torch.where(patches.is_missing[:, None], self.missing.to(cls.dtype), cls), Runs((n,), (1,))

    def _embed(self, patches: Patches) -> Tensor:
        values = patches.values.flatten(1)  # (t, c * p * p)
        x = values @ self.stain_weight.flatten(0, 1) + patches.inside.flatten(1) @ self.inside_weight
        bias = patches.has_stain.to(x.dtype) @ self.stain_bias
        return x + patches.runs.spread(bias) + sincos_2d(patches.position, self.width).to(x.dtype)


class ImageDecoder(nn.Module):
    """Tokens of the visible patches + positions of the hidden ones -> pixels of the hidden ones."""

    def __init__(
        self, n_stains: int, patch_px: int, token_width: int, width: int, depth: int, heads: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.width, self.n_stains, self.patch_px = width, n_stains, patch_px
        self.embed = nn.Linear(token_width, width)
        self.mask_token = nn.Parameter(torch.empty(width).normal_(std=INITIAL_SD))
        self.blocks = make_blocks(width, depth, heads, mlp_ratio)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_stains * patch_px**2)

    def forward(
        self,
        tokens: Tensor,
        runs: Runs,
        visible_position: Tensor,
        visible_runs: Runs,
        hidden: Tensor,
        hidden_runs: Runs,
    ) -> Tensor:
        """Return (h, c, p, p) normalised pixels of the hidden patches.

        Parameters
        ----------
        tokens, runs
            What the encoder (and fusion) made of the visible patches, class token first.
        visible_position, visible_runs
            (v, 2) positions of the visible patches, and their runs: ``runs`` without the class tokens.
        hidden, hidden_runs
            (h, 2) positions of the hidden patches, and their runs.
        """
        seen = self.embed(tokens)
        nowhere = seen.new_zeros(runs.n_sequences, self.width)
        where, _ = join(
            [(nowhere, Runs((runs.n_sequences,), (1,))), (self._place(visible_position, seen), visible_runs)]
        )
        wanted = self.mask_token.to(seen.dtype) + self._place(hidden, seen)
        x, all_runs = join([(seen + where, runs), (wanted, hidden_runs)])
        for block in self.blocks:
            x = run_block(block, x, all_runs)
        pairs = zip(all_runs.split(x), _cut_like(all_runs, hidden_runs), strict=True)
        found = torch.cat([part[:, part.shape[1] - n_hidden :].flatten(0, 1) for part, n_hidden in pairs])
        return self.head(self.norm(found)).view(-1, self.n_stains, self.patch_px, self.patch_px)

    def _place(self, position: Tensor, like: Tensor) -> Tensor:
        return sincos_2d(position, self.width).to(like.dtype)


def _cut_like(runs: Runs, other: Runs) -> list[int]:
    """Return the length in ``other`` of the sequences of each run of ``runs``, which is cut at least as finely."""
    starts = torch.tensor([0, *runs.counts[:-1]]).cumsum(0)
    return other.lengths_of()[starts].tolist()


def tile_patches(tiles: Tensor, patch_px: int, shrink: int) -> Tensor:
    """Return uint8 tiles (n, c, y, x), averaged ``shrink`` times, as float patches (n, grid * grid, c, p, p) in 0..255.

    Parameters
    ----------
    tiles
        Sides a multiple of ``patch_px * shrink``.
    """
    values = tiles.float()
    if shrink > 1:
        values = nn.functional.avg_pool2d(values, shrink)
    n, c, height, width = values.shape
    rows, columns = height // patch_px, width // patch_px
    values = values.view(n, c, rows, patch_px, columns, patch_px)
    return values.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, c, patch_px, patch_px)
