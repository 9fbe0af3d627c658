"""Loading cells, beside the way of the paper's authors: cells per second and core.

A sample is one cell. The peer's sample is what the authors' loader gives: the 65,536 bytes of ONE stain of a random
cell from LMDB, resized by PIL (bilinear) from 256 to 224, as a normalised float32 tensor with 3 equal channels.
Ours is ALL stains of a cell, masked, with its mask, counts, position, niche and ids: as uint8 tokens (the form the
model takes), as float32 frames of 128 px of all stains, and as float32 frames of one stain. Both read the same cells
in random order from files in the page cache, in turns, in one run.

Rates are per CPU second of all processes taking part, so that they are per core also where cores are shared;
wall-clock rates stand beside them. "lean" is the peer without the detours of torchvision, "pixels" counts float
values written.

    python benchmarks/loading.py                                    # invented cells
    python benchmarks/loading.py --crops CROPS --tiles TILES        # those of a slide, copied several times
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image
from scipy import sparse
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from spatia.io import write_sparse
from spatia.learn.dataset import CellDataset, LoadParams
from spatia.learn.order import BatchOrder
from spatia.learn.slides import SlideFiles

STAINS = ("DAPI", "ATP1A1/CD45/E-Cadherin", "18S", "AlphaSMA/Vimentin")
PEER_PX, PEER_OUT_PX, PEER_BATCH = 256, 224, 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BARS = {"uint8 tokens": 50.0, "float frames": 5.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=Path, help="a folder of spatia crop; default: invented cells")
    parser.add_argument("--tiles", type=Path, help="the folder of spatia tile of the same slide")
    parser.add_argument("--cells", type=int, default=50_000, help="cells to read, by copying the folders")
    parser.add_argument("--peer-cells", type=int, default=6_000, help="cells in the peer's database")
    parser.add_argument("--peer-samples", type=int, default=1_500, help="samples of the peer per repeat")
    parser.add_argument("--batch", type=int, default=1024, help="cells per batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    parser.add_argument("--first-batch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.first_batch:
        print(time_first_batch(args.first_batch))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        numbers = compare(Path(folder), args)
    print_numbers(numbers)
    if args.out:
        args.out.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def compare(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return rates of all contenders with 0, 1 and 2 workers, the median of several turns."""
    slides = copy_slide(folder, args)
    params = LoadParams(cells_per_batch=args.batch)
    dataset = CellDataset(slides, params)
    one_stain = CellDataset(slides, params, stains=dataset.stains[:1])
    database = PeerDatabase(write_peer(folder / "peer", dataset, args.peer_cells))
    peer, lean = PeerDataset(database, args.peer_cells), PeerDataset(database, args.peer_cells, is_lean=True)
    rates: dict[str, list[dict[str, float]]] = {}
    for n_workers in (0, 1, 2):
        contenders = {
            "peer": peer_reader(peer, n_workers, args.peer_samples),
            "lean": peer_reader(lean, n_workers, args.peer_samples),
            "uint8 tokens": our_reader(dataset, n_workers, len),
            "float frames": our_reader(dataset, n_workers, lambda batch: len(batch.floats())),
            "float frames, one stain": our_reader(one_stain, n_workers, lambda batch: len(batch.floats())),
        }
        for read in contenders.values():
            read()  # start workers, fill the page cache
        for _ in range(args.repeats):
            for name, read in contenders.items():
                rates.setdefault(f"{name}, {n_workers} workers", []).append(measure(read))
        database.close()
    numbers = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]} for name, turns in rates.items()
    }
    ratios = {name: statistics.median(ratios_of(name, rates)) for name in rates}
    return {
        "cells": dataset.n_cells,
        "stains": len(dataset.stains),
        "bytes_per_cell": sum(len(s.crops.pixel_bytes) + len(s.crops.mask_bytes) for s in dataset.slides)
        / dataset.n_cells,
        "rates": numbers,
        "ratios": ratios,
        "first_batch_s": first_batches(slides[0]),
    }


def ratios_of(name: str, rates: dict[str, list[dict[str, float]]]) -> list[float]:
    """Return, turn by turn, how often faster than the peer with as many workers, per CPU second."""
    peer = rates[f"peer, {name.rsplit(', ', 1)[1]}"]
    return [ours["per_core"] / theirs["per_core"] for ours, theirs in zip(rates[name], peer, strict=True)]


def measure(read: Callable[[], int]) -> dict[str, float]:
    """Return samples per CPU second of this process and its workers, and per second of the clock."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    n_samples = read()
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    return {"per_core": n_samples / cpu, "wall": n_samples / wall}


def cpu_seconds() -> float:
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def our_reader(dataset: CellDataset, n_workers: int, use: Callable[[Any], int]) -> Callable[[], int]:
    """Return a function that reads one epoch and returns the number of cells."""
    order = BatchOrder(dataset)
    loader = DataLoader(
        dataset, sampler=order, batch_size=None, num_workers=n_workers, persistent_workers=n_workers > 0
    )

    def read() -> int:
        order.set_epoch(order.epoch + 1)
        return sum(use(batch) for batch in loader)

    return read


# --- the peer ---------------------------------------------------------------------------------------------------


class PeerDatabase:
    """The LMDB file, opened by the process that reads: LMDB must not be carried through a fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment: lmdb.Environment | None = None

    def get(self, row: int) -> bytes:
        """Return the 65,536 bytes of a cell."""
        if self.environment is None:
            self.environment = lmdb.open(str(self.path), readonly=True, lock=False, readahead=False)
        with self.environment.begin() as transaction:
            return transaction.get(f"{row:08d}".encode())

    def close(self) -> None:
        """Close the file; the next reader opens it again."""
        if self.environment is not None:
            self.environment.close()
            self.environment = None


class PeerDataset(Dataset):
    """One stain of one cell as the authors load it."""

    def __init__(self, database: PeerDatabase, n_cells: int, is_lean: bool = False) -> None:
        self.database, self.n_cells, self.is_lean = database, n_cells, is_lean
        size = (PEER_OUT_PX, PEER_OUT_PX)
        self.transform = transforms.Compose(
            [transforms.Resize(size, antialias=True), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return self.n_cells

    def __getitem__(self, row: int) -> torch.Tensor:
        content = self.database.get(row)
        image = Image.fromarray(np.frombuffer(content, np.uint8).reshape(PEER_PX, PEER_PX))
        if not self.is_lean:
            return self.transform(image.convert("RGB"))
        small = image.resize((PEER_OUT_PX, PEER_OUT_PX), Image.Resampling.BILINEAR)
        channel = torch.from_numpy(np.asarray(small, np.float32))[None] / 255
        return (channel - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def write_peer(path: Path, dataset: CellDataset, n_cells: int) -> Path:
    """Write one stain of the first cells, each stretched to 256 x 256, into LMDB."""
    slide = dataset.slides[0].crops
    with lmdb.open(str(path), map_size=2 * n_cells * PEER_PX**2 + (1 << 24)) as database:
        for start in range(0, n_cells, 1000):
            with database.begin(write=True) as transaction:
                for row in range(start, min(start + 1000, n_cells)):
                    cell = row % len(slide)
                    top, left, height, width = (
                        int(slide.columns[n][cell]) for n in ("box_y", "box_x", "box_h", "box_w")
                    )
                    box = slide.frame(cell)[0, top : top + height, left : left + width]
                    image = Image.fromarray(np.ascontiguousarray(box)).resize((PEER_PX, PEER_PX))
                    transaction.put(f"{row:08d}".encode(), image.tobytes())
    return path


def peer_reader(peer: PeerDataset, n_workers: int, n_samples: int) -> Callable[[], int]:
    """Return a function that reads random cells: one by one in this process, as batches from workers."""
    generator = np.random.default_rng(0)

    def read_here() -> int:
        for row in generator.integers(0, len(peer), n_samples).tolist():
            peer[row]
        return n_samples

    if n_workers == 0:
        return read_here
    sampler = torch.utils.data.RandomSampler(peer, replacement=True, num_samples=n_samples)
    loader = DataLoader(peer, PEER_BATCH, sampler=sampler, num_workers=n_workers, persistent_workers=True)
    return lambda: sum(len(batch) for batch in loader)


# --- the cells --------------------------------------------------------------------------------------------------


def copy_slide(folder: Path, args: argparse.Namespace) -> list[SlideFiles]:
    """Copy the folders of one slide until there are enough cells; copies share no page of the cache."""
    crops, tiles = args.crops, args.tiles
    if crops is None:
        crops, tiles = folder / "invented" / "crops", folder / "invented" / "tiles"
        invent_cells(crops, tiles)
    n_cells = json.loads((crops / "crops.json").read_text())["n_cells"]
    slides = []
    for k in range(-(-args.cells // n_cells)):
        slides.append(SlideFiles(f"copy{k}", folder / f"crops{k}", folder / f"tiles{k}"))
        shutil.copytree(crops, slides[-1].crops)
        shutil.copytree(tiles, slides[-1].tiles)
    return slides


def invent_cells(crops: Path, tiles: Path, n_cells: int = 5000) -> None:
    """Write ellipses of the size of real cells (median 1,200 px), 18 to a niche, 80 counted genes each."""
    rng = np.random.default_rng(0)
    crops.mkdir(parents=True)
    tiles.mkdir(parents=True)
    sizes = np.clip(rng.lognormal(3.6, 0.25, (n_cells, 2)), 8, 127).astype(int)
    index, n_pixels, n_mask_bytes = [], 0, 0
    with open(crops / "pixels.bin", "wb") as pixels, open(crops / "masks.bin", "wb") as masks:
        for k, (height, width) in enumerate(sizes.tolist()):
            y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            mask = x**2 + y**2 <= 1
            n = int(mask.sum())
            index.append(
                (
                    f"c{k}",
                    k + 1,
                    0,
                    0,
                    64 - height // 2,
                    64 - width // 2,
                    height,
                    width,
                    n_pixels,
                    n,
                    n_mask_bytes,
                    False,
                )
            )
            n_pixels += pixels.write(rng.integers(0, 256, len(STAINS) * n, dtype=np.uint8).tobytes())
            n_mask_bytes += masks.write(np.packbits(mask).tobytes())
    names = ["cell_id", "cell_label", "y0", "x0", "box_y", "box_x", "box_h", "box_w", "pixel_offset", "n_pixels"]
    pd.DataFrame(index, columns=[*names, "mask_offset", "is_clipped"]).to_parquet(crops / "index.parquet")
    header = {"format": 1, "slide": "invented", "stains": STAINS, "window_px": 128, "pixel_size_um": 0.2125}
    scaling = {stain: {"low": 0, "high": 255} for stain in STAINS}
    (crops / "crops.json").write_text(json.dumps({**header, "scaling": scaling, "n_cells": n_cells}))
    niche = np.arange(n_cells) // 18
    grid = np.arange(niche[-1] + 1)
    cells = {"cell_id": [row[0] for row in index], "niche": niche, "tissue": niche // 16}
    pd.DataFrame({**cells, "x_um": rng.random(n_cells), "y_um": rng.random(n_cells)}).to_parquet(
        tiles / "cells.parquet"
    )
    square = {"row": grid // 4, "col": grid % 4, "y0": grid // 4 * 256, "x0": grid % 4 * 256}
    pd.DataFrame({"tissue": grid // 16, **square}).to_parquet(tiles / "niches.parquet")
    pd.DataFrame(square)[: grid[-1] // 16 + 1].to_parquet(tiles / "tissues.parquet")
    pd.DataFrame({"gene": [f"g{k}" for k in range(377)]}).to_parquet(tiles / "genes.parquet")
    for what, group in (("cell", np.arange(n_cells)), ("niche", niche), ("tissue", niche // 16)):
        counts = sparse.random(group[-1] + 1, 377, 80 / 377, "csr", rng=rng)
        counts.data = np.ceil(counts.data * 5)
        write_sparse(tiles / f"{what}_counts.npz", counts.astype(np.int32))
    (tiles / "tiles.json").write_text(json.dumps({"format": 1, "niche_px": 256, "niches_per_tissue": 4}))


# --- start-up ---------------------------------------------------------------------------------------------------


def first_batches(slide: SlideFiles) -> dict[str, float]:
    """Return the seconds until the first batch: the very first time on a machine, and in every later process."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--first-batch", str(slide.crops.parent)]
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        times = [
            float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        ]
    return {"compiling": times[0], "compiled": times[1]}


def time_first_batch(folder: Path) -> float:
    start = time.perf_counter()
    CellDataset([SlideFiles("first", folder / "crops0", folder / "tiles0")])[0, 0].floats()
    return time.perf_counter() - start


def print_numbers(numbers: dict[str, Any]) -> None:
    """Print rates, ratios and whether the bars are met."""
    print(f"{numbers['cells']:,} cells of {numbers['stains']} stains, {numbers['bytes_per_cell']:,.0f} bytes each")
    print(f"{'':<38}{'samples per':>14}{'samples per':>14}{'times':>9}{'times':>9}{'float values':>15}")
    print(f"{'':<38}{'CPU second':>14}{'second':>14}{'peer':>9}{'lean':>9}{'per CPU second':>15}")
    values = {"peer": 3 * PEER_OUT_PX**2, "lean": 3 * PEER_OUT_PX**2, "float frames": numbers["stains"] * 128**2}
    values["float frames, one stain"] = 128**2
    for name, rate in numbers["rates"].items():
        contender, workers = name.rsplit(", ", 1)
        lean = rate["per_core"] / numbers["rates"][f"lean, {workers}"]["per_core"]
        pixels = f"{rate['per_core'] * values[contender]:,.0f}" if contender in values else "-"
        print(
            f"{name:<38}{rate['per_core']:>14,.0f}{rate['wall']:>14,.0f}{numbers['ratios'][name]:>9.1f}{lean:>9.1f}{pixels:>15}"
        )
    for contender, bar in BARS.items():
        for n_workers in (0, 1, 2):
            ratio = numbers["ratios"][f"{contender}, {n_workers} workers"]
            verdict = "met" if ratio >= bar else "MISSED"
            print(f"{contender}, {n_workers} workers: {ratio:.1f} times the peer (at least {bar:.0f}: {verdict})")
    first = numbers["first_batch_s"]
    print(f"first batch of a process: {first['compiled']:.1f} s; the first ever, compiling: {first['compiling']:.1f} s")


if __name__ == "__main__":
    main()
