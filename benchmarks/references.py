"""What image embeddings of real cells have to beat: hand-made features and a small network trained with the answers.

From two regions of one tissue that ``make real`` has cropped and tiled (train, test), this measures how well the
regions' shared edge apart, cells of one tell the clusters and genes of the other:

    python benchmarks/references.py runs/real --train pancreas_a --test pancreas_b --edge right left \\
        --labels A/clusters.csv B/clusters.csv --out runs/real/references.npz

The ten commonest clusters and the fifty commonest genes are those of the train region's kept cells. Features are read
out by logistic and ridge regression whose penalty is chosen within the train cells, whole tissue windows held out.
Intervals are 95 % of 1,000 resamples of the test cells, and of whole test niches, since neighbours are alike.
``--out`` also stores every prediction, so that others can be compared on the same cells (``bootstrap_difference``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spatia.bench.regions import (
    SCORES,
    Region,
    Task,
    commonest_genes,
    commonest_labels,
    load_region,
    make_tasks,
)
from spatia.learn.dataset import CellDataset, LoadParams
from spatia.learn.order import BatchOrder
from spatia.learn.slides import SlideFiles
from spatia.measure.bootstrap import Interval, bootstrap
from spatia.measure.probes import probe_classes
from spatia.measure.references import cut_frames, shrink_frames, train_cnn
from spatia.measure.value_probes import probe_values

REDUCE = {"cut": cut_frames, "shrink": shrink_frames}
# balanced accuracy, mean Pearson: quoted for these regions; which cells, classes and form of context is not known
QUOTED = {
    "features": (0.390, 0.400),
    "cnn own": (0.428, 0.499),
    "cnn context": (0.440, 0.506),
    "cnn own+context": (0.440, 0.506),
}


def read_frames(
    run: Path | str, slide: str, reduce: Callable[[np.ndarray], np.ndarray] = shrink_frames
) -> dict[str, np.ndarray]:
    """Return each cell's ``own`` pixels, 0 elsewhere, its ``context``, everything in its window, and both stacked.

    ``own`` and ``context`` are (n, stains, side, side) uint8 in the order of the crops, made smaller by ``reduce``;
    ``own+context`` has twice the channels: the window, and which of it is the cell.
    """
    dataset = CellDataset([SlideFiles.of_run(run, slide)], LoadParams(shuffle=False, context=True))
    rows, own, context = [], [], []
    for key in BatchOrder(dataset):
        batch = dataset[key]
        assert batch.context is not None
        rows.append(batch.cell_row.numpy())
        own.append(reduce(batch.frames()[0].numpy()))
        context.append(reduce(batch.context.numpy()))
    order = np.argsort(np.concatenate(rows))
    frames = {"own": np.concatenate(own)[order], "context": np.concatenate(context)[order]}
    return frames | {"own+context": np.concatenate(list(frames.values()), axis=1)}


# --- tasks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cells:
    """The cells of both regions in one line, train region first."""

    cell_ids: np.ndarray
    features: np.ndarray
    frames: dict[str, np.ndarray]
    niche: np.ndarray  # numbered over both regions
    tissue: np.ndarray


@dataclass(frozen=True)
class Row:
    """One measured reference."""

    reference: str
    task: Task
    seed: int
    per_cell: Interval
    per_niche: Interval
    seconds: float


def join_cells(train: Region, test: Region, frames: list[dict[str, np.ndarray]]) -> Cells:
    return Cells(
        np.concatenate([train.cell_ids, test.cell_ids]),
        np.concatenate([train.features, test.features]),
        {name: np.concatenate([part[name] for part in frames]) for name in frames[0]} if frames else {},
        np.concatenate([train.niche, test.niche + train.niche.max() + 1]),
        np.concatenate([train.tissue, test.tissue + train.tissue.max() + 1]),
    )


def predict_from_features(cells: Cells, task: Task, seed: int) -> np.ndarray:
    probe: Callable[..., np.ndarray] = probe_classes if task.kind == "classes" else probe_values
    z, generator = cells.features, np.random.default_rng(seed)
    return probe(z[task.train], task.target[task.train], z[task.test], generator, cells.tissue[task.train])


def predict_by_network(frames: np.ndarray, task: Task, seed: int, epochs: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    predict = train_cnn(frames[task.train], task.target[task.train], task.kind, epochs, generator)
    return predict(frames[task.test])


def references(cells: Cells, args: argparse.Namespace) -> Iterator[tuple[str, int, Callable[[Task], np.ndarray]]]:
    """Yield name, seed and what predicts a task's test cells."""
    yield "features", args.seeds[0], lambda task: predict_from_features(cells, task, args.seeds[0])
    for name, frames in cells.frames.items():
        for seed in args.seeds:
            yield (
                f"cnn {name}",
                seed,
                lambda task, frames=frames, seed=seed: predict_by_network(frames, task, seed, args.epochs),
            )


def measure(cells: Cells, task: Task, reference: str, seed: int, prediction: np.ndarray, seconds: float) -> Row:
    """Score one prediction; the resamples are the same for all references of a task."""
    truth, score = task.target[task.test], SCORES[task.kind]
    per_cell = bootstrap(truth, prediction, score, np.random.default_rng(0))
    per_niche = bootstrap(truth, prediction, score, np.random.default_rng(0), cells.niche[task.test])
    return Row(reference, task, seed, per_cell, per_niche, seconds)


# --- output ------------------------------------------------------------------------------------------------------


HEAD = """\
| reference | task | edge cells | score [95 % over cells] | over niches | quoted | N train | N test | seed | seconds |
|---|---|---|---|---|---|---|---|---|---|"""


def as_line(row: Row) -> str:
    task, niches = row.task, row.per_niche
    name = "10 clusters, balanced accuracy" if task.kind == "classes" else "50 genes, mean Pearson"
    quoted = QUOTED[row.reference][task.kind == "values"] if task.edge == "left out" else ""
    return (
        f"| {row.reference} | {name} | {task.edge} | {row.per_cell} | [{niches.low:.3f}, {niches.high:.3f}] | {quoted} "
        f"| {task.train.sum():,} | {task.test.sum():,} | {row.seed} | {row.seconds:.0f} |"
    )


def stored_name(task: Task, what: str) -> str:
    """Return a name in the file of ``--out``: such as ``classes_edge_left_out_cnn_own_seed_0``."""
    return f"{task.kind}_edge_{task.edge}_{what}".replace(" ", "_")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all references, print a line for each, and return the predictions."""
    regions = [load_region(args.run, s, p) for s, p in zip((args.train, args.test), args.labels, strict=True)]
    frames = [read_frames(args.run, r.slide, REDUCE[args.frame]) for r in regions] if args.epochs else []
    cells = join_cells(regions[0], regions[1], frames)
    tasks = make_tasks(regions[0], regions[1], tuple(args.edge), args.buffer_px)
    stored: dict[str, Any] = {"classes": commonest_labels(regions[0]), "genes": commonest_genes(regions[0])}
    for task in tasks:
        stored[stored_name(task, "cell_id")] = cells.cell_ids[task.test]
        stored[stored_name(task, "truth")] = task.target[task.test]
    print(HEAD, flush=True)
    for name, seed, predict in references(cells, args):
        for task in tasks:
            started = time.perf_counter()
            prediction = predict(task)
            stored[stored_name(task, f"{name}_seed_{seed}")] = prediction
            row = measure(cells, task, name, seed, prediction, time.perf_counter() - started)
            print(as_line(row), flush=True)
    return stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run, such as runs/real")
    parser.add_argument("--train", default="pancreas_a", metavar="SLIDE")
    parser.add_argument("--test", default="pancreas_b", metavar="SLIDE")
    parser.add_argument("--labels", nargs=2, type=Path, default=(None, None), metavar="CSV", help="of train and test")
    sides = ("left", "right", "top", "bottom")
    parser.add_argument("--edge", nargs=2, choices=sides, default=["right", "left"], help="shared, of train and test")
    parser.add_argument("--buffer-px", type=float, default=1024, help="cells closer to the shared edge are left out")
    parser.add_argument("--frame", choices=tuple(REDUCE), default="shrink", help="how a crop becomes 64 px wide")
    parser.add_argument("--epochs", type=int, default=12, help="of the networks; 0 leaves them out")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write truth and predictions as .npz")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stored = run(args)
    if args.out:
        np.savez_compressed(args.out, **stored)


if __name__ == "__main__":
    main()
