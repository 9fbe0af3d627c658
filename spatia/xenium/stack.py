"""Morphology images block by block: the focus image, or the maximum of a z-stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from spatia import keys
from spatia.errors import SpatiaError
from spatia.keys import CHUNK_PX
from spatia.xenium.images import MIP_FILE, STACK, StainImage
from spatia.xenium.layouts import Bundle
from spatia.xenium.tiffs import RESTORE, PlaneReader

Projection = Literal["focus", "max"]

_CACHE_BYTES = 64 * 2**20  # one row of tiles of a 30,000 px wide plane; only where tiles and blocks do not line up


@dataclass(frozen=True)
class Choice:
    """The image that a stain is taken from, and how (``focus`` or ``max``)."""

    image: StainImage
    projection: Projection


class StainReader:
    """One stain of a bundle in the bundle's pixels: a plane, or the maximum over the planes of a z-stack."""

    def __init__(self, image: StainImage, is_aligned: bool) -> None:
        self.planes = [PlaneReader(image.file, page, 0 if is_aligned else _CACHE_BYTES) for page in image.pages]

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return the (h, w) window, one plane in memory at a time. Threads may call this."""
        window = self.planes[0].read(y0, y1, x0, x1)
        for plane in self.planes[1:]:
            np.maximum(window, plane.read(y0, y1, x0, x1), out=window)
        return window

    def close(self) -> None:
        """Close the files."""
        for plane in self.planes:
            plane.close()


def choose_images(bundle: Bundle, projection: Projection) -> tuple[list[Choice], list[str]]:
    """Return the image of every stain under ``projection`` and what had to be done differently, in words.

    Under ``max``, the stains of which there is no z-stack (10x writes one of DAPI only) keep their focus image.

    Raises
    ------
    SpatiaError
        If ``max`` is asked for and there is no z-stack.
    """
    focus = {image.stain: image for image in bundle.focus}
    stack = {image.stain: image for image in bundle.stack}
    if projection == "max" and not stack:
        raise SpatiaError(
            f"{bundle.path / STACK}: expected the z-stack for `projection: max`, found none; copy it into the bundle, "
            "or set `projection: focus`"
        )
    preferred, other = (stack, focus) if projection == "max" else (focus, stack)
    kinds: tuple[Projection, Projection] = ("max", "focus") if projection == "max" else ("focus", "max")
    choices = [Choice(image, kinds[0]) for image in preferred.values()]
    choices += [Choice(image, kinds[1]) for stain, image in other.items() if stain not in preferred]
    order = [keys.DAPI, *(image.stain for image in (*bundle.focus, *bundle.stack))]
    choices.sort(key=lambda choice: order.index(choice.image.stain))
    return choices, _explain(choices, projection)


def _explain(choices: Sequence[Choice], projection: Projection) -> list[str]:
    notes = []
    for choice in choices:
        if choice.projection != projection:
            source = "maximum over z" if choice.projection == "max" else "focus image"
            notes.append(f"`projection: {projection}`: {choice.image.stain} has none, its {source} is used")
        if choice.projection == "max" and choice.image.file.name == MIP_FILE:
            notes.append(f"{STACK} is absent; the maximum over z is the one that the instrument wrote, {MIP_FILE}")
    return notes


def tiles_line_up(image: StainImage, origin_px: tuple[int, int]) -> bool:
    """Return whether blocks from ``origin_px`` (y, x) on consist of whole tiles, so that none is decoded twice."""
    with PlaneReader(image.file, image.pages[0]) as plane:
        rows, columns = plane.tile
    return not (CHUNK_PX % rows or CHUNK_PX % columns or origin_px[0] % rows or origin_px[1] % columns)


def check_segments(file: Path, pages: Sequence[int], decode_one: bool) -> None:
    """Check that every tile of the pages lies inside the file and, if asked, that one of each page decodes.

    Raises
    ------
    SpatiaError
        If the file ends too early, or bytes are no image.
    """
    size = file.stat().st_size
    for page in pages:
        with PlaneReader(file, page) as plane:
            segments = plane.segments()
            end = max((offset + count for offset, count in segments), default=0)
            if end > size or not segments:
                raise SpatiaError(
                    f"{file}: expected {end} bytes for the tiles of page {page}, found {size}: it is "
                    f"truncated; {RESTORE}"
                )
            if decode_one:
                height, width = plane.shape
                y, x = height // 2, width // 2
                plane.read(y, y + 1, x, x + 1)
