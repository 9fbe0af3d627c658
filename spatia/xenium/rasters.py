"""Images and labels of a ``slide.zarr``, written block by block with a pyramid of halvings.

The library (spatialdata) writes each element's metadata around a tiny placeholder; the pixels then go straight into
zarr arrays of the right size. Its own writer hands the whole pyramid to dask at once, which decodes a plane several
times and holds it in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from spatia.keys import CHUNK_PX
from spatia.machine import available_cpus
from spatia.progress import progress

ReadBlock = Callable[[int, int, int, int, int], np.ndarray]  # (first channel, y0, y1, x0, x1) -> (channels, h, w)
Block = tuple[int, int, int, int, int]

MAX_WORKERS = 4  # each holds a few blocks; more would trade the memory bound for little


@dataclass(frozen=True)
class Raster:
    """An image or labels element to be written.

    Attributes
    ----------
    element : path in the store, ``images/morphology``
    shape : (c, y, x); labels have c = 1 here and no channel axis on disk
    dtype : of a pixel
    read : returns one block of ``channels_per_block`` channels; called from several threads
    channels_per_block : more than 1 where channels are made together
    """

    element: str
    shape: tuple[int, int, int]
    dtype: np.dtype
    read: ReadBlock
    channels_per_block: int = 1

    @property
    def is_labels(self) -> bool:
        """Labels keep their values in the pyramid; images are averaged."""
        return self.element.startswith("labels/")


def count_levels(height: int, width: int) -> int:
    """Return how many halvings, the full image included, end in one chunk."""
    n_levels = 1
    while max(height, width) >> (n_levels - 1) > CHUNK_PX and min(height, width) >> n_levels >= 1:
        n_levels += 1
    return n_levels


def write_raster(store: Path, raster: Raster) -> None:
    """Fill the placeholder element ``raster.element`` of ``store`` with its pixels and pyramid."""
    group = zarr.open_group(store, mode="r+", path=raster.element, use_consolidated=False)
    arrays = _make_levels(group, raster)
    run_blocks(lambda block: _copy_block(raster, arrays[0], block), blocks_of(raster), raster.element)
    halve = _halve_labels if raster.is_labels else _halve_image
    for finer, coarser in itertools.pairwise(arrays):
        blocks = _blocks(*_channels_and_size(coarser), 1)
        run_blocks(partial(_halve_block, finer, coarser, halve), blocks, f"{raster.element}, pyramid")


def read_raster(raster: Raster) -> None:
    """Read every block of a raster and keep none: whether it can be read at all."""
    run_blocks(lambda block: _discard(raster.read(*block)), blocks_of(raster), raster.element)


def _make_levels(group: zarr.Group, raster: Raster) -> list[zarr.Array]:
    ome: Any = dict(group.attrs)["ome"]
    datasets = ome["multiscales"][0]["datasets"]
    arrays = []
    for level, dataset in enumerate(datasets):
        shape = (raster.shape[0], max(raster.shape[1] >> level, 1), max(raster.shape[2] >> level, 1))
        arrays.append(_make_array(group, dataset["path"], shape, raster))
        # the placeholder's sizes divide evenly, so its factors are the powers of two that hold for the real ones
        assert dataset["coordinateTransformations"][0]["scale"][-1] == 2.0**level
    return arrays


def _make_array(group: zarr.Group, name: str, shape: tuple[int, int, int], raster: Raster) -> zarr.Array:
    placeholder = group[name]
    assert isinstance(placeholder, zarr.Array)
    dimension_names: Any = placeholder.metadata.to_dict().get("dimension_names")
    on_disk = shape[1:] if raster.is_labels else shape
    chunk = (CHUNK_PX, CHUNK_PX) if raster.is_labels else (1, CHUNK_PX, CHUNK_PX)
    return group.create_array(
        name,
        shape=on_disk,
        chunks=chunk,
        dtype=raster.dtype,
        # bit-shuffled zstd at its fastest: half the size of lz4 on camera data, and still ten times as fast as the
        # JPEG 2000 decoder that feeds it
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=raster.dtype.itemsize),
        fill_value=0,
        dimension_names=dimension_names,
        overwrite=True,
    )


def blocks_of(raster: Raster) -> list[Block]:
    """Return the blocks in which a raster is read: chunks of the store."""
    return _blocks(*raster.shape, raster.channels_per_block)


def run_blocks(work: Callable[[Block], None], blocks: list[Block], what: str) -> None:
    """Do ``work`` on all blocks, a few at a time; the first error ends it."""
    with ThreadPoolExecutor(min(available_cpus(), MAX_WORKERS)) as pool:
        try:
            for _ in progress(pool.map(work, blocks), what, total=len(blocks), unit="block"):
                pass
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _blocks(n_channels: int, height: int, width: int, step: int) -> list[Block]:
    # rows outside, channels inside: neighbouring blocks of a file are read close together
    return [
        (channel, y, min(y + CHUNK_PX, height), x, min(x + CHUNK_PX, width))
        for y in range(0, height, CHUNK_PX)
        for channel in range(0, n_channels, step)
        for x in range(0, width, CHUNK_PX)
    ]


def _channels_and_size(array: zarr.Array) -> tuple[int, int, int]:
    return (array.shape[0] if array.ndim == 3 else 1), array.shape[-2], array.shape[-1]


def _discard(pixels: np.ndarray) -> None:
    del pixels


def _copy_block(raster: Raster, array: zarr.Array, block: Block) -> None:
    _store(array, block, raster.read(*block))


def _halve_block(
    finer: zarr.Array, coarser: zarr.Array, halve: Callable[[np.ndarray], np.ndarray], block: Block
) -> None:
    channel, y0, y1, x0, x1 = block
    pixels = np.empty((1, y1 - y0, x1 - x0), coarser.dtype)
    step = CHUNK_PX // 2  # one chunk of the finer level in memory at a time, not the four of a block
    for y, x in itertools.product(range(y0, y1, step), range(x0, x1, step)):
        y_end, x_end = min(y + step, y1), min(x + step, x1)
        window = (slice(2 * y, 2 * y_end), slice(2 * x, 2 * x_end))
        source = np.asarray(finer[(channel, *window)] if finer.ndim == 3 else finer[window])
        pixels[0, y - y0 : y_end - y0, x - x0 : x_end - x0] = halve(source)
    _store(coarser, block, pixels)


def _store(array: zarr.Array, block: Block, pixels: np.ndarray) -> None:
    channel, y0, y1, x0, x1 = block
    if array.ndim == 3:
        array[channel : channel + len(pixels), y0:y1, x0:x1] = pixels
    else:
        array[y0:y1, x0:x1] = pixels[0]


def _halve_image(pixels: np.ndarray) -> np.ndarray:
    """Return 2 x 2 means, rounded half up; (2h, 2w) -> (h, w)."""
    total = np.add(pixels[::2, ::2], pixels[1::2, ::2], dtype=np.uint32)
    total += pixels[::2, 1::2]
    total += pixels[1::2, 1::2]
    total += 2
    total >>= 2
    return total.astype(pixels.dtype)


def _halve_labels(labels: np.ndarray) -> np.ndarray:
    return labels[::2, ::2]
