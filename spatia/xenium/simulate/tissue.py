"""The tissue: glands, ducts with carcinoma in situ, an invasive front, vessels, stroma, immune-hot and -cold areas.

Made on a coarse grid (one point per ``GRID_PX`` pixels); cells are placed into its compartments afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from scipy import ndimage

from spatia.xenium.simulate.fields import smooth_noise

GRID_PX = 4
N_HARMONICS = 5  # of a structure's outline, the first of them an ellipse
DOMAINS = ("normal", "in_situ", "invasive")


class Compartment(IntEnum):
    """What a point of the tissue belongs to."""

    BLANK = 0  # glass
    STROMA = 1
    GLAND = 2  # normal epithelium
    DUCT = 3  # carcinoma in situ
    BASAL = 4  # the myoepithelial rim of a duct
    NEST = 5  # invasive carcinoma
    LUMEN = 6
    VESSEL_WALL = 7
    VESSEL_LUMEN = 8


@dataclass(frozen=True)
class Structure:
    """A gland, duct, nest or vessel: a closed outline around a centre, lengths in pixels."""

    kind: str  # gland, acinus, duct, nest, vessel
    number: int  # from 1
    x: float
    y: float
    radius: float
    stretch: float  # long axis / radius
    angle: float
    amplitudes: np.ndarray  # (N_HARMONICS,)
    phases: np.ndarray
    lumen: float  # its radius as a part of the structure's

    @property
    def reach(self) -> float:
        """Largest distance of the outline from the centre."""
        return self.radius * self.stretch * (1 + float(np.abs(self.amplitudes).sum()))

    def rho(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the distance from the centre as a part of the outline's: 0 centre, 1 outline."""
        along, across = self._turned(x - self.x, y - self.y)
        u, v = along / self.stretch, across * self.stretch
        return np.hypot(u, v) / (self.radius * self._wave(np.arctan2(v, u)))

    def ring(self, rho: float, spacing: float) -> tuple[np.ndarray, np.ndarray]:
        """Return points (n, 2) about ``spacing`` apart where ``rho`` has this value, and that line's direction (n,)."""
        theta = np.linspace(0, 2 * np.pi, 721)
        r = rho * self.radius * self._wave(theta)
        along, across = r * np.cos(theta) * self.stretch, r * np.sin(theta) / self.stretch
        c, s = np.cos(self.angle), np.sin(self.angle)
        x, y = self.x + c * along - s * across, self.y + s * along + c * across
        length = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
        n = max(int(length[-1] / spacing), 3)
        at = (np.arange(n) + 0.5) / n * length[-1]
        direction = np.arctan2(np.gradient(y), np.gradient(x))
        nearest = np.searchsorted(length, at)
        return np.column_stack([np.interp(at, length, x), np.interp(at, length, y)]), direction[nearest]

    def around(self) -> np.ndarray:
        """Return eight points (8, 2) a little outside the outline."""
        theta = np.arange(8) * np.pi / 4
        return np.column_stack([self.x + self.reach * np.cos(theta), self.y + self.reach * np.sin(theta)])

    def _turned(self, dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c, s = np.cos(self.angle), np.sin(self.angle)
        return c * dx + s * dy, c * dy - s * dx

    def _wave(self, theta: np.ndarray) -> np.ndarray:
        k = np.arange(2, 2 + N_HARMONICS)
        return 1 + (self.amplitudes * np.cos(k * theta[..., None] + self.phases)).sum(axis=-1)


@dataclass(frozen=True)
class Tissue:
    """Maps (y, x) with one point per ``GRID_PX`` pixels, and the structures drawn into them."""

    width_px: int
    height_px: int
    compartment: np.ndarray  # uint8, Compartment
    structure: np.ndarray  # int32, a structure's number or 0
    domain: np.ndarray  # uint8, index into DOMAINS
    hot: np.ndarray  # bool, immune-hot
    flow: np.ndarray  # float32, direction of the stroma's fibres, radians
    crowding: np.ndarray  # float32, 0..1, how dense the stroma's cells lie
    structures: tuple[Structure, ...]

    def at(self, field: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return the map's values at ``points`` (n, 2), (x, y) in pixels."""
        columns = np.clip((points[:, 0] / GRID_PX).astype(int), 0, field.shape[1] - 1)
        rows = np.clip((points[:, 1] / GRID_PX).astype(int), 0, field.shape[0] - 1)
        return field[rows, columns]


@dataclass(frozen=True)
class Recipe:
    """How one kind of structure is thrown at the slide."""

    domain: str  # the only one where it stands, or "" for all
    per_mm2: int  # tries
    radius_um: tuple[float, float]
    roughness: float
    stretch: tuple[float, float]
    lumen: tuple[float, float]
    gap_um: float  # to others


_KINDS = {
    "duct": Recipe("in_situ", 300, (34.0, 75.0), 0.05, (1.0, 1.5), (0.0, 0.0), 12.0),
    "gland": Recipe("normal", 110, (20.0, 38.0), 0.04, (1.0, 1.9), (0.50, 0.70), 9.0),
    "acinus": Recipe("normal", 2600, (11.0, 22.0), 0.05, (1.0, 1.4), (0.0, 0.12), 3.0),
    "nest": Recipe("invasive", 3200, (8.0, 40.0), 0.13, (1.0, 2.4), (0.0, 0.0), 2.0),
    "vessel": Recipe("", 400, (6.0, 15.0), 0.05, (1.0, 1.9), (0.55, 0.7), 6.0),
}


def make_tissue(width_px: int, height_px: int, pixel_size_um: float, rng: np.random.Generator) -> Tissue:
    """Return a tissue: domains along one direction, structures thrown into them, fields in between."""
    shape = (-(-height_px // GRID_PX), -(-width_px // GRID_PX))
    um = 1 / (pixel_size_um * GRID_PX)  # grid points per micrometre
    domain = _domains(shape, um, rng)
    heat = smooth_noise(shape, 110 * um, rng) + 0.5 * smooth_noise(shape, 45 * um, rng)
    flow = (1.1 * smooth_noise(shape, 160 * um, rng) + rng.uniform(0, np.pi)).astype(np.float32)
    crowding = 1 / (1 + np.exp(-1.5 * smooth_noise(shape, 40 * um, rng)))
    tissue = Tissue(
        width_px=width_px,
        height_px=height_px,
        compartment=_glass(shape, um, rng),
        structure=np.zeros(shape, np.int32),
        domain=domain,
        hot=heat > np.quantile(heat, 0.66),
        flow=flow,
        crowding=crowding.astype(np.float32),
        structures=(),
    )
    structures = _throw_structures(tissue, pixel_size_um, rng)
    for structure in structures:
        _draw(structure, tissue, pixel_size_um, rng)
    return Tissue(**{**vars(tissue), "structures": tuple(structures), "flow": _bend_flow(tissue, structures)})


def _domains(shape: tuple[int, int], um: float, rng: np.random.Generator) -> np.ndarray:
    y, x = np.indices(shape, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x / shape[1] + np.sin(angle) * y / shape[0] + 0.10 * smooth_noise(shape, 150 * um, rng)
    lower, upper = np.quantile(along, [0.28, 0.64])
    return (along > lower).astype(np.uint8) + (along > upper).astype(np.uint8)


def _glass(shape: tuple[int, int], um: float, rng: np.random.Generator) -> np.ndarray:
    """Return the empty compartment map: stroma, and glass beyond a ragged edge of the tissue at one corner."""
    y, x = np.indices(shape, dtype=np.float32)
    corner_y, corner_x = rng.choice([0.0, 1.0], 2)
    away = np.hypot(x / shape[1] - corner_x, y / shape[0] - corner_y) + 0.02 * smooth_noise(shape, 30 * um, rng)
    return np.where(away < rng.uniform(0.2, 0.34), Compartment.BLANK, Compartment.STROMA).astype(np.uint8)


def _throw_structures(tissue: Tissue, pixel_size_um: float, rng: np.random.Generator) -> list[Structure]:
    """Throw structures at the slide; one that would touch another or leaves its domain is not kept."""
    kept: list[Structure] = []
    discs = np.zeros((0, 3))  # x, y, reach of those kept
    area_mm2 = tissue.width_px * tissue.height_px * (pixel_size_um / 1000) ** 2
    for kind, recipe in _KINDS.items():
        for _ in range(int(recipe.per_mm2 * max(area_mm2, 0.15))):
            structure = _throw(kind, recipe, len(kept) + 1, tissue, pixel_size_um, rng)
            if _is_free(structure, recipe, discs, pixel_size_um) and _is_at_home(structure, recipe, tissue):
                kept.append(structure)
                discs = np.vstack([discs, (structure.x, structure.y, structure.reach)])
    return kept


def _throw(
    kind: str, recipe: Recipe, number: int, tissue: Tissue, pixel_size_um: float, rng: np.random.Generator
) -> Structure:
    return Structure(
        kind=kind,
        number=number,
        x=rng.uniform(0, tissue.width_px),
        y=rng.uniform(0, tissue.height_px),
        radius=rng.uniform(*recipe.radius_um) / pixel_size_um,
        stretch=rng.uniform(*recipe.stretch) ** 0.5,
        angle=rng.uniform(0, np.pi),
        amplitudes=rng.normal(0, recipe.roughness, N_HARMONICS) / np.arange(1, N_HARMONICS + 1) ** 0.5,
        phases=rng.uniform(0, 2 * np.pi, N_HARMONICS),
        lumen=rng.uniform(*recipe.lumen),
    )


def _is_free(structure: Structure, recipe: Recipe, discs: np.ndarray, pixel_size_um: float) -> bool:
    apart = np.hypot(discs[:, 0] - structure.x, discs[:, 1] - structure.y)
    return bool((apart > 0.88 * (discs[:, 2] + structure.reach) + recipe.gap_um / pixel_size_um).all())


def _is_at_home(structure: Structure, recipe: Recipe, tissue: Tissue) -> bool:
    centre = np.array([[structure.x, structure.y]])
    in_domain = not recipe.domain or DOMAINS[int(tissue.at(tissue.domain, centre)[0])] == recipe.domain
    return in_domain and bool((tissue.at(tissue.compartment, structure.around()) != Compartment.BLANK).all())


def _draw(structure: Structure, tissue: Tissue, pixel_size_um: float, rng: np.random.Generator) -> None:
    """Draw one structure into the compartment and structure maps."""
    height, width = tissue.compartment.shape
    top, bottom = _span(structure.y, structure.reach, height)
    left, right = _span(structure.x, structure.reach, width)
    if top >= bottom or left >= right:
        return
    y, x = np.mgrid[top:bottom, left:right] * float(GRID_PX) + GRID_PX / 2
    rho = structure.rho(x, y)
    compartment = tissue.compartment[top:bottom, left:right]
    inside = (rho < 1) & (compartment != Compartment.BLANK)
    tissue.structure[top:bottom, left:right][inside] = structure.number
    wall, lumen = {
        "duct": (Compartment.DUCT, Compartment.LUMEN),
        "nest": (Compartment.NEST, Compartment.LUMEN),
        "vessel": (Compartment.VESSEL_WALL, Compartment.VESSEL_LUMEN),
    }.get(structure.kind, (Compartment.GLAND, Compartment.LUMEN))
    compartment[inside] = wall
    compartment[inside & (rho < structure.lumen)] = lumen
    if structure.kind == "duct":
        rim = 1 - 7.0 / pixel_size_um / structure.radius
        compartment[inside & (rho > rim)] = Compartment.BASAL
        compartment[inside & (rho < rim) & _cribriform(structure, x, y, rng)] = Compartment.LUMEN


def _span(centre: float, reach: float, n: int) -> tuple[int, int]:
    return max(int((centre - reach) / GRID_PX) - 1, 0), min(int((centre + reach) / GRID_PX) + 2, n)


def _cribriform(structure: Structure, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return where a duct's sieve-like holes are, or its one necrotic centre."""
    if rng.random() < 0.35:
        return structure.rho(x, y) < rng.uniform(0.3, 0.5)
    holes = np.zeros(x.shape, bool)
    for _ in range(rng.integers(2, 7)):
        r, theta = structure.radius * 0.6 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        size = structure.radius * rng.uniform(0.07, 0.16)
        holes |= np.hypot(x - structure.x - r * np.cos(theta), y - structure.y - r * np.sin(theta)) < size
    return holes


def _bend_flow(tissue: Tissue, structures: list[Structure]) -> np.ndarray:
    """Return the flow turned to run around ducts, glands and nests, as collagen does."""
    occupied = np.isin(tissue.compartment, (Compartment.GLAND, Compartment.DUCT, Compartment.BASAL, Compartment.NEST))
    if not structures or not occupied.any():
        return tissue.flow
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(~occupied), 4)
    down, right = np.gradient(distance)
    around = np.arctan2(right, -down)  # the gradient turned by 90 degrees
    weight = np.exp(-distance / 22)
    # directions have no sign: average their doubled angles
    double = weight * np.exp(2j * around) + (1 - weight) * np.exp(2j * tissue.flow)
    return (np.angle(double) / 2).astype(np.float32)
