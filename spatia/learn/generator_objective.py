"""What a generator is trained to do: a batch of pairs -> losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spatia.learn.devices import move
from spatia.learn.generator_pairs import PairBatch
from spatia.model.conditions import Conditions
from spatia.model.vae import vae_losses
from spatia.model.velocity import Generator
from spatia.transitions.canvas import long_axis_of, n_channels_of, profile, share_of, with_gain
from spatia.transitions.flow import (
    Contrast,
    add_noise,
    bridge,
    contrast_loss,
    endpoint,
    pick_negatives,
    squared_error,
    velocity_target,
    weighted_mean,
)
from spatia.transitions.looks import looks_of, stretch_to

TOTAL = "total"


@dataclass(frozen=True)
class Objective:
    """How the loss is made up; see :class:`spatia.transition_params.FlowParams`."""

    contrast: Contrast = "minus"
    rho: float = 0.05
    margin: float = 0.1
    drop: float = 0.2
    gain_jitter: float = 0.0
    start_noise: float = 0.0
    noise_probability: float = 0.5
    time_power: float = 1.0
    alignment: float = 0.0
    kl_weight: float = 1e-6


def drop_conditions(batch: PairBatch, rate: float, generator: torch.Generator) -> Conditions:
    """Return what the network is told of a batch: perturbation and context are each left out of ``rate`` of the rows.

    Half of those rows lack both, so that the null condition, with which guidance compares, is learned too.
    """
    u = torch.rand(len(batch), generator=generator)
    return Conditions(batch.transition, batch.context, u < rate, (u < rate / 2) | ((u >= rate) & (u < 1.5 * rate)))


def with_axis(conditions: Conditions, canvas: Tensor) -> Conditions:
    """Return conditions with the long axis of each control, by the outline in its canvas."""
    return replace(conditions, axis=long_axis_of(share_of(canvas[:, -1])))


def looks_of_both(start: Tensor, end: Tensor, dapi: int | None) -> Tensor:
    """Return (b, 2, looks) of the canvases of controls and targets."""
    return torch.stack([looks_of(start, dapi), looks_of(end, dapi)], dim=1)


def stretched(start: Tensor, end: Tensor, axis: Tensor, dapi: int | None, is_untold: Tensor | None = None) -> Tensor:
    """Return controls as large and as long as their targets; as they are where ``is_untold`` (b,)."""
    before, after = (looks_of(canvas, dapi) for canvas in (start, end))
    if is_untold is not None:
        after = torch.where(is_untold[:, None], before, after)
    return stretch_to(start, axis, before, after, dapi)


def vary_gain(batch: PairBatch, sd: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return controls and targets with stains brighter or darker, both alike: log gains are Gaussian.

    Slides are stained more or less; without this, a control a little brighter than those of the training is taken for
    one that is on its way, and what makes it different is blown up.
    """
    if sd == 0:
        return batch.start, batch.end
    n_stains = batch.start.shape[1] - n_channels_of(0, batch.dapi)
    gain = (sd * torch.randn(len(batch), n_stains, generator=generator)).exp()
    return with_gain(batch.start, gain, batch.dapi), with_gain(batch.end, gain, batch.dapi)


def flow_losses(
    model: Generator, batch: PairBatch, objective: Objective, generator: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    """Return ``flow`` (squared error of the velocity), ``contrast``, ``alignment`` where asked, and ``total``."""
    conditions = with_axis(drop_conditions(batch, objective.drop, generator), batch.start)
    negative, has_negative = pick_negatives(batch.transition, generator)
    time = torch.rand(len(batch), generator=generator).pow(objective.time_power).to(device)
    with torch.no_grad():
        start, end = vary_gain(batch, objective.gain_jitter, generator)
        if model.conditioning.look is not None:
            if model.shape.stretch:
                assert conditions.axis is not None
                start = stretched(start, end, conditions.axis, batch.dapi, conditions.no_perturbation)
            conditions = replace(conditions, look=looks_of_both(start, end, batch.dapi))
        start, end = (model.encode(canvas.to(device)) for canvas in (start, end))
    noise_generator = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
    source = add_noise(start.cpu(), objective.start_noise, objective.noise_probability, noise_generator).to(device)
    wanted = velocity_target(source, end)
    field = bridge(source, end, time)
    velocity = model(field, time, move(conditions, device))
    positive = squared_error(velocity, wanted)
    loss = contrast_loss(
        positive, squared_error(velocity, wanted[negative.to(device)]), objective.contrast, objective.rho,
        objective.margin,
    )  # fmt: skip
    # a row without a transition, or without another one in its batch, has nothing to be told apart from
    is_told = (has_negative & ~conditions.no_perturbation).to(device)
    weight = batch.weight.to(device)
    found = {"flow": weighted_mean(positive, weight)}
    total = weighted_mean(torch.where(is_told, loss, positive), weight)
    found["contrast"] = total - found["flow"]
    if objective.alignment:
        found["alignment"] = weighted_mean(alignment(model, field, velocity, time, end), weight)
        total = total + objective.alignment * found["alignment"]
    return {**found, TOTAL: total}


def alignment(model: Generator, field: Tensor, velocity: Tensor, time: Tensor, end: Tensor) -> Tensor:
    """Return (b,) squared differences of the profiles (mean and sd of every channel) of predicted and true targets.

    The predicted target is x_t + (1 - t) v, decoded where the flow runs in latents.
    """
    predicted = model.decode(endpoint(field, velocity.float(), time))
    return (profile(predicted.float()) - profile(model.decode(end).float())).square().mean(1)


def reconstruction_losses(
    model: Generator, batch: PairBatch, objective: Objective, generator: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    """Return the losses of the VAE on controls and targets alike."""
    assert model.vae is not None
    canvas = torch.cat(vary_gain(batch, objective.gain_jitter, generator))
    found = vae_losses(model.vae, canvas.to(device), generator)
    return {**found, TOTAL: found["reconstruction"] + objective.kl_weight * found["kl"]}
