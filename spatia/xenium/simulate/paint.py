"""Outlines: which pixel belongs to which cell, how deep inside it lies, and where the nucleus is.

A cell is a wavy ellipse. Where outlines overlap, the pixel goes to the cell in whose own units it lies deepest, which
gives packed cells straight shared borders and leaves loose cells their shape. Only the cells near a pixel matter to
it, so that a window painted alone equals the same window of the whole slide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from skimage.measure import label as connected_parts

from spatia.xenium.simulate.fields import Box
from spatia.xenium.simulate.morphology import N_OUTLINE_HARMONICS

LARGEST_RADIUS_PX = 80.0
_BULGE = 1.2  # an outline's waves reach further than its axes
FAR = np.float32(9.0)  # a distance that is inside nothing

Maps = TypeVar("Maps", "Layers", "Outlines")


@dataclass(frozen=True)
class Layers:
    """Maps (y, x) of a window as painted, before parts that lost touch with their cell are taken away."""

    label: np.ndarray  # int32, the cell in whose units the pixel lies deepest, 0 none
    first: np.ndarray  # float32, its distance from the centre in its own units, < 1 inside
    second: np.ndarray  # float32, the same of the next cell that claims the pixel
    nucleus: np.ndarray  # float32, distance from the nucleus' centre in its own units


@dataclass(frozen=True)
class Outlines:
    """Maps (y, x) of one window."""

    label: np.ndarray  # int32, 1..n, 0 background
    depth_px: np.ndarray  # float32, about the distance to the cell's border; 0 outside
    nucleus: np.ndarray  # float32, distance from the nucleus' centre in its own units: < 1 inside

    @property
    def nucleus_label(self) -> np.ndarray:
        """The cells' labels, inside their nuclei only."""
        return np.where((self.nucleus < 1) & (self.depth_px > 0.8), self.label, 0)


def paint(cells: pd.DataFrame, box: Box) -> Layers:
    """Paint cells with columns ``x, y, angle, long, short, waves, taper, nucleus, ...`` (px) into a window."""
    label = np.zeros((box.height, box.width), np.int32)
    first, second, nucleus = (np.full(label.shape, FAR, np.float32) for _ in range(3))
    for index, cell in _near(cells, box):
        rows, columns, dx, dy = _window(cell, box)
        if dx.size == 0 or dy.size == 0:
            continue
        distance = _cell_distance(cell, dx, dy)
        here = np.s_[rows, columns]
        inside = distance < 1
        wins = inside & (distance < first[here])
        second[here] = np.where(wins, first[here], np.where(inside, np.minimum(second[here], distance), second[here]))
        first[here] = np.where(wins, distance, first[here])
        nucleus[here] = np.where(wins, _nucleus_distance(cell, dx, dy), nucleus[here])
        label[here] = np.where(wins, index + 1, label[here])
    return Layers(label, first, second, nucleus)


def settle(layers: Layers, cells: pd.DataFrame) -> Outlines:
    """Return the outlines: each cell's largest connected part, and how deep every pixel lies inside it."""
    label = _without_fragments(layers.label)
    radius = np.concatenate([[0.0], np.sqrt(cells["long"] * cells["short"])]).astype(np.float32)
    depth = np.where(label > 0, (np.minimum(layers.second, 1) - layers.first) * radius[label], 0).astype(np.float32)
    return Outlines(label, depth, np.where(label > 0, layers.nucleus, FAR))


def cut(maps: Maps, box: Box) -> Maps:
    """Return a copy of the slide's maps in ``box``, empty where it reaches beyond the slide."""
    height, width = maps.label.shape
    top, bottom = max(box.y0, 0), min(box.y0 + box.height, height)
    left, right = max(box.x0, 0), min(box.x0 + box.width, width)
    margins = ((top - box.y0, box.y0 + box.height - bottom), (left - box.x0, box.x0 + box.width - right))
    empty = {"label": 0, "depth_px": 0.0}
    return type(maps)(
        **{
            name: np.pad(field[top:bottom, left:right], margins, constant_values=empty.get(name, FAR))
            for name, field in vars(maps).items()
        }
    )


def reach_of(cells: pd.DataFrame) -> int:
    """Return how far the largest of the cells reaches from its centre, px."""
    largest = cells[["long", "short"]].to_numpy().max(initial=0.0)
    return int(min(largest, LARGEST_RADIUS_PX) * _BULGE) + 2


def _near(cells: pd.DataFrame, box: Box) -> list[tuple[int, dict[Any, Any]]]:
    """Return row number and row of the cells that may reach into the window."""
    reach = LARGEST_RADIUS_PX * _BULGE
    x, y = cells["x"].to_numpy(), cells["y"].to_numpy()
    near = (x > box.x0 - reach) & (x < box.x0 + box.width + reach)
    near &= (y > box.y0 - reach) & (y < box.y0 + box.height + reach)
    numbers = np.flatnonzero(near)
    return list(zip(numbers.tolist(), cells.iloc[numbers].to_dict("records"), strict=True))


def _window(cell: dict[str, float], box: Box) -> tuple[slice, slice, np.ndarray, np.ndarray]:
    """Return the cell's rows and columns in the box and their distances (1, w), (h, 1) from its centre."""
    reach = int(min(max(cell["long"], cell["short"]), LARGEST_RADIUS_PX) * _BULGE) + 2
    top, bottom = max(int(cell["y"]) - reach, box.y0), min(int(cell["y"]) + reach + 1, box.y0 + box.height)
    left, right = max(int(cell["x"]) - reach, box.x0), min(int(cell["x"]) + reach + 1, box.x0 + box.width)
    dy = (np.arange(top, bottom) + 0.5 - cell["y"]).astype(np.float32)[:, None]
    dx = (np.arange(left, right) + 0.5 - cell["x"]).astype(np.float32)[None, :]
    return slice(top - box.y0, bottom - box.y0), slice(left - box.x0, right - box.x0), dx, dy


def _cell_distance(cell: dict[str, float], dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return the distance from the cell's centre in units of its outline, (h, w)."""
    u, v = _turned(cell["angle"], dx, dy)
    u, v = u / np.float32(cell["long"]), v / np.float32(cell["short"])
    # spindle cells narrow towards their ends
    v = v * (1 + np.float32(cell["taper"]) * u * u)
    r = np.sqrt(u * u + v * v) + np.float32(1e-6)
    cos, sin = u / r, v / r
    wave = np.ones_like(r)
    # cos and sin of 2, 3, ... times the angle by the addition theorem: no arctan2, no cos per pixel
    cos_k, sin_k = cos, sin
    for k in range(N_OUTLINE_HARMONICS):
        cos_k, sin_k = cos_k * cos - sin_k * sin, sin_k * cos + cos_k * sin
        phase = cell[f"phase_{k}"]
        wave += np.float32(cell["waves"] * np.cos(phase)) * cos_k - np.float32(cell["waves"] * np.sin(phase)) * sin_k
    return r / wave


def _nucleus_distance(cell: dict[str, float], dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return the distance from the nucleus' centre in its own units, (h, w); nuclei are rounder than their cells."""
    u, v = _turned(cell["angle"], dx, dy)
    rounding = (cell["long"] / cell["short"]) ** 0.12
    long, short = cell["nucleus"] * cell["long"] / rounding, cell["nucleus"] * cell["short"] * rounding
    room = 1 - cell["nucleus"]
    u = (u - np.float32(room * cell["shift_u"] * cell["long"])) / np.float32(long)
    v = (v - np.float32(room * cell["shift_v"] * cell["short"])) / np.float32(short)
    return np.sqrt(u * u + v * v)


def _turned(angle: float, dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * dx + s * dy, c * dy - s * dx


def _without_fragments(label: np.ndarray) -> np.ndarray:
    """Return the labels with each cell's largest connected part only."""
    part = connected_parts(label, background=0, connectivity=1)
    size = np.bincount(part.ravel())
    owner = np.zeros(len(size), np.int64)
    owner[part.ravel()] = label.ravel()
    order = np.lexsort((np.arange(len(size)), -size, owner))
    is_largest = np.zeros(len(size), bool)
    is_largest[order[np.concatenate([[True], np.diff(owner[order]) > 0])]] = True
    is_largest[0] = False
    return np.where(is_largest[part], label, 0)
