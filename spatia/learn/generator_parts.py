"""The parts of a generator's training: the VAE where there is one, then the flow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spatia.generator_params import FlowParams
from spatia.learn.devices import Machine
from spatia.learn.generator_objective import (
    Objective,
    flow_losses,
    looks_of_both,
    reconstruction_losses,
    stretched,
    vary_gain,
)
from spatia.learn.generator_pairs import PairSet, draw_batch
from spatia.learn.generator_source import PairData
from spatia.learn.generator_training import Part
from spatia.learn.parallel import Group
from spatia.measure.value_probes import fit_value_probe
from spatia.model.linear_guess import LYING, RIDGE, Moments, moments_of, pooled, symmetric
from spatia.model.looks import Look, LookMap, monge_map
from spatia.model.velocity import Generator, Pixels
from spatia.transitions.canvas import long_axis_of, share_of, turn_by
from spatia.transitions.looks import looks_of

N_WATCHED = 4  # batches of the validation pairs
AT_A_TIME = 256  # cells
MOST_FITTED = 4096  # pairs of a transition: their moments are known well enough
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 1e6)  # penalties on what surroundings tell of looks; the last = nothing


def make_parts(
    model: Generator, data: PairData, objective: Objective, params: FlowParams, machine: Machine, group: Group
) -> list[Part]:
    """Return what is trained, in order; ``batch`` pairs are shared by the processes."""
    size = max(1, params.batch // group.size)
    draw = partial(draw_batch, data.train, size)
    watched = data.val
    val = [draw_batch(watched, size, seed) for seed in range(N_WATCHED)] if watched is not None else []
    learns_flow = nn.ModuleList([model.conditioning, model.network])
    flow = Part(
        "flow", params.steps, params.learning_rate,
        lambda batch, generator: flow_losses(model, batch, objective, generator, machine.device),
        draw, learns_flow, val,
    )  # fmt: skip
    if model.vae is None:
        return [flow]
    vae = Part(
        "vae", params.vae_steps, params.vae_learning_rate,
        lambda batch, generator: reconstruction_losses(model, batch, objective, generator, machine.device),
        draw, model.vae, val, partial(fit_latent_scale, model, data, objective.gain_jitter, machine),
    )  # fmt: skip
    return [vae, flow]


def fit_scales(model: Generator, data: PairData, gain_jitter: float) -> None:
    """Before training: bring the training cells to mean 0 and sd 1, fit the maps of looks and the linear guess."""
    if model.conditioning.context is not None:
        model.conditioning.context.components.fit(data.train.context)
    if model.conditioning.look is not None:
        fit_looks(model.conditioning.look, data.train)
    if isinstance(model.space, Pixels):
        model.space.set_scale(data.train.canvas)
        fit_guess(model, data, gain_jitter)


@torch.no_grad()
def fit_looks(look: Look, pairs: PairSet) -> None:
    """Fit scale and maps of looks to the training pairs; a transition without pairs keeps looks as they are.

    What the surroundings tell is a ridge regression whose penalty is chosen by groups of pairs left out (slides, if
    there are several): on a slide never seen, staining and donor make most of the difference between surroundings.
    """
    looks = torch.cat([looks_of(block, pairs.dapi) for block in pairs.canvas.split(AT_A_TIME)])
    look.set_scale(looks)
    looks, around = look.standardise(looks), None
    if look.around is not None:
        look.around.fit(pairs.context[:, -look.n_around :])
        around = look.components(pairs.context)
    for number in np.unique(pairs.transition):
        rows = np.flatnonzero(pairs.transition == number)
        start, end = (looks[place[rows]] for place in (pairs.start, pairs.end))
        told = None if around is None else around[pairs.start[rows]]
        look.set_map(int(number), fit_map(start, end, told, pairs.group[rows]))


def fit_map(start: Tensor, end: Tensor, around: Tensor | None, group: NDArray[np.int64]) -> LookMap:
    """Return the map of one transition from looks (n, looks) of its pairs and the controls' surroundings (n, k)."""
    if around is None or len(np.unique(group)) < 2:
        return LookMap(*monge_map(start, end))
    told = around.double().numpy()
    probe = fit_value_probe(told, end.numpy(), np.random.default_rng(0), group, STRENGTHS)
    chosen = (float(probe.strength[0]),)
    changes = [
        torch.from_numpy(found.weight / found.standardise.spread[:, None]).float()
        for found in (fit_value_probe(told, start.numpy(), np.random.default_rng(0), group, chosen), probe)
    ]
    before, after = (around @ change for change in changes)
    return LookMap(*monge_map(start - before, end - after), *changes)


@torch.no_grad()
def fit_latent_scale(model: Generator, data: PairData, gain_jitter: float, machine: Machine) -> None:
    """After the VAE: bring the latents of the training cells to mean 0 and sd 1, fit the linear guess to them."""
    assert model.vae is not None
    model.eval()
    blocks = data.train.canvas.split(AT_A_TIME)
    model.vae.set_scale(torch.cat([model.vae.distribution(block.to(machine.device))[0] for block in blocks]))
    fit_guess(model, data, gain_jitter)


@torch.no_grad()
def fit_guess(model: Generator, data: PairData, gain_jitter: float) -> None:
    """Fit the linear guess to the training pairs, or to a random part of them where there are very many."""
    guess = model.guess
    if guess is None:
        return
    numbers = range(len(data.scope.transitions))
    if model.conditioning.look is not None:
        sums = LookSums()
        for number in numbers:
            ends = ends_of(model, data, number, gain_jitter)
            if ends is not None and ends.look is not None:
                guess.mean_look[number] = ends.look.mean(0)
                for field, look in zip((ends.start, ends.end), ends.look.unbind(1), strict=True):
                    sums.add(field, look, ends.axis)
        guess.by_look.copy_(sums.solve(model.shape.long_axis and model.vae is None))
    own: list[Moments | None] = []
    plain: list[Moments] = []
    for number in numbers:
        ends = ends_of(model, data, number, gain_jitter)
        if ends is None:  # niche tiles: control and target of all its pairs lie in one tile
            own.append(None)
            continue
        plain.append(moments_of(ends.start, ends.end, ends.axis))
        if ends.look is None:
            own.append(plain[-1])
            continue
        away = ends.look - guess.mean_look[number]
        parts = [guess.of_look(away[:, k]) for k in (0, 1)]
        if ends.axis is not None:
            parts = [turn_by(part, ends.axis) for part in parts]
        own.append(moments_of(ends.start - parts[0], ends.end - parts[1], ends.axis))
    guess.set_moments(own, pooled(plain))


@dataclass(frozen=True)
class Ends:
    """Fields (n, c, side, side) of a transition's pairs, standardised looks (n, 2, looks), long axes (n,)."""

    start: Tensor
    end: Tensor
    look: Tensor | None
    axis: Tensor | None


def ends_of(model: Generator, data: PairData, number: int, gain_jitter: float) -> Ends | None:
    """Return the ends of a transition's pairs, at most :data:`MOST_FITTED` of them; None without any."""
    rows = np.flatnonzero(data.train.transition == number)
    if not len(rows):
        return None
    batch = data.train.take(np.random.default_rng(number).permutation(rows)[:MOST_FITTED])
    assert model.guess is not None
    device = model.guess.start.device
    canvases = vary_gain(batch, gain_jitter, torch.Generator().manual_seed(number))
    if model.shape.stretch and model.conditioning.look is not None:
        canvases = stretched(*canvases, long_axis_of(share_of(batch.start[:, -1])), batch.dapi), canvases[1]
    start, end = [
        torch.cat([model.encode(block.to(device)) for block in canvas.split(AT_A_TIME)]) for canvas in canvases
    ]
    look, axis = None, None
    if model.conditioning.look is not None:
        look = model.conditioning.look.standardise(looks_of_both(*canvases, batch.dapi).to(device))
    if model.shape.long_axis and model.vae is None:
        axis = long_axis_of(share_of(batch.start[:, -1])).to(device)
    return Ends(start, end, look, axis)


class LookSums:
    """Sums for the regression of fields on looks, set after set of cells, each around its own mean."""

    def __init__(self) -> None:
        self.n, self.own, self.shared = 0, torch.zeros(()), torch.zeros(())

    def add(self, fields: Tensor, looks: Tensor, axis: Tensor | None) -> None:
        """Add fields (n, c, side, side) with their looks (n, looks), turned back by their long axes (n,)."""
        if axis is not None:
            fields = turn_by(fields, -axis)
        away = looks - looks.mean(0)
        self.n += len(looks)
        self.own = self.own + away.T @ away
        self.shared = self.shared + torch.einsum("nl,ncyx->lcyx", away, fields - fields.mean(0))

    def solve(self, is_along: bool) -> Tensor:
        """Return (looks, c, side, side): what one sd more of each look adds, all positions counted alike."""
        ridge = RIDGE * self.n * torch.eye(len(self.own), device=self.own.device)
        found = torch.linalg.solve(self.own + ridge, self.shared.flatten(1)).reshape(self.shared.shape)
        return symmetric(found, LYING) if is_along else symmetric(found)


@torch.no_grad()
def reconstruction_distance(model: Generator, data: PairData, machine: Machine) -> dict[str, float] | None:
    """Return what the VAE alone costs, as root mean squares over canvases: the floor of what a flow in it can reach.

    ``train`` are the cells it was trained on, ``val`` those of validation slides; None where there is no VAE.
    """
    if model.vae is None:
        return None
    model.eval()
    found = {}
    for name, pairs in (("train", data.train), ("val", data.val)):
        if pairs is not None:
            blocks = [block.to(machine.device) for block in pairs.canvas.split(AT_A_TIME)]
            squares = sum(float((model.decode(model.encode(b)).float() - b).square().sum()) for b in blocks)
            found[name] = (squares / pairs.canvas.numel()) ** 0.5
    return found
