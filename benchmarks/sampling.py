"""Sampling with 48 network calls beside 400: time and difference of the images.

    python benchmarks/sampling.py runs/demo --slide sim_b
    python benchmarks/sampling.py --preset base --device cuda

With the folder of a finished run, its generator works on control cells of a slide; ``--preset`` times an untrained
generator of that size on random canvases (its images mean nothing, its time does). Both ways take turns in one
process on the same batches: midpoint with guidance, 12 steps (48 calls) and 100 steps (400 calls). The bar is a ratio
of at least 7. Differences are root mean squares over the pixels of both images' cells, in grey levels of 255; as a
scale, the same between control and image.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spatia.io import read_table
from spatia.learn.compiling import compile_parts
from spatia.learn.devices import Machine, choose_machine
from spatia.learn.generating import SPATIA, Request, Sampler, choose_cells, conditions_of, follow
from spatia.learn.generator_checkpoint import read_generator
from spatia.learn.generator_readers import ReaderFiles, open_reader
from spatia.model.conditions import Conditions
from spatia.model.velocity import Generator
from spatia.model.velocity_shape import velocity_shape_of
from spatia.stages.generate import control_ids
from spatia.transitions.canvas import from_canvas, n_channels_of
from spatia.transitions.looks import n_looks_of
from spatia.transitions.sampling import count_calls

BAR = 7.0
FEW, MANY = Sampler("midpoint", 12, 0.2), Sampler("midpoint", 100, 0.2)

Batch = tuple[Tensor, Conditions]


class Subject(NamedTuple):
    """A generator, batches for it, and the stain whose nucleus has an outline in its canvases."""

    model: Generator
    batches: list[Batch]
    dapi: int | None


def batches_of_run(run: Path, slide: str, size: int, n: int) -> Subject:
    """Return a run's generator and ``n`` batches of controls, transition by transition."""
    checkpoint, results = read_generator(run / "results/flow/checkpoint"), run / "results"
    scope = checkpoint.scope
    files, image_px = ReaderFiles.of_run(run, slide), checkpoint.model.shape.image_px
    reader = open_reader(scope.target, files, scope.stains, image_px, scope.context_arrays, scope.nucleus_outline)
    states = read_table(results / "states" / slide / "states" / "states.parquet")
    batches = []
    for number in range(n):
        place = number % len(scope.transitions)
        transition = scope.transitions[place]
        ids = choose_cells(control_ids(states[transition.controls(states)]), size, transition.tag, number)
        block = reader.read(ids)
        batches.append((block.canvas, conditions_of(Request(place, transition.tag, SPATIA, ids), block.context)))
    return Subject(checkpoint.model, batches, reader.dapi)


def batches_of_preset(preset: str, size: int, n: int) -> Subject:
    """Return an untrained generator and ``n`` batches of noise."""
    torch.manual_seed(0)
    n_channels = n_channels_of(4, 0)
    model = Generator(velocity_shape_of(preset), n_channels, 5, 400, 576, n_looks_of(4, 0)).eval()
    said = torch.zeros(size, dtype=torch.bool)
    shape = (size, n_channels, model.shape.image_px, model.shape.image_px)
    told = Conditions(torch.zeros(size, dtype=torch.long), torch.randn(size, 576), said, said)
    return Subject(model, [(torch.rand(shape) * 2 - 1, told) for _ in range(n)], 0)


def take(subject: Subject, batch: Batch, sampler: Sampler, machine: Machine) -> tuple[np.ndarray, float]:
    """Return images and seconds."""
    start = time.perf_counter()
    images = from_canvas(
        follow(subject.model, batch[0], batch[1], sampler, machine, None, subject.dapi)[-1], subject.dapi
    )
    if machine.device.type == "cuda":
        torch.cuda.synchronize()
    return images, time.perf_counter() - start


def difference(one: np.ndarray, two: np.ndarray) -> float:
    """Return the root mean square over the pixels of either image's cell, in grey levels."""
    is_cell = (one.max(axis=1, keepdims=True) > 0) | (two.max(axis=1, keepdims=True) > 0)
    squares = (one.astype(float) - two.astype(float)) ** 2
    return float(np.sqrt(squares[np.broadcast_to(is_cell, squares.shape)].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished run")
    parser.add_argument("--slide", default="sim_b")
    parser.add_argument("--preset", help="an untrained generator of this size instead of a run's")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="both with torch.compile")
    args = parser.parse_args()
    if (args.run is None) == (args.preset is None):
        parser.error("give the folder of a run, or --preset")
    machine = choose_machine(args.device, args.precision, allow_cpu=False, threads=args.threads)
    subject = batches_of_preset(args.preset, args.batch, args.batches) if args.preset else batches_of_run(
        args.run, args.slide, args.batch, args.batches)  # fmt: skip
    model, batches, dapi = subject
    model.to(machine.device)
    if args.compile:
        compile_parts(model)
    take(subject, batches[0], replace(FEW, steps=1), machine)  # warm up
    seconds: dict[str, list[float]] = {"few": [], "many": []}
    between, moved = [], []
    for batch in batches:
        few, few_s = take(subject, batch, FEW, machine)
        many, many_s = take(subject, batch, MANY, machine)
        seconds["few"].append(few_s / len(few))
        seconds["many"].append(many_s / len(many))
        between.append(difference(few, many))
        moved.append(difference(from_canvas(batch[0], dapi), many))
    few_s, many_s = (statistics.median(seconds[name]) for name in ("few", "many"))
    calls = [count_calls(s.solver, s.steps, s.guidance) for s in (FEW, MANY)]
    how = f"{machine.dtype}{', compiled' if args.compile else ''}, {args.threads} threads"
    print(f"{machine.device}, {how}, {model.shape.image_px} px, batch {args.batch}")
    print(f"{calls[0]:4d} calls {1 / few_s:9.2f} images/s\n{calls[1]:4d} calls {1 / many_s:9.2f} images/s")
    ratio = many_s / few_s
    print(f"ratio {ratio:.2f} (bar {BAR:g}x: {'met' if ratio >= BAR else 'MISSED'})")
    print(f"difference {np.mean(between):.2f} grey levels (control to image: {np.mean(moved):.2f})")


if __name__ == "__main__":
    main()
