"""Cropping, beside the way of the paper's authors: cells x stains per second, bytes stored, peak memory.

Ours is the whole process ``spatia crop`` (start-up included) on one core, over a slide of 1x, 4x and 16x the area.
The peer is the authors' loop, rewritten from its description: cell by cell through a pandas table, the outline's
bounding box cut from an image in memory, ``skimage.transform.resize`` to 256 x 256, 65,536 bytes per cell and stain
into LMDB. Its rate counts the loop alone, on some of the cells: neither its start-up nor its reading.

    python benchmarks/cropping.py                                            # a synthetic slide
    python benchmarks/cropping.py --zarr SLIDE.ZARR --cells QC/cells.parquet   # a real one, tiled
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec

from spatia import keys
from spatia.stages.crop import MASK_COLUMNS
from spatia.xenium.store import FORMAT, ROOT_ATTRIBUTE, SlideStore, open_slide

CHUNK = keys.CHUNK_PX
STAINS = (keys.DAPI, keys.BOUNDARY_STAIN, keys.INTERIOR_RNA_STAIN, keys.INTERIOR_PROTEIN_STAIN)
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "BLOSC")}
PEER_PX = 256
AREAS = (1, 4, 16)
# memory does not depend on area, but the index has a few hundred bytes per cell and there are 16 times the cells
BARS = {"ratio": 25.0, "bytes_per_cell_and_stain": 1536.0, "peak_rss_mb": 1024.0, "growth_of_rss": 1.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zarr", type=Path, help="a slide.zarr to tile; default: a synthetic slide")
    parser.add_argument("--cells", type=Path, help="its QC table")
    parser.add_argument("--peer-cells", type=int, default=1000, help="cells that the peer's loop cuts")
    parser.add_argument("--work", type=Path, help="folder for the slides (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    parser.add_argument("--peer", nargs=2, metavar=("SLIDE", "LMDB"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(run_peer(Path(args.peer[0]), Path(args.peer[1]), args.peer_cells)))
        exec(SAY_PEAK)
        return
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        numbers = compare(Path(folder), args)
    print_numbers(numbers)
    if args.out:
        args.out.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def compare(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return all numbers: ours at every area, the peer on the smallest."""
    numbers: dict[str, Any] = {"core": core_name(), "ours": {}}
    for area in AREAS:
        side = int(area**0.5)
        slide = folder / f"area_{area}"
        build_slide(slide, side, args.zarr, args.cells)
        numbers["ours"][area] = time_ours(slide)
        if area == 1:
            numbers["peer"] = time_peer(slide, args.peer_cells)
        shutil.rmtree(slide)
    return numbers


# --- the slides: one base, repeated, every copy with its own labels ---


def build_slide(folder: Path, side: int, base_zarr: Path | None, base_cells: Path | None) -> None:
    """Write ``slide.zarr``, ``cells.parquet`` and ``histograms.npz`` of a base repeated ``side`` x ``side`` times."""
    folder.mkdir(parents=True)
    if base_zarr is None:
        image, labels, cells = synthetic_base()
    else:
        image, labels, cells = real_base(open_slide(base_zarr), base_cells)
    write_rasters(folder / "slide.zarr", image, labels, side)
    repeat_cells(cells, labels.shape, int(labels.max()), side).to_parquet(folder / "cells.parquet")
    counts = np.stack([np.bincount(stain.ravel(), minlength=65_536) for stain in image]) * side**2
    np.savez(folder / "histograms.npz", stains=np.array(STAINS), counts=counts)
    (folder / "crop.yaml").write_text("{}\n")


def real_base(store: SlideStore, cells: Path | None) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Return image, labels and QC table of a real slide, cut to whole chunks."""
    if cells is None:
        raise SystemExit("--zarr needs --cells, the slide's QC table")
    height, width = (size // CHUNK * CHUNK for size in store.shape_px)
    table = pd.read_parquet(cells)
    is_inside = (table["mask_y0"] + table["mask_h"] <= height) & (table["mask_x0"] + table["mask_w"] <= width)
    if len(store.stains) != len(STAINS):
        raise SystemExit(f"expected a slide with {len(STAINS)} stains, found {len(store.stains)}")
    image = np.asarray(store.image[:, :height, :width]).astype(np.uint16)
    return image, np.asarray(store.cell_labels[:height, :width]), table[is_inside]


def synthetic_base(height: int = 3 * CHUNK, width: int = 4 * CHUNK) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Return a window of ellipses of 1,250 px on average (the real pancreas: 1,270), noise at camera depth."""
    rng = np.random.default_rng(0)
    labels = np.zeros((height, width), np.uint32)
    centres = [(y, x) for y in range(24, height - 24, 50) for x in range(24, width - 24, 54)]
    ys, xs = np.ogrid[-24:25, -24:25]
    for label, (y, x) in enumerate(centres, start=1):
        radius_y, radius_x = rng.uniform(14, 26, 2)
        window = labels[y - 24 : y + 25, x - 24 : x + 25]
        window[((ys / radius_y) ** 2 + (xs / radius_x) ** 2 <= 1) & (window == 0)] = label
    image = [rng.gamma(2.0, 150.0, labels.shape) + 800 * (labels > 0) for _ in STAINS]
    return np.stack([stain.astype(np.uint16) for stain in image]), labels, table_from(labels)


def table_from(labels: np.ndarray) -> pd.DataFrame:
    """Return what cropping needs of a QC table, measured on a label image."""
    from scipy import ndimage

    boxes = ndimage.find_objects(labels.astype(np.int32))
    n_px = np.bincount(labels.ravel(), minlength=len(boxes) + 1)[1:]
    rows = np.array([(b[0].start, b[1].start, b[0].stop - b[0].start, b[1].stop - b[1].start) for b in boxes])
    cells = pd.DataFrame(rows, columns=["mask_y0", "mask_x0", "mask_h", "mask_w"])
    cells[keys.X_UM] = (cells["mask_x0"] + cells["mask_w"] / 2) * keys.PIXEL_SIZE_UM
    cells[keys.Y_UM] = (cells["mask_y0"] + cells["mask_h"] / 2) * keys.PIXEL_SIZE_UM
    cells.index = pd.Index([f"c{label}" for label in range(1, len(boxes) + 1)], name=keys.CELL_ID)
    labels_of = {keys.CELL_LABEL: np.arange(1, len(boxes) + 1), keys.KEEP: True, keys.REASON: ""}
    return cells.assign(n_mask_px=n_px, n_window_px=n_px, window_px=128, **labels_of)


def repeat_cells(cells: pd.DataFrame, shape: tuple[int, ...], n_labels: int, side: int) -> pd.DataFrame:
    """Return the table of all copies: shifted boxes and centroids, ids and labels of their own."""
    base = cells[[keys.X_UM, keys.Y_UM, *MASK_COLUMNS, keys.KEEP, keys.REASON]]
    copies = []
    for copy in range(side * side):
        down, right = copy // side * shape[0], copy % side * shape[1]
        moved = base.assign(mask_y0=base["mask_y0"] + down, mask_x0=base["mask_x0"] + right)
        moved[keys.Y_UM] += down * keys.PIXEL_SIZE_UM
        moved[keys.X_UM] += right * keys.PIXEL_SIZE_UM
        moved[keys.CELL_LABEL] += copy * n_labels
        moved.index = moved.index + f"-{copy}"
        copies.append(moved)
    return pd.concat(copies)


def write_rasters(path: Path, image: np.ndarray, labels: np.ndarray, side: int) -> None:
    """Write a slide.zarr of images and labels, as ingest chunks and compresses them.

    The image's chunks are encoded once and linked for every copy; labels differ between copies.
    """
    root = zarr.open_group(path, mode="w")
    root.attrs[ROOT_ATTRIBUTE] = {
        "format": FORMAT,
        "slide": "tiled",
        "species": "human",
        "pixel_size_um": keys.PIXEL_SIZE_UM,
        "origin_um": [0.0, 0.0],
    }
    height, width = labels.shape
    pixels = make_element(root, f"images/{keys.MORPHOLOGY}", (len(image), height * side, width * side), np.uint16)
    pixels[:, :height, :width] = image
    masks = make_element(root, f"labels/{keys.CELL_LABELS}", (height * side, width * side), np.uint32)
    chunks = path / f"images/{keys.MORPHOLOGY}/0/c"
    for copy in range(side * side):
        down, right = copy // side, copy % side
        moved = labels + np.where(labels > 0, np.uint32(copy * int(labels.max())), np.uint32(0))
        masks[down * height : (down + 1) * height, right * width : (right + 1) * width] = moved
        if copy:
            link_chunks(chunks, down * height // CHUNK, right * width // CHUNK, height // CHUNK, width // CHUNK)


def make_element(root: zarr.Group, name: str, shape: tuple[int, ...], dtype: type) -> zarr.Array:
    """Return the one level of a new element with the metadata that ``open_slide`` reads."""
    group = root.create_group(name)
    channels = [{"label": stain} for stain in STAINS]
    group.attrs["ome"] = {"multiscales": [{"datasets": [{"path": "0"}]}], "omero": {"channels": channels}}
    codec = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize)
    chunks = (1,) * (len(shape) - 2) + (CHUNK, CHUNK)
    return group.create_array("0", shape=shape, chunks=chunks, dtype=dtype, compressors=codec, fill_value=0)


def link_chunks(chunks: Path, down: int, right: int, n_rows: int, n_columns: int) -> None:
    """Give the copy that starts at chunk (``down``, ``right``) the files of the first copy."""
    for stain in range(len(STAINS)):
        for row in range(n_rows):
            target = chunks / str(stain) / str(down + row)
            target.mkdir(parents=True, exist_ok=True)
            for column in range(n_columns):
                source = chunks / str(stain) / str(row) / str(column)
                if source.exists():  # a chunk of nothing but zeros has no file
                    os.link(source, target / str(right + column))


# --- ours ---

# what the process says of its own memory: the kernel's ru_maxrss of a child counts its parent's before exec, too
SAY_PEAK = "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"
RUN_CLI = f"import sys; from spatia.cli import main; status = main(sys.argv[1:]); {SAY_PEAK}; sys.exit(status)"


def time_ours(slide: Path) -> dict[str, float]:
    """Return what one run of ``spatia crop`` takes and leaves; the second run must leave the same bytes."""
    first = run_crop(slide, slide / "crops")
    second = run_crop(slide, slide / "again")
    for file in sorted((slide / "crops").iterdir()):
        if file.read_bytes() != (slide / "again" / file.name).read_bytes():
            raise SystemExit(f"two runs differ in {file.name}")
    n_cells = json.loads((slide / "crops" / "crops.json").read_text())["n_cells"]
    n_bytes = sum(file.stat().st_size for file in (slide / "crops").iterdir())
    best = min(first, second, key=lambda run: run["wall_s"])
    n_pairs = n_cells * len(STAINS)
    per_pair = {"per_s": n_pairs / best["wall_s"], "per_cpu_s": n_pairs / best["cpu_s"]}
    return {"n_cells": n_cells, "bytes_per_cell_and_stain": n_bytes / n_pairs, **best, **per_pair}


def run_crop(slide: Path, out: Path) -> dict[str, float]:
    """Run ``spatia crop`` as a process of its own on one core."""
    options = {
        "slide": "tiled",
        "zarr": slide / "slide.zarr",
        "cells": slide / "cells.parquet",
        "histograms": slide / "histograms.npz",
        "params": slide / "crop.yaml",
        "out": out,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    usage, printed = measure([sys.executable, "-c", RUN_CLI, "crop", *words])
    return {**usage, "peak_rss_mb": int(printed) / 1024}


def measure(command: list[str]) -> tuple[dict[str, float], str]:
    """Run a command on one core; return its wall and CPU seconds, and what it printed."""
    start = time.perf_counter()
    child = subprocess.Popen(
        command,
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
    )
    assert child.stdout is not None
    printed = child.stdout.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)}: failed with status {status}")
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime}, printed


# --- the peer ---


def time_peer(slide: Path, n_cells: int) -> dict[str, float]:
    """Return the rate of the authors' way, as a process of its own on one core."""
    command = [sys.executable, __file__, "--peer", str(slide), str(slide / "lmdb"), "--peer-cells", str(n_cells)]
    numbers, peak = measure(command)[1].splitlines()
    return {**json.loads(numbers), "peak_rss_mb": int(peak) / 1024}


def run_peer(slide: Path, database: Path, n_cells: int) -> dict[str, float]:
    """Cut ``n_cells`` cells the authors' way; only the loop is timed."""
    import lmdb
    from skimage.transform import resize

    image = to_8_bit(np.asarray(open_slide(slide / "slide.zarr").image[:]))
    cells = pd.read_parquet(slide / "cells.parquet").sample(n_cells, random_state=0)
    outlines = {cell_id: outline_of(row) for cell_id, row in cells.iterrows()}
    start, cpu_start = time.perf_counter(), time.process_time()
    with lmdb.open(str(database), map_size=2**34) as environment, environment.begin(write=True) as transaction:
        for cell_id, _row in cells.iterrows():
            x0, y0 = np.floor(outlines[cell_id].min(axis=0)).astype(int)
            x1, y1 = np.ceil(outlines[cell_id].max(axis=0)).astype(int)
            for stain in range(len(image)):
                crop = resize(image[stain, y0:y1, x0:x1], (PEER_PX, PEER_PX), preserve_range=True)
                transaction.put(f"{cell_id}_{stain}".encode(), crop.astype(np.uint8).tobytes())
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    n_pairs = n_cells * len(image)
    return {"n_cells": n_cells, "wall_s": wall, "cpu_s": cpu, "per_s": n_pairs / wall, "per_cpu_s": n_pairs / cpu}


def to_8_bit(image: np.ndarray) -> np.ndarray:
    """Return every stain between its extremes, as the authors scale."""
    low, high = (limit.astype(np.float32)[:, None, None] for limit in (image.min((1, 2)), image.max((1, 2))))
    return ((image - low) * (255 / (high - low))).astype(np.uint8)


def outline_of(cell: pd.Series) -> np.ndarray:
    """Return 25 vertices (x, y) in pixels whose bounding box is that of the cell's mask."""
    angle = np.linspace(0, 2 * np.pi, 25)
    radius = np.array([cell["mask_w"], cell["mask_h"]]) / 2
    centre = np.array([cell["mask_x0"], cell["mask_y0"]]) + radius
    return centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


# --- what it says ---


def core_name() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def print_numbers(numbers: dict[str, Any]) -> None:
    ours, peer = numbers["ours"], numbers["peer"]
    print(f"one core of {numbers['core']}; {len(STAINS)} stains; ours = whole process, peer = its loop alone")
    print(
        f"{'':14}{'cells':>9}{'wall s':>9}{'CPU s':>9}{'pairs/s':>10}{'pairs/CPU s':>13}{'bytes/pair':>12}{'RSS MB':>9}"
    )
    rows = [(f"ours {area}x", run) for area, run in ours.items()]
    rows.append(("peer", {**peer, "bytes_per_cell_and_stain": PEER_PX**2}))
    for name, run in rows:
        print(
            f"{name:14}{run['n_cells']:>9,.0f}{run['wall_s']:>9.1f}{run['cpu_s']:>9.1f}{run['per_s']:>10,.0f}"
            f"{run['per_cpu_s']:>13,.0f}{run['bytes_per_cell_and_stain']:>12,.0f}{run['peak_rss_mb']:>9.0f}"
        )
    largest = ours[AREAS[-1]]
    found = {
        "ratio": min(largest[rate] / peer[rate] for rate in ("per_s", "per_cpu_s")),
        "bytes_per_cell_and_stain": largest["bytes_per_cell_and_stain"],
        "peak_rss_mb": max(run["peak_rss_mb"] for run in ours.values()),
        "growth_of_rss": largest["peak_rss_mb"] / ours[AREAS[0]]["peak_rss_mb"],
    }
    numbers["found"] = found
    for name, bar in BARS.items():
        met = found[name] >= bar if name == "ratio" else found[name] <= bar
        wanted = f"{'at least' if name == 'ratio' else 'at most'} {bar:g}"
        print(f"{name}: {found[name]:,.2f} ({wanted}: {'met' if met else 'MISSED'})")


if __name__ == "__main__":
    main()
