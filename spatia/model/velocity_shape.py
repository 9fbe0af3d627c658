"""Sizes and switches of the generator; loads no torch, so that configuration stays light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spatia.model.shape import change_preset

GeneratorPreset = Literal["tiny", "cpu", "small", "base"]
Network = Literal["unet", "dit"]
Latent = Literal["pixel", "vae"]

VAE_SHRINK = 4  # A2: f = 4 ...
VAE_CHANNELS = 4  # ... and 4 channels


@dataclass(frozen=True)
class VelocityShape:
    """Everything that decides which tensors a generator has, apart from its stains, transitions and genes.

    The defaults are the ``cpu`` preset.

    Attributes
    ----------
    image_px
        Side of the images that go in and come out; a crop of 27.2 um is averaged down to it.
    network
        ``unet`` (ADM style) or ``dit`` (patches, adaLN-zero), A3.
    latent
        ``pixel``, or ``vae``: the flow runs in the latents of a KL-VAE (A2).
    long_axis
        Of cells: the network is told where every pixel lies along and across the control's long axis, and the straight
        line through the training pairs is turned to that axis (in pixels; latents cannot be turned).
    looks, look_noise, around_width
        Of cells: the network is told how the target looks (:mod:`spatia.model.looks`); sd of what is added to those
        numbers, each of sd 1, in training; on how many components of the surroundings looks may depend.
    stretch
        Of cells: a flow begins at the control stretched to the size and elongation of the target, as its look says.
    linear_guess
        The network adds to the straight line through the training pairs, instead of giving the whole velocity.
    channels, multipliers, blocks, attention
        U-Net: width of the first level, width of each level as a multiple of it, residual blocks per level, and
        whether the lowest level has self-attention.
    stem
        U-Net in pixel space: side of the squares of pixels that become channels before the first level; 1 = none. A
        stem of 2 costs a quarter.
    patch_px, width, depth
        DiT: side of a patch, width of a token, number of blocks.
    heads
        Of every attention.
    embedding
        Width of the vector that modulates every block (FiLM): time + perturbation + context.
    token, gene_width, context_width
        Widths of a transition's token and of its projected signature, and how many components of the context are
        told.
    context_noise
        Sd of what is added to the components of the context, each of sd 1, in training.
    dropout
        In residual blocks.
    vae_channels
        Width of the VAE's first level.
    """

    image_px: int = 48
    network: Network = "unet"
    latent: Latent = "pixel"
    long_axis: bool = True
    looks: bool = True
    look_noise: float = 0.1
    around_width: int = 8
    stretch: bool = True
    linear_guess: bool = True
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    attention: bool = True
    stem: int = 2
    patch_px: int = 4
    width: int = 192
    depth: int = 6
    heads: int = 4
    embedding: int = 128
    token: int = 32
    gene_width: int = 32
    context_width: int = 16
    context_noise: float = 0.5
    dropout: float = 0.0
    vae_channels: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))  # YAML and JSON have lists only
        if self.network not in ("unet", "dit") or self.latent not in ("pixel", "vae"):
            raise ValueError(f"network should be unet or dit, latent pixel or vae, found {self.network}, {self.latent}")
        if self.image_px % self.smallest_px:
            raise ValueError(f"image_px should be a multiple of {self.smallest_px}, found {self.image_px}")
        if self.width % (4 * self.heads) or (self.channels * self.multipliers[-1]) % self.heads or self.channels % 8:
            raise ValueError("channels should be a multiple of 8, width and the lowest level's channels of the heads")

    @property
    def smallest_px(self) -> int:
        """Pixels of the image that one position of the lowest level covers, along one side."""
        below = 2 ** (len(self.multipliers) - 1) * self.stem_px if self.network == "unet" else self.patch_px
        return below * (VAE_SHRINK if self.latent == "vae" else 1)

    @property
    def stem_px(self) -> int:
        """Side of the squares that enter as channels; latents are small enough as they are."""
        return self.stem if self.latent == "pixel" else 1

    @property
    def field_px(self) -> int:
        """Side of what the velocity network sees: the image, or its latents."""
        return self.image_px // (VAE_SHRINK if self.latent == "vae" else 1)


GENERATOR_PRESETS: dict[str, VelocityShape] = {
    "tiny": VelocityShape(
        image_px=16, channels=16, multipliers=(1, 2), stem=1, width=32, depth=2, heads=2, embedding=32, token=8,
        gene_width=8, context_width=16, context_noise=0.0, look_noise=0.0, dropout=0.0, vae_channels=16,
    ),
    "cpu": VelocityShape(),
    "small": VelocityShape(image_px=96, channels=64, multipliers=(1, 2, 2, 2), blocks=2, embedding=256, dropout=0.1),
    "base": VelocityShape(
        image_px=128, channels=128, multipliers=(2, 2, 2), stem=1, blocks=4, embedding=512, token=128, gene_width=128,
        context_width=32, dropout=0.3, patch_px=8, width=768, depth=12, heads=8, vae_channels=64,
    ),
}  # fmt: skip


def velocity_shape_of(preset: str, **changes: object) -> VelocityShape:
    """Return a preset with some values changed.

    Raises
    ------
    ValueError
        If there is no such preset.
    """
    return change_preset(GENERATOR_PRESETS, preset, **changes)
