"""The part of a bundle that becomes the slide: all of it, or a rectangle for a trial."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spatia.errors import SpatiaError

_TINY = 1e-6  # px: a limit that is a pixel's edge up to rounding is that edge


@dataclass(frozen=True)
class Window:
    """Whole pixels of the bundle's image: rows y0 to y1, columns x0 to x1, ends excluded."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    def shift(self, y0: int, y1: int, x0: int, x1: int) -> tuple[int, int, int, int]:
        """Return a block of the slide as a block of the bundle."""
        return y0 + self.y0, y1 + self.y0, x0 + self.x0, x1 + self.x0

    def origin_um(self, pixel_size_um: float) -> tuple[float, float]:
        """Return (x, y) of the window's corner in the bundle."""
        return self.x0 * pixel_size_um, self.y0 * pixel_size_um


def parse_roi(text: str) -> tuple[float, float, float, float] | None:
    """Return ``x0,y0,x1,y1`` in micrometres as numbers, None for an empty text."""
    if not text.strip():
        return None
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise SpatiaError(f"roi_um: expected x0,y0,x1,y1 in micrometres, found {text!r}; correct it") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x0 >= x1 or y0 >= y1:
        raise SpatiaError(f"roi_um: expected x0 < x1 and y0 < y1, found {text!r}; correct it")
    return x0, y0, x1, y1


def make_window(
    shape_px: tuple[int, int], pixel_size_um: float, roi_um: tuple[float, float, float, float] | None
) -> Window:
    """Return the pixels that ``roi_um`` touches, cut at the image's edges; the whole image without it.

    Raises
    ------
    SpatiaError
        If they do not touch any pixel.
    """
    height, width = shape_px
    if roi_um is None:
        return Window(0, height, 0, width)
    x0, y0, x1, y1 = (limit / pixel_size_um for limit in roi_um)
    window = Window(
        max(math.floor(y0 + _TINY), 0),
        min(math.ceil(y1 - _TINY), height),
        max(math.floor(x0 + _TINY), 0),
        min(math.ceil(x1 - _TINY), width),
    )
    if min(window.shape) <= 0:
        limits = ", ".join(f"{limit:g}" for limit in roi_um)
        raise SpatiaError(
            f"roi_um: expected a part of the slide, which is 0 to {width * pixel_size_um:.1f} um in x and 0 to "
            f"{height * pixel_size_um:.1f} um in y, found {limits} (x0, y0, x1, y1); correct it"
        )
    return window
