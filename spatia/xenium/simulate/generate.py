"""One simulated slide, start to end: tissue, cells, outlines, counts, pixels, truth."""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd
from scipy import sparse

from spatia import keys
from spatia.xenium.simulate.counts import draw_counts, draw_depth, draw_transcripts
from spatia.xenium.simulate.fields import Box
from spatia.xenium.simulate.morphology import effect_table
from spatia.xenium.simulate.optional import make_he, make_stack
from spatia.xenium.simulate.paint import Layers, Outlines, paint, settle
from spatia.xenium.simulate.panel import make_features
from spatia.xenium.simulate.params import SimulationParams
from spatia.xenium.simulate.population import draw_population
from spatia.xenium.simulate.programs import Expression, donor_shift, expected_log_folds, fractions, make_expression
from spatia.xenium.simulate.render import make_optics, make_scene, render_slide
from spatia.xenium.simulate.slide import CONTROL_PROBE, SimulatedSlide
from spatia.xenium.simulate.tissue import make_tissue
from spatia.xenium.simulate.truth import Truth, make_counterfactuals

STAINS = (keys.DAPI, keys.BOUNDARY_STAIN, keys.INTERIOR_RNA_STAIN, keys.INTERIOR_PROTEIN_STAIN)
_SMALLEST_CELL_PX = 60  # cells that neighbours leave less than this are not there, as a segmentation would have it
_CONTROL_COUNTS = 12  # of a cell full of control probes


def simulate_slide(params: SimulationParams, rng: np.random.Generator) -> SimulatedSlide:
    """Return a slide with planted truth; the same parameters and generator state give the same slide."""
    pixel_size_um = keys.PIXEL_SIZE_UM
    donor_rng = np.random.default_rng([zlib.crc32(params.donor.encode()), 77])
    tissue_rng, cell_rng, light_rng, count_rng, truth_rng, extra_rng = rng.spawn(6)
    tissue = make_tissue(params.width_px, params.height_px, pixel_size_um, tissue_rng)
    cells = draw_population(tissue, pixel_size_um, params.n_flawed_cells, cell_rng)
    cells, layers, outlines = _paint_all(cells, Box(0, 0, params.height_px, params.width_px))
    optics = make_optics(tissue, donor_rng, params.donor_effect, light_rng)
    scene = make_scene(tissue, optics, params.seed, light_rng)
    focus = render_slide(scene, cells, outlines)[: params.stains_written]
    labels = outlines.label.astype(np.uint32)
    nuclei = outlines.nucleus_label.astype(np.uint32)
    measured = measure_cells(labels, nuclei, pixel_size_um)

    features = make_features(params.layout)
    expression = make_expression()
    shift = donor_shift(len(expression.genes), donor_rng, params.donor_effect)
    counts = _count(
        cells, measured[keys.CELL_AREA_UM2].to_numpy(), features, expression, shift, params.median_counts, count_rng
    )
    transcripts = None
    if params.transcripts:
        transcripts = draw_transcripts(counts, features, labels, nuclei, pixel_size_um, count_rng)
    truth = Truth(
        cells=cells,
        log_folds=expected_log_folds(expression, shift),
        effects=effect_table(),
        counterfactuals=make_counterfactuals(
            scene, cells, focus, layers, outlines, params.n_counterfactuals, pixel_size_um, truth_rng
        ),
    )
    he, he_to_morphology = make_he(scene, outlines, extra_rng) if params.he else (None, None)
    return SimulatedSlide(
        stains=STAINS[: params.stains_written],
        focus=focus,
        stack=make_stack(focus[0], params.stack_planes, extra_rng) if params.stack else None,
        he=he,
        he_to_morphology=he_to_morphology,
        cell_labels=labels,
        nucleus_labels=nuclei,
        counts=counts,
        features=features,
        cells=measured,
        transcripts=transcripts,
        truth=truth,
        name=params.name,
        donor=params.donor,
        species=params.species,
        tissue=params.tissue,
        seed=params.seed,
        pixel_size_um=pixel_size_um,
    )


def _paint_all(cells: pd.DataFrame, box: Box) -> tuple[pd.DataFrame, Layers, Outlines]:
    """Return the cells that are large enough to be seen, renumbered, and how they were painted."""
    while True:
        layers = paint(cells, box)
        outlines = settle(layers, cells)
        size = np.bincount(outlines.label.ravel(), minlength=len(cells) + 1)[1:]
        seen = (size >= _SMALLEST_CELL_PX) | ((cells["flaw"] == "tiny").to_numpy() & (size > 0))
        if seen.all():
            return cells, layers, outlines
        cells = cells[seen].reset_index(drop=True)


def measure_cells(labels: np.ndarray, nuclei: np.ndarray, pixel_size_um: float) -> pd.DataFrame:
    """Return centroids and areas of all cells, in label order."""
    n = int(labels.max())
    flat = labels.ravel()
    size = np.bincount(flat, minlength=n + 1)[1:]
    rows = np.repeat(np.arange(labels.shape[0]) + 0.5, labels.shape[1])
    columns = np.tile(np.arange(labels.shape[1]) + 0.5, labels.shape[0])
    x = np.bincount(flat, weights=columns, minlength=n + 1)[1:] / size
    y = np.bincount(flat, weights=rows, minlength=n + 1)[1:] / size
    nucleus_size = np.bincount(nuclei.ravel(), minlength=n + 1)[1:]
    return pd.DataFrame(
        {
            keys.X_UM: x * pixel_size_um,
            keys.Y_UM: y * pixel_size_um,
            keys.CELL_AREA_UM2: size * pixel_size_um**2,
            keys.NUCLEUS_AREA_UM2: nucleus_size * pixel_size_um**2,
        }
    )


def _count(
    cells: pd.DataFrame,
    area_um2: np.ndarray,
    features: pd.DataFrame,
    expression: Expression,
    shift: np.ndarray,
    median_counts: float,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Return the counts (cell, feature), with those of the cells that are planted for QC to find."""
    states = cells["state"].to_numpy()
    part = fractions(expression, states, cells["program_strength"].to_numpy(), cells["gene_class"].to_numpy(), shift)
    stain = (cells["residual_log_rna"] + cells["residual_log_dapi"]).to_numpy() / np.sqrt(2)
    counts = draw_counts(part, draw_depth(area_um2, states, stain, median_counts, rng), features, rng)
    counts[(cells["flaw"] == "empty").to_numpy()] = 0
    probes = np.flatnonzero(features["type"] == CONTROL_PROBE)
    for row in np.flatnonzero(cells["flaw"] == "control"):
        counts[row, probes] += rng.multinomial(_CONTROL_COUNTS, np.full(len(probes), 1 / len(probes))).astype(np.int32)
    return sparse.csr_matrix(counts)
