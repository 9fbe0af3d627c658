"""Bundle -> ``slide.zarr``: the pixels, masks, outlines and counts of the bundle, in the slide's frame."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import warnings

import breaking as b
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
import toy
import zarr

from spatia import keys
from spatia.cli import main
from spatia.errors import SpatiaError
from spatia.xenium import library, masks, reading
from spatia.xenium.he import open_he, read_alignment
from spatia.xenium.layouts import AlignedImage, describe_bundle
from spatia.xenium.outlines import from_shapes, from_vertices, join
from spatia.xenium.rasters import Raster, count_levels
from spatia.xenium.store import open_slide
from spatia.xenium.window import Window, make_window, parse_roi

PIXEL = keys.PIXEL_SIZE_UM
ROI = (20.3, 8.0, 52.0, 50.0)  # micrometres: x 95 to 245 px, y 37 to 236 px


def ingest(bundle, folder, *arguments, params=""):
    """Run the stage; return the opened slide and its record."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "ingest.yaml").write_text(params)
    outputs = [f"--params={folder / 'ingest.yaml'}", f"--zarr={folder / 'slide.zarr'}", f"--record={folder / 'i.json'}"]
    assert main(["ingest", str(bundle), "--slide=toy", "--species=human", *outputs, *arguments]) == 0
    return open_slide(folder / "slide.zarr"), json.loads((folder / "i.json").read_text())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return toy.toy_bundle(tmp_path_factory.mktemp("bundle") / "bundle", shuffled=("cells", "boundaries", "matrix"))


@pytest.fixture(scope="module")
def whole(bundle, tmp_path_factory):
    return ingest(bundle, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def part(bundle, tmp_path_factory):
    return ingest(bundle, tmp_path_factory.mktemp("part"), "--roi-um=" + ",".join(map(str, ROI)))


def labels_by_id(slide):
    """Return the toy's own labels, as the slide numbers the same cells."""
    planted = pd.Series(range(1, toy.N_CELLS + 1), index=toy.toy_slide().cell_ids("3.0"))
    lookup = np.zeros(toy.N_CELLS + 1, np.uint32)
    cells = slide.read_cells()
    lookup[planted.loc[cells.index]] = cells[keys.CELL_LABEL]
    cell_labels, nucleus_labels = toy.toy_labels()
    return lookup[cell_labels], lookup[nucleus_labels]


def fill(shapes, labels):
    """Return labels from polygons as geopandas has them."""
    return masks.fill_outlines(from_shapes(shapes.index.to_numpy(), shapes.geometry.to_numpy()), labels, PIXEL)


# --- the whole slide ---


def test_pixels_labels_and_counts_are_the_bundles(whole):
    slide, _ = whole
    planted = toy.toy_slide()
    np.testing.assert_array_equal(slide.image[:], planted.focus)
    cells, nuclei = labels_by_id(slide)
    np.testing.assert_array_equal(slide.cell_labels[:], cells)
    np.testing.assert_array_equal(slide.nucleus_labels[:], nuclei)
    rows = pd.Series(range(toy.N_CELLS), index=planted.cell_ids("3.0")).loc[slide.read_cells().index]
    np.testing.assert_array_equal(slide.read_counts().toarray(), planted.counts.toarray()[rows, : toy.N_GENES])
    np.testing.assert_allclose(slide.read_cells()[keys.X_UM], planted.cells["x_um"].to_numpy()[rows], atol=1e-6)


def test_controls_are_counted_but_are_no_genes(whole):
    slide, _ = whole
    planted = toy.toy_slide()
    cells = slide.read_cells()
    rows = pd.Series(range(toy.N_CELLS), index=planted.cell_ids("3.0")).loc[cells.index]
    counts = planted.counts.toarray()[rows]
    np.testing.assert_array_equal(cells[keys.N_CONTROLS], counts[:, toy.N_GENES :].sum(axis=1))
    np.testing.assert_array_equal(cells[keys.N_COUNTS], counts[:, : toy.N_GENES].sum(axis=1))
    np.testing.assert_array_equal(cells[keys.N_GENES], (counts[:, : toy.N_GENES] > 0).sum(axis=1))
    assert list(slide.genes["gene"]) == [f"G{index:02d}" for index in range(toy.N_GENES)]
    assert slide.genes["gene_id"][1] == "ENSG00000000001"


def test_arrays_are_stored_as_the_contract_says(whole):
    slide, _ = whole
    assert (slide.image.chunks, slide.cell_labels.chunks) == ((1, 1024, 1024), (1024, 1024))
    assert (slide.image.dtype, slide.cell_labels.dtype, slide.he.dtype) == (np.uint16, np.uint32, np.uint8)
    assert slide.he.shape == (3, *toy.SHAPE)


def test_every_outline_lies_on_its_mask(whole):
    slide, _ = whole
    labels = slide.read_cells()[keys.CELL_LABEL]
    assert len(slide.read_outlines("cell")) == toy.N_CELLS
    for which, raster in (("cell", slide.cell_labels[:]), ("nucleus", slide.nucleus_labels[:])):
        filled = fill(slide.read_outlines(which), labels).read(0, toy.SHAPE[0], 0, toy.SHAPE[1])
        for label in labels[labels.index.isin(slide.read_outlines(which).index)]:
            both = ((filled == label) & (raster == label)).sum()
            assert both / ((filled == label) | (raster == label)).sum() > 0.8


def test_a_cell_with_two_nuclei_has_both_and_one_without_has_none(whole):
    slide, _ = whole
    ids = toy.toy_slide().cell_ids("3.0")
    outlines = slide.read_outlines("nucleus")
    assert outlines.loc[ids[toy.TWO_NUCLEI - 1]].geometry.geom_type == "MultiPolygon"
    assert ids[toy.NO_NUCLEUS - 1] not in outlines.index
    rings = [cell_id for cell_id, _ in slide.iterate_rings("nucleus")]
    assert rings.count(ids[toy.TWO_NUCLEI - 1]) == 2


def test_the_library_opens_it(whole):
    import spatialdata
    from spatialdata.transformations import get_transformation

    slide, _ = whole
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = spatialdata.read_zarr(slide.path)
    assert set(read.images) == {keys.MORPHOLOGY, keys.HE}
    assert set(read.labels) == {keys.CELL_LABELS, keys.NUCLEUS_LABELS}
    assert set(read.shapes) == {keys.CELL_BOUNDARIES, keys.NUCLEUS_BOUNDARIES}
    image = read.images[keys.MORPHOLOGY]
    np.testing.assert_array_equal(np.asarray(image), slide.image[:])
    assert list(image.coords["c"].values) == list(slide.stains)
    scale = get_transformation(read.shapes[keys.CELL_BOUNDARIES], to_coordinate_system=keys.GLOBAL)
    np.testing.assert_allclose(scale.to_affine_matrix(("x", "y"), ("x", "y")), np.diag([1 / PIXEL, 1 / PIXEL, 1]))
    table = read.tables[keys.TABLE]
    attributes = table.uns["spatialdata_attrs"]
    assert (attributes["region"], attributes["instance_key"]) == (keys.CELL_LABELS, keys.CELL_LABEL)
    np.testing.assert_allclose(table.obsm["spatial"], table.obs[[keys.X_UM, keys.Y_UM]])
    matched = spatialdata.match_table_to_element(read, element_name=keys.CELL_LABELS, table_name=keys.TABLE)
    assert sorted(matched.obs_names) == sorted(table.obs_names)


def test_snakemakes_timestamp_does_not_warn(bundle, tmp_path):
    slide, _ = ingest(bundle, tmp_path)
    (slide.path / ".snakemake_timestamp").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_slide(slide.path).stains == toy.STAINS


def test_the_record_says_what_was_done(whole, bundle):
    _, record = whole
    assert (record["layout"], record["stains"], record["labels"]) == ("3.x", list(toy.STAINS), "masks")
    assert (record["n_cells"], record["n_cells_in_bundle"], record["n_cells_without_mask"]) == (14, 14, 0)
    assert record["reader"].startswith("spatia, because spatialdata-io cannot: it joins")
    content = (bundle / "cells.parquet").read_bytes()
    assert record["checksums"]["cells.parquet"] == "blake2b:" + hashlib.blake2b(content, digest_size=16).hexdigest()
    assert "transcripts.parquet" not in record["checksums"]


def bytes_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_bundle_gives_the_same_bytes(bundle, whole, tmp_path):
    first, _ = whole
    again, _ = ingest(bundle, tmp_path)
    assert bytes_of(first.path) == bytes_of(again.path)


def test_the_size_of_batches_does_not_show_in_what_is_written(bundle, whole, part, tmp_path, monkeypatch):
    for name, size in (("outlines.BATCH", 3), ("reading._BATCH_ROWS", 16), ("tables._BLOCK_CELLS", 4)):
        monkeypatch.setattr(f"spatia.xenium.{name}", size)
    again, _ = ingest(bundle, tmp_path / "whole")
    assert bytes_of(again.path) == bytes_of(whole[0].path)
    again, _ = ingest(bundle, tmp_path / "part", "--roi-um=" + ",".join(map(str, ROI)))
    assert bytes_of(again.path) == bytes_of(part[0].path)


def test_arrow_gives_its_memory_back():
    code = "import spatia.stages.ingest, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    others = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    done = subprocess.run([sys.executable, "-c", code], env=others, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "system"


# --- one way of reading and the other ---


@pytest.mark.parametrize("layout", ["1.0", "1.4", "2.0", "3.0", "4.0"])
def test_library_and_parts_read_the_same(tmp_path, layout):
    from spatialdata_io import xenium

    bundle = describe_bundle(toy.toy_bundle(tmp_path / "bundle", layout))
    cells, counts = reading.read_cells(bundle.cells), reading.read_counts(bundle.matrix)
    assert library.why_not_library(bundle, cells, counts) is None
    by_library = library.read_with_library(bundle)
    assert (by_library.matrix != counts.matrix).nnz == 0
    pd.testing.assert_frame_equal(by_library.genes, counts.genes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = xenium(bundle.path, transcripts=False, morphology_focus=False, morphology_mip=False).shapes
    own = reading.read_outlines(bundle.cell_boundaries)
    assert list(own.index) == [str(cell_id) for cell_id in shapes[keys.CELL_BOUNDARIES].index]
    assert (own.shapes(0, len(own)) == shapes[keys.CELL_BOUNDARIES].geometry.to_numpy()).all()
    nuclei, found = reading.read_outlines(bundle.nucleus_boundaries), shapes[keys.NUCLEUS_BOUNDARIES]
    parts = shapely.get_parts(nuclei.shapes(0, len(nuclei)))
    assert (parts == found.geometry.to_numpy()).all()


@pytest.mark.parametrize(
    ("mutation", "reason"),
    [
        (b.experiment(analysis_sw_version="R&D"), "R&D"),
        (b.remove("cells.zarr.zip"), "cells.zarr.zip"),
        (b.reverse("cells"), "row order"),
    ],
)
def test_the_record_says_why_not_the_library(tmp_path, mutation, reason):
    bundle = toy.toy_bundle(tmp_path / "bundle")
    mutation(bundle)
    _, record = ingest(bundle, tmp_path / "out")
    assert record["reader"].startswith("spatia, because")
    assert reason in record["reader"]


# --- projections and stains ---


def test_max_is_the_maximum_over_the_stack(bundle, tmp_path):
    slide, record = ingest(bundle, tmp_path, params="projection: max")
    planted = toy.toy_slide()
    np.testing.assert_array_equal(slide.image[0], planted.stack.max(axis=0))
    np.testing.assert_array_equal(slide.image[1:], planted.focus[1:])
    assert not np.array_equal(planted.stack.max(axis=0), planted.stack[0])
    assert record["projection"] == dict(zip(toy.STAINS, ("max", "focus", "focus", "focus"), strict=True))


def test_stains_are_found_by_name_not_by_order(tmp_path):
    bundle = toy.toy_bundle(tmp_path / "bundle", "4.0")
    focus = bundle / "morphology_focus"
    (focus / "ch0003_alphasma_vimentin.ome.tif").rename(focus / "aa.ome.tif")
    slide, _ = ingest(bundle, tmp_path / "out")
    planted = toy.toy_slide("4.0")
    assert slide.stains[0] == keys.DAPI
    for stain, plane in zip(slide.stains, slide.image[:], strict=True):
        np.testing.assert_array_equal(plane, planted.focus[planted.stains.index(stain)])


# --- part of a slide ---


def test_roi_is_the_same_part_of_everything(part, whole):
    small, record = part
    slide, _ = whole
    rows, columns = slice(37, 236), slice(95, 245)
    assert small.shape_px == (199, 150)
    np.testing.assert_array_equal(small.image[:], slide.image[:, rows, columns])
    np.testing.assert_array_equal(small.he[:], slide.he[:, rows, columns])
    cells, kept = slide.read_cells(), small.read_cells()
    x, y = cells[keys.X_UM] / PIXEL, cells[keys.Y_UM] / PIXEL
    inside = cells[(x > 95) & (x < 245) & (y > 37) & (y < 236)]
    assert 3 <= len(inside) < toy.N_CELLS
    assert list(kept.index) == list(inside.index)
    np.testing.assert_allclose(kept[keys.X_UM], inside[keys.X_UM] - 95 * PIXEL)
    np.testing.assert_array_equal(kept[keys.CELL_LABEL], inside[keys.CELL_LABEL])
    labels = slide.cell_labels[rows, columns]
    np.testing.assert_array_equal(small.cell_labels[:], np.where(np.isin(labels, kept[keys.CELL_LABEL]), labels, 0))
    assert not np.array_equal(small.cell_labels[:], labels)
    assert record["origin_um"] == [95 * PIXEL, 37 * PIXEL]
    assert small.origin_um == (95 * PIXEL, 37 * PIXEL)
    assert (record["n_cells"], record["n_cells_in_bundle"]) == (len(inside), toy.N_CELLS)


def test_roi_outlines_move_with_the_origin_and_end_at_its_edge(part, whole):
    small, _ = part
    outlines, all_outlines = small.read_outlines("cell"), whole[0].read_outlines("cell")
    assert list(outlines.index) == [cell for cell in all_outlines.index if cell in set(small.read_cells().index)]
    bounds = outlines.total_bounds
    assert bounds[:2].min() >= 0
    assert (bounds[2:] <= np.array([150, 199]) * PIXEL + 1e-9).all()
    moved = shapely.transform(all_outlines.loc[outlines.index].geometry.to_numpy(), lambda xy: xy - small.origin_um)
    box = shapely.box(0, 0, 150 * PIXEL, 199 * PIXEL)
    expected = shapely.area(shapely.intersection(moved, box))
    np.testing.assert_allclose(shapely.area(outlines.geometry.to_numpy()), expected)


@pytest.mark.parametrize(
    ("roi", "window"),
    [
        ((0, 0, 21.25, 42.5), Window(0, 200, 0, 100)),
        ((0.1, 0.3, 0.5, 0.6), Window(1, 3, 0, 3)),
        ((-9, -9, 9999, 9999), Window(0, 300, 0, 400)),
        (None, Window(0, 300, 0, 400)),
    ],
)
def test_roi_takes_every_pixel_it_touches(roi, window):
    assert make_window((300, 400), PIXEL, roi) == window


def test_roi_in_words():
    assert parse_roi(" ") is None
    assert parse_roi("1,2.5,3,4") == (1, 2.5, 3, 4)
    with pytest.raises(SpatiaError, match=r"85.0 um in x and 0 to 63.8 um in y, found 90, 0, 99, 9"):
        make_window((300, 400), PIXEL, (90, 0, 99, 9))


def test_roi_without_cells_is_refused(bundle, tmp_path, caplog):
    arguments = [f"--zarr={tmp_path / 's.zarr'}", f"--record={tmp_path / 'i.json'}", "--params=/dev/null"]
    command = ["ingest", str(bundle), "--slide=a", "--species=human", *arguments, "--roi-um=0,0,2,2"]
    assert main(command) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named_in_one_line(bundle, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = [f"--zarr={tmp_path / 'file' / 's.zarr'}", f"--record={tmp_path / 'i.json'}", "--params=/dev/null"]
    assert main(["ingest", str(bundle), "--slide=a", "--species=human", *arguments]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "s.zarr: expected to write the slide there" in said[0]


# --- H&E ---


def slow_he(image, to_morphology, shape, background=255):
    """Return H&E in the morphology frame, one pixel after the other."""
    to_he = np.linalg.inv(to_morphology)
    result = np.full((3, *shape), float(background))
    height, width = image.shape[:2]
    for row in range(shape[0]):
        for column in range(shape[1]):
            x, y, _ = to_he @ (column + 0.5, row + 0.5, 1)
            if not (0 <= x < width and 0 <= y < height):
                continue
            u, v = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
            left, top = int(u), int(v)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            a, c = u - left, v - top
            upper = image[top, left] * (1 - a) + image[top, right] * a
            lower = image[bottom, left] * (1 - a) + image[bottom, right] * a
            result[:, row, column] = upper * (1 - c) + lower * c
    return result


def write_he(folder, image, matrix):
    tifffile.imwrite(folder / "x_he_image.ome.tif", image, tile=(32, 32), photometric="rgb", compression="zlib")
    np.savetxt(folder / "x_he_imagealignment.csv", matrix, delimiter=",")
    return AlignedImage(folder / "x_he_image.ome.tif", folder / "x_he_imagealignment.csv")


def rotation(degrees, scale, dx, dy):
    angle = np.deg2rad(degrees)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, dx], [sin, cos, dy], [0, 0, 1]])


@pytest.mark.parametrize(
    "matrix",
    [rotation(0, 1, 0, 0), rotation(90, 1.5, 70, 3), rotation(-33, 0.9, 5, 40), rotation(17, 2.2, -11, -20.5)],
    ids=["identity", "quarter turn", "finer", "coarser"],
)
def test_he_equals_a_slow_resampling(tmp_path, matrix):
    image = np.random.default_rng(3).integers(0, 255, (61, 83, 3)).astype(np.uint8)
    reader = open_he(write_he(tmp_path, image, matrix), (70, 90))
    expected = slow_he(image, matrix, (70, 90))
    found = reader.read(0, 70, 0, 90)
    assert np.abs(found - expected).max() <= 0.51  # rounded to whole numbers, nothing else
    np.testing.assert_array_equal(reader.read(13, 40, 31, 77), found[:, 13:40, 31:77])
    assert (found == 255).all(axis=0).any() == (expected == 255).all(axis=0).any()


def test_he_that_is_much_finer_is_averaged(tmp_path):
    """Every morphology pixel covers 4 x 4 of a black and white board: grey, not one colour at random."""
    board = (np.indices((80, 80)).sum(axis=0) % 2 * 255).astype(np.uint8)
    reader = open_he(write_he(tmp_path, np.repeat(board[..., None], 3, axis=2), rotation(0, 0.25, 0, 0)), (20, 20))
    assert np.abs(reader.read(1, 19, 1, 19).astype(int) - 127).max() <= 1


def test_he_of_the_bundle_lies_on_its_nuclei(whole):
    """The toy's H&E is dark where DAPI is bright; a transposed axis or half a pixel would show."""
    slide, _ = whole
    dark = 255.0 - slide.he[1].astype(float)
    bright = slide.image[0].astype(float)
    right = np.corrcoef(dark.ravel(), bright.ravel())[0, 1]
    assert right > 0.9
    for shift, axis in ((2, 0), (-2, 0), (2, 1), (-2, 1)):
        assert np.corrcoef(np.roll(dark, shift, axis).ravel(), bright.ravel())[0, 1] < right


def test_he_from_elsewhere_replaces_the_bundles(bundle, whole, tmp_path):
    image = np.full((300, 400, 3), 7, np.uint8)
    he = write_he(tmp_path, image, rotation(0, 1, 0, 0))
    slide, record = ingest(bundle, tmp_path / "out", f"--he={he.file}", f"--he-alignment={he.alignment}")
    assert (slide.he[:] == 7).all()
    assert record["he"]["file"] == "x_he_image.ome.tif"
    assert "x_he_imagealignment.csv" in record["checksums"]


def test_alignment_with_a_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf1,0,5\r\n0,1,6\r\n0,0,1\r\n")
    np.testing.assert_array_equal(read_alignment(tmp_path / "a.csv"), [[1, 0, 5], [0, 1, 6], [0, 0, 1]])


# --- outlines ---


def square(x, y):
    return [(x, y), (x + 1, y), (x + 1, y + 1), (x, y)]


def test_vertices_become_rings_whatever_their_order():
    """Cell b has two nuclei and its second stands apart; a row of cell a lies between; c is not closed."""
    xy = np.array([*square(0, 0), *square(5, 5), *square(9, 9), *square(2, 2)[:3], (2, 3)], np.float32)
    codes = np.repeat([0, 1, 0, 2], 4)
    found = from_vertices(xy, codes, np.array(["b", "a", "c"], object))
    assert list(found.starts) == [0, 4, 8, 12, 16]
    assert list(found.first_ring) == [0, 2, 3, 4]
    assert [shape.geom_type for shape in found.shapes(0, 3)] == ["MultiPolygon", "Polygon", "Polygon"]
    np.testing.assert_array_equal(found.bounds(), [[0, 0, 10, 10], [5, 5, 6, 6], [2, 2, 3, 3]])
    assert [len(list(found.rings(cell))) for cell in range(3)] == [2, 1, 1]


def test_selecting_outlines_keeps_their_rings():
    shapes = np.array([shapely.Polygon(square(x, 0)) for x in range(5)])
    shapes[3] = shapely.MultiPolygon([shapely.Polygon(square(3, 0)), shapely.Polygon(square(30, 0))])
    every = from_shapes(np.array(list("abcde"), object), shapes)
    some = every.select(np.array([True, False, False, True, True]))
    assert list(some.index) == ["a", "d", "e"]
    assert (some.shapes(0, 3) == shapes[[0, 3, 4]]).all()
    assert (some.shapes(1, 2) == shapes[[3]]).all()
    both = join([some, every.select(np.array([False, True, False, False, False]))])
    assert list(both.index) == ["a", "d", "e", "b"]
    assert (both.shapes(0, 4) == shapes[[0, 3, 4, 1]]).all()


def test_outlines_are_written_as_geopandas_would(whole, tmp_path):
    import geopandas
    import pyarrow.parquet as pq

    slide, _ = whole
    for name in (keys.CELL_BOUNDARIES, keys.NUCLEUS_BOUNDARIES):
        file = slide.path / "shapes" / name / "shapes.parquet"
        geopandas.read_parquet(file).to_parquet(tmp_path / "again.parquet")
        written, again = (pq.read_table(path) for path in (file, tmp_path / "again.parquet"))
        geo, expected = (json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"] for table in (written, again))
        assert geo["geometry_types"] == sorted(expected["geometry_types"])
        np.testing.assert_allclose(geo["bbox"], expected["bbox"])
        assert written.column_names == again.column_names
        assert written.column("geometry").equals(again.column("geometry"))


# --- labels from outlines ---


def test_a_pixel_belongs_to_the_outline_its_centre_lies_in():
    corners = [(1.4, 0.6), (4.6, 0.6), (4.6, 2.4), (1.4, 2.4)]  # centres of columns 1 (1.5) to 4 (4.5), rows 1 to 1
    outlines = from_shapes(np.array(["a"], object), np.array([shapely.Polygon(corners)]))
    filled = masks.fill_outlines(outlines, pd.Series({"a": np.uint32(9)}), 1.0)
    expected = np.zeros((4, 6), np.uint32)
    expected[1, 1:5] = 9
    np.testing.assert_array_equal(filled.read(0, 4, 0, 6), expected)
    np.testing.assert_array_equal(filled.read(1, 3, 2, 6), expected[1:3, 2:6])


def test_without_masks_labels_are_the_filled_outlines(tmp_path, whole):
    bundle = toy.toy_bundle(tmp_path / "bundle")
    b.remove("cells.zarr.zip")(bundle)
    slide, record = ingest(bundle, tmp_path / "out")
    assert (record["labels"], record["mask_outline_agreement"]) == ("outlines", None)
    filled, true = slide.cell_labels[:], labels_by_id(slide)[0]
    assert (filled == true).mean() > 0.98
    assert ((filled > 0) & (true > 0) & (filled != true)).mean() < 0.001


def test_cells_without_a_value_in_the_mask_get_one_of_their_own():
    label_map = masks.LabelMap(np.array([1, 2, 3]), np.array(["b", "a", "b"], object), "polygon_sets")
    labels = masks.number_cells(pd.Index(["a", "b", "c"]), label_map)
    assert labels.to_dict() == {"a": 2, "b": 1, "c": 4}
    assert list(masks.make_lookup(label_map, labels)) == [0, 1, 2, 1]
    assert list(masks.make_lookup(label_map, labels.drop("a"))) == [0, 1, 0, 1]


# --- pyramids ---


@pytest.mark.parametrize(
    ("size", "n_levels"), [((100, 90), 1), ((1024, 1024), 1), ((1025, 3), 2), ((6144, 4096), 4), ((3522, 5789), 4)]
)
def test_pyramid_ends_in_one_chunk(size, n_levels):
    assert count_levels(*size) == n_levels


def test_pyramid_averages_images_and_picks_labels(tmp_path):
    from spatia.xenium.rasters import write_raster

    pixels = np.random.default_rng(4).integers(0, 65535, (2, 1300, 2101)).astype(np.uint16)
    names = ("s0", "s1", "s2")
    for element, shape, read in (
        ("images/a", pixels.shape, lambda c, y0, y1, x0, x1: pixels[c : c + 1, y0:y1, x0:x1]),
        ("labels/a", (1, *pixels.shape[1:]), lambda c, y0, y1, x0, x1: pixels[:1, y0:y1, x0:x1]),
    ):
        group = zarr.create_group(tmp_path / "s.zarr", path=element)
        datasets = [
            {"path": name, "coordinateTransformations": [{"scale": [2.0**level] * 2}]}
            for level, name in enumerate(names)
        ]
        group.attrs["ome"] = {"multiscales": [{"datasets": datasets}]}
        for name in names:
            group.create_array(name, shape=(1, 1), dtype="uint16")
        write_raster(tmp_path / "s.zarr", Raster(element, shape, np.dtype(np.uint16), read))
    image, labels = zarr.open_group(tmp_path / "s.zarr/images/a"), zarr.open_group(tmp_path / "s.zarr/labels/a")
    np.testing.assert_array_equal(image["s0"][:], pixels)
    half = pixels[:, :, :2100].reshape(2, 650, 2, 1050, 2).astype(float).mean(axis=(2, 4))
    np.testing.assert_array_equal(image["s1"][:], np.floor(half + 0.5))
    assert image["s2"].shape == (2, 325, 525)
    np.testing.assert_array_equal(labels["s1"][:], pixels[0, :1300:2, :2100:2])


# --- transcripts ---


def test_transcripts_come_on_request_and_move_with_the_roi(bundle, tmp_path):
    import spatialdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        all_of_them = spatialdata.read_zarr(ingest(bundle, tmp_path / "a", params="transcripts: true")[0].path)
        roi = "--roi-um=" + ",".join(map(str, ROI))
        some = spatialdata.read_zarr(ingest(bundle, tmp_path / "b", roi, params="transcripts: true")[0].path)
        found = all_of_them.points[keys.TRANSCRIPTS].compute()
        inside = some.points[keys.TRANSCRIPTS].compute()
    planted = toy.toy_slide().transcripts
    assert len(found) == len(planted)
    np.testing.assert_allclose(np.sort(found["x"]), np.sort(planted["x_um"]), atol=1e-4)
    x, y = planted["x_um"] / PIXEL, planted["y_um"] / PIXEL
    assert len(inside) == ((x > 95) & (x < 245) & (y > 37) & (y < 236)).sum()
    np.testing.assert_allclose(
        inside["x"].min(), planted["x_um"][(x > 95) & (x < 245) & (y > 37) & (y < 236)].min() - 95 * PIXEL, atol=1e-4
    )
