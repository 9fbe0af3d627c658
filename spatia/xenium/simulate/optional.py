"""What only some bundles have: the DAPI z-stack and the H&E image of the same section."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from spatia.xenium.simulate.fields import Box, sample
from spatia.xenium.simulate.paint import Outlines
from spatia.xenium.simulate.render import FIBRE_STEP_PX, OFFSET_COUNTS, TILE_PX, Scene
from spatia.xenium.simulate.tissue import GRID_PX

_BLUR_PER_PLANE_PX = 1.6
HE_SCALE = 1.7  # morphology pixels per H&E pixel, 0.36 um
_HE_TURN_DEGREES = 3.0
_HE_BORDER_PX = 40
# optical density of the dyes in red, green, blue
_HAEMATOXYLIN = np.array([0.62, 0.70, 0.29], np.float32)
_EOSIN = np.array([0.09, 0.92, 0.28], np.float32)


def make_stack(dapi: np.ndarray, n_planes: int, rng: np.random.Generator) -> np.ndarray:
    """Return a z-stack (z, y, x) uint16 whose middle plane is the focus image and whose others blur away from it."""
    stack = np.empty((n_planes, *dapi.shape), np.uint16)
    for plane in range(n_planes):
        away = abs(plane - n_planes // 2)
        if away == 0:
            stack[plane] = dapi
            continue
        blurred = ndimage.gaussian_filter(dapi, _BLUR_PER_PLANE_PX * away, output=np.float32)
        dimmed = OFFSET_COUNTS + 0.9**away * (blurred - OFFSET_COUNTS)
        dimmed += np.sqrt(np.maximum(dimmed, 1)) * rng.standard_normal(dapi.shape, dtype=np.float32)
        stack[plane] = np.clip(dimmed, 0, 65535)
    return stack


def make_he(scene: Scene, outlines: Outlines, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an H&E image (y, x, 3) uint8 in its own frame, and the matrix that takes its pixels to morphology."""
    density = _dye_density(scene, outlines)
    matrix, shape = _he_frame(outlines.label.shape, rng)
    # affine_transform wants (row, column) and pixel centres at whole numbers
    swap = matrix[:2, :2][::-1, ::-1]
    offset = swap @ [0.5, 0.5] + matrix[:2, 2][::-1] - 0.5
    layers = [ndimage.affine_transform(layer, swap, offset, shape, order=1) for layer in density]
    he = np.empty((*shape, 3), np.uint8)
    for k in range(3):
        absorbed = layers[0] * _HAEMATOXYLIN[k] + layers[1] * _EOSIN[k]
        noise = 1.5 * rng.standard_normal(shape, dtype=np.float32)
        he[..., k] = np.clip(243 * np.exp(-absorbed) + noise, 0, 255)
    return he, matrix


def _dye_density(scene: Scene, outlines: Outlines) -> np.ndarray:
    """Return haematoxylin and eosin (2, y, x) in the morphology frame."""
    box = Box(0, 0, *outlines.label.shape)
    inside = np.clip(outlines.depth_px / 2, 0, 1)
    nucleus = np.where((outlines.nucleus < 1) & (outlines.depth_px > 1.5), 1 - 0.3 * outlines.nucleus**2, 0)
    tile = np.ix_(box.rows() % TILE_PX, box.columns() % TILE_PX)
    chromatin = np.clip(1 + 0.16 * scene.fine[tile] + 0.14 * scene.coarse[tile], 0.3, None)
    fibre = sample(scene.fibre, FIBRE_STEP_PX, box)
    stroma = np.clip(sample(scene.matrix, GRID_PX, box) * 2.5, 0, 1) * np.clip(0.34 + 0.16 * fibre, 0.05, None)
    sheet = 0.4 * sample(scene.sheet, GRID_PX, box)
    eosin = inside * 0.42 * (1 - 0.6 * nucleus) + (1 - inside) * np.maximum(stroma, sheet)
    density = np.stack([1.15 * nucleus * chromatin + 0.10 * inside, eosin]).astype(np.float32)
    return np.stack([ndimage.gaussian_filter(layer, 0.9) for layer in density])


def _he_frame(shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    """Return H&E pixel -> morphology pixel (3, 3) and the H&E's shape: turned a little, shifted, with a border."""
    height, width = shape
    turn = np.deg2rad(_HE_TURN_DEGREES * rng.uniform(0.5, 1) * rng.choice([-1, 1]))
    c, s = HE_SCALE * np.cos(turn), HE_SCALE * np.sin(turn)
    linear = np.array([[c, -s], [s, c]])
    corners = np.linalg.inv(linear) @ np.array([[0, width, 0, width], [0, 0, height, height]])
    low, high = corners.min(axis=1) - _HE_BORDER_PX, corners.max(axis=1) + _HE_BORDER_PX
    low = low + rng.uniform(-10, 10, 2)
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = linear @ low
    size = np.ceil(high - low).astype(int)
    return matrix, (int(size[1]), int(size[0]))
