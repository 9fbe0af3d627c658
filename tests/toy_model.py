"""Views and models small enough for tests, over the invented slides of toy_crops."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from toy_crops import ToySlide, write_toy

from spatia.learn.dataset import CellDataset, LoadParams
from spatia.learn.settings import NOTHING_HIDDEN, MaskParams
from spatia.learn.view import BatchView, view_batch
from spatia.model.hierarchy import Spatia
from spatia.model.shape import ModelShape, shape_of

GENES = tuple(f"G{number:02d}" for number in range(36))
SIZES = {"tile_patch_px": 64, "niche_shrink": 1, "tissue_level": 1}  # the toy's zarr has two levels


def tiny_shape(**changes: object) -> ModelShape:
    """Return the smallest model that has every part."""
    return shape_of("tiny", **{**SIZES, **changes})


def toy_slides(folder: Path) -> tuple[ToySlide, ToySlide]:
    """Write two slides that share one of three stains and most genes."""
    one = write_toy(folder, "one", genes=GENES[:30], n_cells=60, seed=1)
    two = write_toy(folder, "two", ("18S", "CD45"), GENES[6:], 50, (1100, 1400), seed=2)
    return one, two


def open_toys(slides: tuple[ToySlide, ...], tiles: bool = True, **load: object) -> CellDataset:
    """Open slides as the joint phase does, or as the cell phase does (without tiles)."""
    whole = "tissue" if tiles else "niche"
    params = LoadParams(cells_per_batch=24, whole=whole, tiles=tiles, tissue_level=1, around=tiles)
    return CellDataset([slide.files for slide in slides], dataclasses.replace(params, **load))


def make_model(dataset: CellDataset, shape: ModelShape | None = None, seed: int = 0) -> Spatia:
    """Return an untrained model for a dataset's stains and genes."""
    torch.manual_seed(seed)
    return Spatia(shape or tiny_shape(), len(dataset.stains), len(dataset.genes)).eval()


def make_view(
    dataset: CellDataset, model: Spatia, mask: MaskParams = NOTHING_HIDDEN, seed: int = 0, number: int = 0
) -> BatchView:
    """Return one batch as ``model`` sees it."""
    generator = torch.Generator().manual_seed(seed)
    return view_batch(dataset[0, number], model.normaliser(), model.shape, mask, generator)
