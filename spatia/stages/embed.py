"""A model and a slide -> embeddings of its cells, niches and tissues (apply mode: nothing is trained)."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import spatia
from spatia.config import EmbedParams, load_params
from spatia.errors import SpatiaError
from spatia.io import checksum, read_table, whole_dir, write_arrays, write_json, write_table
from spatia.learn.checkpoint import TENSORS, Checkpoint, read_checkpoint
from spatia.learn.compiling import compile_parts
from spatia.learn.dataset import CellDataset
from spatia.learn.devices import Machine, choose_machine
from spatia.learn.embedding import VARIANTS, Variant, embed_cells, open_for_embedding, reconstruct_cells
from spatia.learn.slides import SlideFiles
from spatia.measure.clusters import cluster_cells
from spatia.progress import progress
from spatia.xenium.store import open_slide

FORMAT = 1
SHOWN = 4  # names in a message

log = logging.getLogger("spatia.embed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia embed``."""
    parser.add_argument("--slide", required=True, metavar="NAME")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="what pretrain wrote")
    parser.add_argument("--zarr", type=Path, required=True, metavar="SLIDE.ZARR")
    parser.add_argument("--crops", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tiles", type=Path, required=True, metavar="DIR")
    parser.add_argument("--params", type=Path, required=True, metavar="YAML", help="as config/stages/embed.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of embeddings to write")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; default: all there are")


def run(args: argparse.Namespace) -> None:
    """Embed every kept cell of a slide; write arrays and tables whole."""
    params = load_params(args.params, EmbedParams)
    machine = choose_machine(params.device, params.precision, params.allow_cpu, threads=args.threads)
    checkpoint = read_checkpoint(args.checkpoint)
    files = SlideFiles(args.slide, args.crops, args.tiles, args.zarr)
    overlap = check_fit(checkpoint, files, params)
    model = checkpoint.model.to(machine.device)
    if params.compile:
        compile_parts(model)
    known = checkpoint.vocabulary
    cells = open_for_embedding(files, model, known.stains, known.genes, params.cells_per_batch)
    check_geometry(checkpoint, cells)
    with whole_dir(args.out) as folder:
        write_embeddings(folder, checkpoint, cells, machine, VARIANTS if params.variants else VARIANTS[:1])
        write_places(folder, args.tiles, params)
        write_reconstructions(folder, checkpoint, cells, machine, params)
        write_json(folder / "embed.json", describe(args.slide, checkpoint, cells, overlap, params))
    log.info("%s: %d cells, %d of %d genes shared", args.slide, cells.n_cells, len(overlap.genes), overlap.n_panel)


@dataclass(frozen=True)
class Overlap:
    """What a slide and a model have in common."""

    genes: tuple[str, ...]
    n_panel: int
    stains: tuple[str, ...]
    missing_stains: tuple[str, ...]  # the model has them, the slide has not
    ignored_stains: tuple[str, ...]  # the other way round


def check_fit(checkpoint: Checkpoint, files: SlideFiles, params: EmbedParams) -> Overlap:
    """Return what slide and model share.

    Raises
    ------
    SpatiaError
        If species differ, or too few genes or stains are shared.
    """
    known = checkpoint.vocabulary
    assert files.image is not None
    store = open_slide(files.image)
    if store.species != known.species:
        raise SpatiaError(
            f"slide {files.name} is of species {store.species}, the model {checkpoint.path} of {known.species}: "
            "a model is of one species; use another model, or split qc for this slide"
        )
    panel = set(read_table(files.tiles / "genes.parquet")["gene"].astype(str))
    crops = json.loads((files.crops / "crops.json").read_text(encoding="utf-8"))
    found = Overlap(
        genes=tuple(gene for gene in known.genes if gene in panel),
        n_panel=len(panel),
        stains=tuple(stain for stain in known.stains if stain in crops["stains"]),
        missing_stains=tuple(stain for stain in known.stains if stain not in crops["stains"]),
        ignored_stains=tuple(stain for stain in crops["stains"] if stain not in known.stains),
    )
    _insist_on_share(files.name, checkpoint, "genes", len(found.genes), known.genes, params.min_shared_genes,
                     [gene for gene in known.genes if gene not in panel])  # fmt: skip
    _insist_on_share(files.name, checkpoint, "stains", len(found.stains), known.stains, params.min_shared_stains,
                     list(found.missing_stains))  # fmt: skip
    return found


def _insist_on_share(
    slide: str, checkpoint: Checkpoint, what: str, n_shared: int, known: tuple[str, ...], least: float,
    missing: list[str],
) -> None:  # fmt: skip
    if n_shared and n_shared >= least * len(known):
        return
    shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
    asked = f"fewer than min_shared_{what} = {least:g} asks for" if n_shared else "expected at least one"
    raise SpatiaError(
        f"slide {slide} has {n_shared} of the {len(known)} {what} of the model {checkpoint.path}, {asked} "
        f"(missing: {shown}); use a model of this panel, or train one{', or lower it' if n_shared else ''}"
    )


def check_geometry(checkpoint: Checkpoint, cells: CellDataset) -> None:
    """Refuse crops and tiles of other sizes than the model's."""
    known, slide = checkpoint.vocabulary, cells.slides[0]
    for name, found in (
        ("window_px", cells.window_px),
        ("niche_px", slide.niche_px),
        ("niches_per_tissue", slide.niches_per_tissue),
        ("pixel_size_um", float(slide.crops.header["pixel_size_um"])),
    ):
        if found != getattr(known, name):
            raise SpatiaError(
                f"slide {slide.files.name}: expected {name} {getattr(known, name)} as the model {checkpoint.path} "
                f"was trained with, found {found}; crop and tile with those parameters"
            )


class RowWriter:
    """Arrays on disk whose rows come in any order; memory holds one batch.

    Parameters
    ----------
    folder, n_rows, width
        Where files ``<name>.npy`` (n_rows, width) float32 go.
    """

    def __init__(self, folder: Path, n_rows: Mapping[str, int], width: int) -> None:
        self.folder = folder
        for name, n in n_rows.items():
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (n, width)).flush()

    def write(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Write some rows; the map is closed again, so that its pages do not stay."""
        target = np.load(self.folder / f"{name}.npy", mmap_mode="r+")
        target[rows] = values
        target.flush()


def write_embeddings(
    folder: Path, checkpoint: Checkpoint, cells: CellDataset, machine: Machine, variants: tuple[Variant, ...]
) -> None:
    """Write ``z_cell``, ``z`` and their one-modality variants per cell, ``z_niche`` and ``z_tissue`` per niche."""
    slide, model = cells.slides[0], checkpoint.model
    n_cells, n_niches = len(slide.cell_ids), len(slide.niches)
    n_rows = {name: n_cells for variant in variants for name in _cell_names(variant)}
    if model.niche is not None:
        n_rows["z_niche"] = n_niches
    if model.tissue is not None:
        n_rows["z_tissue"] = n_niches
    writer = RowWriter(folder, n_rows, model.shape.embedding)
    n_batches = len(cells.plan(0))
    batches: Iterator[dict[Variant, Any]] = embed_cells(model, cells, machine, variants)
    for batch in progress(batches, f"embed {slide.files.name}", total=n_batches, unit="batch"):
        for variant, found in batch.items():
            for name, values in zip(_cell_names(variant), (found.z_cell, found.z), strict=True):
                writer.write(name, found.cell_row.numpy(), values.numpy())
        whole = batch["fused"]
        for name, values in (("z_niche", whole.z_niche), ("z_tissue", whole.z_tissue)):
            if values is not None:
                writer.write(name, whole.niche_row.numpy(), values.numpy())


def _cell_names(variant: Variant) -> tuple[str, str]:
    ending = "" if variant == "fused" else f"_{variant}"
    return f"z_cell{ending}", f"z{ending}"


def write_places(folder: Path, tiles: Path, params: EmbedParams) -> None:
    """Write the tables that say what each row is; cells with the cluster of their ``z``."""
    cells = read_table(tiles / "cells.parquet")
    z = np.load(folder / "z.npy", mmap_mode="r")
    cells["cluster"] = cluster_cells(
        z,
        resolution=params.cluster_resolution,
        n_neighbors=params.cluster_neighbours,
        most=params.cluster_cells,
        generator=np.random.default_rng(params.seed),
    ).astype(np.int32)
    write_table(folder / "cells.parquet", cells)
    for name in ("niches", "tissues"):
        write_table(folder / f"{name}.parquet", read_table(tiles / f"{name}.parquet"))


def write_reconstructions(
    folder: Path, checkpoint: Checkpoint, cells: CellDataset, machine: Machine, params: EmbedParams
) -> None:
    """Write a few cells with hidden patches filled, for the report."""
    mask_ratio = float(checkpoint.record.get("params", {}).get("mask", {}).get("mask_ratio", 0.75))
    found = reconstruct_cells(checkpoint.model, cells, machine, params.n_reconstructions, mask_ratio, params.seed)
    write_arrays(
        folder / "reconstructions.npz",
        cell_id=cells.slides[0].cell_ids[found.cell_row.numpy()],
        original=found.original.numpy(),
        masked=found.masked.numpy(),
        reconstructed=found.reconstructed.numpy(),
        stains=np.asarray(checkpoint.vocabulary.stains),
    )


def describe(
    slide: str, checkpoint: Checkpoint, cells: CellDataset, overlap: Overlap, params: EmbedParams
) -> dict[str, Any]:
    """Return ``embed.json``."""
    record, vocabulary = checkpoint.record, checkpoint.vocabulary
    return {
        "format": FORMAT,
        "slide": slide,
        "spatia_version": spatia.__version__,
        "width": checkpoint.model.shape.embedding,
        "levels": checkpoint.model.shape.levels,
        "variants": list(VARIANTS if params.variants else VARIANTS[:1]),
        "n_cells": cells.n_cells,
        "n_niches": len(cells.slides[0].niches),
        "n_tissues": len(cells.slides[0].tissues),
        "shared_genes": len(overlap.genes),
        "panel_genes": overlap.n_panel,
        "model_genes": len(vocabulary.genes),
        "shared_stains": list(overlap.stains),
        "missing_stains": list(overlap.missing_stains),
        "ignored_stains": list(overlap.ignored_stains),
        "applied": slide not in record.get("slides", []),
        "checkpoint": {
            "path": str(checkpoint.path),
            "preset": record.get("preset"),
            "slides": record.get("slides", []),
            "starting_weights": record.get("starting_weights", {}),
            "seed": record.get("seed"),
            "weights": checksum(checkpoint.path / TENSORS),
        },
    }
