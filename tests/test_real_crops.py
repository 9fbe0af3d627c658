"""Crops of the real slides: 200 random cells each, all of the small one, equal a slow reference bit for bit."""

import numpy as np
import pytest
from reference_crops import TAMPERINGS, limits_of, share_equal, share_placed, to_8_bit

from spatia import keys
from spatia.cells.crops import open_crops
from spatia.cli import main
from spatia.xenium.store import open_slide

pytestmark = [pytest.mark.real, pytest.mark.slow]

N_RANDOM = 200
N_TAMPERED = 12
SLIDES = {"pancreas_a": "xenium_pancreas_a", "pancreas_b": "xenium_pancreas_b", "ileum": "xenium_ileum_tiny"}
NO_FILTERS = "min_counts: null\nmin_genes: null\nmax_control_rate: null\nmin_cell_area_um2: null\n"


def run(*words):
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module", params=SLIDES)
def slide(request, real_data, tmp_path_factory):
    """Ingest, QC without filters and crop one real slide; return its store, crops, whole labels and 8-bit image."""
    folder = tmp_path_factory.mktemp(request.param)
    for stage, params in (("ingest", "{}"), ("qc", NO_FILTERS), ("crop", "{}")):
        (folder / f"{stage}.yaml").write_text(params)
    name, zarr, cells, histograms = request.param, folder / "slide.zarr", folder / "cells.parquet", folder / "h.npz"
    bundle = real_data / SLIDES[name]
    species = "mouse" if name == "ileum" else "human"
    to_store = (bundle, "--slide", name, "--species", species, "--params", folder / "ingest.yaml", "--zarr", zarr)
    run("ingest", *to_store, "--record", folder / "ingest.json")
    given = ("--slide", name, "--zarr", zarr)
    found = ("--cells", cells, "--histograms", histograms)
    run("qc", *given, "--params", folder / "qc.yaml", *found, "--summary", folder / "qc.json")
    run("crop", *given, "--params", folder / "crop.yaml", *found, "--out", folder / "crops")
    store = open_slide(zarr)
    image = np.stack([to_8_bit(stain, *limits_of(stain, "0.1", "99.9")) for stain in np.asarray(store.image[:])])
    return store, open_crops(folder / "crops"), np.asarray(store.cell_labels[:]), image


def test_random_cells_equal_the_slow_reference(slide):
    _, crops, labels, image = slide
    assert len(crops) == {"pancreas_a": 6830, "pancreas_b": 7911, "ileum": 23}[crops.slide]
    rng = np.random.default_rng(20)
    rows = rng.permutation(len(crops))[:N_RANDOM]
    assert share_equal(crops, rows, labels, image) == 1.0
    assert share_placed(crops, rows, labels) == 1.0
    few = rows[crops.columns["n_pixels"][rows] > 300][:N_TAMPERED]
    for name, tamper in TAMPERINGS.items():
        assert share_equal(crops, few, labels, image, tamper) == 0.0, name
    assert share_placed(crops, few, np.roll(labels, 1, axis=0)) == 0.0


def test_clipped_and_edge_cells_equal_the_slow_reference(slide):
    _, crops, labels, image = slide
    beyond = (crops.columns["y0"] < 0) | (crops.columns["x0"] < 0)
    rows = np.flatnonzero(crops.index["is_clipped"].to_numpy() | beyond)[:20]
    rows = np.concatenate([rows, [0, len(crops) - 1]])
    assert share_equal(crops, rows, labels, image) == 1.0


def test_order_is_tissue_by_tissue(slide):
    store, crops, _, _ = slide
    size = keys.CHUNK_PX
    centre_y, centre_x = crops.columns["y0"] + crops.window_px // 2, crops.columns["x0"] + crops.window_px // 2
    tissue = centre_y // size * -(-store.shape_px[1] // size) + centre_x // size
    # windows are placed by masks, tissues by centroids: they differ for a few cells on the border
    assert (np.diff(tissue) >= 0).mean() > 0.9
