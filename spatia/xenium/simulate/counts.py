"""Counts per cell and, if wanted, every single transcript."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from spatia.xenium.simulate.slide import (
    CONTROL_CODEWORD,
    CONTROL_PROBE,
    GENE,
    GENOMIC_CONTROL,
    PROTEIN,
    UNASSIGNED_CODEWORD,
)

DISPERSION = 8.0  # of the negative binomial: variance = mean + mean^2 / DISPERSION
DEPTH_SD = 0.10  # of the log depth, besides what the area explains
CROWDING = 0.12  # bends log depth: rich cells lose transcripts that overlap, poor ones are cut
DEPTH_LOSS = 0.30  # mean of an exponential loss of log depth: cells cut, out of the plane, poorly permeable
STAIN_SLOPE = 0.22  # log depth per sd of the stains' residual
AREA_EXPONENT = 1.28  # of the depth's growth with area
# expected counts per cell of one feature
_CONTROL_RATE = {CONTROL_PROBE: 8e-5, CONTROL_CODEWORD: 2e-5, UNASSIGNED_CODEWORD: 4e-5, GENOMIC_CONTROL: 2e-4}
_PROTEIN_MEAN = 20.0
_MIN_QV = 20.0
_POOR_PART = 0.12  # transcripts below the quality that counts
_STRAY_PART = 0.10  # transcripts outside cells
_SECTION_UM = (8.0, 22.0)  # z of the tissue section


def draw_depth(
    area_um2: np.ndarray, states: np.ndarray, stain: np.ndarray, median_counts: float, rng: np.random.Generator
) -> np.ndarray:
    """Return each cell's expected number of transcripts.

    More in larger cells and in cells that their residual ``stain`` (sd about 1) shows to lie well in the section,
    fewer in lymphocytes, more in cycling cells.
    """
    log_depth = AREA_EXPONENT * np.log(np.maximum(area_um2, 1.0)) + STAIN_SLOPE * stain
    log_depth += DEPTH_SD * rng.standard_normal(len(area_um2)) - DEPTH_LOSS * rng.exponential(size=len(area_um2))
    log_depth += 0.2 * (states == "Epi_CENPF+") - 0.25 * np.isin(states, ("tcm_CD4+T", "eff_CD8+T1"))
    centred = np.clip(log_depth - np.median(log_depth), -4, 0.4 / CROWDING)
    bent = centred - CROWDING * centred**2
    return median_counts * np.exp(bent)


def draw_counts(
    fractions: np.ndarray, depth: np.ndarray, features: pd.DataFrame, rng: np.random.Generator
) -> np.ndarray:
    """Return negative-binomial counts (n, feature), int32; genes come first in ``features``."""
    mean = fractions * depth[:, None]
    burst = rng.gamma(DISPERSION, 1 / DISPERSION, mean.shape)
    blocks = [rng.poisson(mean * burst)]
    for kind, rows in features[features["type"] != GENE].groupby("type", sort=False):
        shape = (len(depth), len(rows))
        if kind == PROTEIN:
            blocks.append(rng.poisson(rng.gamma(2.0, _PROTEIN_MEAN / 2.0, shape)))
        else:
            blocks.append(rng.poisson(_CONTROL_RATE[str(kind)], shape))
    return np.concatenate(blocks, axis=1).astype(np.int32)


def draw_transcripts(
    counts: sparse.csr_matrix,
    features: pd.DataFrame,
    cell_labels: np.ndarray,
    nucleus_labels: np.ndarray,
    pixel_size_um: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return transcripts that add up to ``counts`` inside cells, poor ones and strays besides.

    Proteins are measured as intensities and have no transcripts.
    """
    good = counts.tocoo()
    is_rna = (features["type"] != PROTEIN).to_numpy()[good.col]
    repeats = good.data[is_rna]
    label = np.repeat(good.row[is_rna] + 1, repeats)
    feature = np.repeat(good.col[is_rna], repeats)
    n_poor = int(len(label) * _POOR_PART)
    poor = rng.integers(0, max(len(label), 1), n_poor)
    n_stray = int(len(label) * _STRAY_PART)
    stray_feature = feature[rng.integers(0, max(len(label), 1), n_stray)]
    label = np.concatenate([label, label[poor], np.zeros(n_stray, label.dtype)])
    qv = np.concatenate(
        [
            rng.uniform(_MIN_QV, 40.0, len(feature)),
            rng.uniform(2.0, _MIN_QV - 0.5, n_poor),
            rng.uniform(5.0, 40.0, n_stray),
        ]
    )
    feature = np.concatenate([feature, feature[poor], stray_feature])
    row, column = _pixels_for(label, cell_labels, rng)
    return pd.DataFrame(
        {
            "x_um": ((column + rng.uniform(0.02, 0.98, len(column))) * pixel_size_um).astype(np.float32),
            "y_um": ((row + rng.uniform(0.02, 0.98, len(row))) * pixel_size_um).astype(np.float32),
            "z_um": rng.uniform(*_SECTION_UM, len(row)).astype(np.float32),
            "label": label.astype(np.uint32),
            "feature": feature.astype(np.int32),
            "qv": qv.astype(np.float32),
            "overlaps_nucleus": (nucleus_labels[row, column] > 0).astype(np.uint8),
        }
    )


def _pixels_for(label: np.ndarray, cell_labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a random pixel (row, column) of each transcript's cell, or of the background for label 0."""
    flat = cell_labels.ravel()
    order = np.argsort(flat, kind="stable")
    sizes = np.bincount(flat)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    pixel = order[starts[label] + (rng.random(len(label)) * sizes[label]).astype(np.int64)]
    return np.divmod(pixel, cell_labels.shape[1])
