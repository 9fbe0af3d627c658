"""Cost of a crop's features: cp-measure in this process beside the CellProfiler command line (docs/features.md).

``python benchmarks/features.py --inputs INPUTS --command "BIN/cellprofiler -e imageio_reader"``

Both measure the same images and masks of ``spatia cellprofiler prepare`` with the same number of processes, one after
the other, wall clock, start-up included. Beside it the pure cost per crop without start-up.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from threadpoolctl import threadpool_limits

from spatia.machine import available_cpus
from spatia.measure.features import Recipe, measure_chunks, measure_images, split_chunks


def read_inputs(folder: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    table = pd.read_csv(folder / "load_data.csv")
    names = [column.removeprefix("Image_FileName_") for column in table if column.startswith("Image_FileName_")]
    images = [
        [tifffile.imread(folder / "images" / row[f"Image_FileName_{name}"]) for name in names]
        for row in table.to_dict("records")
    ]
    return np.asarray(images, np.uint8), tuple(names)


def time_ours(images: np.ndarray, recipe: Recipe, n_processes: int) -> float:
    start = time.perf_counter()
    chunks = split_chunks(images, -(-len(images) // n_processes))
    list(measure_chunks(chunks, recipe, n_processes))
    return time.perf_counter() - start


def start_cellprofiler(inputs: Path, command: str, first: int, last: int, out: str) -> subprocess.Popen:
    files = ["-p", str(inputs / "measure.cppipe"), "--data-file", str(inputs / "load_data.csv"), "-i", str(inputs)]
    arguments = [*shlex.split(command), "-c", "-r", *files, "-o", out, "-f", str(first), "-l", str(last)]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def time_cellprofiler(inputs: Path, command: str, n_images: int, n_processes: int) -> float:
    edges = np.linspace(0, n_images, n_processes + 1).round().astype(int).tolist()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        shards = enumerate(itertools.pairwise(edges))
        running = [start_cellprofiler(inputs, command, a + 1, b, f"{folder}/{k}") for k, (a, b) in shards]
        if any([process.wait() for process in running]):
            raise SystemExit("CellProfiler failed; run its command by hand")
        rows = sum(len(pd.read_csv(f"{folder}/{k}/Cells.csv")) for k in range(n_processes))
    assert rows == n_images, f"CellProfiler measured {rows} of {n_images} images"
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=Path, required=True, help="what 'spatia cellprofiler prepare' wrote")
    parser.add_argument("--command", required=True, help="how CellProfiler is started, with options")
    parser.add_argument("--processes", type=int, default=available_cpus())
    parser.add_argument("--images", type=int, help="how many; default: all")
    parser.add_argument("--pixel-size-um", type=float, default=0.2125)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of CellProfiler: one process per CPU on both sides
    threadpool_limits(1)

    images, names = read_inputs(args.inputs.resolve())
    images = images[: args.images]
    recipe = Recipe(names, threshold=0.02, rim_share=0.4, min_cell_px=4.0 / args.pixel_size_um**2)
    measure_images(images[:2], recipe)  # imports
    start = os.times()
    measure_images(images, recipe)
    own_cpu = (os.times().user - start.user) / len(images)
    ours = time_ours(images, recipe, args.processes)
    before = os.times()
    theirs = time_cellprofiler(args.inputs.resolve(), args.command, len(images), args.processes)
    after = os.times()
    their_cpu = (after.children_user + after.children_system - before.children_user - before.children_system) / len(
        images
    )
    print(f"{len(images)} crops of {images.shape[-1]} px, {len(names)} stains, {args.processes} processes each\n")
    print("| | wall clock per crop (ms) | CPU time per crop (ms) |\n|---|---|---|")
    print(f"| cp-measure in process | {1000 * ours / len(images):.0f} | {1000 * own_cpu:.0f} |")
    print(f"| CellProfiler command line | {1000 * theirs / len(images):.0f} | {1000 * their_cpu:.0f} |")
    print(f"| ratio | {theirs / ours:.1f} | {their_cpu / own_cpu:.1f} |")


if __name__ == "__main__":
    main()
