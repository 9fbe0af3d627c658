"""Simulated slides: do embeddings see classes that were planted in the image, the genes, or the surroundings alone?

    python benchmarks/planted_classes.py runs/demo --train sim_a --test sim_b

Linear probes of frozen embeddings, trained on one donor and tested on another. Beside them an oracle per class, which
is told where the class was planted: the counts of the planted genes and the depth; the planted chromatin contrast,
DAPI and state of the cell (before the camera); the planted states of the cells within 40 um. What is said is
(accuracy - chance) / (oracle - chance), balanced accuracy with its bootstrap interval over the test cells. A modality
that cannot see a class has to stay near chance.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.spatial import cKDTree

from spatia import keys
from spatia.io import read_sparse, read_table
from spatia.measure.bootstrap import bootstrap, resampled_balanced_accuracy
from spatia.measure.probes import probe_classes
from spatia.measure.scores import normalised_gain
from spatia.xenium.simulate.panel import INTERFERON_GENES

RADIUS_UM = 40.0
CHANCE, BAR, NEAR_CHANCE = 0.5, 0.9, 0.58
CLASSES = ("image_class", "gene_class", "context_class")
ARRAYS = ("z", "z_cell", "z_image", "z_cell_image", "z_genes", "z_cell_genes")
# what cannot see a class: the image of the cell alone sees no gene, its genes no chromatin, neither the surroundings
BLIND = {
    "image_class": ("z_genes", "z_cell_genes"),
    "gene_class": ("z_image", "z_cell_image"),
    "context_class": ("z_cell_image", "z_cell_genes"),
}


@dataclass(frozen=True)
class Slide:
    """Kept cells of a simulated slide with what was planted."""

    truth: pd.DataFrame
    arrays: dict[str, np.ndarray]
    oracle: dict[str, np.ndarray]  # class -> features


def read_slide(run: Path, slide: str) -> Slide:
    """Join embeddings and planted truth by cell id."""
    folder, tiles = run / "results/embed" / slide / "embeddings", run / "results/tile" / slide / "tiles"
    cells = read_table(folder / "cells.parquet")
    everything = read_table(run / "results/simulate" / slide / "truth/cells.parquet").set_index(keys.CELL_ID)
    truth = everything.loc[cells[keys.CELL_ID]]
    genes = read_table(tiles / "genes.parquet")["gene"].tolist()
    counts = read_sparse(tiles / "cell_counts.npz")
    planted = [genes.index(gene) for gene in INTERFERON_GENES.split() if gene in genes]
    depth = np.log1p(np.asarray(counts.sum(1)))
    states = pd.get_dummies(truth["state"].astype(pd.CategoricalDtype(sorted(everything["state"].unique()))))
    oracle = {
        "gene_class": np.hstack([np.log1p(counts[:, planted].toarray()), depth]),
        "image_class": np.hstack([truth[["log_grain", "log_dapi"]].to_numpy(), states.to_numpy(float)]),
        "context_class": surroundings(everything, truth),
    }
    return Slide(truth, {name: np.load(folder / f"{name}.npy") for name in ARRAYS}, oracle)


def surroundings(everything: pd.DataFrame, cells: pd.DataFrame) -> np.ndarray:
    """Return the share of each planted state among the cells around each cell, itself left out."""
    places = everything[["x_um", "y_um"]].to_numpy()
    states = pd.get_dummies(everything["state"]).reindex(columns=sorted(everything["state"].unique())).to_numpy(float)
    near = cKDTree(places).query_ball_point(cells[["x_um", "y_um"]].to_numpy(), RADIUS_UM)
    own = everything.index.get_indexer(cells.index)
    return np.array([states[[k for k in rows if k != me]].mean(0) if len(rows) > 1 else states[0] * 0
                     for rows, me in zip(near, own, strict=True)])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--train", default="sim_a")
    parser.add_argument("--test", default="sim_b")
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, test = read_slide(args.run, args.train), read_slide(args.run, args.test)
    print("| class | features | balanced accuracy [95 %] | share of the oracle's gain | N | |\n|" + "---|" * 6)
    missed = 0
    for name in CLASSES:
        ours, theirs = (slide.truth[name].to_numpy(str) != "" for slide in (train, test))
        answers, truth = train.truth[name].to_numpy(str)[ours], test.truth[name].to_numpy(str)[theirs]
        oracle = float("nan")
        for what in ("oracle", *ARRAYS):
            x, y = (s.oracle[name] if what == "oracle" else s.arrays[what] for s in (train, test))
            guess = probe_classes(x[ours], answers, y[theirs], np.random.default_rng(0))
            found = bootstrap(truth, guess, resampled_balanced_accuracy, np.random.default_rng(0))
            oracle = found.value if what == "oracle" else oracle
            gain = normalised_gain(found.value, CHANCE, oracle)
            verdict = ""
            if what == "z":
                verdict = "met" if gain >= BAR else f"MISSED, below {BAR}"
            elif what in BLIND[name]:
                verdict = "near chance" if found.low <= NEAR_CHANCE else "NOT near chance"
            missed += verdict.startswith(("MISSED", "NOT"))
            print(f"| {name} | {what} | {found} | {gain:.2f} | {len(truth):,} | {verdict} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
