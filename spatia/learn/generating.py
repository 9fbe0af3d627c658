"""A generator and control cells -> images. Nothing here knows a target, or that one exists."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spatia.learn.devices import Machine, move
from spatia.learn.generator_cells import Reader
from spatia.model.conditions import Conditions, unconditional
from spatia.model.velocity import Generator
from spatia.transitions.canvas import from_canvas, long_axis_of, share_of
from spatia.transitions.looks import looks_of, stretch_to
from spatia.transitions.sampling import Solver, Velocity, guided, trace

SPATIA, UNCONDITIONAL = "spatia", "unconditional"  # methods


@dataclass(frozen=True)
class Sampler:
    """How paths are followed; see :class:`spatia.generator_params.GenerateParams`."""

    solver: Solver = "midpoint"
    steps: int = 12
    guidance: float = 0.2
    start_noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """Images to make of one transition by one method, one per cell."""

    number: int
    tag: str
    method: str
    cell_ids: tuple[str, ...]


def seed_of_text(*parts: object) -> int:
    """Return a seed that depends on all parts and nothing else."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")


def choose_cells(cell_ids: Sequence[str], most: int | None, tag: str, seed: int) -> tuple[str, ...]:
    """Return at most ``most`` cells in their order; which, follows from seed, transition and cell id alone."""
    if most is None or len(cell_ids) <= most:
        return tuple(cell_ids)
    draws = np.array([seed_of_text(seed, tag, cell_id) for cell_id in cell_ids])
    return tuple(cell_ids[row] for row in np.sort(np.argsort(draws, kind="stable")[:most]))


def noise_of(cell_ids: Sequence[str], tag: str, seed: int, shape: Sequence[int]) -> Tensor:
    """Return Gaussian noise (n, ...) that belongs to the cell, in whatever batch it is."""
    generators = [torch.Generator().manual_seed(seed_of_text(seed, tag, cell_id)) for cell_id in cell_ids]
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])


def velocity_under(model: Generator, conditions: Conditions, weight: float) -> Velocity:
    """Return the guided velocity; a condition that says nothing has nothing to be guided by."""
    nothing = unconditional(conditions)
    is_null = bool(conditions.no_perturbation.all() and conditions.no_context.all())
    return guided(
        lambda field, time: model(field, time, conditions),
        lambda field, time: model(field, time, nothing),
        0.0 if is_null else weight,
    )


@torch.no_grad()
def follow(
    model: Generator, canvas: Tensor, conditions: Conditions, sampler: Sampler, machine: Machine,
    noise: Tensor | None = None, dapi: int | None = None,
) -> list[Tensor]:  # fmt: skip
    """Return the canvases of a path at t = 0, 1 / n, ..., 1.

    Parameters
    ----------
    noise
        Added to the field at t = 0.
    dapi
        The stain whose nucleus has an outline in the canvases.
    """
    control = canvas = canvas.to(machine.device)
    said, axis = move(conditions, machine.device), long_axis_of(share_of(canvas[:, -1]))
    said = replace(said, axis=axis)
    look, ends = model.conditioning.look, None
    if look is not None:
        own = looks_of(canvas, dapi)
        asked = look.asked(own, said.transition, said.context)
        if model.shape.stretch:
            ends = own, torch.where(said.no_perturbation[:, None], own, asked)
            canvas = stretch_to(canvas, axis, *ends, dapi)
        said = replace(said, look=torch.stack([looks_of(canvas, dapi), asked], dim=1))
    start = model.encode(canvas)
    if noise is not None:
        start = start + noise.to(machine.device)
    velocity = velocity_under(model, said, sampler.guidance)

    def in_float32(field: Tensor, time: Tensor) -> Tensor:
        with machine.autocast():
            return velocity(field, time).float()

    fields = trace(in_float32, start, sampler.solver, sampler.steps)
    with machine.autocast():
        canvases = [model.decode(field).float() for field in fields]
    if ends is None:
        return canvases
    # what was stretched at once to begin with is stretched little by little on the way
    back = [stretch_to(c, axis, *ends, dapi, k / sampler.steps - 1) for k, c in enumerate(canvases[:-1])]
    return [control if noise is None else back[0], *back[1:], canvases[-1]]


def generate(
    model: Generator, reader: Reader, request: Request, sampler: Sampler, machine: Machine, batch: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield images (n, c, y, x) of a request's cells, in order, ``batch`` at a time."""
    for start in range(0, len(request.cell_ids), batch):
        ids = request.cell_ids[start : start + batch]
        yield from_canvas(follow_cells(model, reader, request, ids, sampler, machine)[-1], reader.dapi)


def follow_cells(
    model: Generator, reader: Reader, request: Request, cell_ids: Sequence[str], sampler: Sampler, machine: Machine
) -> list[Tensor]:
    """Return the canvases of some cells of a request at t = 0, 1 / n, ..., 1."""
    block = reader.read(cell_ids)
    conditions = conditions_of(request, block.context)
    noise = None
    if sampler.start_noise:
        shape = model.encode(block.canvas[:1].to(machine.device)).shape[1:]
        noise = sampler.start_noise * noise_of(cell_ids, request.tag, sampler.seed, shape)
    return follow(model, block.canvas, conditions, sampler, machine, noise, reader.dapi)


def conditions_of(request: Request, context: Tensor) -> Conditions:
    """Return what the network is told for cells of a request."""
    said = torch.zeros(len(context), dtype=torch.bool)
    conditions = Conditions(torch.full((len(context),), request.number), context, said, said)
    return unconditional(conditions) if request.method == UNCONDITIONAL else conditions
