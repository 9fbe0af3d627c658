"""Pairs, signatures, crops and embeddings of the training slides -> a generator (checkpoint, history).

Interrupted, it goes on from the state in ``--work`` and ends with the same weights. Under torchrun, processes share
the steps (:mod:`spatia.learn.parallel`).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from spatia.config import load_params
from spatia.errors import SpatiaError
from spatia.generator_params import FlowParams
from spatia.io import write_table
from spatia.learn.calibration import calibrate_looks
from spatia.learn.compiling import compile_parts
from spatia.learn.devices import Machine, choose_machine
from spatia.learn.events import history_table, tensorboard_writer
from spatia.learn.generator_checkpoint import Scope, make_generator, write_generator
from spatia.learn.generator_objective import Objective
from spatia.learn.generator_parts import fit_scales, make_parts, reconstruction_distance
from spatia.learn.generator_source import FlowSlide, PairData, read_pair_data
from spatia.learn.generator_training import FlowRecipe, GeneratorTrainer
from spatia.learn.parallel import Group, join_group, leave_group

NOT_IN_FINGERPRINT = ("save_every_s", "device", "allow_cpu")

log = logging.getLogger("spatia.flow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia flow``."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--train", nargs="+", required=True, metavar="SLIDE", help="slides to learn from")
    parser.add_argument("--val", nargs="*", default=[], metavar="SLIDE", help="slides whose loss is watched")
    parser.add_argument(
        "--pairs", type=Path, nargs="*", default=[], metavar="DIR",
        help="pairs of the training slides, one each; default: the run's",
    )  # fmt: skip
    parser.add_argument("--transitions", type=Path, required=True, metavar="YAML", help="as config/transitions.yaml")
    parser.add_argument("--signatures", type=Path, required=True, metavar="DIR", help="what pair wrote")
    parser.add_argument("--params", type=Path, required=True, metavar="YAML", help="as config/stages/flow.yaml")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="DIR", help="folder of the generator to write"
    )
    parser.add_argument("--history", type=Path, required=True, metavar="TSV", help="losses")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="state of the running training")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="folder of TensorBoard events")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; default: all there are")


def run(args: argparse.Namespace) -> None:
    """Train a generator and write it; without any pair, write one that knows no transition, so that a run ends."""
    params = load_params(args.params, FlowParams)
    group = join_group(params.device)
    machine = choose_machine(params.device, params.precision, params.allow_cpu, group.local_rank, args.threads)
    train = with_pairs([FlowSlide.of_run(args.run, name) for name in args.train], args.pairs)
    val = [FlowSlide.of_run(args.run, name) for name in args.val]
    data = read_pair_data(train, val, args.transitions, args.signatures, params)
    torch.manual_seed(params.seed)
    model = make_generator(params.shape(), data.scope)
    if len(data.train):
        fit_scales(model, data, params.gain_jitter)
    if not data.scope.transitions:
        write_table(args.history, history_table([]))
        write_generator(
            args.checkpoint, model.state_dict(), params.shape(), data.scope, describe(args, params, data, machine)
        )
        return
    model.to(machine.device)
    if params.compile:
        compile_parts(model)
    objective = objective_of(params)
    trainer = GeneratorTrainer(
        model,
        make_parts(model, data, objective, params, machine, group),
        recipe_of(params),
        machine,
        group,
        fingerprint(params, data, group),
        args.work,
        tensorboard_writer(args.tensorboard if group.is_first else None),
    )
    rows = trainer.run()
    if group.is_first:
        model.load_state_dict(trainer.average)
        calibrate_looks(model, data.train, data.scope.tags, machine)
        write_table(args.history, history_table(rows))
        about = describe(args, params, data, machine) | {"vae_distance": reconstruction_distance(model, data, machine)}
        write_generator(args.checkpoint, model.state_dict(), params.shape(), data.scope, about)
        shutil.rmtree(args.work, ignore_errors=True)
        log.info("%s: %d pairs, %d steps", args.checkpoint, len(data.train), trainer.progress.total_steps)
    leave_group(group)


def with_pairs(slides: list[FlowSlide], folders: list[Path]) -> list[FlowSlide]:
    """Return the slides with other pairs than their run's, if there are any.

    Raises
    ------
    SpatiaError
        If there are more or fewer folders than slides.
    """
    if not folders:
        return slides
    if len(folders) != len(slides):
        raise SpatiaError(
            f"flow: expected pairs of {len(slides)} training slides, found {len(folders)} folders; give one each"
        )
    return [dataclasses.replace(slide, pairs=folder) for slide, folder in zip(slides, folders, strict=True)]


def objective_of(params: FlowParams) -> Objective:
    """Return how the loss is made up."""
    return Objective(**{field.name: getattr(params, field.name) for field in dataclasses.fields(Objective)})


def recipe_of(params: FlowParams) -> FlowRecipe:
    """Return how steps are taken."""
    return FlowRecipe(**{field.name: getattr(params, field.name) for field in dataclasses.fields(FlowRecipe)})


def fingerprint(params: FlowParams, data: PairData, group: Group) -> str:
    """Return text that is the same exactly when an interrupted training may be continued."""
    settings = dataclasses.asdict(params)
    for name in NOT_IN_FINGERPRINT:
        del settings[name]
    scope: Scope = data.scope
    digest = hashlib.sha256(json.dumps([settings, scope.stains, scope.tags, scope.genes, group.size]).encode())
    for array in (
        scope.signatures,
        data.train.start,
        data.train.end,
        data.train.turned,
        data.train.transition,
        data.train.weight,
    ):
        digest.update(array.tobytes())
    for tensor in (data.train.canvas, data.train.context):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def describe(args: argparse.Namespace, params: FlowParams, data: PairData, machine: Machine) -> dict[str, Any]:
    """Return what ``generator.json`` says beside shape and scope."""
    counts = {tag: int((data.train.transition == number).sum()) for number, tag in enumerate(data.scope.tags)}
    return {
        "preset": params.preset,
        "slides": list(args.train),
        "n_pairs": counts,
        "n_cells": data.train.n_cells,
        "device": machine.device.type,
        "seed": params.seed,
        "params": dataclasses.asdict(params),
    }
