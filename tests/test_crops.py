"""Cell crops against a slow reference, bit for bit; their files; their scaling."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from reference_crops import TAMPERINGS, crop_cell, limits_of, share_equal, share_placed, to_8_bit
from toy_store import CELLS, NAMES, SHAPE, STAINS, toy_image, toy_labels, write_toy_store

from spatia import keys
from spatia.cells import crops as crops_module
from spatia.cells.blocks import walk_blocks
from spatia.cells.cropping import (
    add_offsets,
    count_inside,
    cut_cells,
    plan_crops,
    slide_boxes,
    window_start,
)
from spatia.cells.crops import context_window, open_crops, write_crops
from spatia.cells.scaling import HE_STAINS, Scaling, lookup_table, percentile_value, scale_by_extremes
from spatia.cli import main
from spatia.errors import SpatiaError
from spatia.xenium.store import open_slide

CROPPED = [name for name in CELLS if name not in ("no_counts", "few_counts", "controls", "small")]


def qc(store, folder, params="min_cell_area_um2: 6.0\n"):
    (folder / "qc.yaml").write_text(params)
    options = ["--cells", folder / "cells.parquet", "--summary", folder / "qc.json"]
    options += ["--histograms", folder / "histograms.npz", "--params", folder / "qc.yaml"]
    return main([str(word) for word in ("qc", "--slide", "toy", "--zarr", store, *options)])


def crop(store, folder, out, params="{}"):
    (folder / "crop.yaml").write_text(params)
    options = ["--cells", folder / "cells.parquet", "--histograms", folder / "histograms.npz"]
    options += ["--params", folder / "crop.yaml", "--out", out]
    return main([str(word) for word in ("crop", "--slide", "toy", "--zarr", store, *options)])


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """The toy slide after QC: slide.zarr, cells.parquet, histograms.npz in one folder."""
    folder = tmp_path_factory.mktemp("toy")
    assert qc(write_toy_store(folder / "slide.zarr"), folder) == 0
    return folder


@pytest.fixture(scope="module")
def crops(slide):
    assert crop(slide / "slide.zarr", slide, slide / "crops") == 0
    return open_crops(slide / "crops")


@pytest.fixture(scope="module")
def reference_image():
    return scaled(toy_image())


def scaled(image, low="0.1", high="99.9"):
    return np.stack([to_8_bit(stain, *limits_of(stain, low, high)) for stain in image])


# --- the crops themselves ---


def test_every_crop_equals_the_slow_reference(crops, reference_image):
    assert sorted(crops.index[keys.CELL_ID]) == sorted(CROPPED)
    assert share_equal(crops, range(len(crops)), toy_labels(), reference_image) == 1.0


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_the_comparison_notices(crops, reference_image, tampering):
    assert share_equal(crops, range(len(crops)), toy_labels(), reference_image, TAMPERINGS[tampering]) == 0.0


def test_the_comparison_notices_swapped_stains(crops, reference_image):
    assert share_equal(crops, range(len(crops)), toy_labels(), reference_image[::-1]) == 0.0


def test_masks_lie_where_the_index_says(crops):
    rows = range(len(crops))
    assert share_placed(crops, rows, toy_labels()) == 1.0
    assert share_placed(crops, rows, np.roll(toy_labels(), 1, axis=1)) == 0.0


def test_the_index_says_where_the_masks_lie(crops):
    unclipped = np.flatnonzero(~crops.index["is_clipped"])
    labels = toy_labels()
    corners = [np.argwhere(labels == label).min(axis=0).tolist() for label in crops.index[keys.CELL_LABEL][unclipped]]
    top, left = (crops.columns[f"{axis}0"] + crops.columns[f"box_{axis}"] for axis in "yx")
    assert np.stack([top, left], axis=1)[unclipped].tolist() == corners


def test_a_window_rounded_the_other_way_is_noticed(crops, reference_image):
    row = int(np.flatnonzero(crops.index[keys.CELL_ID] == "across_chunk_rows")[0])
    frame, _ = crop_cell(toy_labels(), reference_image, int(crops.columns[keys.CELL_LABEL][row]), crops.window_px)
    odd_height = crops.columns["box_h"][row] % 2 == 1
    assert odd_height
    assert np.array_equal(crops.frame(row), frame)
    assert not np.array_equal(crops.frame(row), np.roll(frame, -1, axis=1))


def test_clipped_cells_keep_what_lies_in_the_window(crops):
    clipped = crops.index.set_index(keys.CELL_ID)
    assert set(clipped.index[clipped["is_clipped"]]) == {"tall", "large"}
    assert clipped.loc["tall", ["box_y", "box_h"]].tolist() == [0, 128]
    assert clipped.loc["large", ["box_h", "box_w"]].tolist() == [128, 128]
    whole = np.count_nonzero(toy_labels() == clipped.loc["large", keys.CELL_LABEL])
    assert 15_000 < clipped.loc["large", "n_pixels"] < 128 * 128 < whole  # an ellipse: the corners stay empty


def test_windows_reach_beyond_the_slide(crops):
    places = crops.index.set_index(keys.CELL_ID)
    assert places.loc["at_top_left", "y0"] < 0
    assert places.loc["at_bottom_right", "x0"] + 128 > SHAPE[1]


@pytest.mark.parametrize(
    ("start", "size", "window", "expected"),
    [(10, 4, 8, 8), (10, 5, 8, 8), (10, 8, 8, 10), (10, 9, 8, 10), (10, 11, 8, 11), (0, 3, 8, -3)],
)
def test_window_start_by_hand(start, size, window, expected):
    assert window_start(np.array(start), np.array(size), window) == expected


@pytest.mark.parametrize("block_px", [37, 64, 1024])
def test_block_size_changes_nothing(block_px):
    labels, image = toy_labels()[:400, :330], toy_image()[:, :400, :330]
    wanted = [label for label in np.unique(labels) if label > 10]
    boxes = [np.argwhere(labels == label) for label in wanted]
    corner = np.array([box.min(axis=0) for box in boxes])
    size = np.array([np.ptp(box, axis=0) + 1 for box in boxes])
    cells = {"cell_label": wanted, "mask_y0": corner[:, 0], "mask_x0": corner[:, 1]}
    plan = plan_crops(cells | {"mask_h": size[:, 0], "mask_w": size[:, 1]}, 32)
    luts = [lookup_table(0, 65_535, np.dtype(np.uint16))] * 3

    def read(block):
        return labels[block.slices], image[(slice(None), *block.slices)]

    found = cut_cells(slide_boxes(plan), walk_blocks(labels.shape, block_px), read, luts, block_px)
    whole = np.stack([luts[0][stain] for stain in image])
    cut = {cell.row: cell for cell in found}
    assert sorted(cut) == list(range(len(wanted)))
    for row, label in enumerate(wanted):
        frame, mask = crop_cell(labels, whole, label, 32)
        y, x, h, w = (int(plan[name][row]) for name in ("box_y", "box_x", "box_h", "box_w"))
        assert np.array_equal(cut[row].mask, mask[y : y + h, x : x + w])
        assert np.array_equal(cut[row].pixels, frame[:, mask])


# --- context ---


def test_context_is_the_window_without_mask(slide, crops, reference_image):
    store = open_slide(slide / "slide.zarr")
    for row in range(len(crops)):
        context, on_slide = context_window(store, crops.scaling, crops.index.iloc[row], crops.window_px)
        mask = crops.mask(row)
        assert np.array_equal(np.where(mask, context, 0), crops.frame(row))
        y0, x0 = crops.columns["y0"][row], crops.columns["x0"][row]
        padded = np.pad(reference_image, ((0, 0), (128, 128), (128, 128)))[:, y0 + 128 : y0 + 256, x0 + 128 : x0 + 256]
        assert np.array_equal(context, padded)
        is_on = np.pad(np.ones(SHAPE, bool), 128)[y0 + 128 : y0 + 256, x0 + 128 : x0 + 256]
        assert np.array_equal(on_slide, is_on)
    edge = crops.index[crops.index[keys.CELL_ID] == "at_top_left"].iloc[0]
    assert not context_window(store, crops.scaling, edge, 128)[1].all()


# --- files ---


def test_two_runs_write_the_same_bytes(slide, crops, tmp_path):
    assert crop(slide / "slide.zarr", slide, tmp_path / "again") == 0
    names = sorted(file.name for file in (slide / "crops").iterdir())
    assert names == ["crops.json", "index.parquet", "masks.bin", "pixels.bin"]
    for name in names:
        assert (slide / "crops" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_files_hold_exactly_what_the_contract_says(slide, crops):
    index, n_stains = crops.index, len(STAINS)
    assert tuple(index.columns) == crops_module.INDEX_COLUMNS
    assert crops.stains == STAINS
    assert crops.header["n_cells"] == len(CROPPED)
    assert index["pixel_offset"].tolist() == [0, *(index["n_pixels"] * n_stains).cumsum().tolist()[:-1]]
    raw = (slide / "crops" / "pixels.bin").read_bytes()
    row = index.iloc[3]
    frame, mask = crops.frame(3), crops.mask(3)
    run = np.frombuffer(raw, np.uint8, row["n_pixels"], row["pixel_offset"] + row["n_pixels"])  # second stain
    assert np.array_equal(run, frame[1][mask])
    packed = (slide / "crops" / "masks.bin").read_bytes()[row["mask_offset"] :][: -(-row["box_h"] * row["box_w"] // 8)]
    box = mask[row["box_y"] : row["box_y"] + row["box_h"], row["box_x"] : row["box_x"] + row["box_w"]]
    assert packed == np.packbits(box).tobytes()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("crops.json", lambda text: text.replace(b'"format": 1', b'"format": 99'), "crops of format 1, found 99"),
        ("crops.json", lambda text: text[:-20], "expected JSON"),
        ("pixels.bin", lambda text: text[:-1], "pixels.bin: expected"),
        ("masks.bin", lambda text: text + b"x", "masks.bin: expected"),
        ("index.parquet", lambda text: b"", "index.parquet"),
    ],
)
def test_damaged_crops_are_refused(crops, slide, tmp_path, name, damage, message):
    shutil.copytree(slide / "crops", tmp_path / "crops")
    file = tmp_path / "crops" / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(SpatiaError, match=message):
        open_crops(tmp_path / "crops")


@pytest.mark.parametrize("name", ["crops.json", "index.parquet", "pixels.bin", "masks.bin"])
def test_missing_files_are_named(crops, slide, tmp_path, name):
    shutil.copytree(slide / "crops", tmp_path / "crops")
    (tmp_path / "crops" / name).unlink()
    with pytest.raises(SpatiaError, match=name):
        open_crops(tmp_path / "crops")


def test_a_table_of_another_slide_is_refused_and_nothing_is_left(slide, tmp_path, capsys, caplog):
    for name in ("cells.parquet", "histograms.npz"):
        shutil.copy(slide / name, tmp_path / name)
    cells = pd.read_parquet(tmp_path / "cells.parquet")
    cells["n_window_px"] += 1
    cells.to_parquet(tmp_path / "cells.parquet")
    assert crop(slide / "slide.zarr", tmp_path, tmp_path / "crops") == 1
    assert "run 'spatia qc' on this slide again" in caplog.text + capsys.readouterr().err
    assert not [path.name for path in tmp_path.iterdir() if "crops" in path.name]


def test_a_slide_without_kept_cells_is_refused_with_the_reasons(slide, tmp_path, capsys, caplog):
    assert qc(slide / "slide.zarr", tmp_path, "min_counts: 100000\n") == 0
    assert crop(slide / "slide.zarr", tmp_path, tmp_path / "crops") == 1
    printed = caplog.text + capsys.readouterr().err
    assert "none of 16 cells (1 no_mask, 1 no_counts, 14 few_counts)" in printed


# --- options ---


@pytest.mark.parametrize("window_um", [13.6, 40.0])
def test_another_window_than_that_of_qc(slide, tmp_path, reference_image, window_um):
    assert crop(slide / "slide.zarr", slide, tmp_path / "crops", f"window_um: {window_um}\n") == 0
    crops = open_crops(tmp_path / "crops")
    assert crops.window_px == round(window_um / 0.2125)
    assert share_equal(crops, range(len(crops)), toy_labels(), reference_image) == 1.0


def test_minmax_scaling_differs_and_equals_its_reference(slide, crops, tmp_path):
    assert crop(slide / "slide.zarr", slide, tmp_path / "crops", "scaling: minmax\n") == 0
    by_extremes = open_crops(tmp_path / "crops")
    image = toy_image()
    assert by_extremes.scaling.low == tuple(int(stain.min()) for stain in image)
    assert share_equal(by_extremes, range(len(crops)), toy_labels(), scaled(image, "0", "100")) == 1.0
    assert not np.array_equal(by_extremes.pixel_bytes, crops.pixel_bytes)


def test_uint8_slides_and_he(tmp_path):
    image = toy_image(np.uint8)
    he = np.random.default_rng(3).integers(0, 256, (3, *SHAPE)).astype(np.uint8)
    store = write_toy_store(tmp_path / "slide.zarr", image, he)
    assert qc(store, tmp_path) == 0
    assert crop(store, tmp_path, tmp_path / "crops") == 0
    crops = open_crops(tmp_path / "crops")
    assert crops.stains == (*STAINS, *HE_STAINS)
    whole = np.concatenate([scaled(image), he])  # H&E is never scaled
    assert share_equal(crops, range(len(crops)), toy_labels(), whole) == 1.0
    context, _ = context_window(open_slide(store), crops.scaling, crops.index.iloc[0], crops.window_px)
    assert np.array_equal(np.where(crops.mask(0), context, 0), crops.frame(0))


# --- scaling ---


def test_percentiles_by_hand():
    histogram = np.bincount([0, 0, 0, 0, 2, 3, 3, 7, 7, 9], minlength=12)
    found = [percentile_value(histogram, p) for p in (0, 40, 40.1, 50, 90, 90.000001, 100)]
    assert found == [0, 0, 2, 2, 7, 9, 9]


def test_lookup_table_by_hand():
    table = lookup_table(10, 20, np.dtype(np.uint8))
    assert table[[0, 10, 11, 15, 19, 20, 255]].tolist() == [0, 0, 26, 128, 230, 255, 255]  # 25.5 and 127.5 go up
    assert len(lookup_table(0, 1, np.dtype(np.uint16))) == 65_536
    assert np.array_equal(lookup_table(0, 255, np.dtype(np.uint8)), np.arange(256))


def test_a_stain_without_contrast_gets_one_grey_step():
    assert lookup_table(7, 7, np.dtype(np.uint8))[[6, 7, 8]].tolist() == [0, 0, 255]


def test_scaling_survives_its_json():
    scaling = Scaling(("a", "b"), (1, 2), (30, 40)).with_he()
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling
    assert scale_by_extremes(["a"], np.array([[0, 3, 0, 5, 0]])) == Scaling(("a",), (1,), (3,))


def test_other_pixel_types_are_refused():
    with pytest.raises(SpatiaError, match="expected uint8 or uint16 pixels, found float32"):
        lookup_table(0, 1, np.dtype(np.float32))


def test_count_inside_reads_clipped_cells_only():
    labels = np.zeros((20, 30), np.uint32)
    labels[4:6, 2:14] = 3  # 2 x 12, clipped to 8 columns
    labels[10:13, 20:22] = 9
    cells = {"cell_label": [3, 9], "mask_y0": [4, 10], "mask_x0": [2, 20], "mask_h": [2, 3], "mask_w": [12, 2]}
    plan = plan_crops(cells, 8)
    assert plan["is_clipped"].tolist() == [True, False]
    assert count_inside(labels, np.array([24, 777]), plan).tolist() == [16, 777]
    index = add_offsets(plan, np.array([16, 6], np.int32), 4)
    assert index["pixel_offset"].tolist() == [0, 64]
    assert index["mask_offset"].tolist() == [0, 2]


def test_a_cell_that_never_comes_is_noticed(tmp_path):
    import pyarrow as pa

    cells = {"cell_label": [3], "mask_y0": [0], "mask_x0": [0], "mask_h": [2], "mask_w": [2]}
    index = add_offsets(plan_crops(cells, 8), np.array([4], np.int32), 1)
    with pytest.raises(SpatiaError, match="expected the masks of 1 cells, found 0"):
        write_crops(tmp_path, {}, pa.array(["a"]), index, [])


def test_names_cover_the_awkward_cases():
    assert len(NAMES) == len(CELLS) + 1
