"""Where cells are on their way: the paths of a few of them at equal steps of t, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatia.learn.devices import Machine
from spatia.learn.generating import SPATIA, Request, Sampler, choose_cells, follow_cells
from spatia.learn.generator_cells import Reader
from spatia.model.velocity import Generator
from spatia.transitions.canvas import from_canvas

N_STOPS = 5  # t = 0, 1/4, 1/2, 3/4, 1; fewer where the solver takes fewer steps


@dataclass(frozen=True)
class Trajectories:
    """Images along the paths of some cells.

    Attributes
    ----------
    cell_ids, tags
        (k,) control and transition of each path.
    times
        (s,) from 0 (the control, as the generator sees it) to 1 (the generated image).
    images
        (k, s, c, p, p) uint8.
    """

    cell_ids: NDArray[np.str_]
    tags: NDArray[np.str_]
    times: NDArray[np.float64]
    images: NDArray[np.uint8]


def choose_stops(n_steps: int, n_stops: int = N_STOPS) -> list[int]:
    """Return which of the fields 0, 1, ..., ``n_steps`` lie nearest to equally spaced times, each once."""
    return sorted({int(place + 0.5) for place in np.linspace(0, n_steps, n_stops)})


def trace_cells(
    model: Generator, reader: Reader, requests: Sequence[Request], sampler: Sampler, machine: Machine, n_cells: int
) -> Trajectories | None:
    """Return the paths of at most ``n_cells`` cells of every transition, chosen by seed; None where there is no cell.

    Only of the full method: without a condition there is nothing on the way to look at.
    """
    stops = choose_stops(sampler.steps)
    ids: list[str] = []
    tags: list[str] = []
    images: list[NDArray[np.uint8]] = []
    for request in requests:
        chosen = choose_cells(request.cell_ids, n_cells, request.tag, sampler.seed)
        if request.method != SPATIA or not chosen:
            continue
        path = follow_cells(model, reader, request, chosen, sampler, machine)
        images.append(np.stack([from_canvas(path[stop], reader.dapi) for stop in stops], axis=1))
        ids += chosen
        tags += [request.tag] * len(chosen)
    if not images:
        return None
    times = np.array(stops) / sampler.steps
    return Trajectories(np.array(ids, np.str_), np.array(tags, np.str_), times, np.concatenate(images))
