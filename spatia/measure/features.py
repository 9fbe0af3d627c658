"""Cell images -> CellProfiler's features, through cp-measure in this process or several.

One frame size for all images of a comparison: granularity and Zernike moments depend on it.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from spatia.measure.feature_columns import (
    CELLS,
    DAPI,
    NUCLEI,
    SHAPE_MODULES,
    STAIN_MODULES,
    Column,
    check_stains,
    describe_column,
    is_kept,
)
from spatia.measure.segment import Mask, Segmentation, segment

Measurement = Callable[[NDArray[np.int32], NDArray[np.floating] | None], dict[str, NDArray[np.float64]]]
CHUNK_CELLS = 32  # measured between two signs of life


@dataclass(frozen=True)
class Recipe:
    """How images are measured.

    Attributes
    ----------
    stains
        Of the images, in their order.
    threshold, rim_share, min_cell_px
        Of :func:`spatia.measure.segment.segment`.
    """

    stains: tuple[str, ...]
    threshold: float
    rim_share: float
    min_cell_px: float

    def __post_init__(self) -> None:
        check_stains(self.stains)

    @property
    def dapi(self) -> int | None:
        """Which stain shows nuclei."""
        return self.stains.index(DAPI) if DAPI in self.stains else None


@dataclass(frozen=True)
class Measured:
    """Features of n images.

    Attributes
    ----------
    features
        (n, columns) float64; NaN where there is no object, or nothing to measure on it.
    reason
        (n,) why the segmentation failed, "" where it did not.
    """

    features: NDArray[np.float64]
    reason: NDArray[np.str_]


def feature_columns(stains: Sequence[str]) -> list[Column]:
    """Return what is measured: shape and stains of the cell; shape of the nucleus and DAPI in it."""
    names = _source_names()
    parts = [(CELLS, stain) for stain in stains] + ([(NUCLEI, DAPI)] if DAPI in stains else [])
    found = []
    for object_name in dict.fromkeys(name for name, _ in parts):
        found += [(object_name, module, source, "") for module in SHAPE_MODULES for source in names[module]]
        modules = STAIN_MODULES if object_name == CELLS else ("intensity",)
        own = [stain for name, stain in parts if name == object_name]
        found += [(object_name, module, s, stain) for stain in own for module in modules for s in names[module]]
    return [describe_column(*part) for part in found]


def measure_image(image: NDArray[np.float32], found: Segmentation, dapi: int | None) -> NDArray[np.float64]:
    """Return the features of one image (c, y, x) in the order of :func:`feature_columns`; NaN without an object."""
    parts = [measure_shape(found.cell)]
    parts += [measure_stain(found.cell, plane, STAIN_MODULES) for plane in image]
    if dapi is not None:
        parts += [measure_shape(found.nucleus), measure_stain(found.nucleus, image[dapi], ("intensity",))]
    return np.concatenate(parts)


def measure_shape(mask: Mask) -> NDArray[np.float64]:
    """Return the shape of one object (y, x)."""
    return _measure(mask, None, SHAPE_MODULES)


def measure_stain(mask: Mask, plane: NDArray[np.float32], modules: Sequence[str]) -> NDArray[np.float64]:
    """Return one stain (y, x), in [0, 1], of one object."""
    return _measure(mask, plane, modules)


def measure_images(images: NDArray[np.uint8], recipe: Recipe) -> Measured:
    """Segment and measure images (n, c, y, x), one after the other.

    On one thread: over several, sums come in another order, and other last digits; and processes are as many as CPUs.
    """
    with threadpool_limits(1):
        return _measure_images(images, recipe)


def _measure_images(images: NDArray[np.uint8], recipe: Recipe) -> Measured:
    n_columns = len(feature_columns(recipe.stains))
    values = np.full((len(images), n_columns), np.nan)
    reasons = []
    for row, image in enumerate(images):
        # float32: CellProfiler's own pixels; float64 gives other texture levels
        scaled = image.astype(np.float32) / np.float32(255)
        found = segment(scaled, recipe.dapi, recipe.threshold, recipe.rim_share, recipe.min_cell_px)
        reasons.append(found.reason)
        if found.is_segmented:
            values[row] = measure_image(scaled, found, recipe.dapi)
    return Measured(values, np.asarray(reasons, dtype=np.str_))


def measure_chunks(chunks: Sequence[NDArray[np.uint8]], recipe: Recipe, n_processes: int) -> Iterator[Measured]:
    """Measure chunks of images on several processes; results come in the order of the chunks."""
    if n_processes <= 1 or len(chunks) <= 1:
        yield from (measure_images(chunk, recipe) for chunk in chunks)
        return
    # spawned, not forked: a fork would inherit the locks of threads that it does not have
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(n_processes, len(chunks)), context) as pool:
        yield from pool.map(functools.partial(measure_images, recipe=recipe), chunks)


def split_chunks(images: NDArray[np.uint8], n_cells: int = CHUNK_CELLS) -> list[NDArray[np.uint8]]:
    """Return images in chunks of ``n_cells``."""
    return [images[start : start + n_cells] for start in range(0, len(images), n_cells)]


def join_measured(parts: Sequence[Measured]) -> Measured:
    """Return the features of all parts, in their order."""
    return Measured(np.concatenate([part.features for part in parts]), np.concatenate([part.reason for part in parts]))


@functools.cache
def _measurements() -> dict[str, Measurement]:
    from cp_measure.bulk import get_core_measurements

    # legacy: CellProfiler's own quartiles; the one label needs no relabelling
    return dict(get_core_measurements(legacy=True, sanitize=False))


@functools.cache
def _source_names() -> dict[str, tuple[str, ...]]:
    """Return what each module of cp_measure gives, from a small square."""
    mask = np.zeros((24, 24), np.int32)
    mask[4:20, 4:20] = 1
    plane = np.linspace(0, 1, 24 * 24, dtype=np.float32).reshape(24, 24)
    with np.errstate(all="ignore"):
        names = {module: tuple(filter(is_kept, measure(mask, plane))) for module, measure in _measurements().items()}
    return names


def _measure(mask: Mask, plane: NDArray[np.float32] | None, modules: Sequence[str]) -> NDArray[np.float64]:
    names = _source_names()
    if not mask.any():
        return np.full(sum(len(names[module]) for module in modules), np.nan)
    label = mask.astype(np.int32)
    with np.errstate(all="ignore"):
        return np.concatenate([_measure_module(label, plane, module, names[module]) for module in modules])


def _measure_module(
    label: NDArray[np.int32], plane: NDArray[np.float32] | None, module: str, names: Sequence[str]
) -> NDArray[np.float64]:
    # CellProfiler's pixels are float32, but it sums them in float64: centres of mass need that, texture levels do not
    pixels: NDArray[np.floating] | None = (
        plane.astype(np.float64) if plane is not None and module == "intensity" else plane
    )
    found = _measurements()[module](label, pixels)
    values = np.asarray([float(np.asarray(found[name]).ravel()[0]) for name in names])
    # no pair of pixels that are not 0: CellProfiler writes 0, cp-measure NaN
    return np.nan_to_num(values, nan=0.0) if module == "texture" else values
