"""Pixels: from outlines and parameters to the four stains as a camera sees them.

Every step looks at a pixel's neighbourhood only and takes its noise from the place, so that a window rendered alone
equals the same window of the whole slide: that is what makes counterfactual images exact.
Intensities are in grey steps of ``COUNTS_PER_GREY`` raw camera counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from spatia.xenium.simulate.fields import Box, block_noise, fibres, noise_tile, sample, smooth_noise
from spatia.xenium.simulate.morphology import PARAMETER_NAMES
from spatia.xenium.simulate.paint import Outlines, cut
from spatia.xenium.simulate.tissue import GRID_PX, Compartment, Tissue

COUNTS_PER_GREY = 128.0
PHOTONS_PER_GREY = 9.0
OFFSET_COUNTS = 30.0
READ_NOISE_COUNTS = 12.0
FIBRE_STEP_PX = 2
TILE_PX = 512
STRIP_PX = 512
N_STAINS = 4
_PSF_PX = (1.25, 1.05, 1.15, 1.05)
_HALO_BOX_PX = 15  # applied twice: about a Gaussian of 6 px
_HALO_PART = (0.16, 0.14, 0.16, 0.12)
MATRIX_OVER_CELLS = 0.35  # part of the matrix's light that shines through a cell
LENS_REACH_PX = 2 * (_HALO_BOX_PX // 2)
RENDER_MARGIN_PX = 24  # more than the lens reaches
# grey steps of each stain (row) from stroma, epithelium between its cells, vessel wall, debris, ghost nuclei
HAZE = np.array(
    [
        [0.32, 0.9, 0.3, 1.2, 3.3],
        [2.25, 5.7, 1.4, 3.0, 1.7],
        [1.25, 4.0, 1.2, 2.5, 1.2],
        [0.25, 0.2, 3.0, 0.3, 0.4],
    ]
)
FIBRES = (0.0, 2.2, 2.4, 7.0)  # grey steps of each stain from the matrix's fibres
EPITHELIUM = (Compartment.GLAND, Compartment.DUCT, Compartment.BASAL, Compartment.NEST)
FIELD_OF_VIEW_PX = 1450  # the camera's, a little darker towards its corners


@dataclass(frozen=True)
class Optics:
    """What differs between donors and slides: gains and uneven light, per stain."""

    gain: np.ndarray  # (4,)
    light: np.ndarray  # (4, y, x), around 1, one point per GRID_PX pixels
    background: np.ndarray  # (4,), grey steps everywhere, glass included


@dataclass(frozen=True)
class Scene:
    """All that a rendered pixel depends on besides the cells."""

    tissue: Tissue
    optics: Optics
    fine: np.ndarray  # (TILE_PX, TILE_PX) periodic textures
    coarse: np.ndarray
    fibre: np.ndarray  # (y, x), one point per FIBRE_STEP_PX pixels
    haze: np.ndarray  # (4, y, x), light from outside the cells, one point per GRID_PX pixels
    matrix: np.ndarray  # (y, x), how much fibrous matrix there is
    sheet: np.ndarray  # (y, x), where epithelium is, with or without a segmented cell
    seed: int


def make_optics(
    tissue: Tissue, donor_rng: np.random.Generator, donor_effect: float, rng: np.random.Generator
) -> Optics:
    """Return the optics of a slide: the donor's staining, the slide's own light."""
    shape = tissue.compartment.shape
    scale = max(tissue.width_px, tissue.height_px) / GRID_PX / 2
    light = np.stack([1 + 0.07 * smooth_noise(shape, scale, rng) for _ in range(N_STAINS)])
    return Optics(
        gain=np.exp(0.10 * donor_effect * donor_rng.standard_normal(N_STAINS)),
        light=np.clip(light, 0.7, 1.3).astype(np.float32),
        background=0.25 * np.exp(0.2 * donor_effect * donor_rng.standard_normal(N_STAINS)),
    )


def make_scene(tissue: Tissue, optics: Optics, seed: int, rng: np.random.Generator) -> Scene:
    """Return everything around the cells: fibres, haze, out-of-focus nuclei, secretions and debris in lumina."""
    stroma = _soft(tissue.compartment == Compartment.STROMA, 2.0)
    wall = _soft(tissue.compartment == Compartment.VESSEL_WALL, 1.0)
    lumen = _soft(tissue.compartment == Compartment.LUMEN, 2.0)
    sheet = _soft(np.isin(tissue.compartment, EPITHELIUM), 2.0)
    shape = tissue.compartment.shape
    debris = lumen * np.clip(smooth_noise(shape, 12, rng), 0, None) * _per_structure(tissue, rng)
    density = stroma * np.clip(1 + 0.45 * smooth_noise(shape, 40, rng) + 0.25 * smooth_noise(shape, 9, rng), 0.15, None)
    ghosts = _ghost_nuclei(tissue, rng)
    layers = np.stack([density, sheet, wall, debris, ghosts])
    every = GRID_PX // FIBRE_STEP_PX
    flow = np.repeat(np.repeat(tissue.flow, every, 0), every, 1)
    return Scene(
        tissue=tissue,
        optics=optics,
        fine=noise_tile(TILE_PX, 1.3, rng),
        coarse=noise_tile(TILE_PX, 3.2, rng),
        fibre=fibres(flow, 9, rng),
        haze=np.einsum("sl,lyx->syx", HAZE, layers).astype(np.float32),
        matrix=density.astype(np.float32),
        sheet=sheet,
        seed=seed,
    )


def _soft(where: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(where.astype(np.float32), sigma)


def _per_structure(tissue: Tissue, rng: np.random.Generator) -> np.ndarray:
    """Return how full each structure's lumen is: most are empty."""
    fullness = np.where(rng.random(len(tissue.structures) + 1) < 0.35, 1.0, 0.1)
    return fullness[tissue.structure]


def _ghost_nuclei(tissue: Tissue, rng: np.random.Generator) -> np.ndarray:
    """Return blurred nuclei that lie out of focus and were not segmented."""
    shape = tissue.compartment.shape
    dots = np.zeros(shape, np.float32)
    n = int(dots.size * GRID_PX**2 / 7000)
    y, x = rng.integers(0, shape[0], n), rng.integers(0, shape[1], n)
    dots[y, x] = rng.uniform(0.3, 1.0, n) * (tissue.compartment[y, x] != Compartment.BLANK)
    return ndimage.gaussian_filter(dots, 1.9) * (2 * np.pi * 1.9**2)


def render(scene: Scene, cells: pd.DataFrame, outlines: Outlines, box: Box) -> np.ndarray:
    """Return the stains (4, y, x), uint16, of ``box``; ``outlines`` reach RENDER_MARGIN_PX further on every side."""
    wide = box.grow(RENDER_MARGIN_PX)
    light = _emitted(scene, cells, outlines, wide)
    inner = np.s_[RENDER_MARGIN_PX : RENDER_MARGIN_PX + box.height, RENDER_MARGIN_PX : RENDER_MARGIN_PX + box.width]
    grey = np.stack([_through_lens(light[k], k)[inner] for k in range(N_STAINS)])
    return _through_camera(scene, grey, box)


def _emitted(scene: Scene, cells: pd.DataFrame, outlines: Outlines, box: Box) -> np.ndarray:
    """Return the light (4, y, x) that leaves the tissue, before the lens."""
    fibre = sample(scene.fibre, FIBRE_STEP_PX, box)
    bundles = sample(scene.matrix, GRID_PX, box) * np.clip(fibre - 0.7, 0, None) ** 1.4
    light = np.empty((N_STAINS, box.height, box.width), np.float32)
    for k, gain in enumerate(FIBRES):
        light[k] = sample(scene.haze[k], GRID_PX, box) + np.float32(gain) * bundles
    pixels = np.flatnonzero(outlines.label)
    flat = light.reshape(N_STAINS, -1)  # a view: what is written to it reaches light
    flat[:, pixels] *= MATRIX_OVER_CELLS
    flat[:, pixels] += _cell_light(scene, cells, outlines, fibre.ravel()[pixels], pixels, box)
    return light


def _cell_light(
    scene: Scene, cells: pd.DataFrame, outlines: Outlines, fibre: np.ndarray, pixels: np.ndarray, box: Box
) -> np.ndarray:
    """Return the light (4, n) of the cells' own pixels: chromatin, membrane, cytoplasm, filaments."""
    row = outlines.label.ravel()[pixels] - 1
    depth, distance = outlines.depth_px.ravel()[pixels], outlines.nucleus.ravel()[pixels]
    strength = {name: np.exp(cells[name].to_numpy()).astype(np.float32)[row] for name in PARAMETER_NAMES[4:]}
    fine, coarse = _textures(scene, cells, row, pixels, box)
    nucleus = np.clip((depth - 0.6) / 1.6, 0, 1) / (1 + np.exp(np.clip((distance - 1) * 14, -30, 30)))
    inside = np.clip(depth / 2.0, 0, 1)
    rim = np.exp(-((depth / 2.2) ** 2))
    chromatin = np.clip(1 + strength["log_grain"] * (0.8 * fine + 0.6 * coarse), 0.15, None)
    dome = 1.12 - 0.25 * np.minimum(distance, 1) ** 2
    streaks = np.clip(1 + strength["log_streak"] * (0.9 * fibre + 0.5 * fine), 0.05, None)
    rough = np.clip(1 + 0.34 * coarse + 0.17 * fine, 0.1, None)
    nucleolus = nucleus * (fine > 1.5)
    return np.stack(
        [
            strength["log_dapi"] * (nucleus * chromatin * dome + 0.03 * inside),
            strength["log_membrane"] * rim * (1 + 0.15 * coarse)
            + strength["log_boundary"] * inside * (1 - 0.55 * nucleus) * rough,
            strength["log_rna"] * (inside * (1 - 0.78 * nucleus) * rough + 0.75 * nucleolus),
            strength["log_protein"] * (0.45 * inside + 0.55 * rim) * (1 - 0.5 * nucleus) * streaks,
        ]
    )


def _textures(
    scene: Scene, cells: pd.DataFrame, row: np.ndarray, pixels: np.ndarray, box: Box
) -> tuple[np.ndarray, np.ndarray]:
    """Return the fine and coarse texture (n,) at the pixels; each cell looks at its own part of the tiles."""
    y, x = np.divmod(pixels, box.width)
    y = (y + box.y0 + cells["texture_y"].to_numpy()[row]) % TILE_PX
    x = (x + box.x0 + cells["texture_x"].to_numpy()[row]) % TILE_PX
    place = y * TILE_PX + x
    return scene.fine.ravel()[place], scene.coarse.ravel()[place]


def _through_lens(light: np.ndarray, stain: int) -> np.ndarray:
    """Blur by the point spread function and a wide, weak halo of out-of-focus light."""
    sharp = ndimage.gaussian_filter(light, _PSF_PX[stain], mode="nearest")
    halo = ndimage.uniform_filter(
        ndimage.uniform_filter(light, _HALO_BOX_PX, mode="nearest"), _HALO_BOX_PX, mode="nearest"
    )
    return (1 - _HALO_PART[stain]) * sharp + _HALO_PART[stain] * halo


def _through_camera(scene: Scene, grey: np.ndarray, box: Box) -> np.ndarray:
    """Apply gain, uneven light, shot and read noise; return raw counts (4, y, x), uint16."""
    optics = scene.optics
    noise = block_noise(box, N_STAINS, (scene.seed, 11))
    raw = np.empty(grey.shape, np.uint16)
    for k in range(N_STAINS):
        lit = (grey[k] + optics.background[k]) * sample(optics.light[k], GRID_PX, box) * _vignette(box)
        # for the photon numbers seen here the Poisson law is as good as normal, and normal noise can be kept
        # while the mean changes, which a counterfactual needs
        variance = (COUNTS_PER_GREY**2 / PHOTONS_PER_GREY) * lit + READ_NOISE_COUNTS**2
        counts = optics.gain[k] * (COUNTS_PER_GREY * lit + np.sqrt(variance) * noise[k]) + OFFSET_COUNTS
        raw[k] = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
    return raw


def _vignette(box: Box) -> np.ndarray:
    y = (box.rows() % FIELD_OF_VIEW_PX) / FIELD_OF_VIEW_PX - 0.5
    x = (box.columns() % FIELD_OF_VIEW_PX) / FIELD_OF_VIEW_PX - 0.5
    return (1 - 0.16 * (y[:, None] ** 2 + x[None, :] ** 2)).astype(np.float32)


def render_slide(scene: Scene, cells: pd.DataFrame, outlines: Outlines) -> np.ndarray:
    """Return the whole slide (4, y, x), strip by strip; ``outlines`` are the slide's own, without margin."""
    tissue = scene.tissue
    slide = np.empty((N_STAINS, tissue.height_px, tissue.width_px), np.uint16)
    for top in range(0, tissue.height_px, STRIP_PX):
        strip = Box(top, 0, min(STRIP_PX, tissue.height_px - top), tissue.width_px)
        slide[:, top : top + strip.height] = render(scene, cells, cut(outlines, strip.grow(RENDER_MARGIN_PX)), strip)
    return slide
