"""The images of a bundle, repeated rows x columns times; compressed tiles are copied wherever they fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from spatia.xenium.simulate.ome_tiff import COMPRESSION, COMPRESSION_LEVEL, ImageSet, ome_xml

_OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


@dataclass(frozen=True)
class Repeat:
    """How often something is repeated down and across."""

    rows: int
    columns: int

    @property
    def n_tiles(self) -> int:
        """Number of copies."""
        return self.rows * self.columns

    def place(self, tile: int) -> tuple[int, int]:
        """Return row and column of copy ``tile``; copies are counted row by row."""
        return divmod(tile, self.columns)


def repeat_image(source: Path, out: Path, repeat: Repeat) -> None:
    """Write the one-channel OME-TIFF ``source``, all planes and levels, ``repeat`` times as ``out``."""
    with tifffile.TiffFile(source) as tiff, tifffile.TiffWriter(out, bigtiff=True) as writer:
        pages = list(tiff.pages)
        levels = [[page, *(page.pages or ())] for page in pages]  # type: ignore[union-attr]
        for index, planes in enumerate(zip(*levels, strict=True)):
            is_first = index == 0
            writer.write(
                _repeated_tiles(planes, repeat),
                shape=(len(planes), planes[0].imagelength * repeat.rows, planes[0].imagewidth * repeat.columns),
                dtype=planes[0].dtype,
                tile=(planes[0].tilelength, planes[0].tilewidth),
                subifds=len(levels[0]) - 1 if is_first else None,
                subfiletype=0 if is_first else 1,
                description=_xml(tiff, source.name, planes[0], repeat).encode() if is_first else None,
                photometric="minisblack",
                metadata=None,
                software="tifffile.py",
                **_codec(planes[0]),
            )


def _fits(page: Any) -> bool:
    """Whether the level is made of whole tiles, so that its compressed tiles can be repeated as they are."""
    return page.imagelength % page.tilelength == 0 and page.imagewidth % page.tilewidth == 0


def _codec(page: Any) -> dict[str, Any]:
    if _fits(page):
        return {"compression": page.compression, "predictor": page.predictor if page.predictor != 1 else None}
    return {"compression": COMPRESSION, "compressionargs": {"level": COMPRESSION_LEVEL}, "predictor": True}


def _repeated_tiles(planes: tuple[Any, ...], repeat: Repeat) -> Iterator[Any]:
    for page in planes:
        yield from _copied(page, repeat) if _fits(page) else _encoded(page, repeat)


def _copied(page: Any, repeat: Repeat) -> Iterator[bytes]:
    n_down, n_across = page.imagelength // page.tilelength, page.imagewidth // page.tilewidth
    file = page.parent.filehandle
    tiles = list(file.read_segments(page.dataoffsets, page.databytecounts, sort=False))
    for row in range(n_down * repeat.rows):
        for column in range(n_across * repeat.columns):
            yield tiles[row % n_down * n_across + column % n_across][0]


def _encoded(page: Any, repeat: Repeat) -> Iterator[np.ndarray]:
    pixels = page.asarray()
    height, width = pixels.shape
    for top in range(0, height * repeat.rows, page.tilelength):
        ys = np.arange(top, min(top + page.tilelength, height * repeat.rows)) % height
        for left in range(0, width * repeat.columns, page.tilewidth):
            xs = np.arange(left, min(left + page.tilewidth, width * repeat.columns)) % width
            tile = np.zeros((page.tilelength, page.tilewidth), pixels.dtype)
            tile[: len(ys), : len(xs)] = pixels[ys[:, None], xs]
            yield tile


def _xml(tiff: tifffile.TiffFile, name: str, page: Any, repeat: Repeat) -> str:
    """Return the source's OME-XML with the new size; linked files keep naming each other."""
    pixels = ElementTree.fromstring(tiff.pages[0].description).find(f"{_OME}Image/{_OME}Pixels")  # type: ignore[union-attr]
    assert pixels is not None
    channels = tuple(channel.get("Name", "") for channel in pixels.iter(f"{_OME}Channel"))
    files = tuple(file.get("FileName", "") for file in pixels.iter(f"{_OME}UUID")) or (name,)
    image = ImageSet(
        f"{repeat.rows}x{repeat.columns}/{'/'.join(files)}",
        channels,
        files,
        (page.imagelength * repeat.rows, page.imagewidth * repeat.columns),
        float(pixels.get("PhysicalSizeX", "nan")),
        n_planes=len(tiff.pages),
        type=pixels.get("Type", "uint16"),
    )
    return ome_xml(image, name)
