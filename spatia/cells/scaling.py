"""Scaling stains to 8 bit: limits from a histogram, values through one lookup table per stain.

Every step is integer arithmetic, so that the same pixel gives the same byte everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spatia.errors import SpatiaError

HE_STAINS = ("HE_red", "HE_green", "HE_blue")  # H&E counts as three more stains, already 8 bit: never scaled
PARTS_PER_PERCENT = 1_000_000  # percentiles are read to six decimals, then everything is exact


@dataclass(frozen=True)
class Scaling:
    """The stains of a slide and the values that become 0 and 255, in the stains' order."""

    stains: tuple[str, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.stains) == len(self.low) == len(self.high):
            raise ValueError(f"{len(self.stains)} stains, but {len(self.low)} low and {len(self.high)} high values")

    def with_he(self) -> Scaling:
        """Return the same scaling with the H&E stains behind it, unscaled."""
        return Scaling(self.stains + HE_STAINS, (*self.low, 0, 0, 0), (*self.high, 255, 255, 255))

    def luts(self, dtype: np.dtype) -> list[NDArray[np.uint8]]:
        """Return one lookup table per stain; morphology stains have ``dtype``, H&E is uint8."""
        limits = zip(self.stains, self.low, self.high, strict=True)
        return [lookup_table(low, high, np.dtype(np.uint8) if s in HE_STAINS else dtype) for s, low, high in limits]

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Return ``{stain: {"low": ..., "high": ...}}``."""
        limits = zip(self.stains, self.low, self.high, strict=True)
        return {stain: {"low": low, "high": high} for stain, low, high in limits}

    @classmethod
    def from_dict(cls, content: Mapping[str, Mapping[str, int]]) -> Scaling:
        """Return what :meth:`to_dict` described."""
        limits = content.values()
        return cls(tuple(content), tuple(int(s["low"]) for s in limits), tuple(int(s["high"]) for s in limits))


def n_values(dtype: np.dtype) -> int:
    """Return how many values a pixel type has.

    Raises
    ------
    SpatiaError
        If the type is neither uint8 nor uint16.
    """
    if dtype not in (np.uint8, np.uint16):
        raise SpatiaError(f"morphology image: expected uint8 or uint16 pixels, found {dtype}; ingest the slide again")
    return 256 if dtype == np.uint8 else 65_536


@lru_cache(maxsize=64)
def lookup_table(low: int, high: int, dtype: np.dtype) -> NDArray[np.uint8]:
    """Return the 8-bit value of every value of ``dtype``.

    ``v -> (v - low) * 255 / (high - low)``, clipped to 0..255 and rounded to the nearest integer, halves up.
    A stain without contrast (``high <= low``) is given a range of one grey step. The table is shared: read only.
    """
    span = max(int(high) - int(low), 1)
    above = np.clip(np.arange(n_values(dtype), dtype=np.int64) - int(low), 0, span)
    table = ((2 * 255 * above + span) // (2 * span)).astype(np.uint8)
    table.flags.writeable = False
    return table


def percentile_value(histogram: NDArray[np.integer], percentile: float) -> int:
    """Return the smallest value with at least ``percentile`` % of the pixels at or below it (0..100)."""
    cumulative = np.cumsum(histogram, dtype=np.int64)
    n_pixels = int(cumulative[-1])
    if n_pixels == 0:
        raise ValueError("a histogram without pixels has no percentiles")
    whole = 100 * PARTS_PER_PERCENT
    wanted = -(-n_pixels * round(percentile * PARTS_PER_PERCENT) // whole)
    return int(np.searchsorted(cumulative, max(wanted, 1)))


def scale_by_percentiles(
    stains: Sequence[str], histograms: NDArray[np.integer], low_percentile: float, high_percentile: float
) -> Scaling:
    """Return the limits of every stain from its histogram ``(stains, values)`` (A27)."""
    low = tuple(percentile_value(histogram, low_percentile) for histogram in histograms)
    high = tuple(percentile_value(histogram, high_percentile) for histogram in histograms)
    return Scaling(tuple(stains), low, high)


def scale_by_extremes(stains: Sequence[str], histograms: NDArray[np.integer]) -> Scaling:
    """Return the lowest and highest value of every stain, as in the authors' code."""
    return scale_by_percentiles(stains, histograms, 0.0, 100.0)
