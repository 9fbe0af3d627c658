"""Fixed networks that turn cell images into vectors for KID and FID.

Inception's weights are not on every machine. The random encoder needs none: convolutions drawn once from a seed of
their own, on every stain alone and at three resolutions. No method is trained with it, and columns say who used it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

RANDOM, INCEPTION = "random_encoder", "inception"
ENCODER_SEED = 20_250_704  # never another: distances by another encoder are other distances
SCALES = (1, 2, 4)
GAIN = 3.0  # brings pooled responses of cell images to the size of Inception's, 0 to 1
BATCH_IMAGES = 64
INCEPTION_PX = 299


class RandomEncoder(nn.Module):
    """Two random convolutions per resolution, then mean and spread over the image.

    Parameters
    ----------
    n_filters
        Of each convolution.

    Notes
    -----
    The same filters see every stain; ``num_features`` is per stain.
    """

    def __init__(self, n_filters: int = 16) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(ENCODER_SEED)
        self.fine = nn.Parameter(_draw_filters(n_filters, 1, 5, draw), requires_grad=False)
        self.coarse = nn.Parameter(_draw_filters(n_filters, n_filters, 3, draw), requires_grad=False)
        self.num_features = len(SCALES) * 2 * 2 * n_filters

    def forward(self, images: Tensor) -> Tensor:
        """Return (b, num_features) of single stains (b, 1, y, x) in [0, 1]."""
        return torch.cat([self._at(functional.avg_pool2d(images, s) if s > 1 else images) for s in SCALES], dim=1)

    def _at(self, images: Tensor) -> Tensor:
        first = functional.relu(functional.conv2d(images, self.fine, padding=2))
        second = functional.relu(functional.conv2d(first, self.coarse, padding=1, stride=2))
        return torch.cat([_pool(first), _pool(second)], dim=1)


def _draw_filters(n: int, n_in: int, side: int, draw: torch.Generator) -> Tensor:
    """Return (n, n_in, side, side) of norm 1; three of four have mean 0: they see edges and texture, not brightness."""
    filters = torch.randn(n, n_in, side, side, generator=draw)
    is_flat = torch.arange(n) % 4 != 0
    filters[is_flat] -= filters[is_flat].mean(dim=(1, 2, 3), keepdim=True)
    return filters / filters.flatten(1).norm(dim=1)[:, None, None, None]


def _pool(maps: Tensor) -> Tensor:
    found = torch.cat([maps.mean(dim=(2, 3)), maps.std(dim=(2, 3))], dim=1)
    # a few bright images would rule the cubic kernel; with the root dim stains count as well
    return GAIN * found.sqrt()


class InceptionEncoder(nn.Module):
    """Inception v3 up to its pooled features; a stain is shown to it as a grey picture.

    Parameters
    ----------
    weights
        State of torchvision's ``inception_v3``.
    """

    num_features = 2048

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        self.network = inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=False)
        self.network.load_state_dict(dict(weights))
        self.network.fc = nn.Identity()  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        """Return (b, 2048) of single stains (b, 1, y, x) in [0, 1]."""
        size = (INCEPTION_PX, INCEPTION_PX)
        large = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return torch.as_tensor(self.network((large * 2 - 1).expand(-1, 3, -1, -1)))


def embed_images(encoder: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return (n, c * num_features) vectors of images (n, c, y, x) uint8, stain after stain."""
    encoder.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), BATCH_IMAGES):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH_IMAGES])).float() / 255
            planes = encoder(batch.flatten(0, 1)[:, None])
            parts.append(planes.reshape(len(batch), -1).double().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, images.shape[1] * int(encoder.num_features)))  # type: ignore[arg-type]
