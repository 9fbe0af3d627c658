"""A tiny hand-made slide and its bundle, for every test: 14 cells, 256 x 352 px, written in a fraction of a second.

What is special about the cells, by label:

* 1 and 2 touch; 3 has two nuclei; 4 has none; 5 touches the image's left edge; 6 has no counts at all;
  7 is 8 px wide; the others are plain ellipses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from spatia import keys
from spatia.xenium.simulate.bundle import write_bundle
from spatia.xenium.simulate.slide import (
    CONTROL_CODEWORD,
    CONTROL_PROBE,
    GENE,
    GENOMIC_CONTROL,
    UNASSIGNED_CODEWORD,
    SimulatedSlide,
)

SHAPE = (256, 352)  # y, x: unequal, so that swapped axes fail; no multiple of the tile, so that edges are met
TILE_PX = 128
N_GENES = 24
STAINS = (keys.DAPI, keys.BOUNDARY_STAIN, keys.INTERIOR_RNA_STAIN, keys.INTERIOR_PROTEIN_STAIN)
N_PLANES = 3

# centre y, x; radius y, x of every cell, px
CELLS = (
    (50, 60, 16, 20),
    (50, 96, 18, 16),
    (60, 160, 22, 26),
    (50, 230, 14, 14),
    (130, 8, 15, 18),
    (130, 70, 20, 12),
    (125, 130, 4, 4),
    (140, 190, 24, 18),
    (135, 250, 12, 22),
    (130, 310, 18, 18),
    (210, 60, 14, 24),
    (205, 140, 20, 20),
    (215, 220, 16, 12),
    (200, 300, 22, 16),
)
N_CELLS = len(CELLS)
TWO_NUCLEI, NO_NUCLEUS, AT_EDGE, NO_COUNTS = 3, 4, 5, 6  # labels


def toy_slide(
    layout: str = "3.0",
    *,
    n_stains: int = 4,
    with_stack: bool = True,
    with_he: bool = True,
    with_transcripts: bool = True,
    seed: int = 7,
    name: str = "toy",
    species: str = "human",
) -> SimulatedSlide:
    """Return the toy slide with what ``layout`` can hold: DAPI alone before 2.0, genomic controls from 3.0 on."""
    # one generator each, so that fewer stains leave the counts as they are
    stain_rng, count_rng, read_rng = (np.random.default_rng([seed, use]) for use in range(3))
    stains = STAINS[: 1 if layout.startswith("1.") else n_stains]
    cell_labels, nucleus_labels = toy_labels()
    focus = np.stack([_stain(index, cell_labels, nucleus_labels, stain_rng) for index in range(len(stains))])
    features = toy_features(has_genomic_controls=layout[0] in "34")
    counts = _counts(len(features), count_rng)
    he, he_to_morphology = _he(focus[0]) if with_he else (None, None)
    return SimulatedSlide(
        stains=stains,
        focus=focus,
        stack=np.stack([focus[0] // divisor for divisor in (3, 1, 2)]) if with_stack else None,
        he=he,
        he_to_morphology=he_to_morphology,
        cell_labels=cell_labels,
        nucleus_labels=nucleus_labels,
        counts=counts,
        features=features,
        cells=_cell_table(cell_labels, nucleus_labels),
        transcripts=_transcripts(counts, cell_labels, nucleus_labels, read_rng) if with_transcripts else None,
        truth=None,  # type: ignore[arg-type]  # nothing is planted here
        name=name,
        donor="D1",
        species=species,
        tissue="breast",
        seed=seed,
    )


def toy_bundle(folder: Path, layout: str = "3.0", *, shuffled: tuple[str, ...] = (), **options: Any) -> Path:
    """Write the toy slide as a bundle of ``layout`` and return the folder; ``options`` as of :func:`toy_slide`."""
    write_bundle(toy_slide(layout, **options), folder, layout, tile_px=TILE_PX, shuffled=shuffled)
    return folder


def toy_labels() -> tuple[np.ndarray, np.ndarray]:
    """Return the cell and the nucleus masks, (y, x) uint32; a nucleus has its cell's number."""
    cells = np.zeros(SHAPE, np.uint32)
    nuclei = np.zeros(SHAPE, np.uint32)
    for label, (y, x, height, width) in enumerate(CELLS, start=1):
        body = _ellipse(y, x, height, width) & (cells == 0)
        cells[body] = label
        if label == TWO_NUCLEI:
            halves = _ellipse(y, x - 13, 8, 7) | _ellipse(y, x + 12, 9, 8)
            nuclei[body & halves] = label
        elif label != NO_NUCLEUS:
            nuclei[body & _ellipse(y, x, 0.55 * height, 0.5 * width)] = label
    return cells, nuclei


def toy_features(has_genomic_controls: bool = False) -> pd.DataFrame:
    """Return the panel: genes G00 ... and controls of every kind."""
    kinds = [(GENE, N_GENES), (CONTROL_PROBE, 4), (CONTROL_CODEWORD, 3), (UNASSIGNED_CODEWORD, 3)]
    if has_genomic_controls:
        kinds.insert(2, (GENOMIC_CONTROL, 2))
    rows = [(kind, index) for kind, n in kinds for index in range(n)]
    short = {
        CONTROL_PROBE: "NegControlProbe",
        CONTROL_CODEWORD: "NegControlCodeword",
        UNASSIGNED_CODEWORD: "UnassignedCodeword",
        GENOMIC_CONTROL: "Intergenic_Region",
    }
    ids = [f"ENSG{index:011d}" if kind == GENE else f"{short[kind]}_{index:04d}" for kind, index in rows]
    names = [f"G{index:02d}" if kind == GENE else f"{short[kind]}_{index:04d}" for kind, index in rows]
    return pd.DataFrame({"id": ids, "name": names, "type": [kind for kind, _ in rows]})


def _ellipse(y: float, x: float, height: float, width: float) -> np.ndarray:
    ys, xs = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return ((ys - y) / height) ** 2 + ((xs - x) / width) ** 2 <= 1


def _stain(index: int, cells: np.ndarray, nuclei: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one plane, uint16: nuclei for DAPI, cell bodies for the others, a ramp, a little noise."""
    ys, xs = np.mgrid[: SHAPE[0], : SHAPE[1]]
    body = (nuclei if index == 0 else cells) > 0
    plane = 100 * (index + 1) + ys // 4 + xs // 8 + body * (1500 + 40 * (cells % 16)) + rng.integers(0, 20, SHAPE)
    return plane.astype(np.uint16)


def _counts(n_features: int, rng: np.random.Generator) -> sparse.csr_matrix:
    counts = np.zeros((N_CELLS, n_features), np.int32)
    counts[:, :N_GENES] = rng.poisson(2.0, (N_CELLS, N_GENES))
    counts[:, N_GENES:] = rng.random((N_CELLS, n_features - N_GENES)) < 0.03
    counts[NO_COUNTS - 1] = 0
    return sparse.csr_matrix(counts)


def _cell_table(cells: np.ndarray, nuclei: np.ndarray) -> pd.DataFrame:
    pixel = keys.PIXEL_SIZE_UM
    ys, xs = np.nonzero(cells)
    label = cells[ys, xs]
    area = np.bincount(label, minlength=N_CELLS + 1)[1:]
    nucleus = np.bincount(nuclei.ravel(), minlength=N_CELLS + 1)[1:]
    return pd.DataFrame(
        {
            "x_um": np.bincount(label, xs + 0.5)[1:] / area * pixel,
            "y_um": np.bincount(label, ys + 0.5)[1:] / area * pixel,
            "cell_area_um2": area * pixel**2,
            "nucleus_area_um2": nucleus * pixel**2,
        }
    )


def _transcripts(
    counts: sparse.csr_matrix, cells: np.ndarray, nuclei: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Scatter the counts over their cells' pixels; add poor reads and reads outside of cells."""
    coo = counts.tocoo()
    label = np.concatenate([np.repeat(coo.row + 1, coo.data), np.repeat(coo.row + 1, coo.data)[::5], np.zeros(60, int)])
    feature = np.concatenate(
        [np.repeat(coo.col, coo.data), np.repeat(coo.col, coo.data)[::5], rng.integers(0, N_GENES, 60)]
    )
    n_good = int(counts.sum())
    qv = np.where(np.arange(len(label)) < n_good, 40.0, rng.uniform(2, 19, len(label)))
    qv[len(label) - 30 :] = 40.0  # good, but outside of cells
    pixels = [np.argwhere(cells == value) for value in range(N_CELLS + 1)]
    yx = np.array([pixels[value][rng.integers(len(pixels[value]))] for value in label])
    position = (yx + rng.random(yx.shape)) * keys.PIXEL_SIZE_UM
    return pd.DataFrame(
        {
            "x_um": position[:, 1],
            "y_um": position[:, 0],
            "z_um": rng.uniform(10, 20, len(label)),
            "label": label,
            "feature": feature,
            "qv": qv,
            "overlaps_nucleus": (nuclei[yx[:, 0], yx[:, 1]] > 0).astype(np.uint8),
        }
    )


def _he(dapi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an H&E image of half the resolution, turned by 90 degrees and shifted, and its alignment."""
    small = dapi[::2, ::2].astype(float)
    height, width = small.shape
    dark = np.clip((small - 100) / 2000, 0, 1)
    turned = np.zeros((width + 10, height + 20))
    turned[5 : 5 + width, 10 : 10 + height] = np.rot90(dark)
    rgb = np.array([240, 225, 235]) - turned[..., None] * np.array([150, 180, 90])
    # H&E pixel (x, y) shows small's pixel: column = width - 1 - (y - 5), row = x - 10
    matrix = np.array([[0.0, -2.0, 2.0 * (width + 5)], [2.0, 0.0, -20.0], [0.0, 0.0, 1.0]])
    return rgb.astype(np.uint8), matrix
