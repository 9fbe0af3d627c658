"""Two regions of one tissue: clusters and genes of one, told from the cells of the other.

The classes and genes are those of the train region's kept cells; cells near the edge that the regions share are left
out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from spatia import keys
from spatia.cells.crops import open_crops
from spatia.errors import SpatiaError
from spatia.io import read_json, read_sparse, read_table
from spatia.learn.slides import SlideFiles
from spatia.measure.bootstrap import Score, resampled_balanced_accuracy, resampled_pearson
from spatia.measure.imputation import log_counts
from spatia.measure.references import mask_features
from spatia.measure.splits import Split, distance_to_edge, split_by_region

Kind = Literal["classes", "values"]
SCORES: dict[Kind, Score] = {"classes": resampled_balanced_accuracy, "values": resampled_pearson}


@dataclass(frozen=True)
class Region:
    """The kept cells of one slide, in the order of its crops."""

    slide: str
    cell_ids: np.ndarray  # (n,) of str
    labels: np.ndarray  # (n,) of str, "" unknown
    counts: sparse.csr_matrix  # (n, genes)
    genes: np.ndarray  # (genes,) of str
    position_px: np.ndarray  # (n, 2) x, y
    niche: np.ndarray  # (n,) row of the slide's niche table
    tissue: np.ndarray  # (n,)
    shape_px: tuple[int, int]
    features: np.ndarray  # (n, 13) for four stains


def load_region(run: Path | str, slide: str, labels: Path | str | None = None) -> Region:
    """Read one slide of a finished run.

    ``labels`` is a CSV whose first column is the cell id and whose second is the label. Default: the labels that the
    run exported for Xenium Explorer, so those of its slides.tsv.
    """
    files = SlideFiles.of_run(run, slide)
    crops = open_crops(files.crops)
    cells, header = read_table(files.tiles / "cells.parquet"), read_json(files.tiles / "tiles.json")
    cell_ids = cells[keys.CELL_ID].to_numpy(np.str_)
    return Region(
        slide=slide,
        cell_ids=cell_ids,
        labels=read_labels(find_labels(run, slide) if labels is None else Path(labels), cell_ids),
        counts=read_sparse(files.tiles / "cell_counts.npz"),
        genes=read_table(files.tiles / "genes.parquet")["gene"].to_numpy(np.str_),
        position_px=cells[[keys.X_UM, keys.Y_UM]].to_numpy() / header["pixel_size_um"],
        niche=cells[keys.NICHE].to_numpy(np.int64),
        tissue=cells[keys.TISSUE].to_numpy(np.int64),
        shape_px=(header["height_px"], header["width_px"]),
        features=mask_features(crops.pixels(row) for row in range(len(crops))),
    )


def find_labels(run: Path | str, slide: str) -> Path:
    """Return the one label file that the run exported for a slide."""
    folder = Path(run) / "results" / "export" / slide / "explorer"
    found = sorted(folder.glob("label_*.csv"))
    if len(found) != 1:
        raise SpatiaError(f"{folder}: expected one label_*.csv, found {len(found)}; name a file with --labels")
    return found[0]


def read_labels(path: Path, cell_ids: np.ndarray) -> np.ndarray:
    """Return the label of each cell as text, "" where the file has none."""
    table = pd.read_csv(path, dtype=str)
    known = table.set_index(table.columns[0])[table.columns[1]]
    return known.reindex(cell_ids).fillna("").to_numpy(np.str_)


def commonest_labels(region: Region, n: int = 10) -> list[str]:
    """Return the ``n`` commonest labels of a region's cells."""
    return [label for label, _ in Counter(region.labels[region.labels != ""].tolist()).most_common(n)]


def commonest_genes(region: Region, n: int = 50) -> np.ndarray:
    """Return the names of the ``n`` genes with most counts in a region."""
    return region.genes[np.argsort(-np.asarray(region.counts.sum(axis=0)).ravel(), kind="stable")[:n]]


def log_genes(region: Region, genes: np.ndarray) -> np.ndarray:
    """Return log(1 + count) of some genes, (n, genes)."""
    place = {gene: column for column, gene in enumerate(region.genes.tolist())}
    return log_counts(region.counts[:, [place[gene] for gene in genes.tolist()]])


@dataclass(frozen=True)
class Task:
    """What is to be predicted, and for which cells."""

    kind: Kind
    edge: str  # "left out" or "kept"
    target: np.ndarray  # (n,) labels or (n, genes)
    train: np.ndarray  # (n,) masks
    test: np.ndarray


def make_tasks(train: Region, test: Region, edges: tuple[str, str], buffer_px: float) -> list[Task]:
    """Return both tasks, with cells near the shared edge left out and kept."""
    labels = np.concatenate([train.labels, test.labels])
    genes = commonest_genes(train)
    values = np.concatenate([log_genes(train, genes), log_genes(test, genes)])
    is_common = np.isin(labels, commonest_labels(train))
    tasks = []
    for edge, buffer in (("left out", buffer_px), ("kept", 0.0)):
        split = split_regions(train, test, edges, buffer)
        tasks.append(Task("classes", edge, labels, split.train & is_common, split.test & is_common))
        tasks.append(Task("values", edge, values, split.train, split.test))
    return tasks


def split_regions(train: Region, test: Region, edges: tuple[str, str], buffer_px: float) -> Split:
    """Return the train and test cells of both regions in one line, apart from their shared edge."""
    region = np.repeat(["train", "test"], [len(train.cell_ids), len(test.cell_ids)])
    distance = [
        distance_to_edge(one.position_px, edge, one.shape_px)  # type: ignore[arg-type]
        for one, edge in zip((train, test), edges, strict=True)
    ]
    return split_by_region(region, ["train"], ["test"], np.concatenate(distance), buffer_px)
