"""What a velocity network is told: time, perturbation (transition + signature), context (frozen embeddings).

Perturbation embedding = MLP(transition token, dg) (SPATIA, section 4.3); context = z_ctrl of the control cell.
Each has a learned vector for "not said", so that with both left out the network is the unconditional one (A5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spatia.model.components import Components
from spatia.model.looks import Look
from spatia.model.velocity_shape import VelocityShape

LONGEST = 10_000.0  # wavelengths of the time features reach from 2 pi / 1000 up to so many times that
TIME_SCALE = 1000.0  # t in [0, 1] is spread as diffusion steps are


@dataclass(frozen=True)
class Conditions:
    """What is asked for, one row an image.

    Attributes
    ----------
    transition
        (b,) number of the transition.
    context
        (b, w) embeddings of the control cell, as stored; w is 0 where the generator knows no context.
    no_perturbation, no_context
        (b,) True = not said.
    axis
        (b,) angle of the control's long axis, where the network sees it; not a condition that can be left unsaid.
    look
        (b, 2, looks) of control and target (:mod:`spatia.transitions.looks`), where they are told; left unsaid
        together with the perturbation.
    """

    transition: Tensor
    context: Tensor
    no_perturbation: Tensor
    no_context: Tensor
    axis: Tensor | None = None
    look: Tensor | None = None


def unconditional(conditions: Conditions) -> Conditions:
    """Return the null condition for as many rows: neither perturbation nor context is said."""
    everywhere = torch.ones_like(conditions.no_perturbation)
    return replace(conditions, no_perturbation=everywhere, no_context=everywhere)


def time_features(time: Tensor, width: int) -> Tensor:
    """Return (b, width) sines and cosines of (b,) times in [0, 1]."""
    rates = torch.exp(-math.log(LONGEST) * torch.arange(width // 2, device=time.device) / (width // 2))
    angles = TIME_SCALE * time.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Perturbation(nn.Module):
    """Transition token and signature -> one vector; a learned one where no transition is said.

    Parameters
    ----------
    shape
        Sizes.
    n_transitions, n_genes
        Of the signatures, which are a buffer: a checkpoint carries them.
    """

    signatures: Tensor

    def __init__(self, shape: VelocityShape, n_transitions: int, n_genes: int) -> None:
        super().__init__()
        self.token = nn.Embedding(n_transitions, shape.token)
        self.gene_projection = nn.Linear(n_genes, shape.gene_width)
        self.register_buffer("signatures", torch.zeros(n_transitions, n_genes))
        self.mix = nn.Sequential(
            nn.Linear(shape.token + shape.gene_width, shape.embedding),
            nn.SiLU(),
            nn.Linear(shape.embedding, shape.embedding),
        )
        self.nothing = nn.Parameter(torch.zeros(shape.embedding))

    def set_signatures(self, dg: Tensor) -> None:
        """Take (transitions, genes) signatures, brought to unit mean square: panels differ in size and depth."""
        self.signatures.copy_(dg / dg.square().mean().sqrt().clamp(min=1e-8))

    def forward(self, transition: Tensor, is_missing: Tensor) -> Tensor:
        """Return (b, embedding)."""
        signature = self.gene_projection(self.signatures[transition])
        said = self.mix(torch.cat([self.token(transition), signature], dim=1))
        return torch.where(is_missing[:, None], self.nothing.to(said.dtype), said)


class Context(nn.Module):
    """Frozen embeddings of the control cell -> one vector; a learned one where none is said.

    What is told are their first principal components, with noise in training. Embeddings have hundreds of values, more
    than a rare transition has cells: told all of them, the network knows every training cell by name, and what it says
    of others is worse than if it were told nothing.
    """

    def __init__(self, shape: VelocityShape, n_values: int) -> None:
        super().__init__()
        self.components = Components(n_values, shape.context_width)
        self.noise = shape.context_noise
        self.widen = nn.Sequential(
            nn.Linear(shape.context_width, shape.embedding), nn.SiLU(), nn.Dropout(shape.dropout),
            nn.Linear(shape.embedding, shape.embedding),
        )  # fmt: skip
        self.nothing = nn.Parameter(torch.zeros(shape.embedding))

    def forward(self, context: Tensor, is_missing: Tensor) -> Tensor:
        """Return (b, embedding)."""
        told = self.components(context)
        if self.training and self.noise:
            told = told + self.noise * torch.randn_like(told)
        said = self.widen(told)
        return torch.where(is_missing[:, None], self.nothing.to(said.dtype), said)


class Conditioning(nn.Module):
    """Time and conditions -> the vector that modulates every block of a velocity network."""

    def __init__(
        self,
        shape: VelocityShape,
        n_transitions: int,
        n_genes: int,
        n_context: int,
        n_looks: int = 0,
        n_around: int = 0,
    ) -> None:
        super().__init__()
        self.perturbation = Perturbation(shape, n_transitions, n_genes)
        self.context = Context(shape, n_context) if n_context else None
        self.look = Look(shape, n_transitions, n_looks, n_around) if n_looks else None
        self.width = shape.embedding
        self.time = nn.Sequential(
            nn.Linear(shape.embedding, shape.embedding), nn.SiLU(), nn.Linear(shape.embedding, shape.embedding)
        )

    def standard_looks(self, conditions: Conditions) -> Tensor | None:
        """Return the looks (b, 2, looks) of control and target at mean 0 and sd 1, where they are told."""
        if self.look is None or conditions.look is None:
            return None
        return self.look.standardise(conditions.look)

    def forward(self, time: Tensor, conditions: Conditions) -> Tensor:
        """Return (b, embedding)."""
        found = self.time(time_features(time, self.width))
        found = found + self.perturbation(conditions.transition, conditions.no_perturbation)
        if self.context is not None:
            found = found + self.context(conditions.context, conditions.no_context)
        if self.look is not None:
            assert conditions.look is not None
            found = found + self.look(conditions.look[:, 1], conditions.no_perturbation)
        return found
