"""Crops of the real slides: 200 random cells each, all of the small one, equal a slow reference bit for bit."""

import numpy as np
import pytest
from reference_crops import half_pixel_shift, limits_of, share_equal, to_8_bit

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
    """Ingest, QC without filters and crop one real slide; return (store, crops, cells in the bundle)."""
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
    return open_slide(zarr), open_crops(folder / "crops")


def whole_slide(store):
    image = np.stack([to_8_bit(stain, *limits_of(stain, "0.1", "99.9")) for stain in np.asarray(store.image[:])])
    return np.asarray(store.cell_labels[:]), image


def test_random_cells_equal_the_slow_reference(slide):
    store, crops = slide
    assert len(crops) == {"pancreas_a": 6830, "pancreas_b": 7911, "ileum": 23}[crops.slide]
    labels, image = whole_slide(store)
    rng = np.random.default_rng(20)
    rows = rng.permutation(len(crops))[:N_RANDOM]
    assert share_equal(crops, rows, labels, image) == 1.0
    # the comparison is worth something: what is a pixel or half a pixel off, or turned, does not pass
    few = rows[crops.columns["n_pixels"][rows] > 300][:N_TAMPERED]
    tampered = {
        "column off by one": (labels, np.roll(image, 1, axis=2)),
        "row off by one": (labels, np.roll(image, 1, axis=1)),
        "half a pixel off": (labels, half_pixel_shift(image)),
        "transposed": (labels, np.ascontiguousarray(image.transpose(0, 2, 1)).reshape(image.shape)),
    }
    for name, (wrong_labels, wrong_image) in tampered.items():
        assert share_equal(crops, few, wrong_labels, wrong_image) == 0.0, name


def test_clipped_and_edge_cells_equal_the_slow_reference(slide):
    store, crops = slide
    labels, image = whole_slide(store)
    beyond = (crops.columns["y0"] < 0) | (crops.columns["x0"] < 0)
    rows = np.flatnonzero(crops.index["is_clipped"].to_numpy() | beyond)[:20]
    rows = np.concatenate([rows, [0, len(crops) - 1]])
    assert share_equal(crops, rows, labels, image) == 1.0


def test_order_is_tissue_by_tissue(slide):
    store, crops = slide
    size = keys.CHUNK_PX
    centre_y, centre_x = crops.columns["y0"] + crops.window_px // 2, crops.columns["x0"] + crops.window_px // 2
    tissue = centre_y // size * -(-store.shape_px[1] // size) + centre_x // size
    # windows are placed by masks, tissues by centroids: they differ for a few cells on the border
    assert (np.diff(tissue) >= 0).mean() > 0.9
