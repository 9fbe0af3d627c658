"""Many values -> the few that differ most between training cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST_SHARE = 1e-4  # of the first component's variance that a component needs


class Components(nn.Module):
    """First principal components of values over the training cells, each at sd 1."""

    mean: Tensor
    basis: Tensor

    def __init__(self, n_values: int, n_components: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_values))
        self.register_buffer("basis", torch.eye(n_values, n_components))

    def fit(self, values: Tensor) -> None:
        """Take the components from the (cells, values) of the training cells; values count equally, at sd 1."""
        values = values.double()
        self.mean.copy_(values.mean(0))
        spread = values.std(0, unbiased=False).clamp(min=1e-6)
        standard = (values - values.mean(0)) / spread
        variance, axes = torch.linalg.eigh(standard.T @ standard / len(values))
        variance, axes = variance.flip(0), axes.flip(1)
        # few cells span few directions; the others say nothing, and must not be blown up
        is_real = variance > LEAST_SHARE * variance[0].clamp(min=1e-12)
        scale = torch.where(is_real, variance.clamp(min=1e-12).rsqrt(), 0.0)
        found = (axes * scale / spread[:, None])[:, : self.basis.shape[1]]
        self.basis.zero_()
        self.basis[:, : found.shape[1]] = found.to(self.basis)

    def forward(self, values: Tensor) -> Tensor:
        """Return (b, components) of (b, values)."""
        return (values - self.mean) @ self.basis
