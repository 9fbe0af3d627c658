"""Simulated bundles: what other readers see in them, and how they compare with a genuine one."""

from __future__ import annotations

import gzip
import json
import os
import time
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
import toy
import zarr
from scipy import sparse
from skimage.draw import polygon2mask

from spatia import keys
from spatia.xenium.simulate.bundle import write_bundle
from spatia.xenium.simulate.outlines import outline_labels
from spatia.xenium.simulate.slide import LAYOUTS

planted = cache(toy.toy_slide)  # drawn once per layout
OLD, NEW = ("1.0", "1.4"), ("2.0", "3.0", "4.0")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Every layout's bundle, written once."""
    folder = tmp_path_factory.mktemp("bundles")
    return {layout: toy.toy_bundle(folder / layout, layout) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def read(bundles):
    """Every layout's bundle as spatialdata-io sees it."""
    return {layout: _read(folder) for layout, folder in bundles.items()}


def _read(folder: Path, **options):
    from spatialdata_io import xenium

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # the reader warns where files do not agree
        warnings.filterwarnings("ignore", message="The default of .dataframe.convert-string")
        return xenium(folder, **options)


def _open_zarr(folder: Path) -> zarr.Group:
    return zarr.open_group(zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="r"), mode="r")


def _label_of_id(layout: str) -> dict[str, int]:
    ids = planted(layout).cell_ids(layout)
    return dict(zip(ids, range(1, len(ids) + 1), strict=True))


def _full(element) -> np.ndarray:
    return element["scale0"].image.to_numpy()


# --- spatialdata-io reads every layout ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reader_sees_the_planes_and_their_names(read, layout):
    slide = planted(layout)
    np.testing.assert_array_equal(_full(read[layout]["morphology_focus"]), slide.focus)
    if layout in NEW:  # before, the reader names no channels
        assert tuple(read[layout]["morphology_focus"]["scale0"].image.c.values) == slide.stains


@pytest.mark.parametrize("layout", OLD)
def test_reader_sees_the_projection_of_old_layouts(read, layout):
    np.testing.assert_array_equal(_full(read[layout]["morphology_mip"])[0], planted(layout).stack.max(axis=0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reader_sees_the_counts_of_each_cell(read, layout):
    slide, table = planted(layout), read[layout]["table"]
    label = [_label_of_id(layout)[str(cell)] for cell in table.obs["cell_id"]]
    assert sorted(label) == list(range(1, toy.N_CELLS + 1))
    assert label != sorted(label)  # ids are not in the order of labels: the join is tested
    np.testing.assert_array_equal(table.X.toarray(), slide.counts.toarray()[np.array(label) - 1, : toy.N_GENES])
    assert list(table.var_names) == list(slide.features["name"][: toy.N_GENES])
    np.testing.assert_allclose(table.obsm["spatial"], slide.cells[["x_um", "y_um"]].to_numpy()[np.array(label) - 1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reader_sees_masks_that_fit_ids_and_outlines(read, layout):
    slide, sdata = planted(layout), read[layout]
    mask = _full(sdata["cell_labels"])
    ids = sdata["table"].obs["cell_id"].astype(str).to_numpy()
    outlines = sdata["cell_boundaries"].set_axis(sdata["cell_boundaries"].index.astype(str))
    for row, cell in enumerate(ids):
        own = mask == row + 1
        np.testing.assert_array_equal(own, slide.cell_labels == _label_of_id(layout)[cell])
        assert _iou(_filled(outlines.loc[cell].geometry), own) > (0.9 if layout in NEW else 0.8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reader_sees_nuclei_inside_their_cells(read, layout):
    sdata = read[layout]
    nuclei, cells = _full(sdata["nucleus_labels"]), _full(sdata["cell_labels"])
    np.testing.assert_array_equal(nuclei > 0, planted(layout).nucleus_labels > 0)
    numbers = range(1, nuclei.max() + 1)
    owner = {number: set(cells[nuclei == number]) for number in numbers if (nuclei == number).any()}
    assert all(len(cells_of_nucleus) == 1 for cells_of_nucleus in owner.values())
    # one of 14 cells has two nuclei and one none; before 2.0 both nuclei had their cell's number
    assert len(owner) == (14 if layout in NEW else 13)
    assert len(sdata["nucleus_boundaries"]) == len(owner)


@pytest.mark.parametrize("layout", NEW)
def test_a_nucleus_outline_lies_on_its_own_mask(read, layout):
    nuclei = _full(read[layout]["nucleus_labels"])
    for number, row in read[layout]["nucleus_boundaries"].iterrows():
        assert _iou(_filled(row.geometry), nuclei == number) > 0.85


@pytest.mark.parametrize("layout", LAYOUTS)
def test_transcripts_add_up_to_the_counts(read, layout):
    slide, points = planted(layout), read[layout]["transcripts"].compute()
    good = points[points["qv"] >= 20]
    label = good["cell_id"].map(lambda cell: cell.decode() if isinstance(cell, bytes) else str(cell))
    label = label.map(_label_of_id(layout)).fillna(0).astype(int)
    column = good["feature_name"].astype(str).map(dict(zip(slide.features["name"], range(99), strict=False)))
    counts = np.zeros((toy.N_CELLS + 1, len(slide.features)), int)
    np.add.at(counts, (label.to_numpy(), column.to_numpy().astype(int)), 1)
    np.testing.assert_array_equal(counts[1:], slide.counts.toarray())
    assert counts[0].sum() == 30


@pytest.mark.parametrize("layout", ["1.4", "3.0"])
def test_reader_sees_the_he_image_where_the_morphology_is(read, layout):
    from spatialdata.transformations import get_transformation

    slide, element = planted(layout), read[layout]["he_image"]
    np.testing.assert_array_equal(_full(element), np.moveaxis(slide.he, -1, 0))
    matrix = get_transformation(element, to_coordinate_system=keys.GLOBAL)
    matrix = matrix.to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_array_equal(matrix, slide.he_to_morphology)
    dark = np.argwhere(slide.he[..., 1] < 120)[:, ::-1] + 0.5  # x, y of nuclear pixels' centres
    x, y, _ = (matrix @ np.column_stack([dark, np.ones(len(dark))]).T).astype(int)
    assert (slide.focus[0][y, x] > 1000).mean() > 0.9


@pytest.mark.parametrize(
    ("layout", "options", "absent"),
    [
        ("3.0", {"n_stains": 1}, ()),
        ("4.0", {"n_stains": 1}, ()),
        ("2.0", {"n_stains": 1, "with_he": False}, ("he_image",)),
    ],
)
def test_reader_sees_one_stain(tmp_path, layout, options, absent):
    sdata = _read(toy.toy_bundle(tmp_path / "bundle", layout, **options))
    assert list(sdata["morphology_focus"]["scale0"].image.c.values) == [keys.DAPI]
    assert not set(absent) & set(sdata.images)


def test_what_the_slide_lacks_is_not_written(tmp_path):
    bare = toy.toy_bundle(tmp_path / "bundle", with_stack=False, with_he=False, with_transcripts=False)
    names = {path.name for path in bare.iterdir()}
    assert not names & {"morphology.ome.tif", "transcripts.parquet", "toy_he_image.ome.tif"}
    assert "morphology_filepath" not in json.loads((bare / "experiment.xenium").read_text())["images"]
    assert len(_read(bare, transcripts=False)["table"]) == toy.N_CELLS


# --- files that the reader does not open ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_stack_is_whole_and_halved(bundles, layout):
    slide = planted(layout)
    with tifffile.TiffFile(bundles[layout] / "morphology.ome.tif") as tiff:
        assert tiff.series[0].axes == "ZYX"
        levels = [level.asarray() for level in tiff.series[0].levels]
        assert 'PhysicalSizeX="0.2125"' in tiff.ome_metadata
    np.testing.assert_array_equal(levels[0], slide.stack)
    assert [level.shape for level in levels] == [(3, 256, 352), (3, 128, 176), (3, 64, 88), (3, 32, 44)]
    means = slide.stack.reshape(3, 128, 2, 176, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(levels[1], means, atol=0.5)


def test_an_odd_row_is_left_out_of_the_next_level():
    from spatia.xenium.simulate.ome_tiff import halve

    plane = np.array([[1, 2, 9], [3, 4, 9], [9, 9, 9]], np.uint16)
    np.testing.assert_array_equal(halve(plane), [[3]])  # 2.5 is rounded up
    assert halve(np.full((2, 2), 65535, np.uint16)) == 65535


@pytest.mark.parametrize("layout", LAYOUTS)
def test_csv_twins_hold_the_same_as_parquet(bundles, layout):
    for name in ("cells", "cell_boundaries", "nucleus_boundaries"):
        table = pd.read_parquet(bundles[layout] / f"{name}.parquet")
        twin = pd.read_csv(bundles[layout] / f"{name}.csv.gz", dtype={"cell_id": str})
        assert list(twin) == list(table)
        ids = table["cell_id"].map(lambda cell: cell.decode() if isinstance(cell, bytes) else str(cell))
        np.testing.assert_array_equal(twin["cell_id"], ids)
        numbers = [column for column in table if table[column].dtype.kind in "fi" and column != "cell_id"]
        np.testing.assert_allclose(twin[numbers], table[numbers], rtol=1e-6)


def test_cell_table_sums_counts_by_kind(bundles):
    slide = planted("3.0")
    table = pd.read_parquet(bundles["3.0"] / "cells.parquet")
    label = table["cell_id"].map(_label_of_id("3.0")).to_numpy()
    counts = slide.counts.toarray()[label - 1]
    kind = slide.features["type"].to_numpy()
    np.testing.assert_array_equal(table["transcript_counts"], counts[:, kind == "Gene Expression"].sum(axis=1))
    np.testing.assert_array_equal(table["genomic_control_counts"], counts[:, kind == "Genomic Control"].sum(axis=1))
    np.testing.assert_array_equal(table["total_counts"], counts.sum(axis=1))
    assert list(table["nucleus_count"][label == toy.TWO_NUCLEI]) == [2]
    assert np.isnan(table["nucleus_area"][label == toy.NO_NUCLEUS].item())


@pytest.mark.parametrize("layout", OLD)
def test_old_masks_number_cells_by_row(bundles, layout):
    group = _open_zarr(bundles[layout])
    assert "polygon_sets" not in group
    assert group["polygon_vertices"].shape == (2, toy.N_CELLS, 26)
    assert ("seg_mask_value" in group) == (layout == "1.4")
    assert group["cell_id"].shape == ((toy.N_CELLS,) if layout == "1.0" else (toy.N_CELLS, 2))


def test_files_of_linked_stains_name_each_other(bundles):
    for layout, pattern in (("2.0", "morphology_focus_*.ome.tif"), ("4.0", "ch*.ome.tif")):
        files = sorted((bundles[layout] / "morphology_focus").glob(pattern))
        assert len(files) == 4
        for file in files:
            xml = tifffile.tiffcomment(file)
            assert all(f'FileName="{other.name}"' in xml for other in files)
            assert all(f'Name="{stain}"' in xml for stain in toy.STAINS)
    assert files[1].name == "ch0001_atp1a1_cd45_e-cadherin.ome.tif"


# --- bytes ---


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_writing_twice_gives_the_same_bytes(tmp_path, bundles):
    newest = max(path.stat().st_mtime for path in bundles["2.0"].rglob("*"))
    time.sleep(max(0.0, newest + 2.1 - time.time()))  # zip files count in steps of two seconds
    for layout in ("2.0", "1.0"):
        assert _bytes(toy.toy_bundle(tmp_path / layout, layout)) == _bytes(bundles[layout])


def test_names_may_hold_anything(tmp_path):
    name = 'slide 1; "it\'s" 5% <Größe> & 名/x'
    folder = toy.toy_bundle(tmp_path / "a folder; with \"quotes\" & 'more' é名", "4.0", name=name)
    sdata = _read(folder)
    assert "he_image" in sdata.images
    assert json.loads((folder / "experiment.xenium").read_text(encoding="utf-8"))["run_name"] == name
    np.testing.assert_array_equal(_full(sdata["morphology_focus"]), planted("4.0").focus)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shuffled_files_hold_the_same_by_id(tmp_path, bundles, layout):
    folder = toy.toy_bundle(tmp_path / "bundle", layout, shuffled=("cells", "boundaries", "matrix"))
    for name in ("cells", "cell_boundaries", "nucleus_boundaries"):
        there, here = (pd.read_parquet(path / f"{name}.parquet") for path in (bundles[layout], folder))
        assert not there.equals(here)
        by = ["cell_id", *(column for column in ("label_id",) if column in there)]
        pd.testing.assert_frame_equal(*(t.sort_values(by, kind="stable", ignore_index=True) for t in (there, here)))
    counts, shuffled = (_matrix(path) for path in (bundles[layout], folder))
    assert list(counts.index) != list(shuffled.index)
    pd.testing.assert_frame_equal(counts, shuffled.loc[counts.index])


def _matrix(folder: Path) -> pd.DataFrame:
    with h5py.File(folder / "cell_feature_matrix.h5") as file:
        matrix = file["matrix"]
        parts = tuple(matrix[name][:] for name in ("data", "indices", "indptr"))
        counts = sparse.csr_matrix(parts, shape=matrix["shape"][:][::-1]).toarray()
        return pd.DataFrame(
            counts, index=matrix["barcodes"][:].astype(str), columns=matrix["features/id"][:].astype(str)
        )


def test_a_slide_without_cells_is_written(tmp_path):
    slide = toy.toy_slide()
    empty = replace(
        slide,
        cell_labels=np.zeros_like(slide.cell_labels),
        nucleus_labels=np.zeros_like(slide.nucleus_labels),
        counts=slide.counts[:0],
        cells=slide.cells[:0],
        transcripts=slide.transcripts[slide.transcripts["label"] == 0].reset_index(drop=True),
    )
    for layout in ("1.0", "1.4", "3.0"):
        bundle = replace(empty, stains=slide.stains[:1], focus=slide.focus[:1], features=toy.toy_features())
        bundle = replace(bundle, counts=bundle.counts[:, : len(bundle.features)])
        write_bundle(bundle, tmp_path / layout, layout, tile_px=toy.TILE_PX)
        assert len(pd.read_parquet(tmp_path / layout / "cells.parquet")) == 0
        assert _open_zarr(tmp_path / layout).attrs["number_cells"] == 0


@pytest.mark.parametrize(
    ("change", "layout", "message"),
    [
        ({}, "5.0", "layout should be one of 1.0, 1.4"),
        ({}, "1.4", "DAPI alone"),
        ({"stains": ("18S",), "focus": np.zeros((1, 256, 352), np.uint16)}, "2.0", "first stain should be DAPI"),
        ({}, "2.0", "no features of type Genomic Control"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(tmp_path, change, layout, message):
    with pytest.raises(ValueError, match=message):
        write_bundle(replace(planted("3.0"), **change), tmp_path / "bundle", layout)
    assert list(tmp_path.iterdir()) == []


# --- outlines ---


def test_outlines_of_small_shapes_are_exact():
    labels = np.zeros((5, 6), np.uint32)
    labels[1, 2] = 1
    labels[3:5, 0:2] = 2
    labels[3, 0] = 0  # an L with its corner at the bottom left
    outlines = outline_labels(labels, 3, 25)
    assert list(outlines.counts) == [5, 7, 0]  # label 3 has no pixels
    np.testing.assert_array_equal(outlines.vertices[:5], [[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]])
    ring = shapely.Polygon(outlines.vertices[5:])
    assert ring.equals(shapely.Polygon([(1, 3), (2, 3), (2, 5), (0, 5), (0, 4), (1, 4)]))


def test_pixels_that_touch_by_a_corner_are_two_pieces():
    labels = np.array([[0, 0, 1], [1, 1, 0], [1, 1, 0]], np.uint32)
    outline = shapely.Polygon(outline_labels(labels, 1, 25).vertices)
    assert outline.equals(shapely.box(0, 1, 2, 3))


def test_a_ring_that_touches_itself_gives_a_valid_outline():
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint32)
    outline = shapely.Polygon(outline_labels(labels, 1, 25).vertices)
    assert outline.is_valid
    assert outline.area >= 7


def test_simplified_outlines_stay_close_to_the_mask():
    ys, xs = np.mgrid[:200, :200]
    angle = np.arctan2(ys - 100, xs - 100)
    labels = (np.hypot(ys - 100, xs - 100) < 60 + 12 * np.sin(5 * angle)).astype(np.uint32)
    for max_vertices, iou in ((13, 0.85), (25, 0.95)):
        outline = outline_labels(labels, 1, max_vertices)
        assert outline.counts[0] <= max_vertices
        assert _iou(polygon2mask((200, 200), outline.vertices[:, ::-1] - 0.5), labels > 0) > iou


def _filled(geometry: shapely.Polygon) -> np.ndarray:
    """Return the pixels whose centres lie inside a polygon in micrometres."""
    corners = shapely.get_coordinates(geometry)[:, ::-1] / keys.PIXEL_SIZE_UM
    return polygon2mask(toy.SHAPE, corners - 0.5)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


# --- beside a genuine bundle ---


@pytest.fixture(scope="module")
def genuine() -> Path:
    folder = os.environ.get("SPATIA_REAL_DATA")
    if not folder:
        pytest.skip("SPATIA_REAL_DATA is not set")
    return Path(folder) / "xenium_ileum_tiny"


@pytest.mark.real
@pytest.mark.parametrize("name", ["cells", "cell_boundaries", "nucleus_boundaries", "transcripts"])
def test_tables_have_the_columns_and_types_of_a_genuine_bundle(genuine, bundles, name):
    theirs, ours = (pq.read_schema(folder / f"{name}.parquet") for folder in (genuine, bundles["3.0"]))
    assert ours.names == theirs.names
    assert ours.types == theirs.types


@pytest.mark.real
def test_the_matrix_has_the_datasets_of_a_genuine_bundle(genuine, bundles):
    def describe(folder: Path) -> dict[str, str]:
        found = {}
        with h5py.File(folder / "cell_feature_matrix.h5") as file:
            file.visititems(lambda name, item: found.__setitem__(name, _kind(item)))
            return found | {f"@{name}": type(value).__name__ for name, value in file.attrs.items()}

    theirs, ours = describe(genuine), describe(bundles["3.0"])
    assert {name: ours[name] for name in theirs} == theirs


def _kind(item) -> str:
    return f"{item.dtype.kind}{item.ndim}" if isinstance(item, h5py.Dataset) else "group"


@pytest.mark.real
def test_the_zarr_has_the_arrays_of_a_genuine_bundle(genuine, bundles):
    def describe(folder: Path) -> dict[str, str]:
        group = _open_zarr(folder)
        members = {
            name: f"{item.dtype} {item.ndim}" if isinstance(item, zarr.Array) else "group"
            for name, item in group.members(max_depth=None)
        }
        return members | {f"@{name}": "" for name in group.attrs}

    theirs, ours = describe(genuine), describe(bundles["3.0"])
    assert ours == theirs
    columns = [_open_zarr(folder)["cell_summary"].attrs.asdict() for folder in (genuine, bundles["3.0"])]
    assert columns[0] == columns[1]


@pytest.mark.real
def test_images_and_documents_look_like_a_genuine_bundle(genuine, bundles):
    for name in ("morphology.ome.tif", "morphology_focus/morphology_focus_0000.ome.tif"):
        with tifffile.TiffFile(genuine / name) as theirs, tifffile.TiffFile(bundles["3.0"] / name) as ours:
            assert (ours.is_bigtiff, ours.is_ome, ours.byteorder) == (
                theirs.is_bigtiff,
                theirs.is_ome,
                theirs.byteorder,
            )
            tags = [{tag.name for tag in tiff.pages[0].tags.values()} for tiff in (theirs, ours)]
            assert tags[0] - {"XResolution", "YResolution", "ResolutionUnit"} <= tags[1]
    theirs, ours = (json.loads((folder / "experiment.xenium").read_text()) for folder in (genuine, bundles["3.0"]))
    assert set(ours) <= set(theirs)
    assert {type(theirs[key]) for key in ("pixel_size", "num_cells")} == {float, int}
    panel = [json.loads((folder / "gene_panel.json").read_text())["payload"] for folder in (genuine, bundles["3.0"])]
    assert set(panel[1]) == set(panel[0])
    assert set(panel[1]["targets"][0]) == set(panel[0]["targets"][0])
    with gzip.open(bundles["3.0"] / "cells.csv.gz") as ours, gzip.open(genuine / "cells.csv.gz") as theirs:
        assert ours.readline() == theirs.readline()
