"""Stains into colours: contrast limits, composites, greyscale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatia import keys

Limits = Sequence[tuple[float, float]]

# One hue per stain, mixed by addition. Blue, amber, magenta and teal stay apart for colour-blind readers;
# the weight keeps a stain that fills every cell (18S) from hiding the others.
KNOWN_STAINS = {
    keys.DAPI: ((0.25, 0.50, 1.00), 1.0),
    keys.BOUNDARY_STAIN: ((1.00, 0.69, 0.00), 0.9),
    keys.INTERIOR_RNA_STAIN: ((0.00, 0.75, 0.62), 0.55),
    keys.INTERIOR_PROTEIN_STAIN: ((1.00, 0.18, 0.61), 0.9),
}
OTHER_COLOURS = ((0.94, 0.89, 0.26), (0.60, 0.45, 1.00), (0.55, 0.85, 0.30), (1.00, 0.45, 0.25))
MAX_COMPOSITE = 4  # more hues than that cannot be told apart in one picture


def stain_colours(stains: Sequence[str]) -> list[tuple[tuple[float, float, float], float]]:
    """Return (RGB in [0, 1], weight) per stain; a single stain is shown in white."""
    if len(stains) == 1:
        return [((1.0, 1.0, 1.0), 1.0)]
    spare = iter(OTHER_COLOURS * (1 + len(stains) // len(OTHER_COLOURS)))
    return [KNOWN_STAINS[stain] if stain in KNOWN_STAINS else (next(spare), 0.8) for stain in stains]


def composite_stains(stains: Sequence[str]) -> list[int]:
    """Return the positions of the stains that go into the colour picture: the known ones first, four at most."""
    order = sorted(range(len(stains)), key=lambda i: (stains[i] not in KNOWN_STAINS, i))
    return sorted(order[:MAX_COMPOSITE])


def contrast_limits(planes: np.ndarray, low: float = 1.0, high: float = 99.7) -> list[tuple[float, float]]:
    """Return per plane of ``planes`` (c, y, x) the grey values shown as black and as full colour.

    A plane without contrast gets limits one apart, so that it is shown black instead of as noise.
    """
    limits = []
    for plane in planes:
        bottom, top = np.percentile(plane, [low, high])
        limits.append((float(bottom), float(max(top, bottom + 1))))
    return limits


def stretch(plane: np.ndarray, limits: tuple[float, float], gamma: float = 0.8) -> np.ndarray:
    """Return ``plane`` as float32 in [0, 1] between its limits; gamma below 1 lifts the dim parts."""
    low, high = limits
    if plane.dtype in (np.uint8, np.uint16):
        # powers are slow: one per grey value instead of one per pixel
        return stretch(np.arange(np.iinfo(plane.dtype).max + 1, dtype=np.float32), limits, gamma)[plane]
    return np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1) ** gamma


def to_grey(plane: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Return ``plane`` (y, x) as uint8 greyscale between its limits."""
    return (stretch(plane, limits) * 255 + 0.5).astype(np.uint8)


def to_colour(planes: np.ndarray, stains: Sequence[str], limits: Limits) -> np.ndarray:
    """Return the additive colour picture (y, x, 3) uint8 of ``planes`` (c, y, x)."""
    colours = stain_colours(stains)
    mixed = np.zeros((3, *planes.shape[1:]), np.float32)
    for i in composite_stains(stains):
        colour, weight = colours[i]
        part = stretch(planes[i], limits[i])
        for plane, share in zip(mixed, colour, strict=True):
            plane += part * np.float32(share * weight)
    return np.moveaxis((np.minimum(mixed, 1) * 255 + 0.5).astype(np.uint8), 0, -1)
