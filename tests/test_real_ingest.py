"""Ingest of the real slides: nothing is lost, nothing is shifted."""

from __future__ import annotations

import json
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
import tifffile

from spatia import keys
from spatia.cli import main
from spatia.xenium import library, masks, reading
from spatia.xenium.layouts import describe_bundle
from spatia.xenium.outlines import from_shapes
from spatia.xenium.store import open_slide

pytestmark = pytest.mark.real

SLIDES = {
    "xenium_pancreas_a": (6830, "cell"),
    "xenium_pancreas_b": (7911, "cell"),
    "xenium_ileum_tiny": (23, "nucleus"),
}
SHIFT_PX = 20


@pytest.fixture(scope="module")
def slides(real_data, tmp_path_factory):
    """Return every real slide, ingested once, and its record."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "ingest.yaml").write_text("projection: focus\n")
    return {name: _ingest(real_data / name, folder / name, folder / "ingest.yaml") for name in SLIDES}


def _ingest(bundle, folder, params):
    outputs = [f"--params={params}", f"--zarr={folder / 'slide.zarr'}", f"--record={folder / 'ingest.json'}"]
    assert main(["ingest", str(bundle), f"--slide={bundle.name}", "--species=any", *outputs]) == 0
    return open_slide(folder / "slide.zarr"), json.loads((folder / "ingest.json").read_text())


@pytest.fixture(scope="module")
def drawn(slides):
    """Return a function: the filled outlines of a slide, (y, x) labels, each filled once."""

    @cache
    def fill(name: str, which: str) -> np.ndarray:
        slide, _ = slides[name]
        height, width = slide.shape_px
        labels, shapes = slide.read_cells()[keys.CELL_LABEL], slide.read_outlines(which)
        outlines = from_shapes(shapes.index.to_numpy(), shapes.geometry.to_numpy())
        return masks.fill_outlines(outlines, labels, slide.pixel_size_um).read(0, height, 0, width)

    return fill


def mean_under(dapi: np.ndarray, inside: np.ndarray, dy: int, dx: int) -> float:
    """Return the mean of ``dapi`` where ``inside`` is true, moved by (dy, dx) px; what leaves the image "
    "does not count."""
    height, width = dapi.shape
    target = dapi[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    source = inside[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
    return float(target[source].mean())


@pytest.mark.parametrize("name", SLIDES)
def test_every_cell_is_there(slides, name):
    slide, record = slides[name]
    assert len(slide.read_cells()) == record["n_cells"] == SLIDES[name][0]
    assert (record["n_cells_without_mask"], record["mask_outline_agreement"]) == (0, 1.0)
    assert record["reader"].startswith("spatialdata-io")


@pytest.mark.parametrize("name", SLIDES)
def test_dapi_lies_inside_the_outlines(slides, drawn, name):
    slide, _ = slides[name]
    which = SLIDES[name][
        1
    ]  # the ileum's cells are packed: between them there is no background, in nuclei there is DAPI
    assert slide.stains[0] == keys.DAPI
    dapi, inside = slide.image[0], drawn(name, which) > 0
    shifts = ((SHIFT_PX, 0), (-SHIFT_PX, 0), (0, SHIFT_PX), (0, -SHIFT_PX))
    ratios = [mean_under(dapi, inside, 0, 0) / mean_under(dapi, inside, dy, dx) for dy, dx in shifts]
    print(f"{name}: DAPI inside outlines over shifted by {SHIFT_PX} px: {np.round(ratios, 3)}")
    assert min(ratios) >= 1.2


def test_a_shift_is_measured_the_right_way():
    dapi, inside = np.zeros((5, 6)), np.zeros((5, 6), bool)
    dapi[3, 1], inside[2, 3] = 8.0, True
    assert mean_under(dapi, inside, 1, -2) == 8.0
    assert mean_under(dapi, inside, -2, 1) == 0.0


@pytest.mark.parametrize("name", SLIDES)
def test_every_mask_fits_its_outline(slides, drawn, name):
    slide, _ = slides[name]
    filled, mask = drawn(name, "cell"), slide.cell_labels[:]
    n = int(max(filled.max(), mask.max())) + 1
    both = np.bincount(mask[mask == filled], minlength=n)
    either = np.bincount(mask.ravel(), minlength=n) + np.bincount(filled.ravel(), minlength=n) - both
    overlap = (both / np.maximum(either, 1))[slide.read_cells()[keys.CELL_LABEL]]
    assert overlap.min() > 0.7
    assert overlap.mean() > 0.9


@pytest.mark.parametrize("name", SLIDES)
def test_pixels_are_the_files(slides, real_data, name):
    slide, _ = slides[name]
    files = sorted((real_data / name / "morphology_focus").iterdir())
    assert len(files) == len(slide.stains)
    last = tifffile.TiffFile(files[-1]).pages[0].asarray()
    np.testing.assert_array_equal(slide.image[len(files) - 1], last)


def test_plain_reader_sees_the_same_cells(slides, real_data):
    """Counts, areas and masks by id, beside what spatialdata-io alone makes of the bundle."""
    from spatialdata_io import xenium

    slide, _ = slides["xenium_pancreas_a"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"nucleus_boundaries": False, "transcripts": False, "morphology_focus": False}
        plain = xenium(real_data / "xenium_pancreas_a", **options)
    table = plain.tables["table"]
    cells = slide.read_cells().loc[table.obs["cell_id"]]
    np.testing.assert_array_equal(cells[keys.CELL_LABEL], table.obs["cell_labels"])
    np.testing.assert_array_equal(cells[keys.CELL_AREA_UM2], table.obs["cell_area"])
    counts = pd.DataFrame.sparse.from_spmatrix(slide.read_counts(), index=slide.read_cells().index)
    np.testing.assert_array_equal(counts.loc[cells.index].to_numpy().sum(axis=1), table.X.sum(axis=1).A1)
    np.testing.assert_array_equal(slide.cell_labels[:], np.asarray(plain.labels["cell_labels"]["scale0"]["image"]))


@pytest.mark.parametrize("name", SLIDES)
def test_parts_read_what_the_library_reads(slides, real_data, name):
    from spatialdata_io import xenium

    bundle = describe_bundle(real_data / name)
    counts, own = library.read_with_library(bundle), reading.read_counts(bundle.matrix)
    assert (own.matrix != counts.matrix).nnz == 0
    assert (own.cell_ids == counts.cell_ids).all()
    pd.testing.assert_frame_equal(own.genes, counts.genes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        has_nuclei = bundle.nucleus_boundaries is not None
        plain = xenium(bundle.path, transcripts=False, morphology_focus=False, nucleus_boundaries=has_nuclei)
    outlines = slides[name][0].read_outlines("cell")
    assert list(outlines.index) == list(plain.shapes[keys.CELL_BOUNDARIES].index)
    assert (outlines.geometry.to_numpy() == plain.shapes[keys.CELL_BOUNDARIES].geometry.to_numpy()).all()


def test_max_projection_of_a_genuine_stack(real_data, tmp_path):
    (tmp_path / "ingest.yaml").write_text("projection: max\n")
    slide, record = _ingest(real_data / "xenium_ileum_tiny", tmp_path / "out", tmp_path / "ingest.yaml")
    stack = tifffile.TiffFile(real_data / "xenium_ileum_tiny" / "morphology.ome.tif").series[0].asarray()
    assert stack.shape == (11, 3522, 5789)
    np.testing.assert_array_equal(slide.image[0], stack.max(axis=0))
    assert record["projection"] == {keys.DAPI: "max"}
