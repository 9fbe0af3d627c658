"""Embedding a slide: cells per second and peak memory over its number of cells, each in its own process.

    python benchmarks/embedding.py --bundle $SPATIA_REAL_DATA/xenium_pancreas_a --checkpoint CHECKPOINT --sides 1 2 5

The bundle is tiled n x n times (same tissue, ids of their own), taken through ingest, qc, crop and tile, and embedded
(``z`` and ``z_cell``; without the one-modality variants and without clusters, which have costs of their own). What is
said: peak RSS of the largest over the smallest, and the exponent of time over cells (1 = proportional), start-up
left out by timing an empty call.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ingest import Cost, measure
from tiled_bundle import write_tiled_bundle

from spatia.io import read_json

ROOT = Path(__file__).resolve().parents[1]
MAX_EXPONENT, MAX_GROWTH = 1.05, 1.15
PARAMS = ROOT / "config" / "stages"


def spatia(*arguments: object) -> list[str]:
    """Return a command line of this installation."""
    return [sys.executable, "-m", "spatia.cli", *map(str, arguments)]


def prepare(bundle: Path, folder: Path) -> None:
    """Take a bundle up to its tiles."""
    common = ["--slide", "tiled"]
    zarr, cells, histograms = folder / "slide.zarr", folder / "cells.parquet", folder / "histograms.npz"
    steps = (
        ["ingest", bundle, *common, "--species", "human", "--params", PARAMS / "ingest.yaml", "--zarr", zarr,
         "--record", folder / "ingest.json"],
        ["qc", *common, "--zarr", zarr, "--params", PARAMS / "qc.yaml", "--cells", cells, "--summary",
         folder / "qc.json", "--histograms", histograms],
        ["crop", *common, "--zarr", zarr, "--cells", cells, "--histograms", histograms, "--params",
         PARAMS / "crop.yaml", "--out", folder / "crops"],
        ["tile", *common, "--zarr", zarr, "--cells", cells, "--params", PARAMS / "tile.yaml", "--out",
         folder / "tiles"],
    )  # fmt: skip
    for step in steps:
        subprocess.run(spatia(*step), check=True, stderr=subprocess.DEVNULL)


def embed(folder: Path, checkpoint: Path, threads: int) -> tuple[int, Cost]:
    """Return the number of cells and what embedding them cost."""
    params = folder / "embed.yaml"
    params.write_text("variants: false\ncluster_cells: 1000\nn_reconstructions: 1\n", encoding="utf-8")
    out = folder / "embeddings"
    command = spatia(
        "embed", "--slide", "tiled", "--checkpoint", checkpoint, "--zarr", folder / "slide.zarr", "--crops",
        folder / "crops", "--tiles", folder / "tiles", "--params", params, "--out", out, "--threads", threads,
    )  # fmt: skip
    cost = measure(command)
    return int(read_json(out / "embed.json")["n_cells"]), cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    start_up = measure([sys.executable, "-c", "import spatia.stages.embed"])
    found = []
    for side in args.sides:
        folder = Path(tempfile.mkdtemp(prefix="embedding_"))
        try:
            bundle = write_tiled_bundle(args.bundle, folder / "bundle", side) if side > 1 else args.bundle
            prepare(bundle, folder)
            n_cells, cost = embed(folder, args.checkpoint, args.threads)
        finally:
            shutil.rmtree(folder)
        seconds = cost.cpu_s - start_up.cpu_s
        found.append((n_cells, seconds, cost.rss_bytes))
        print(
            f"{n_cells:8,} cells {seconds:8.1f} s CPU {n_cells / seconds:7.0f} cells/s {cost.rss_bytes / 1e6:7.0f} MB"
        )
    (n_first, s_first, rss_first), (n_last, s_last, rss_last) = found[0], found[-1]
    if n_last > n_first:
        exponent = math.log(s_last / s_first) / math.log(n_last / n_first)
        growth = rss_last / rss_first
        print(f"time exponent {exponent:.3f}{verdict(exponent, MAX_EXPONENT)}")
        print(f"peak memory, largest / smallest: {growth:.2f}{verdict(growth, MAX_GROWTH)}")


def verdict(found: float, bar: float) -> str:
    """Return whether a number that should be small meets its bar."""
    return f" (bar {bar}: {'met' if found <= bar else 'MISSED'})"


if __name__ == "__main__":
    main()
