"""The generator: a velocity network under conditions, and the space in which it works (pixels, or VAE latents)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spatia.model.conditions import Conditioning, Conditions
from spatia.model.dit import DiT
from spatia.model.linear_guess import LinearGuess, symmetric
from spatia.model.unet import UNet
from spatia.model.vae import Vae
from spatia.model.velocity_shape import VAE_CHANNELS, VelocityShape


class Pixels(nn.Module):
    """The space of the canvases themselves, each channel at mean 0 and sd 1 over the training cells.

    Parameters
    ----------
    n_channels, side_px
        Of a canvas.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, n_channels: int, side_px: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_channels, side_px, side_px))
        self.register_buffer("sd", torch.ones(n_channels, 1, 1))

    def set_scale(self, canvas: Tensor) -> None:
        """Take the mean image, turned and mirrored in all ways, and the sd of each channel around it."""
        mean = symmetric(canvas.mean(0))
        self.mean.copy_(mean)
        self.sd.copy_((canvas - mean).square().mean((0, 2, 3)).sqrt().clamp(min=1e-3)[:, None, None])

    def encode(self, canvas: Tensor) -> Tensor:
        """Return the standardised canvas."""
        return (canvas - self.mean) / self.sd

    def decode(self, field: Tensor) -> Tensor:
        """Return the canvas of a standardised one."""
        return field * self.sd + self.mean


def axis_maps(axis: Tensor, side: int) -> Tensor:
    """Return (b, 2, side, side) how far pixels lie from the middle along and across the axes (b,), in half sides."""
    place = torch.linspace(-1, 1, side, device=axis.device)
    c, s = axis.cos()[:, None, None], axis.sin()[:, None, None]
    along, across = place[None, None] * c + place[None, :, None] * s, place[None, :, None] * c - place[None, None] * s
    return torch.stack([along.abs(), across.abs()], dim=1)


class Generator(nn.Module):
    """Velocity of a canvas along a transition: v(x_t, t | perturbation, context) (SPATIA, section 4.3).

    Parameters
    ----------
    shape
        Sizes and switches.
    n_channels
        Of a canvas.
    n_transitions, n_genes, n_context
        Of the conditions; ``n_context`` 0 = the generator knows no context.
    n_looks, n_around
        Numbers in a look; 0 = it is not told how targets look. How many of the context's values, the last ones, tell
        about the surroundings: targets' looks may depend on those.
    """

    def __init__(
        self, shape: VelocityShape, n_channels: int, n_transitions: int, n_genes: int, n_context: int,
        n_looks: int = 0, n_around: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape = shape
        is_latent = shape.latent == "vae"
        self.space: Vae | Pixels = Vae(n_channels, shape) if is_latent else Pixels(n_channels, shape.image_px)
        n_field = VAE_CHANNELS if is_latent else n_channels
        self.guess = LinearGuess(n_transitions, n_field, shape.field_px, n_looks) if shape.linear_guess else None
        self.conditioning = Conditioning(shape, n_transitions, n_genes, n_context, n_looks, n_around)
        n_maps = 2 if shape.long_axis else 0
        network = UNet if shape.network == "unet" else DiT
        self.network: nn.Module = network(n_field, shape, n_maps)

    def forward(self, field: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """Return the velocity (b, c, side, side) of ``field`` at (b,) times in [0, 1]."""
        seen, axis = field, conditions.axis if self.shape.long_axis else None
        if axis is not None:
            seen = torch.cat([field, axis_maps(axis, field.shape[-1]).to(field.dtype)], dim=1)
        added = self.network(seen, self.conditioning(time, conditions))
        if self.guess is None:
            return added
        turned = axis if self.vae is None else None
        look = self.conditioning.standard_looks(conditions)
        return self.guess(field, time, conditions.transition, conditions.no_perturbation, turned, look) + added

    @property
    def vae(self) -> Vae | None:
        """The VAE, where the flow runs in latents."""
        return self.space if isinstance(self.space, Vae) else None

    def encode(self, canvas: Tensor) -> Tensor:
        """Return the field of a canvas: its standardised pixels, or its latents."""
        return self.space.encode(canvas)

    def decode(self, field: Tensor) -> Tensor:
        """Return the canvas of a field."""
        return self.space.decode(field)
