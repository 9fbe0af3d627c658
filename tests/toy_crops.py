"""Crops, tiles and slide.zarr of a small invented slide, written cell by cell straight from docs/outputs.md.

Slow and obvious on purpose, and apart from the package's own writers: it is the reference of the dataset's tests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from scipy import sparse

from spatia.io import write_sparse
from spatia.learn.slides import SlideFiles

WINDOW, NICHE, PER_TISSUE, PIXEL_UM = 128, 256, 4, 0.2125
TISSUE = NICHE * PER_TISSUE
HE = ("HE_red", "HE_green", "HE_blue")


@dataclass
class ToySlide:
    """What was written, to compare with what is read; cells in storage order."""

    files: SlideFiles
    stains: tuple[str, ...]
    genes: tuple[str, ...]
    image: np.ndarray  # (c, y, x) uint8, after scaling
    window: np.ndarray  # (cells, 2) y0, x0
    masks: np.ndarray  # (cells, window, window) bool
    counts: np.ndarray  # (cells, genes)
    cells: pd.DataFrame
    niches: pd.DataFrame
    tissues: pd.DataFrame

    def context(self, row: int) -> np.ndarray:
        """Return the unmasked window of one cell, 0 beyond the slide."""
        return cut(self.image, *self.window[row], WINDOW)

    def frame(self, row: int) -> np.ndarray:
        """Return the crop of one cell."""
        return self.context(row) * self.masks[row]


def cut(image: np.ndarray, y0: int, x0: int, size: int) -> np.ndarray:
    """Return a square of ``image``, 0 beyond its edge."""
    out = np.zeros((len(image), size, size), image.dtype)
    top, left = max(y0, 0), max(x0, 0)
    part = image[:, top : y0 + size, left : x0 + size]
    out[:, top - y0 : top - y0 + part.shape[1], left - x0 : left - x0 + part.shape[2]] = part
    return out


def write_toy(
    folder: Path,
    name: str,
    stains: tuple[str, ...] = ("DAPI", "18S"),
    genes: tuple[str, ...] = ("A", "B", "C"),
    n_cells: int = 90,
    shape: tuple[int, int] = (1300, 2300),
    has_he: bool = False,
    seed: int = 0,
) -> ToySlide:
    """Write one slide; its size is no multiple of a niche, so that tiles reach beyond the edge."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(100, 1000, (len(stains), *shape)).astype(np.uint16)
    he = rng.integers(0, 256, (3, *shape)).astype(np.uint8) if has_he else None
    limits = [(100 + 50 * k, 900 - 30 * k) for k in range(len(stains))]
    image = np.stack([scale(plane, *limit) for plane, limit in zip(raw, limits, strict=True)])
    if he is not None:
        image, stains, limits = np.concatenate([image, he]), stains + HE, limits + [(0, 255)] * 3
    centres = rng.integers(0, shape, (n_cells, 2))
    order = np.lexsort(
        (centres[:, 1] // NICHE, centres[:, 0] // NICHE, centres[:, 1] // TISSUE, centres[:, 0] // TISSUE)
    )
    centres = centres[order]
    blobs = [blob(rng) for _ in range(n_cells)]
    slide = ToySlide(
        files=SlideFiles(name, folder / name / "crops", folder / name / "tiles", folder / name / "slide.zarr"),
        stains=stains,
        genes=genes,
        image=image,
        window=centres - WINDOW // 2,
        masks=np.stack([keep_on_slide(place(b), c - WINDOW // 2, shape) for b, c in zip(blobs, centres, strict=True)]),
        counts=rng.poisson(0.8, (n_cells, len(genes))),
        cells=pd.DataFrame(),
        niches=pd.DataFrame(),
        tissues=pd.DataFrame(),
    )
    write_crops(slide, limits)
    write_tiles(slide, centres)
    write_zarr(slide, raw, he)
    return slide


def scale(plane: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return ``plane`` in 8 bit, rounded half up."""
    return np.floor(np.clip((plane.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


def blob(rng: np.random.Generator) -> np.ndarray:
    """Return a mask with holes and ragged rows, up to the whole window in size, within its tight box."""
    height, width = rng.integers(1, 60, 2) if rng.random() < 0.9 else (WINDOW, rng.integers(90, WINDOW + 1))
    mask = rng.random((height, width)) < rng.choice([0.3, 0.95, 1.0])
    mask[0, 0] = mask[-1, -1] = True
    return mask


def place(mask: np.ndarray) -> np.ndarray:
    """Return ``mask`` in the middle of a window."""
    window = np.zeros((WINDOW, WINDOW), bool)
    top, left = (WINDOW - mask.shape[0]) // 2, (WINDOW - mask.shape[1]) // 2
    window[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return window


def keep_on_slide(mask: np.ndarray, corner: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return ``mask`` without pixels beyond the slide; the centre always stays."""
    ys, xs = np.arange(WINDOW) + corner[0], np.arange(WINDOW) + corner[1]
    kept = mask & ((ys >= 0) & (ys < shape[0]))[:, None] & ((xs >= 0) & (xs < shape[1]))
    kept[WINDOW // 2, WINDOW // 2] = True
    return kept


def write_crops(slide: ToySlide, limits: list[tuple[int, int]]) -> None:
    """Write the four files of a crops folder."""
    folder = slide.files.crops
    folder.mkdir(parents=True)
    pixels, masks, rows = bytearray(), bytearray(), []
    for k, mask in enumerate(slide.masks):
        ys, xs = np.nonzero(mask)
        top, left, height, width = ys.min(), xs.min(), np.ptp(ys) + 1, np.ptp(xs) + 1
        y0, x0 = slide.window[k]
        rows.append((f"{slide.files.name}-{k:03d}", k + 1, y0, x0, top, left, height, width))
        rows[-1] += (len(pixels), int(mask.sum()), len(masks), False)
        pixels += slide.frame(k)[:, mask].tobytes()
        masks += np.packbits(mask[top : top + height, left : left + width]).tobytes()
    names = ["cell_id", "cell_label", "y0", "x0", "box_y", "box_x", "box_h", "box_w"]
    names += ["pixel_offset", "n_pixels", "mask_offset", "is_clipped"]
    pd.DataFrame(rows, columns=names).to_parquet(folder / "index.parquet")
    (folder / "pixels.bin").write_bytes(pixels)
    (folder / "masks.bin").write_bytes(masks)
    header = {"format": 1, "slide": slide.files.name, "stains": list(slide.stains), "window_px": WINDOW}
    header |= {"pixel_size_um": PIXEL_UM, "n_cells": len(rows)}
    header["scaling"] = {s: {"low": lo, "high": hi} for s, (lo, hi) in zip(slide.stains, limits, strict=True)}
    (folder / "crops.json").write_text(json.dumps(header))


def write_tiles(slide: ToySlide, centres: np.ndarray) -> None:
    """Write the tables and counts of a tiles folder, and keep the tables."""
    folder = slide.files.tiles
    folder.mkdir(parents=True)
    tissue_of, niche_of = {}, {}
    for y, x in (centres // NICHE).tolist():
        tissue_of.setdefault((y // PER_TISSUE, x // PER_TISSUE), len(tissue_of))
        niche_of.setdefault((y, x), len(niche_of))
    niche = [niche_of[y, x] for y, x in (centres // NICHE).tolist()]
    tissue = [tissue_of[y, x] for y, x in (centres // TISSUE).tolist()]
    places = {"cell_id": [f"{slide.files.name}-{k:03d}" for k in range(len(centres))], "niche": niche, "tissue": tissue}
    slide.cells = pd.DataFrame({**places, "x_um": centres[:, 1] * PIXEL_UM, "y_um": centres[:, 0] * PIXEL_UM})
    slide.niches = pd.DataFrame(
        [(tissue_of[y // PER_TISSUE, x // PER_TISSUE], y, x, y * NICHE, x * NICHE) for y, x in niche_of],
        columns=["tissue", "row", "col", "y0", "x0"],
    )
    slide.tissues = pd.DataFrame(
        [(y, x, y * TISSUE, x * TISSUE) for y, x in tissue_of], columns=["row", "col", "y0", "x0"]
    )
    slide.cells.to_parquet(folder / "cells.parquet")
    slide.niches.to_parquet(folder / "niches.parquet")
    slide.tissues.to_parquet(folder / "tissues.parquet")
    pd.DataFrame({"gene": slide.genes, "gene_id": slide.genes}).to_parquet(folder / "genes.parquet")
    for what, group in (("cell", np.arange(len(niche))), ("niche", np.array(niche)), ("tissue", np.array(tissue))):
        summed = np.zeros((group.max() + 1, len(slide.genes)), np.int32)
        np.add.at(summed, group, slide.counts)
        write_sparse(folder / f"{what}_counts.npz", sparse.csr_matrix(summed))
    header = {"format": 1, "slide": slide.files.name, "niche_px": NICHE, "niches_per_tissue": PER_TISSUE}
    (folder / "tiles.json").write_text(json.dumps(header))


def write_zarr(slide: ToySlide, raw: np.ndarray, he: np.ndarray | None) -> None:
    """Write as much of slide.zarr as the dataset reads: images with one halving, empty labels."""
    root = zarr.create_group(slide.files.image, zarr_format=3)
    head = {"format": 1, "slide": slide.files.name, "species": "human", "pixel_size_um": PIXEL_UM, "origin_um": [0, 0]}
    root.attrs["spatia"] = head
    write_levels(root, "images/morphology", raw, slide.stains[: len(raw)])
    if he is not None:
        write_levels(root, "images/he", he, HE)
    write_levels(root, "labels/cell_labels", np.zeros(raw.shape[1:], np.uint32), ())


def write_levels(root: zarr.Group, element: str, image: np.ndarray, channels: tuple[str, ...]) -> None:
    """Write one element at full and at half resolution."""
    group = root.create_group(element)
    halves = image[..., : image.shape[-2] // 2 * 2 : 2, : image.shape[-1] // 2 * 2 : 2]
    for level, plane in enumerate((image, halves)):
        chunks = (1,) * (plane.ndim - 2) + (1024, 1024)
        group.create_array(f"s{level}", data=np.ascontiguousarray(plane), chunks=chunks)
    datasets = [{"path": f"s{level}"} for level in range(2)]
    channel_names = {"channels": [{"label": name} for name in channels]}
    group.attrs["ome"] = {"multiscales": [{"datasets": datasets}], "omero": channel_names}
