"""Where cells sit: rows along walls, packed epithelium, loose stroma."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from spatia.xenium.simulate.fields import smooth_noise
from spatia.xenium.simulate.tissue import GRID_PX, Compartment, Structure, Tissue

_SPACING_UM = {"epithelium": 7.9, "wall": 9.5, "rim": 9.0, "gland": 6.4, "stroma": 8.0, "lumen": 34.0}
_CLOSEST = 0.62  # points of different rows and fills are at least this part of their spacing apart


def place_cells(tissue: Tissue, pixel_size_um: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells' centres (n, 2), (x, y) in pixels, and directions (n,), radians."""
    spacing = {kind: um / pixel_size_um for kind, um in _SPACING_UM.items()}
    groups = [_rows(structure, spacing, rng) for structure in tissue.structures]
    epithelium = (Compartment.DUCT, Compartment.NEST, Compartment.GLAND, Compartment.BASAL)
    fills = [
        (_hexagonal(tissue, epithelium, spacing["epithelium"], 0.22, rng), spacing["epithelium"]),
        (_stroma(tissue, spacing["stroma"], rng), spacing["stroma"]),
        (_hexagonal(tissue, (Compartment.LUMEN,), spacing["lumen"], 0.4, rng), spacing["lumen"] / 3),
    ]
    points = np.concatenate([group[0] for group in groups] or [np.zeros((0, 2))])
    angles = np.concatenate([group[1] for group in groups] or [np.zeros(0)])
    # rows of two neighbours, or a row bent back on itself, may meet
    kept = _thin(points, _CLOSEST * spacing["gland"])
    points, angles = points[kept], angles[kept]
    for fill, apart in fills:
        new = fill[_far_from(points, fill, _CLOSEST * apart)]
        new = new[_thin(new, _CLOSEST * apart)]
        points = np.concatenate([points, new])
        angles = np.concatenate([angles, _directions(tissue, new, rng)])
    inside = (points >= 1).all(axis=1) & (points < (tissue.width_px - 1, tissue.height_px - 1)).all(axis=1)
    inside &= tissue.at(tissue.compartment, points) != Compartment.BLANK
    return points[inside], angles[inside]


def _rows(structure: Structure, spacing: dict[str, float], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells that line a structure: a vessel's wall, a duct's rim, a gland's columns."""
    if structure.kind == "vessel":
        points, angles = structure.ring((1 + structure.lumen) / 2, spacing["wall"])
    elif structure.kind == "duct":
        points, angles = structure.ring(1 - 0.4 * spacing["rim"] / structure.radius, spacing["rim"])
    elif structure.kind == "gland":
        points, angles = structure.ring((1 + structure.lumen) / 2, spacing["gland"])
        angles = angles + np.pi / 2  # columns stand on the wall
    else:
        return np.zeros((0, 2)), np.zeros(0)
    return points + rng.normal(0, 0.08 * spacing["gland"], points.shape), angles + rng.normal(0, 0.12, len(angles))


def _hexagonal(
    tissue: Tissue, compartments: tuple[Compartment, ...], spacing: float, jitter: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the points of a shaken hexagonal lattice that fall into the compartments, (n, 2)."""
    y = np.arange(0, tissue.height_px, spacing * np.sqrt(0.75))
    x = np.arange(0, tissue.width_px, spacing)
    grid_x, grid_y = np.meshgrid(x, y)
    grid_x = grid_x + spacing / 2 * (np.arange(len(y)) % 2)[:, None]
    points = np.column_stack([grid_x.ravel(), grid_y.ravel()])
    points = _warp(points, tissue, spacing, rng) + rng.normal(0, jitter * spacing, points.shape)
    return points[np.isin(tissue.at(tissue.compartment, points), compartments)]


def _warp(points: np.ndarray, tissue: Tissue, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Bend the lattice, so that no rows of cells run across the slide."""
    shape = tissue.compartment.shape
    bend = [0.6 * smooth_noise(shape, 9 * spacing / GRID_PX, rng) for _ in range(2)]
    return points + spacing * np.column_stack([tissue.at(field, points) for field in bend])


def _stroma(tissue: Tissue, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Return the stroma's cells: loose, in clusters, denser where it is immune-hot."""
    points = _hexagonal(tissue, (Compartment.STROMA,), spacing, 0.34, rng)
    crowding = tissue.at(tissue.crowding, points)
    hot = tissue.at(tissue.hot, points)
    return points[rng.random(len(points)) < np.where(hot, 0.50 + 0.45 * crowding, 0.12 + 0.62 * crowding)]


def _directions(tissue: Tissue, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flow = tissue.at(tissue.flow, points) + rng.normal(0, 0.25, len(points))
    free = rng.uniform(0, np.pi, len(points))
    return np.where(tissue.at(tissue.compartment, points) == Compartment.STROMA, flow, free)


def _far_from(points: np.ndarray, new: np.ndarray, distance: float) -> np.ndarray:
    if len(points) == 0 or len(new) == 0:
        return np.ones(len(new), bool)
    return cKDTree(points).query(new)[0] > distance


def _thin(points: np.ndarray, distance: float) -> np.ndarray:
    """Return which points to keep so that none lies closer to an earlier one than ``distance``."""
    keep = np.ones(len(points), bool)
    if len(points) == 0:
        return keep
    pairs = cKDTree(points).query_pairs(distance, output_type="ndarray")
    for first, second in pairs[np.argsort(pairs[:, 1], kind="stable")]:
        if keep[first] and keep[second]:
            keep[second] = False
    return keep
