"""A simulated slide in memory: what the renderer makes and the bundle writer takes.

Positions here are micrometres in the slide's own frame (origin at the image's top left corner, x right, y down);
pixel (0, 0) covers [0, 1) x [0, 1) pixels, so that a pixel's centre lies at ``(column + 0.5) * pixel_size_um``.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from spatia import keys

if TYPE_CHECKING:
    from spatia.xenium.simulate.truth import Truth

LAYOUTS = ("1.0", "1.4", "2.0", "3.0", "4.0")

GENE = "Gene Expression"
CONTROL_PROBE = "Negative Control Probe"
CONTROL_CODEWORD = "Negative Control Codeword"
UNASSIGNED_CODEWORD = "Unassigned Codeword"
GENOMIC_CONTROL = "Genomic Control"
PROTEIN = "Protein Expression"
FEATURE_TYPES = (GENE, CONTROL_PROBE, CONTROL_CODEWORD, UNASSIGNED_CODEWORD, GENOMIC_CONTROL, PROTEIN)

# 10x writes a cell's 32-bit number in base 16 with these letters instead of 0-9a-f
_ID_LETTERS = string.ascii_lowercase[:16]


@dataclass(frozen=True)
class SimulatedSlide:
    """One slide: pixels, masks, counts and what was planted.

    Attributes
    ----------
    stains : names from :mod:`spatia.keys`, one (DAPI) or four, in the order of ``focus``
    focus : (c, y, x) uint16
    stack : (z, y, x) uint16 DAPI z-stack for layouts that have ``morphology.ome.tif``, or None
    he : (y, x, 3) uint8 H&E in its own frame (other resolution, rotated, shifted), or None
    he_to_morphology : (3, 3), takes an H&E pixel (x, y, 1) to a morphology pixel, or None
    cell_labels : (y, x) uint32, 1..n, 0 is background
    nucleus_labels : (y, x) uint32, a nucleus has its cell's number; a cell may have none
    counts : (n_cells, n_features) int32, row i belongs to label i + 1
    features : columns ``id``, ``name``, ``type`` (one of ``FEATURE_TYPES``), in the order of the counts' columns
    cells : columns ``x_um``, ``y_um`` (centroid), ``cell_area_um2``, ``nucleus_area_um2``, in label order
    transcripts : columns ``x_um``, ``y_um``, ``z_um``, ``label`` (0: in no cell), ``feature`` (row of ``features``),
        ``qv``, ``overlaps_nucleus``; those with ``qv >= 20`` and a label add up to ``counts``; or None
    truth : what was planted, see :mod:`spatia.xenium.simulate.truth`
    """

    stains: tuple[str, ...]
    focus: np.ndarray
    stack: np.ndarray | None
    he: np.ndarray | None
    he_to_morphology: np.ndarray | None
    cell_labels: np.ndarray
    nucleus_labels: np.ndarray
    counts: sparse.csr_matrix
    features: pd.DataFrame
    cells: pd.DataFrame
    transcripts: pd.DataFrame | None
    truth: Truth
    name: str
    donor: str
    species: str
    tissue: str
    seed: int
    pixel_size_um: float = keys.PIXEL_SIZE_UM

    @property
    def n_cells(self) -> int:
        """Number of cells, the largest label."""
        return len(self.cells)

    def cell_ids(self, layout: str) -> np.ndarray:
        """Return the ``cell_id`` of every cell, in label order, as a bundle of this layout writes it."""
        return cell_ids(self.n_cells, layout, self.seed)


def cell_ids(n: int, layout: str, seed: int) -> np.ndarray:
    """Return ``n`` cell ids, in label order, as an instrument of ``layout`` names them.

    Layout 1.0 has the integers 1..n, later ones a 32-bit number as eight letters and a dataset suffix
    (``aaaaficg-1``). Neither is sorted by label, so that a join by row order shows.

    Returns
    -------
    (n,) array of str, all different
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout should be one of {', '.join(LAYOUTS)}, found {layout!r}")
    rng = np.random.default_rng([seed, 1000])
    if layout == "1.0":
        return (rng.permutation(n) + 1).astype(str)
    numbers = rng.choice(16 * max(n, 1), size=n, replace=False)
    # spreads neighbours over all eight letters and, being odd, keeps them different modulo 2^32
    scattered = (numbers.astype(np.uint64) * np.uint64(2654435761)) % np.uint64(2**32)
    return np.array([_id_text(int(number)) for number in scattered], dtype=str)


def _id_text(number: int) -> str:
    letters = f"{number:08x}".translate(str.maketrans("0123456789abcdef", _ID_LETTERS))
    return f"{letters}-1"
