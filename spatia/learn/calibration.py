"""What a trained generator draws beside what it is asked for, on training controls: the rest is asked for too."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from spatia.learn.devices import Machine
from spatia.learn.generating import SPATIA, Request, Sampler, conditions_of, follow
from spatia.learn.generator_pairs import PairSet
from spatia.model.looks import Look
from spatia.model.velocity import Generator
from spatia.progress import progress
from spatia.transitions.looks import looks_of

N_CELLS = 32  # controls of a transition
N_ROUNDS = 3  # a look that follows by half of what is asked is then off by an eighth of what it was
SAMPLER = Sampler(steps=4)  # 16 calls: a mean over cells needs no finer path

log = logging.getLogger("spatia.flow")


@torch.no_grad()
def calibrate_looks(model: Generator, pairs: PairSet, tags: tuple[str, ...], machine: Machine) -> None:
    """Set what is asked for beyond the expected looks, transition by transition; targets are not looked at.

    Of the rounds, and of asking for nothing more, what leaves the least is kept: a generator that hardly follows what
    it is asked would be asked for ever more.
    """
    look = model.conditioning.look
    if look is None:
        return
    model.eval()
    for number in progress(range(len(tags)), "looks", unit="transition"):
        start = np.unique(pairs.start[pairs.transition == number])
        if not len(start):
            continue
        chosen = np.sort(np.random.default_rng(number).permutation(start)[:N_CELLS])
        tried, sizes = [look.short[number].clone()], []
        for _ in range(N_ROUNDS + 1):
            look.short[number] = tried[-1]
            rest = rest_of(model, look, pairs, chosen, number, machine)
            sizes.append(float(rest.square().mean().sqrt()))
            tried.append(tried[-1] + rest)
        best = int(np.argmin(np.nan_to_num(sizes, nan=np.inf)))  # what is asked for ever more may overflow
        look.short[number] = tried[best]
        log.info("%s: looks as drawn are off by %.2f sd, with what is asked beside by %.2f", tags[number], sizes[0],
                 sizes[best])  # fmt: skip


def rest_of(model: Generator, look: Look, pairs: PairSet, chosen: np.ndarray, number: int, machine: Machine) -> Tensor:
    """Return (looks,) what the looks drawn from chosen controls lack on average, standardised."""
    canvas, context = pairs.canvas[chosen], pairs.context[chosen]
    said = conditions_of(Request(number, "", SPATIA, ()), context)
    own = looks_of(canvas, pairs.dapi).to(machine.device)
    expected = look.expected(own, said.transition.to(machine.device), context.to(machine.device))
    drawn = looks_of(follow(model, canvas, said, SAMPLER, machine, None, pairs.dapi)[-1].cpu(), pairs.dapi)
    return (look.standardise(expected) - look.standardise(drawn.to(machine.device))).mean(0)
