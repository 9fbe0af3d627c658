"""The parts of a generator's training: the VAE where there is one, then the flow."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spatia.generator_params import FlowParams
from spatia.learn.devices import Machine
from spatia.learn.generator_objective import Objective, flow_losses, reconstruction_losses, vary_gain
from spatia.learn.generator_pairs import PairSet, draw_batch
from spatia.learn.generator_source import PairData
from spatia.learn.generator_training import Part
from spatia.learn.parallel import Group
from spatia.measure.value_probes import fit_value_probe
from spatia.model.linear_guess import Moments, moments_of
from spatia.model.looks import Look, LookMap, monge_map
from spatia.model.velocity import Generator, Pixels
from spatia.transitions.canvas import long_axis_of, share_of
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
    if model.guess is None:
        return
    moments: list[Moments | None] = []
    for number in range(len(data.scope.transitions)):
        rows = np.flatnonzero(data.train.transition == number)
        if not len(rows):  # niche tiles: control and target of all its pairs lie in one tile
            moments.append(None)
            continue
        batch = data.train.take(np.random.default_rng(number).permutation(rows)[:MOST_FITTED])
        device = model.guess.start.device
        start, end = [
            torch.cat([model.encode(block.to(device)) for block in canvas.split(AT_A_TIME)])
            for canvas in vary_gain(batch, gain_jitter, torch.Generator().manual_seed(number))
        ]
        is_turned = model.shape.long_axis and model.vae is None
        axis = long_axis_of(share_of(batch.start[:, -1])).to(device) if is_turned else None
        moments.append(moments_of(start, end, axis))
    model.guess.set_moments(moments)


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
