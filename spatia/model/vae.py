"""A small KL-VAE (f = 4, 4 latent channels): the latent space that A2 offers beside pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from spatia.model.unet import GROUPS, zeroed
from spatia.model.velocity_shape import VAE_CHANNELS, VelocityShape


class ResidualBlock(nn.Module):
    """Two convolutions, added to what comes in."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(GROUPS, n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1),
            nn.GroupNorm(GROUPS, n_out), nn.SiLU(), zeroed(nn.Conv2d(n_out, n_out, 3, padding=1)),
        )  # fmt: skip
        self.past = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (b, n_out, y, x)."""
        return self.past(x) + self.inner(x)


class Vae(nn.Module):
    """(b, c, side, side) <-> (b, 4, side / 4, side / 4); squares of 2 px enter as channels, which costs a quarter.

    Parameters
    ----------
    n_channels
        Of a canvas.
    shape
        ``vae_channels`` is the width at half the resolution; a quarter has twice as many.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, n_channels: int, shape: VelocityShape) -> None:
        super().__init__()
        one, two = shape.vae_channels, 2 * shape.vae_channels
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4 * n_channels, one, 3, padding=1), ResidualBlock(one, one),
            nn.Conv2d(one, two, 3, stride=2, padding=1), ResidualBlock(two, two), ResidualBlock(two, two),
            nn.GroupNorm(GROUPS, two), nn.SiLU(), nn.Conv2d(two, 2 * VAE_CHANNELS, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(VAE_CHANNELS, two, 3, padding=1), ResidualBlock(two, two), ResidualBlock(two, two),
            nn.Upsample(scale_factor=2), nn.Conv2d(two, one, 3, padding=1), ResidualBlock(one, one),
            nn.GroupNorm(GROUPS, one), nn.SiLU(), nn.Conv2d(one, 4 * n_channels, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(VAE_CHANNELS, 1, 1))
        self.register_buffer("sd", torch.ones(VAE_CHANNELS, 1, 1))

    def distribution(self, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance (b, 4, side / 4, side / 4) of the latents."""
        mean, log_variance = self.encoder(canvas).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def set_scale(self, latents: Tensor) -> None:
        """Take mean and sd of each latent channel from those of training cells, so that the flow sees unit scale."""
        self.mean.copy_(latents.mean((0, 2, 3))[:, None, None])
        self.sd.copy_(latents.std((0, 2, 3))[:, None, None].clamp(min=1e-6))

    def encode(self, canvas: Tensor) -> Tensor:
        """Return the standardised mean of the latents; nothing is random."""
        return (self.distribution(canvas)[0] - self.mean) / self.sd

    def decode(self, latents: Tensor) -> Tensor:
        """Return the canvas of standardised latents."""
        return self.decoder(latents * self.sd + self.mean)


def vae_losses(vae: Vae, canvas: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Return ``reconstruction`` (mean absolute difference) and ``kl`` (nats per latent value)."""
    mean, log_variance = vae.distribution(canvas)
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    decoded = vae.decoder(mean + noise * (0.5 * log_variance).exp())
    return {
        "reconstruction": functional.l1_loss(decoded.float(), canvas),
        "kl": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
    }
