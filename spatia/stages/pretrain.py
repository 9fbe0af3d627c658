"""Crops, tiles and counts of the training slides -> a model (checkpoint, history).

Interrupted, it goes on from the state in ``--work`` and ends with the same weights. Under torchrun, processes share
the batches (:mod:`spatia.learn.parallel`).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from spatia.config import PretrainParams, load_params
from spatia.errors import SpatiaError
from spatia.io import read_table, write_table
from spatia.learn.checkpoint import FORMAT, Vocabulary, write_checkpoint
from spatia.learn.compiling import compile_parts
from spatia.learn.dataset import CellDataset, LoadParams
from spatia.learn.devices import choose_machine
from spatia.learn.events import history_table, tensorboard_writer
from spatia.learn.objective import Objective, cell_losses, joint_losses, tile_losses
from spatia.learn.parallel import Group, join_group, leave_group
from spatia.learn.phases import Phase, Recipe
from spatia.learn.settings import MaskParams
from spatia.learn.slides import SlideFiles
from spatia.learn.species import species_of
from spatia.learn.starting import start_genes, start_images
from spatia.learn.statistics import fit_statistics
from spatia.learn.training import Trainer
from spatia.learn.views import ViewDataset
from spatia.model.hierarchy import Spatia
from spatia.model.shape import ModelShape

log = logging.getLogger("spatia.pretrain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia pretrain``."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--train", nargs="+", required=True, metavar="SLIDE", help="slides to learn from")
    parser.add_argument("--val", nargs="*", default=[], metavar="SLIDE", help="slides whose loss is watched")
    parser.add_argument("--params", type=Path, required=True, metavar="YAML", help="as config/stages/pretrain.yaml")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="folder of the model to write")
    parser.add_argument("--history", type=Path, required=True, metavar="TSV", help="losses of every epoch")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="state of the running training")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="folder of TensorBoard events")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; default: all there are")


def run(args: argparse.Namespace) -> None:
    """Train a model and write it."""
    params = load_params(args.params, PretrainParams)
    group = join_group(params.device)
    machine = choose_machine(params.device, params.precision, params.allow_cpu, group.local_rank, args.threads)
    train = [SlideFiles.of_run(args.run, name) for name in args.train]
    val = [SlideFiles.of_run(args.run, name) for name in args.val]
    species = species_of([*train, *val], "pretrain")
    torch.manual_seed(params.seed)
    data = TrainingData(train, val, params)
    vocabulary = data.vocabulary(species)
    model = Spatia(params.shape(), len(vocabulary.stains), len(vocabulary.genes))
    fit_statistics(model, data.cells)
    origins = start_from_public_weights(model, params, vocabulary)
    model.to(machine.device)
    if params.compile:
        compile_parts(model)
    trainer = Trainer(
        model,
        data.phases(model),
        recipe_of(params),
        machine,
        group,
        fingerprint(params, data, group, model),
        args.work,
        tensorboard_writer(args.tensorboard if group.is_first else None),
    )
    rows = trainer.run()
    if group.is_first:
        about = {
            "preset": params.preset,
            "slides": list(args.train),
            "n_cells": data.cells.n_cells,
            "starting_weights": origins,
            "seed": params.seed,
            "params": dataclasses.asdict(params),
        }
        write_table(args.history, history_table(rows))
        write_checkpoint(args.checkpoint, model, vocabulary, about)
        shutil.rmtree(args.work, ignore_errors=True)
        log.info("%s: %d cells, %d steps", args.checkpoint, data.cells.n_cells, trainer.progress.total_steps)
    leave_group(group)


class TrainingData:
    """The datasets of all phases over the same slides.

    Parameters
    ----------
    train, val
        Slides; ``val`` may be empty.
    params
        How they are batched and masked.
    """

    def __init__(self, train: Sequence[SlideFiles], val: Sequence[SlideFiles], params: PretrainParams) -> None:
        self.params, self.train = params, train
        load = self._load(params.cells_per_batch, tiles=False)
        self.cells = CellDataset(train, load)
        self.val = CellDataset(val, load, self.cells.stains, self.cells.genes) if val else None
        check_sizes(params.shape(), self.cells)

    def _load(self, cells_per_batch: int, tiles: bool, shuffle: bool = True) -> LoadParams:
        return LoadParams(
            cells_per_batch,
            whole="tissue" if tiles else "niche",
            tiles=tiles,
            tissue_level=self.params.shape().tissue_level,
            patch_px=self.params.shape().patch_px,
            window_tissues=self.params.window_tissues,
            shuffle=shuffle,
            seed=self.params.seed,
            around=tiles,
        )

    def vocabulary(self, species: str) -> Vocabulary:
        """Return what a model of these slides knows."""
        first = self.cells.slides[0]
        ids = {}
        for files in self.train:
            genes = read_table(files.tiles / "genes.parquet")
            ids.update(dict(zip(genes["gene"].astype(str), genes["gene_id"].astype(str), strict=True)))
        return Vocabulary(
            stains=self.cells.stains,
            genes=self.cells.genes,
            gene_ids=tuple(ids[gene] for gene in self.cells.genes),
            species=species,
            window_px=self.cells.window_px,
            niche_px=first.niche_px,
            niches_per_tissue=first.niches_per_tissue,
            pixel_size_um=float(first.crops.header["pixel_size_um"]),
        )

    def phases(self, model: Spatia) -> list[Phase]:
        """Return the phases of training ``model`` (App. C): each level on its own, then all together."""
        params = self.params
        above = [level for level in (model.niche, model.tissue) if level is not None]
        found = [self._phase("cell", params.cell_epochs, cell_losses, (model.cell, model.profile), model, tiles=False)]
        if above:
            alone = dataclasses.replace(params.mask, full_share=0.0, drop_image=0.0, drop_genes=0.0)
            parts = [part for level in above for part in (level.image, level.image_decoder)]
            found.append(
                self._phase("tile", params.tile_epochs, tile_losses, tuple(parts), model, tiles=True, mask=alone)
            )
        joint = self._phase("joint", params.joint_epochs, joint_losses, (model,), model, tiles=bool(above))
        return [phase for phase in (*found, joint) if phase.epochs]

    def _phase(
        self,
        name: str,
        epochs: int,
        objective: Objective,
        parts: tuple[torch.nn.Module, ...],
        model: Spatia,
        tiles: bool,
        mask: MaskParams | None = None,
    ) -> Phase:
        params = self.params
        size = params.joint_cells_per_batch if tiles else params.cells_per_batch
        number = ("cell", "tile", "joint").index(name)

        def views(cells: CellDataset, shuffle: bool) -> ViewDataset:
            dataset = cells.loaded_as(self._load(size, tiles, shuffle))
            return ViewDataset(
                dataset, model.normaliser(), model.shape, mask or params.mask, (params.seed, number, int(shuffle))
            )

        return Phase(
            name, epochs, objective, views(self.cells, True), views(self.val, False) if self.val else None, parts
        )


def check_sizes(shape: ModelShape, cells: CellDataset) -> None:
    """Refuse a model whose patches do not fill crops and tiles, before anything is trained."""
    slide = cells.slides[0]
    tissue_px, shrink = slide.niche_px * slide.niches_per_tissue, 2**shape.tissue_level
    sizes = [("crops", cells.window_px, "patch_px", shape.patch_px)]
    if shape.levels != "cell":
        sizes.append(
            ("niche tiles", slide.niche_px, "niche_shrink * tile_patch_px", shape.niche_shrink * shape.tile_patch_px)
        )
    if shape.levels == "tissue":
        sizes.append(("tissue tiles", tissue_px, "2^tissue_level * tile_patch_px", shrink * shape.tile_patch_px))
    for what, side, name, step in sizes:
        if side % step:
            raise SpatiaError(
                f"pretrain: {what} are {side} px wide, expected a multiple of {name} = {step}; change `model` in "
                f"pretrain.yaml, or the sizes in crop.yaml and tile.yaml"
            )


def recipe_of(params: PretrainParams) -> Recipe:
    """Return how steps are taken."""
    return Recipe(
        learning_rate=params.learning_rate,
        warmup_steps=params.warmup_steps,
        weight_decay=params.weight_decay,
        clip_norm=params.clip_norm,
        accumulate=params.accumulate,
        weights=params.loss,
        seed=params.seed,
        workers=params.workers,
        save_every_s=params.save_every_s,
    )


def start_from_public_weights(model: Spatia, params: PretrainParams, vocabulary: Vocabulary) -> dict[str, str]:
    """Load what the parameters name; return where each part comes from, empty = from scratch."""
    origins = {"image": "", "genes": ""}
    if params.image_weights:
        origins["image"] = start_images(model, params.image_weights)
    if params.gene_weights:
        origins["genes"] = start_genes(model, params.gene_weights, vocabulary.genes, vocabulary.gene_ids)
    for part, origin in origins.items():
        log.info("starting weights, %s: %s", part, origin or "none, from scratch")
    return origins


def fingerprint(params: PretrainParams, data: TrainingData, group: Group, model: Spatia) -> str:
    """Return text that is the same exactly when an interrupted training may be continued.

    ``model`` as it is before the first step: its statistics of the training cells change with their pixels.
    """
    settings = dataclasses.asdict(params)
    for name in ("workers", "save_every_s", "device", "allow_cpu"):
        del settings[name]
    watched = [files.name for files in data.val.files] if data.val else []
    known = [FORMAT, data.cells.stains, data.cells.genes, watched, group.size]
    digest = hashlib.sha256(json.dumps([settings, data.cells.fingerprint(), *known]).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
    for buffer in model.buffers():
        digest.update(buffer.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
