"""How a cell is going to look, said before it is drawn: size, elongation, brightness and texture of the target.

A network that is told only where a cell comes from draws the mean of all that it might become, and such a mean is too
round, too smooth and too alike. So in training it is told the look of the target; and for a cell without a target, the
look to which optimal transport carries its own. Between Gaussians that is the linear Monge map: it takes mean and
covariance of the controls' looks to those of the targets' and keeps what is particular to a cell, where a regression
on pairs would pull every cell towards the mean, the more so the less sure the pairs are. Both means may depend on the
surroundings. What is drawn is not quite what is asked for (ends of long cells are blurred away): how far it falls short
on training cells is added to what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import ot
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn

from spatia.model.components import Components
from spatia.model.velocity_shape import VelocityShape

LEAST_SPREAD = 1e-6
LEAST_VARIANCE = 1e-3  # of standardised looks: what all cells have alike has no direction of its own


@dataclass(frozen=True)
class LookMap:
    """How standardised looks of controls become those of targets: (x - c start_around) slope + offset + c end_around.

    Attributes
    ----------
    slope, offset
        (looks, looks), (looks,).
    start_around, end_around
        (components, looks): what looks change by with the components c of the surroundings; None = nothing.
    """

    slope: Tensor
    offset: Tensor
    start_around: Tensor | None = None
    end_around: Tensor | None = None


class Look(nn.Module):
    """The target's look -> one vector; a learned one where no transition is said.

    Parameters
    ----------
    shape
        Sizes.
    n_transitions, n_looks
        Before :meth:`set_map`, a target looks as its control does.
    n_around
        How many of the context's values, the last ones, tell about the surroundings.
    """

    mean: Tensor  # (looks,)
    spread: Tensor
    slope: Tensor  # (transitions, looks, looks)
    offset: Tensor  # (transitions, looks)
    start_around: Tensor  # (transitions, components, looks)
    end_around: Tensor
    short: Tensor  # (transitions, looks), standardised: by how much what is drawn falls short

    def __init__(self, shape: VelocityShape, n_transitions: int, n_looks: int, n_around: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_looks))
        self.register_buffer("spread", torch.ones(n_looks))
        self.register_buffer("slope", torch.eye(n_looks).repeat(n_transitions, 1, 1))
        self.register_buffer("offset", torch.zeros(n_transitions, n_looks))
        self.n_around = n_around
        self.around = Components(n_around, shape.around_width) if n_around else None
        n_components = shape.around_width if n_around else 0
        self.register_buffer("start_around", torch.zeros(n_transitions, n_components, n_looks))
        self.register_buffer("end_around", torch.zeros(n_transitions, n_components, n_looks))
        self.register_buffer("short", torch.zeros(n_transitions, n_looks))
        self.noise = shape.look_noise
        self.widen = nn.Sequential(
            nn.Linear(n_looks, shape.embedding), nn.SiLU(), nn.Linear(shape.embedding, shape.embedding)
        )
        self.nothing = nn.Parameter(torch.zeros(shape.embedding))

    def set_scale(self, look: Tensor) -> None:
        """Take mean and sd from the looks (cells, looks) of the training cells."""
        self.mean.copy_(look.mean(0))
        self.spread.copy_(look.std(0, unbiased=False).clamp(min=LEAST_SPREAD))

    def set_map(self, number: int, found: LookMap) -> None:
        """Take the map of a transition."""
        self.slope[number], self.offset[number] = found.slope, found.offset
        if found.start_around is not None and found.end_around is not None:
            self.start_around[number], self.end_around[number] = found.start_around, found.end_around

    def standardise(self, look: Tensor) -> Tensor:
        """Return looks (..., looks) at mean 0 and sd 1 over the training cells."""
        return (look - self.mean) / self.spread

    def components(self, context: Tensor) -> Tensor:
        """Return the components of the surroundings (b, components) that contexts (b, w) tell."""
        if self.around is None:
            return context.new_zeros(len(context), 0)
        return torch.as_tensor(self.around(context[:, -self.n_around :]))

    def expected(self, look: Tensor, transition: Tensor, context: Tensor) -> Tensor:
        """Return the looks (b, looks) to which those of controls in contexts (b, w) are carried by transitions (b,)."""
        around = self.components(context)
        before, after = (
            torch.einsum("bk,bkl->bl", around, change[transition]) for change in (self.start_around, self.end_around)
        )
        own = self.standardise(look) - before
        moved = torch.einsum("bk,bkl->bl", own, self.slope[transition]) + self.offset[transition] + after
        return moved * self.spread + self.mean

    def asked(self, look: Tensor, transition: Tensor, context: Tensor) -> Tensor:
        """Return the looks (b, looks) to ask for, so that those of :meth:`expected` are drawn."""
        return self.expected(look, transition, context) + self.short[transition] * self.spread

    def forward(self, look: Tensor, is_missing: Tensor) -> Tensor:
        """Return (b, embedding) of the targets' looks (b, looks)."""
        told = self.standardise(look)
        if self.training and self.noise:
            told = told + self.noise * torch.randn_like(told)
        said = self.widen(told)
        return torch.where(is_missing[:, None], self.nothing.to(said.dtype), said)


def monge_map(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return slope (k, k) and offset (k,) of the optimal transport map x @ slope + offset of clouds (n, k).

    Covariances are shrunk (Ledoit and Wolf), since a rare transition has few pairs.
    """
    means, covariances = [], []
    for cloud in (start.double().numpy(), end.double().numpy()):
        means.append(cloud.mean(0))
        covariances.append(ledoit_wolf(cloud)[0] + LEAST_VARIANCE * np.eye(cloud.shape[1]))
    slope, offset = ot.gaussian.bures_wasserstein_mapping(*means, *covariances)
    return torch.from_numpy(slope).float(), torch.from_numpy(offset).float().flatten()
