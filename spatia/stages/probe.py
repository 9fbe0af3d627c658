"""A model + two regions of one tissue -> tidy rows: what its frozen embeddings tell from one region about the other."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import spatia
from spatia.bench.probing import FEATURES, Pair, Row, compare_clusters, impute, probe_genes, probe_image
from spatia.bench.regions import Region, load_region, make_tasks, split_regions
from spatia.errors import SpatiaError
from spatia.io import write_table
from spatia.learn.checkpoint import Checkpoint, read_checkpoint
from spatia.learn.devices import Machine, choose_machine
from spatia.learn.embedding import VARIANTS, Variant, embed_slide, open_for_embedding
from spatia.learn.slides import SlideFiles
from spatia.measure.imputation import hidden_genes
from spatia.progress import progress

BATCH_CELLS = 512
SIDES = ("left", "right", "top", "bottom")
JUDGED = ("z", "z_cell")
IMPUTERS: dict[str, str] = {
    "z": "z_fused",
    "z_cell": "z_cell_fused",
    "z, genes only": "z_genes",
    "z_cell, genes only": "z_cell_genes",
    "z, image only": "z_image",
}
GENE_ARRAYS = {"z, genes only": "z_genes", "z_cell, genes only": "z_cell_genes"}
IMAGE_ARRAYS = {"z, image only": "z_image", "z_cell, image only": "z_cell_image"}

log = logging.getLogger("spatia.probe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia probe``."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run with crops and tiles of both")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="the model")
    parser.add_argument("--name", required=True, help="what the model is called in the table")
    parser.add_argument("--train", required=True, metavar="SLIDE")
    parser.add_argument("--test", required=True, metavar="SLIDE")
    parser.add_argument("--labels", nargs=2, type=Path, metavar="CSV", default=(None, None), help="of train and test")
    parser.add_argument("--edge", nargs=2, choices=SIDES, required=True, help="the shared edge, of train and of test")
    parser.add_argument("--buffer-px", type=float, default=1024, help="cells closer to the edge are left out")
    parser.add_argument("--draws", type=int, default=5, help="sets of hidden genes; 0 leaves imputation out")
    parser.add_argument("--hidden-share", type=float, default=0.2, help="of the genes, in each draw")
    parser.add_argument("--out", type=Path, required=True, metavar="TSV", help="table of scores to write")
    parser.add_argument("--threads", type=int, default=0, metavar="N")


def run(args: argparse.Namespace) -> None:
    """Embed both regions, probe, write rows."""
    machine = choose_machine("auto", "auto", allow_cpu=True, threads=args.threads)
    checkpoint = read_checkpoint(args.checkpoint)
    regions = [load_region(args.run, s, p) for s, p in zip((args.train, args.test), args.labels, strict=True)]
    pair = make_pair(regions[0], regions[1], tuple(args.edge), args.buffer_px)
    embedder = Embedder(checkpoint, machine, args.run, pair)
    whole = embedder(VARIANTS)
    rows = list(region_rows(whole, pair, tuple(args.edge), args.buffer_px))
    if args.draws:
        rows += imputation_rows(embedder, whole, pair, args.draws, args.hidden_share)
    record = checkpoint.record
    origins = [f"{part}: {origin}" for part, origin in record["starting_weights"].items() if origin]
    table = pd.DataFrame(rows).assign(
        dataset=pair.name,
        model=args.name,
        seed=record["seed"],
        note="; ".join(origins) or "from scratch",
        version=spatia.__version__,
    )
    write_table(args.out, table)
    log.info("%s: %d rows", args.out, len(table))


class Embedder:
    """Embeds both regions of a pair with one model.

    Parameters
    ----------
    checkpoint, machine, run, pair
        The model, where it runs, the run that has the crops, the regions.
    """

    def __init__(self, checkpoint: Checkpoint, machine: Machine, run_folder: Path, pair: Pair) -> None:
        self.model, self.machine = checkpoint.model.to(machine.device), machine
        self.genes = checkpoint.vocabulary.genes
        if not np.array_equal(pair.train.genes, pair.test.genes):
            raise SpatiaError(f"{pair.name}: expected one panel, found two; probe regions of one slide")
        known = checkpoint.vocabulary
        self.slides = [
            open_for_embedding(
                SlideFiles.of_run(run_folder, region.slide), self.model, known.stains, known.genes, BATCH_CELLS
            )
            for region in (pair.train, pair.test)
        ]

    def __call__(self, variants: tuple[Variant, ...], hidden: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return embeddings of both regions in one line; ``hidden`` (panel,) as in the regions' genes."""
        mask = None if hidden is None else torch.from_numpy(np.isin(self.genes, hidden))
        parts = [embed_slide(self.model, cells, self.machine, variants, mask) for cells in self.slides]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def make_pair(train: Region, test: Region, edges: tuple[str, str], buffer_px: float) -> Pair:
    """Return both regions in one line."""
    split = split_regions(train, test, edges, buffer_px)
    tissue = np.concatenate([train.tissue, test.tissue + train.tissue.max() + 1])
    return Pair(train, test, tissue, split.test)


def region_rows(whole: dict[str, np.ndarray], pair: Pair, edges: tuple[str, str], buffer_px: float) -> Iterator[Row]:
    """Yield the rows for which no gene is hidden: image -> clusters and genes, genes -> image, clusters."""
    classes, values = make_tasks(pair.train, pair.test, edges, buffer_px)[:2]
    yield from probe_image(pair, (classes, values), {name: whole[array] for name, array in IMAGE_ARRAYS.items()})
    targets = {
        FEATURES: np.concatenate([pair.train.features, pair.test.features]),
        "image embedding": whole["z_cell_image"],
    }
    yield from probe_genes(pair, values, targets, {name: whole[array] for name, array in GENE_ARRAYS.items()})
    yield from compare_clusters(pair, classes, {name: whole[array] for name, array in IMPUTERS.items()})


def imputation_rows(embed: Embedder, whole: dict[str, np.ndarray], pair: Pair, draws: int, share: float) -> list[Row]:
    """Return the rows of imputation; ``whole`` has the embeddings of images, which no hidden gene changes."""
    hidden = [hidden_genes(len(pair.train.genes), share, np.random.default_rng(draw)) for draw in range(draws)]
    arrays = []
    for is_hidden in progress(hidden, "imputation", unit="draw"):
        found = {**whole, **embed(("fused", "genes"), pair.train.genes[is_hidden])}
        arrays.append({name: found[array] for name, array in IMPUTERS.items()})
    return list(impute(pair, hidden, arrays, JUDGED))
