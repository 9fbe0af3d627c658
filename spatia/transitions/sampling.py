"""From control to generated image: solvers of dx/dt = v(x, t), and guidance (A5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]  # field (b, ...), times (b,) -> velocity (b, ...)
Solver = Literal["euler", "midpoint", "heun"]
CALLS_PER_STEP = {"euler": 1, "midpoint": 2, "heun": 2}


def guide(said: Tensor, unsaid: Tensor, weight: float) -> Tensor:
    """Return v_c + w (v_c - v_u): the conditional velocity, led further away from the unconditional one."""
    return said + weight * (said - unsaid)


def guided(conditional: Velocity, unconditional: Velocity, weight: float) -> Velocity:
    """Return the guided velocity; weight 0 never calls the unconditional one."""
    if weight == 0:
        return conditional
    return lambda field, time: guide(conditional(field, time), unconditional(field, time), weight)


def count_calls(solver: Solver, n_steps: int, guidance: float) -> int:
    """Return how often the network is called for one image."""
    return CALLS_PER_STEP[solver] * n_steps * (2 if guidance else 1)


def euler_step(velocity: Velocity, field: Tensor, time: Tensor, step: float) -> Tensor:
    """Return the field one step later; first order."""
    return field + step * velocity(field, time)


def midpoint_step(velocity: Velocity, field: Tensor, time: Tensor, step: float) -> Tensor:
    """Return the field one step later, by the velocity half way; second order."""
    half = field + 0.5 * step * velocity(field, time)
    return field + step * velocity(half, time + 0.5 * step)


def heun_step(velocity: Velocity, field: Tensor, time: Tensor, step: float) -> Tensor:
    """Return the field one step later, by the mean of the velocities at both ends; second order."""
    first = velocity(field, time)
    second = velocity(field + step * first, time + step)
    return field + 0.5 * step * (first + second)


STEPS = {"euler": euler_step, "midpoint": midpoint_step, "heun": heun_step}


def integrate(velocity: Velocity, start: Tensor, solver: Solver, n_steps: int) -> Tensor:
    """Return the field at t = 1 of a path that is at ``start`` at t = 0."""
    return trace(velocity, start, solver, n_steps)[-1]


def trace(velocity: Velocity, start: Tensor, solver: Solver, n_steps: int) -> list[Tensor]:
    """Return the fields at t = 0, 1 / n, ..., 1.

    Raises
    ------
    ValueError
        If there is no such solver or no step.
    """
    if solver not in STEPS or n_steps < 1:
        raise ValueError(f"solver should be one of {', '.join(STEPS)}, with 1 step or more, found {solver}, {n_steps}")
    fields, size = [start], 1.0 / n_steps
    for number in range(n_steps):
        time = torch.full((len(start),), number * size, device=start.device)
        fields.append(STEPS[solver](velocity, fields[-1], time, size))
    return fields
