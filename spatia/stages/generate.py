"""A generator and the control cells of a slide -> images of what they would become.

Reads the generator, and crops, embeddings and states of the slide; never pairs or targets.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import spatia
from spatia import keys
from spatia.config import load_params
from spatia.errors import SpatiaError
from spatia.generated import TRAJECTORIES
from spatia.generator_params import GenerateParams
from spatia.io import read_table, whole_dir, write_arrays, write_json, write_table
from spatia.learn.compiling import compile_parts
from spatia.learn.devices import choose_machine
from spatia.learn.generating import SPATIA, UNCONDITIONAL, Request, Sampler, choose_cells, generate
from spatia.learn.generator_cells import Reader
from spatia.learn.generator_checkpoint import GeneratorCheckpoint, read_generator
from spatia.learn.generator_readers import ReaderFiles, open_reader
from spatia.learn.generator_source import embedded_by
from spatia.learn.trajectories import Trajectories, trace_cells
from spatia.progress import progress
from spatia.transitions.sampling import count_calls
from spatia.xenium.store import open_slide

FORMAT = 1
SPLIT = "split"  # column of states.parquet

log = logging.getLogger("spatia.generate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia generate``."""
    parser.add_argument("--slide", required=True, metavar="NAME")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="what flow wrote")
    parser.add_argument("--zarr", type=Path, required=True, metavar="SLIDE.ZARR", help="says the species")
    parser.add_argument("--crops", type=Path, required=True, metavar="DIR")
    parser.add_argument("--embeddings", type=Path, metavar="DIR", help="not needed by a generator without context")
    parser.add_argument("--tiles", type=Path, metavar="DIR", help="needed by a generator of niche tiles only")
    parser.add_argument("--states", type=Path, required=True, metavar="DIR", help="what states wrote")
    parser.add_argument("--params", type=Path, required=True, metavar="YAML", help="as config/stages/generate.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of images to write")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; default: all there are")


def run(args: argparse.Namespace) -> None:
    """Generate an image of every control cell and transition; write them whole."""
    params = load_params(args.params, GenerateParams)
    machine = choose_machine(params.device, params.precision, params.allow_cpu, threads=args.threads)
    checkpoint = read_generator(args.checkpoint)
    check_slide(args.slide, args.zarr, args.embeddings, checkpoint)
    scope, shape = checkpoint.scope, checkpoint.model.shape
    files = ReaderFiles(args.slide, args.crops, args.zarr, args.embeddings, args.tiles)
    reader = open_reader(scope.target, files, scope.stains, shape.image_px, scope.context_arrays, scope.nucleus_outline)
    check_scale(reader, checkpoint)
    states = read_table(args.states / "states.parquet")
    requests = make_requests(states, checkpoint, params)
    cells = cell_table(requests)
    model = checkpoint.model.to(machine.device)
    if params.compile:
        compile_parts(model)
    sampler = sampler_of(params, checkpoint)
    with whole_dir(args.out) as folder:
        size = (len(cells), len(scope.stains), shape.image_px, shape.image_px)
        images = open_images(folder / "images.npy", size)
        row = 0
        for request in requests:
            blocks = generate(model, reader, request, sampler, machine, params.batch)
            n_blocks = -(-len(request.cell_ids) // params.batch)
            for block in progress(blocks, f"{request.tag}, {request.method}", total=n_blocks, unit="batch"):
                images[row : row + len(block)] = block
                row += len(block)
        if len(cells):
            images.flush()  # type: ignore[attr-defined]
        if params.n_trajectories:
            write_trajectories(
                folder / TRAJECTORIES,
                trace_cells(model, reader, requests, sampler, machine, params.n_trajectories),
            )
        write_table(folder / "cells.parquet", cells)
        write_json(folder / "generate.json", describe(args, params, checkpoint, reader, requests))
    log.info("%s: %d images of %d transitions", args.slide, len(cells), len({r.tag for r in requests if r.cell_ids}))


def check_slide(slide: str, zarr: Path, embeddings: Path | None, checkpoint: GeneratorCheckpoint) -> None:
    """Refuse a slide of another species, or embeddings of another model than the generator learned from."""
    scope, species = checkpoint.scope, open_slide(zarr).species
    if species != scope.species:
        raise SpatiaError(
            f"slide {slide} is of species {species}, the generator {checkpoint.path} of {scope.species}: a generator "
            "is of one species; use another one"
        )
    if not scope.context_arrays:
        return
    if embeddings is None:
        raise SpatiaError(f"slide {slide}: the generator {checkpoint.path} needs --embeddings for its context")
    found = embedded_by(embeddings)
    if found != scope.embedded_by:
        differing = [key for key in {**found, **scope.embedded_by} if found.get(key) != scope.embedded_by.get(key)]
        raise SpatiaError(
            f"{embeddings}: expected embeddings of the model that embedded the generator's training slides, found "
            f"another's (different: {', '.join(differing)}); embed slide {slide} with that model, or train flow again"
        )


def check_scale(reader: Reader, checkpoint: GeneratorCheckpoint) -> None:
    """Refuse crops of another width: sizes would not compare."""
    if not np.isclose(reader.window_um, checkpoint.scope.window_um):
        raise SpatiaError(
            f"slide {reader.name}: expected images of {checkpoint.scope.window_um:g} um as the generator was trained "
            f"with, found {reader.window_um:g} um; crop and tile with those parameters"
        )


def make_requests(states: pd.DataFrame, checkpoint: GeneratorCheckpoint, params: GenerateParams) -> list[Request]:
    """Return what is generated: the controls of every transition, by every method asked for."""
    methods = (SPATIA, UNCONDITIONAL) if params.unconditional else (SPATIA,)
    requests = []
    for number, transition in enumerate(checkpoint.scope.transitions):
        controls = control_ids(states[transition.controls(states)])
        chosen = choose_cells(controls, params.max_cells, transition.tag, params.seed)
        requests += [Request(number, transition.tag, method, chosen) for method in methods]
    return requests


def control_ids(controls: pd.DataFrame) -> list[str]:
    """Return the controls that are generated: those in the test block where there is one, else all not left out.

    Only the controls themselves decide; ``split`` is "" for cells near an edge shared with another split.
    """
    if SPLIT in controls:
        is_test = controls[SPLIT] == "test"
        controls = controls[is_test] if is_test.any() else controls[controls[SPLIT] != ""]
    return controls[keys.CELL_ID].astype(str).tolist()


def sampler_of(params: GenerateParams, checkpoint: GeneratorCheckpoint) -> Sampler:
    """Return how paths are followed; the noise is what the generator was trained with."""
    noise = float(checkpoint.record["params"]["start_noise"])
    return Sampler(params.solver, params.steps, params.guidance, noise, params.seed)


def cell_table(requests: Sequence[Request]) -> pd.DataFrame:
    """Return ``cells.parquet``: what each image is."""
    rows = [(cell_id, r.tag, r.method) for r in requests for cell_id in r.cell_ids]
    table = pd.DataFrame(rows, columns=[keys.CELL_ID, "transition_tag", "method"]).astype(str)
    table.insert(0, "row", np.arange(len(table)))
    return table


def open_images(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array on disk to be filled; an empty one cannot be mapped, and is written at once."""
    if shape[0]:
        return np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    empty = np.zeros(shape, np.uint8)
    np.save(path, empty)
    return empty


def write_trajectories(path: Path, traced: Trajectories | None) -> None:
    """Write images along the way of some cells; no file where there is no control."""
    if traced is not None:
        write_arrays(path, cell_id=traced.cell_ids, transition_tag=traced.tags, t=traced.times, images=traced.images)


def describe(
    args: argparse.Namespace,
    params: GenerateParams,
    checkpoint: GeneratorCheckpoint,
    reader: Reader,
    requests: Sequence[Request],
) -> dict[str, Any]:
    """Return ``generate.json``."""
    record = checkpoint.record
    return {
        "format": FORMAT,
        "spatia_version": spatia.__version__,
        "slide": args.slide,
        "stains": list(checkpoint.scope.stains),
        "target": checkpoint.scope.target,
        "image_px": checkpoint.model.shape.image_px,
        "pixel_size_um": reader.pixel_size_um,
        "sampler": {"solver": params.solver, "steps": params.steps, "guidance": params.guidance},
        "n_calls": count_calls(params.solver, params.steps, params.guidance),
        "seed": params.seed,
        "n_images": {tag: sum(len(r.cell_ids) for r in requests if r.tag == tag) for tag in checkpoint.scope.tags},
        "methods": list(dict.fromkeys(r.method for r in requests)),
        "params": dataclasses.asdict(params),
        "checkpoint": {
            "path": str(checkpoint.path), "preset": record["preset"], "slides": record["slides"],
            "seed": record["seed"], "context": record["context"],
        },
    }  # fmt: skip
