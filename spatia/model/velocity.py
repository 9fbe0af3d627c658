"""The generator: a velocity network under conditions, and the space in which it works (pixels, or VAE latents)."""

from __future__ import annotations

from torch import Tensor, nn

from spatia.model.conditions import Conditioning, Conditions
from spatia.model.dit import DiT
from spatia.model.unet import UNet
from spatia.model.vae import Vae
from spatia.model.velocity_shape import VAE_CHANNELS, VelocityShape

BLACK = -1.0  # of a canvas


def linear_share(time: Tensor) -> Tensor:
    """Return how much of x_t is in the velocity on average: (2 t - 1) / (t^2 + (1 - t)^2).

    It is the regression of x_1 - x_0 on (1 - t) x_0 + t x_1 for ends of equal spread. At t = 0 the control leaves
    (-1), at t = 1 the target has come (+1). The network only has to add what x_t does not say by itself; asked for the
    whole velocity, it first spends its training on learning to subtract the control.
    """
    return (2 * time - 1) / (time.square() + (1 - time).square())


class Generator(nn.Module):
    """Velocity of a canvas along a transition: v(x_t, t | perturbation, context) (SPATIA, section 4.3).

    Parameters
    ----------
    shape
        Sizes and switches.
    n_channels
        Of a canvas: the stains and the outline.
    n_transitions, n_genes, n_context
        Of the conditions; ``n_context`` 0 = the generator knows no context.
    """

    def __init__(self, shape: VelocityShape, n_channels: int, n_transitions: int, n_genes: int, n_context: int) -> None:
        super().__init__()
        self.shape = shape
        self.vae = Vae(n_channels, shape) if shape.latent == "vae" else None
        n_field = n_channels if self.vae is None else VAE_CHANNELS
        self.rest = BLACK if self.vae is None else 0.0  # value that does not move: background, or the mean latent
        self.conditioning = Conditioning(shape, n_transitions, n_genes, n_context)
        self.network: nn.Module = UNet(n_field, shape) if shape.network == "unet" else DiT(n_field, shape)

    def forward(self, field: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """Return the velocity (b, c, side, side) of ``field`` at (b,) times in [0, 1]."""
        added = self.network(field, self.conditioning(time, conditions))
        if not self.shape.linear_guess:
            return added
        return linear_share(time)[:, None, None, None] * (field - self.rest) + added

    def encode(self, canvas: Tensor) -> Tensor:
        """Return the field of a canvas: itself, or its latents."""
        return canvas if self.vae is None else self.vae.encode(canvas)

    def decode(self, field: Tensor) -> Tensor:
        """Return the canvas of a field."""
        return field if self.vae is None else self.vae.decode(field)
