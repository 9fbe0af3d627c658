"""Crops of invented cells in two states, pairs, and generated images in the contract's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from spatia.cells.cropping import CutCell
from spatia.cells.crops import open_crops, write_crops
from spatia.generated import real_frames

WINDOW, PIXEL_UM = 64, 0.2125
STAINS = ("DAPI", "a/b")
TAG = "dim->bright"


def disc(radius: float, side: int = WINDOW, stretch: float = 1.0) -> np.ndarray:
    """Return an ellipse in the middle of a square."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return (y / stretch) ** 2 + x**2 <= radius**2


def draw_cell(rng: np.random.Generator, level: float, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return image (2, window, window) uint8 and mask of one cell: a bright nucleus, textured cytoplasm."""
    mask = disc(radius * rng.uniform(0.9, 1.1), stretch=rng.uniform(1, 1.2))
    nucleus = disc(radius * rng.uniform(0.4, 0.5))
    texture = rng.normal(1, 0.1, (2, WINDOW, WINDOW))
    planes = np.stack([np.where(nucleus, 0.7, 0.15), np.full((WINDOW, WINDOW), level)]) * texture
    return (np.clip(planes, 0.05, 1) * 255 * mask).astype(np.uint8), mask


def write_cells(folder: Path, n_each: int, seed: int = 0) -> None:
    """Write crops: ``dim-k`` and ``bright-k``, the latter brighter in ``a/b`` and larger."""
    rng = np.random.default_rng(seed)
    cells = [draw_cell(rng, 0.2, 14) for _ in range(n_each)] + [draw_cell(rng, 0.5, 17) for _ in range(n_each)]
    ids = [f"dim-{k}" for k in range(n_each)] + [f"bright-{k}" for k in range(n_each)]
    cut, rows = [], []
    pixel_offset = mask_offset = 0
    for row, (image, mask) in enumerate(cells):
        ys, xs = np.nonzero(mask)
        box = ys.min(), xs.min(), np.ptp(ys) + 1, np.ptp(xs) + 1
        inside = mask[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
        rows.append((row + 1, 0, 0, *box, pixel_offset, int(mask.sum()), mask_offset, False))
        cut.append(CutCell(row, inside, np.ascontiguousarray(image[:, mask])))
        pixel_offset += 2 * int(mask.sum())
        mask_offset += (inside.size + 7) // 8
    names = ["cell_label", "y0", "x0", "box_y", "box_x", "box_h", "box_w", "pixel_offset", "n_pixels", "mask_offset"]
    index = pd.DataFrame(rows, columns=[*names, "is_clipped"])
    scaling = {stain: {"low": 0, "high": 255} for stain in STAINS}
    header = {"format": 1, "slide": "toy", "stains": list(STAINS), "window_px": WINDOW, "pixel_size_um": PIXEL_UM,
              "scaling": scaling, "n_cells": len(ids), "n_clipped": 0}  # fmt: skip
    folder.mkdir(parents=True)
    write_crops(folder, header, pa.array(ids), {name: index[name].to_numpy() for name in index}, iter(cut))


def write_generated(folder: Path, images: dict[str, np.ndarray], cell_ids: list[str], stains: tuple[str, ...]) -> None:
    """Write generated images (n, c, p, p) of several methods."""
    folder.mkdir(parents=True)
    stacked = np.concatenate(list(images.values()))
    cells = [(cell_id, TAG, method) for method in images for cell_id in cell_ids]
    table = pd.DataFrame(cells, columns=["cell_id", "transition_tag", "method"])
    table.insert(0, "row", np.arange(len(table)))
    table.to_parquet(folder / "cells.parquet")
    np.save(folder / "images.npy", stacked)
    side = stacked.shape[-1]
    header = {"format": 1, "stains": list(stains), "image_px": side, "pixel_size_um": PIXEL_UM * WINDOW / side}
    (folder / "generate.json").write_text(json.dumps(header))


def write_pairs(folder: Path, n: int) -> None:
    """Write pairs of ``dim-k`` and ``bright-k``, and a transition that was skipped."""
    folder.mkdir(parents=True)
    pairs = [(f"dim-{k}", f"bright-{k}", TAG) for k in range(n)]
    table = pd.DataFrame(pairs, columns=["x_ctrl_id", "x_tgt_id", "transition_tag"]).assign(split="test")
    table.to_parquet(folder / "pairs.parquet")
    plans = [(TAG, "test", n, n, ""), ("rare->rarer", "test", 49, 60, "49 control cells, fewer than 50")]
    table = pd.DataFrame(plans, columns=["transition_tag", "split", "n_ctrl", "n_tgt", "skipped"])
    table.to_csv(folder / "plans.tsv", sep="\t", index=False)


def write_run(folder: Path, n: int = 30, side: int = 32) -> Path:
    """Write crops, pairs and images: ``spatia`` gives other bright cells, ``blank`` nothing."""
    write_cells(folder / "crops", 2 * n)
    write_pairs(folder / "pairs", n)
    crops, controls = open_crops(folder / "crops"), [f"dim-{k}" for k in range(n)]
    good = real_frames(crops, [f"bright-{n + k}" for k in range(n)], STAINS, side, "toy")
    write_generated(folder / "generated", {"spatia": good, "blank": np.zeros_like(good)}, controls, STAINS)
    return folder
