"""Contrastive flow matching between paired images (SPATIA, section 4.3, eq. 7)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Contrast = Literal["minus", "hinge", "none", "plus"]


def bridge(start: Tensor, end: Tensor, time: Tensor) -> Tensor:
    """Return x_t = (1 - t) x_start + t x_end.

    Parameters
    ----------
    start, end
        (b, ...) control and target.
    time
        (b,) in [0, 1].
    """
    t = time.reshape(-1, *[1] * (start.ndim - 1))
    return (1 - t) * start + t * end


def velocity_target(start: Tensor, end: Tensor) -> Tensor:
    """Return d x_t / d t of the bridge, which is the same at every time."""
    return end - start


def endpoint(field: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
    """Return x_t + (1 - t) v: where the bridge would end if the velocity stayed as it is."""
    return field + (1 - time.reshape(-1, *[1] * (field.ndim - 1))) * velocity


def add_noise(start: Tensor, sd: float, probability: float, generator: torch.Generator) -> Tensor:
    """Return ``start`` with Gaussian noise on a random share of its rows (A6; CellFlux: sd 1, probability 0.5)."""
    if sd == 0 or probability == 0:
        return start
    is_noisy = (torch.rand(len(start), generator=generator) < probability).reshape(-1, *[1] * (start.ndim - 1))
    noise = torch.randn(start.shape, generator=generator)
    return start + sd * (noise * is_noisy).to(start)


def pick_negatives(transition: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return for every row a random row of *another* transition, and whether there is one.

    Where the whole batch is of one transition, the row itself is returned with False.
    """
    is_other = transition[:, None] != transition[None, :]
    has_one = is_other.any(1)
    weights = torch.where(has_one[:, None], is_other, torch.eye(len(transition), dtype=torch.bool))
    return torch.multinomial(weights.float(), 1, generator=generator)[:, 0], has_one


def squared_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Return (b,) mean squares over all values of a row, in float32."""
    return (found.float() - wanted.float()).square().flatten(1).mean(1)


def contrast_loss(positive: Tensor, negative: Tensor, form: Contrast, rho: float, margin: float) -> Tensor:
    """Return (b,) losses of eq. 7 in one of four forms (decision A1).

    Parameters
    ----------
    positive, negative
        (b,) squared errors to the pair's own velocity and to that of a pair of another transition.
    form
        ``minus``: L - rho * negative, away from the negative (contrastive flow matching, Stoica et al. 2025);
        ``plus``: as eq. 7 is printed, towards it; ``hinge``: L + rho * max(0, L + margin - negative), away from it
        only until it is farther than the positive by ``margin``; ``none``: L.
    """
    if form == "none":
        return positive
    if form == "minus":
        return positive - rho * negative
    if form == "plus":
        return positive + rho * negative
    if form == "hinge":
        return positive + rho * (positive + margin - negative).clamp(min=0)
    raise ValueError(f"form should be minus, hinge, none or plus, found {form!r}")


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of (b,) values, each counting as (b,) weights say; their scale is the caller's."""
    return (values * weights.to(values)).mean()


def confidence_weights(confidence: Tensor) -> Tensor:
    """Return (n,) weights of mean 1, proportional to the pairs' confidence (1 - row entropy of the plan / log m).

    Raises
    ------
    ValueError
        If a confidence is negative or not a number, or all are 0.
    """
    if not bool(((confidence >= 0) & confidence.isfinite()).all()) or not bool((confidence > 0).any()):
        raise ValueError("confidence should be numbers of at least 0, not all of them 0")
    return confidence / confidence.mean()
