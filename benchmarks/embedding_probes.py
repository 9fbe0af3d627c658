"""What frozen embeddings of one region tell about the clusters and genes of another, beside the references.

    python benchmarks/embedding_probes.py runs/real --embeddings runs/real/results/embed \\
        --references runs/real/references.npz

Linear probes with the penalty chosen within the train cells (whole tissue windows held out), region a -> region b
without the cells near the shared edge. Every row of the table is compared, on the same test cells and the same
resamples, with the hand-made features and with the network that was trained with the answers
(``benchmarks/references.py --out``). Expression tells expression: rows that saw the genes are there for comparison
only, on genes and clusters they are circular.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from references import Cells, join_cells, predict_from_features, stored_name

from spatia import keys
from spatia.bench.regions import SCORES, Region, Task, load_region, make_tasks
from spatia.io import read_table
from spatia.measure.bootstrap import bootstrap, bootstrap_difference
from spatia.measure.probes import probe_classes
from spatia.measure.value_probes import probe_values

ARRAYS = ("z_cell_image", "z_image", "z_cell", "z", "z_cell_genes", "z_genes")


@dataclass(frozen=True)
class Result:
    """One row: an embedding's predictions on a task's test cells."""

    name: str
    task: Task
    prediction: np.ndarray


def read_embedding(folder: Path, name: str, cell_ids: np.ndarray) -> np.ndarray:
    """Return one embedding of a slide, joined by cell id."""
    rows = read_table(folder / "cells.parquet").set_index(keys.CELL_ID).index.get_indexer(cell_ids)
    if (rows < 0).any():
        raise SystemExit(f"{folder}: expected all {len(rows)} cells of the crops, {(rows < 0).sum()} are missing")
    return np.load(folder / f"{name}.npy")[rows]


def predict(z: np.ndarray, cells: Cells, task: Task, seed: int) -> np.ndarray:
    """Return what a linear probe of ``z`` says about the test cells."""
    probe = probe_classes if task.kind == "classes" else probe_values
    generator = np.random.default_rng(seed)
    return probe(z[task.train], task.target[task.train], z[task.test], generator, cells.tissue[task.train])


def compare(result: Result, features: np.ndarray, network: np.ndarray | None) -> str:
    """Return a line of the table."""
    task, score = result.task, SCORES[result.task.kind]
    truth = task.target[task.test]
    interval = bootstrap(truth, result.prediction, score, np.random.default_rng(0))
    cells = [str(interval)]
    for other in (features, network):
        if other is None:
            cells.append("")
            continue
        difference = bootstrap_difference(truth, result.prediction, other, score, np.random.default_rng(0))
        cells.append(str(difference))
    return f"| {result.name} | {task.kind} | {' | '.join(cells)} | {task.train.sum():,} | {task.test.sum():,} |"


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    slides = (args.train, args.test)
    regions: Sequence[Region] = [load_region(args.run, s, p) for s, p in zip(slides, args.labels, strict=True)]
    cells = join_cells(regions[0], regions[1], [])
    tasks = make_tasks(regions[0], regions[1], tuple(args.edge), args.buffer_px)[:2]
    stored = np.load(args.references) if args.references else {}
    print("| embedding | task | score [95 %] | minus features | minus network | N train | N test |\n|" + "---|" * 7)
    for task in tasks:
        features = predict_from_features(cells, task, 0)
        network = stored.get(stored_name(task, f"{args.network}_seed_0")) if args.references else None
        print(compare(Result("13 features", task, features), features, network), flush=True)
        if network is not None:
            print(compare(Result(args.network, task, network), features, network), flush=True)
        for name in args.arrays:
            parts = [read_embedding(args.embeddings / r.slide / args.inside, name, r.cell_ids) for r in regions]
            prediction = predict(np.concatenate(parts), cells, task, 0)
            print(compare(Result(name, task, prediction), features, network), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run, such as runs/real")
    parser.add_argument("--embeddings", type=Path, required=True, help="folder that holds one folder per slide")
    parser.add_argument("--inside", default="embeddings", help="folder below the slide's that holds the arrays")
    parser.add_argument("--references", type=Path, help="what references.py --out wrote")
    parser.add_argument("--network", default="cnn own", help="which of its networks")
    parser.add_argument("--train", default="pancreas_a", metavar="SLIDE")
    parser.add_argument("--test", default="pancreas_b", metavar="SLIDE")
    parser.add_argument("--labels", nargs=2, type=Path, default=(None, None), metavar="CSV", help="of train and test")
    parser.add_argument("--edge", nargs=2, default=["right", "left"], help="shared, of train and test")
    parser.add_argument("--buffer-px", type=float, default=1024)
    parser.add_argument("--arrays", nargs="+", default=list(ARRAYS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    run(args)


if __name__ == "__main__":
    main()
