"""Simulated slides: do embeddings see classes that were planted in the image, the genes, or the surroundings alone?

    python benchmarks/planted_classes.py runs/planted --train planted_1 planted_2 --test planted_5

Linear probes of frozen embeddings, trained on some donors and tested on another; the penalty is chosen on whole donors
held out, for cells of a niche share part of their embedding. Beside them an oracle per class, which
is told where the class was planted and sees it through the same noise: the counts of the planted genes and the depth;
DAPI level and contrast at three scales inside the true nucleus, as the camera saw them, and the planted state of the
cell; the states of the cells within 40 um as their counts tell them (a classifier trained on the planted states of the
training donors). Rows "planted" are told the factors themselves, without noise: no method can see those. What is said
is (accuracy - chance) / (oracle - chance), balanced accuracy with its bootstrap interval over the test cells. A
modality that cannot see a class has to stay near chance. The values of z that are those of niche and tissue alone
(``direct_width``) are judged on their own as well: what the probe of all of z loses of them is the others' noise.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.spatial import cKDTree
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from spatia import keys
from spatia.cells.crops import open_crops
from spatia.cells.profiles import cell_profiles
from spatia.io import read_sparse, read_table
from spatia.measure.bootstrap import Interval, bootstrap, resampled_balanced_accuracy
from spatia.measure.probes import probe_classes
from spatia.measure.scores import normalised_gain
from spatia.xenium.simulate.panel import INTERFERON_GENES
from spatia.xenium.store import open_slide

RADIUS_UM = 40.0
CHANCE, BAR, NEAR_CHANCE = 0.5, 0.9, 0.58
CLASSES = ("image_class", "gene_class", "context_class")
ARRAYS = ("z", "z_cell", "z_image", "z_cell_image", "z_genes", "z_cell_genes")
LEVELS = ("z_niche", "z_tissue")
DIRECT = "z, values of niche and tissue"
# what cannot see a class: the image of the cell alone sees no gene, its genes no chromatin, neither the surroundings
BLIND = {
    "image_class": ("z_genes", "z_cell_genes"),
    "gene_class": ("z_image", "z_cell_image"),
    "context_class": ("z_cell_image", "z_cell_genes"),
}
N_FOLDS = 5


@dataclass(frozen=True)
class Slide:
    """Kept cells of a simulated slide with what was planted and what can be seen of it."""

    truth: pd.DataFrame
    arrays: dict[str, np.ndarray]
    counts: np.ndarray  # log1p
    planted_genes: list[int]
    nuclei: np.ndarray  # profiles of DAPI inside the true nuclei


def read_slide(run: Path, slide: str, direct_width: int) -> Slide:
    """Join embeddings and planted truth by cell id."""
    folder, tiles = run / "results/embed" / slide / "embeddings", run / "results/tile" / slide / "tiles"
    cells = read_table(folder / "cells.parquet")
    everything = read_table(run / "results/simulate" / slide / "truth/cells.parquet").set_index(keys.CELL_ID)
    genes = read_table(tiles / "genes.parquet")["gene"].tolist()
    arrays = {name: np.load(folder / f"{name}.npy") for name in ARRAYS}
    arrays |= {name: np.load(folder / f"{name}.npy")[cells["niche"]] for name in LEVELS}
    if direct_width:
        halves = arrays["z"].reshape(len(cells), 2, -1)
        arrays[DIRECT] = halves[:, :, -direct_width // 2 :].reshape(len(cells), -1)
    return Slide(
        truth=everything.loc[cells[keys.CELL_ID]],
        arrays=arrays,
        counts=np.log1p(read_sparse(tiles / "cell_counts.npz").toarray()),
        planted_genes=[genes.index(gene) for gene in INTERFERON_GENES.split() if gene in genes],
        nuclei=nucleus_profiles(run, slide),
    )


def nucleus_profiles(run: Path, slide: str) -> np.ndarray:
    """Return what the camera saw of DAPI inside each kept cell's true nucleus, cells in the crops' order."""
    crops = open_crops(run / "results/crop" / slide / "crops")
    labels = open_slide(run / "results/ingest" / slide / "slide.zarr").nucleus_labels
    assert labels is not None
    window, pad = crops.window_px, crops.window_px
    padded = np.pad(np.asarray(labels[:]), pad)
    found = []
    for row, (label, y0, x0) in enumerate(crops.index[[keys.CELL_LABEL, "y0", "x0"]].itertuples(index=False)):
        nucleus = padded[y0 + pad : y0 + pad + window, x0 + pad : x0 + pad + window] == label
        frame = crops.frame(row)[[crops.stains.index(keys.DAPI)]]
        found.append(cell_profiles(frame[None], (nucleus & crops.mask(row))[None])[0])
    return np.stack(found)


def join(slides: Sequence[Slide]) -> Slide:
    """Return the cells of several slides as one."""
    return Slide(
        pd.concat([slide.truth for slide in slides]),
        {name: np.concatenate([slide.arrays[name] for slide in slides]) for name in slides[0].arrays},
        np.concatenate([slide.counts for slide in slides]),
        slides[0].planted_genes,
        np.concatenate([slide.nuclei for slide in slides]),
    )


def one_hot(states: pd.Series, known: Sequence[str]) -> np.ndarray:
    """Return (n, states) of 0 and 1."""
    return pd.get_dummies(states.astype(pd.CategoricalDtype(known))).to_numpy(float)


def read_states(train: Sequence[Slide], test: Slide, known: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return each cell's chances of being in each state by its counts; train cells are judged by other cells."""
    x = np.concatenate([slide.counts for slide in train])
    y = np.concatenate([slide.truth["state"].to_numpy(str) for slide in train])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
    held_out = cross_val_predict(model, x, y, cv=N_FOLDS, method="predict_proba")
    order = [list(np.unique(y)).index(state) for state in known]
    ends = np.cumsum([len(slide.truth) for slide in train])[:-1]
    return np.split(held_out[:, order], ends), model.fit(x, y).predict_proba(test.counts)[:, order]


def surroundings(cells: pd.DataFrame, states: np.ndarray) -> np.ndarray:
    """Return the mean of ``states`` over the kept cells around each cell, itself left out."""
    places = cells[["x_um", "y_um"]].to_numpy()
    near = cKDTree(places).query_ball_point(places, RADIUS_UM)
    nothing = np.zeros(states.shape[1])
    return np.array(
        [states[[k for k in rows if k != me]].mean(0) if len(rows) > 1 else nothing for me, rows in enumerate(near)]
    )


def make_oracles(train: Sequence[Slide], test: Slide) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return features of train and test cells that are told where each class was planted: as observed, as planted."""
    known = sorted(set(np.concatenate([slide.truth["state"].to_numpy(str) for slide in train])))
    seen = read_states(train, test, known)
    sides = [*zip(train, seen[0], strict=True), (test, seen[1])]

    def over(make: Callable[[Slide, np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        made = [make(slide, states) for slide, states in sides]
        return np.concatenate(made[:-1]), made[-1]

    def planted_states(slide: Slide) -> np.ndarray:
        return one_hot(slide.truth["state"], known)

    genes = over(lambda s, _: np.hstack([s.counts[:, s.planted_genes], s.counts.sum(1, keepdims=True)]))
    return {
        "gene_class": {"oracle": genes},
        "image_class": {
            "oracle": over(lambda s, _: np.hstack([s.nuclei, planted_states(s)])),
            "planted": over(lambda s, _: np.hstack([s.truth[["log_grain", "log_dapi"]], planted_states(s)])),
        },
        "context_class": {
            "oracle": over(lambda s, states: surroundings(s.truth, states)),
            "planted": over(lambda s, _: surroundings(s.truth, planted_states(s))),
        },
    }


def judge(name: str, what: str, gain: float, found: Interval) -> str:
    """Return what the issue's bar says of a row."""
    if what == "z" and math.isnan(gain):
        return "MISSED: the oracle is at chance"
    if what == "z":
        return "met" if gain >= BAR else f"MISSED, below {BAR}"
    if what in BLIND[name]:
        return "near chance" if found.low <= NEAR_CHANCE else "NOT near chance"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--direct-width", type=int, default=16, metavar="N", help="as the model has it; 0 = none")
    args = parser.parse_args()
    torch.set_num_threads(1)
    *slides, test = (read_slide(args.run, name, args.direct_width) for name in [*args.train, args.test])
    oracles, train = make_oracles(slides, test), join(slides)
    donors = np.repeat(np.arange(len(slides)), [len(slide.truth) for slide in slides])
    print("| class | features | balanced accuracy [95 %] | share of the oracle's gain | N | |\n|" + "---|" * 6)
    missed = 0
    for name in CLASSES:
        ours, theirs = (slide.truth[name].to_numpy(str) != "" for slide in (train, test))
        answers, truth = train.truth[name].to_numpy(str)[ours], test.truth[name].to_numpy(str)[theirs]
        features = oracles[name] | {array: (train.arrays[array], test.arrays[array]) for array in train.arrays}
        oracle = float("nan")
        for what, (x, y) in features.items():
            guess = probe_classes(x[ours], answers, y[theirs], np.random.default_rng(0), donors[ours])
            found = bootstrap(truth, guess, resampled_balanced_accuracy, np.random.default_rng(0))
            oracle = found.value if what == "oracle" else oracle
            gain = normalised_gain(found.value, CHANCE, oracle) if oracle > CHANCE else float("nan")
            verdict = judge(name, what, gain, found)
            missed += verdict.startswith(("MISSED", "NOT"))
            print(f"| {name} | {what} | {found} | {gain:.2f} | {len(truth):,} | {verdict} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
