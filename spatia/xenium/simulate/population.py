"""The cells of a slide before they are painted: where, what state, which planted factors, how they look."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spatia.xenium.simulate.fields import smooth_noise
from spatia.xenium.simulate.morphology import (
    IMAGE_CLASSES,
    N_OUTLINE_HARMONICS,
    PARAMETER_NAMES,
    draw_residuals,
    geometry_of,
    look_of,
    parameters_of,
)
from spatia.xenium.simulate.paint import LARGEST_RADIUS_PX
from spatia.xenium.simulate.placement import place_cells
from spatia.xenium.simulate.programs import GENE_CLASSES, PROGRAMS
from spatia.xenium.simulate.render import TILE_PX
from spatia.xenium.simulate.states import STATES, draw_states, niche_of
from spatia.xenium.simulate.tissue import DOMAINS, GRID_PX, Tissue

# types that look and express the same wherever they stand: only their surroundings tell their class
CONTEXT_TYPES = ("fibroblast", "macrophage")
CONTEXT_CLASSES = ("cold", "hot")
FLAWS = ("empty", "control", "tiny", "huge")
_TINY_UM2, _HUGE_UM2 = 2.6, 420.0
_REGION_UM = 45.0  # how far the common part of residuals reaches
RESIDUAL_NAMES = tuple(f"residual_{name}" for name in PARAMETER_NAMES)


def draw_population(tissue: Tissue, pixel_size_um: float, n_flawed: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return one row per cell: position, planted factors, residuals and rendering parameters."""
    points, angles = place_cells(tissue, pixel_size_um, rng)
    n = len(points)
    states = draw_states(tissue, points, rng)
    cells = pd.DataFrame({"x": points[:, 0], "y": points[:, 1], "angle": angles})
    cells["type"] = [STATES[state][0] for state in states]
    cells["lineage"] = [STATES[state][1] for state in states]
    cells["state"] = states
    cells["niche"] = niche_of(tissue, points, states)
    cells["domain"] = np.array(DOMAINS)[tissue.at(tissue.domain, points)]
    cells["program"] = [PROGRAMS[state] for state in states]
    cells["program_strength"] = np.clip(np.exp(0.22 * rng.standard_normal(n)), 0.5, 1.6)
    cells["image_class"] = rng.choice(IMAGE_CLASSES, n)
    cells["gene_class"] = rng.choice(GENE_CLASSES, n)
    context = np.array(CONTEXT_CLASSES)[tissue.at(tissue.hot, points).astype(int)]
    cells["context_class"] = np.where(cells["type"].isin(CONTEXT_TYPES), context, "")
    cells["flaw"] = _draw_flaws(n, n_flawed, rng)
    for k in range(N_OUTLINE_HARMONICS):
        cells[f"phase_{k}"] = rng.uniform(0, 2 * np.pi, n)
    for axis in "uv":
        cells[f"shift_{axis}"] = rng.uniform(-0.7, 0.7, n)
    for axis in "yx":
        cells[f"texture_{axis}"] = rng.integers(0, TILE_PX, n)
    cells = pd.concat(
        [cells, pd.DataFrame(_residuals(tissue, points, pixel_size_um, rng), columns=list(RESIDUAL_NAMES))], axis=1
    )
    return with_parameters(cells, pixel_size_um)


def _residuals(tissue: Tissue, points: np.ndarray, pixel_size_um: float, rng: np.random.Generator) -> np.ndarray:
    scale = _REGION_UM / (pixel_size_um * GRID_PX)
    fields = [smooth_noise(tissue.compartment.shape, scale, rng) for _ in PARAMETER_NAMES]
    return draw_residuals(np.column_stack([tissue.at(field, points) for field in fields]), rng)


def with_parameters(cells: pd.DataFrame, pixel_size_um: float) -> pd.DataFrame:
    """Return the cells with the rendering parameters that follow from their factors and residuals."""
    look = look_of(
        cells["state"].to_numpy(),
        cells["niche"].to_numpy(),
        cells["program_strength"].to_numpy(),
        cells["image_class"].to_numpy(),
    )
    parameters = parameters_of(look, cells[list(RESIDUAL_NAMES)].to_numpy())
    log_area = PARAMETER_NAMES.index("log_area")
    for flaw, area_um2 in (("tiny", _TINY_UM2), ("huge", _HUGE_UM2)):
        parameters[(cells["flaw"] == flaw).to_numpy(), log_area] = np.log(area_um2)
    table = pd.DataFrame(parameters, columns=list(PARAMETER_NAMES), index=cells.index)
    geometry = geometry_of(parameters, pixel_size_um).set_index(cells.index)
    geometry["long"] = geometry["long"].clip(upper=LARGEST_RADIUS_PX)
    known = [c for c in cells.columns if c not in table.columns and c not in geometry.columns]
    return pd.concat([cells[known], table, geometry], axis=1)


def _draw_flaws(n: int, n_flawed: int, rng: np.random.Generator) -> np.ndarray:
    flaws = np.full(n, "", dtype="<U8")
    chosen = rng.choice(n, size=min(n_flawed, n), replace=False)
    flaws[chosen] = np.array(FLAWS)[np.arange(len(chosen)) % len(FLAWS)]
    return flaws
