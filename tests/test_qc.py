"""Measures, filters and the slide's row, by hand and against a slow reference."""

import json

import numpy as np
import pandas as pd
import pytest
from toy_store import CELLS, NAMES, SHAPE, STAINS, UNKNOWN_LABEL, toy_counts, toy_image, toy_labels, write_toy_store

from spatia import keys
from spatia.cells.blocks import count_blocks, rows_per_block, walk_blocks
from spatia.cells.filters import REASONS, control_rate, first_reason, hits
from spatia.cells.measures import MaskMeasures, add_to_histograms, laplacian_inside
from spatia.cells.qc import quantiles, summarise, summarise_stains
from spatia.cli import main


def qc(store, folder, params="{}"):
    (folder / "qc.yaml").write_text(params)
    options = ["--cells", folder / "cells.parquet", "--summary", folder / "qc.json"]
    options += ["--histograms", folder / "histograms.npz", "--params", folder / "qc.yaml"]
    return main([str(word) for word in ("qc", "--slide", "toy", "--zarr", store, *options)])


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_toy_store(folder / "slide.zarr")
    assert qc(folder / "slide.zarr", folder, "min_cell_area_um2: 6.0\n") == 0
    return folder


@pytest.fixture(scope="module")
def cells(slide):
    return pd.read_parquet(slide / "cells.parquet")


@pytest.fixture(scope="module")
def summary(slide):
    return json.loads((slide / "qc.json").read_text())


# --- the stage ---


def test_every_cell_comes_out_with_its_reason(cells):
    expected = dict.fromkeys(CELLS, "") | {
        "no_mask": "no_mask",
        "no_counts": "no_counts",
        "few_counts": "few_counts",
        "controls": "many_controls",
        "small": "small_area",
    }
    assert cells[keys.REASON].to_dict() == expected
    assert cells.index.tolist() == list(NAMES)
    assert (cells[keys.KEEP] == (cells[keys.REASON] == "")).all()


def test_measures_equal_a_slow_reference(cells):
    labels, image = toy_labels(), toy_image()
    for name in CELLS:
        cell = cells.loc[name]
        ys, xs = np.nonzero(labels == cell[keys.CELL_LABEL])
        assert cell[["mask_y0", "mask_x0"]].tolist() == [ys.min(), xs.min()]
        assert cell[["mask_h", "mask_w"]].tolist() == [np.ptp(ys) + 1, np.ptp(xs) + 1]
        assert cell["n_mask_px"] == len(ys)
        for stain, plane in zip(STAINS, image, strict=True):
            assert cell[f"mean_{stain}"] == pytest.approx(plane[ys, xs].mean())
            assert cell[f"saturated_{stain}"] == pytest.approx((plane[ys, xs] >= 0.98 * 65_535).mean())


def test_expression_is_counted_from_the_matrix(cells):
    counts = toy_counts()
    assert cells[keys.N_COUNTS].tolist() == counts.sum(axis=1).tolist()
    assert cells[keys.N_GENES].tolist() == (counts > 0).sum(axis=1).tolist()
    n = counts[NAMES.index("controls")].sum()
    assert cells.loc["controls", "control_rate"] == pytest.approx(20 / (20 + n))
    assert np.isnan(cells.loc["no_counts", "control_rate"])


def test_edges_and_clipping(cells):
    assert set(cells.index[cells["touches_edge"]]) == {"at_top_left", "at_bottom_right"}
    assert set(cells.index[cells["is_clipped"]]) == {"tall", "large"}
    tall, labels = cells.loc["tall"], toy_labels()
    first = tall["mask_y0"] + (tall["mask_h"] - 128) // 2
    in_window = np.count_nonzero(labels[first : first + 128] == tall[keys.CELL_LABEL])
    assert tall["n_window_px"] == in_window < tall["n_mask_px"]


def test_histograms_count_every_pixel(slide):
    with np.load(slide / "histograms.npz") as found:
        assert found["stains"].tolist() == list(STAINS)
        for histogram, plane in zip(found["counts"], toy_image(), strict=True):
            assert np.array_equal(histogram, np.bincount(plane.ravel(), minlength=65_536))


def test_the_slides_row(summary, cells):
    kept = cells[cells[keys.KEEP]]
    assert summary["n_cells_in"] == len(NAMES)
    assert summary["n_cells_out"] == len(NAMES) - sum(summary["removed"].values()) == len(kept)
    assert summary["removed"] == dict.fromkeys(REASONS, 0) | {
        "no_mask": 1,
        "no_counts": 1,
        "few_counts": 1,
        "many_controls": 1,
        "small_area": 1,
    }
    assert summary["n_empty"] == 1
    assert summary["median_counts"] == kept[keys.N_COUNTS].median()
    assert summary["nuclear_fraction"]["p50"] == pytest.approx(0.25)
    assert (summary["n_clipped"], summary["n_touching_edge"]) == (2, 2)
    assert summary["n_mask_px_without_cell"] == np.count_nonzero(toy_labels() == UNKNOWN_LABEL)
    saturated = summary["stains"][STAINS[-1]]["saturated"]
    assert saturated == pytest.approx((SHAPE[1] - 900) / SHAPE[1])
    assert summary["stains"][keys.DAPI]["saturated"] == 0


def test_two_runs_write_the_same_bytes(slide, tmp_path):
    assert qc(slide / "slide.zarr", tmp_path, "min_cell_area_um2: 6.0\n") == 0
    for name in ("cells.parquet", "qc.json", "histograms.npz"):
        assert (slide / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_filters_can_be_switched_off(slide, tmp_path):
    off = "min_counts: null\nmin_genes: null\nmax_control_rate: null\nmin_cell_area_um2: null\n"
    assert qc(slide / "slide.zarr", tmp_path, off) == 0
    reasons = pd.read_parquet(tmp_path / "cells.parquet")[keys.REASON]
    assert reasons[reasons != ""].to_dict() == {"no_mask": "no_mask"}


# --- measures on their own ---


def measured(labels, stains, wanted, block_px):
    measures = MaskMeasures(np.array(wanted), [f"s{i}" for i in range(len(stains))], saturated_from=200)
    for block in walk_blocks(labels.shape, block_px):
        measures.add_block(block.y0, block.x0, labels[block.slices], [stain[block.slices] for stain in stains])
    return measures.to_columns()


def test_block_size_changes_nothing_but_the_focus():
    labels, stains = toy_labels()[:300, :420], toy_image(np.uint8)[:2, :300, :420]
    wanted = [label for label in np.unique(labels) if label][::-1]  # any order of the table
    whole, blocks = measured(labels, stains, wanted, 1024), measured(labels, stains, wanted, 37)
    for name in (name for name in whole if not name.startswith("focus")):
        assert np.array_equal(whole[name], blocks[name]), name
    assert np.allclose(whole["focus_s0"], blocks["focus_s0"], rtol=0.2)


def test_laplacian_by_hand():
    plane = np.array([[1, 2, 3, 4], [5, 9, 7, 8], [2, 4, 6, 8]], np.uint16)
    assert laplacian_inside(plane).tolist() == [[0, 0, 0, 0], [0, 2 + 4 + 5 + 7 - 36, 3 + 6 + 9 + 8 - 28, 0], [0] * 4]
    assert not laplacian_inside(plane[:2]).any()


def test_focus_falls_with_blur_and_ignores_exposure():
    from scipy.ndimage import gaussian_filter

    sharp = np.random.default_rng(0).gamma(2.0, 400.0, (60, 70))
    labels = np.ones((60, 70), np.uint32)
    planes = [sharp, gaussian_filter(sharp, 1.5), 3 * sharp]
    focus = [measured(labels, [plane.astype(np.uint16)], [1], 1024)["focus_s0"][0] for plane in planes]
    assert focus[1] < focus[0] / 10
    assert focus[2] == pytest.approx(focus[0], rel=0.01)


def test_histograms_add_up():
    stains = [np.array([[0, 3], [3, 255]], np.uint8), np.array([[1, 1], [1, 0]], np.uint8)]
    histograms = np.zeros((2, 256), np.int64)
    for _ in range(2):
        add_to_histograms(histograms, stains)
    assert histograms[0, [0, 3, 255]].tolist() == [2, 4, 2]
    assert histograms[1, [0, 1]].tolist() == [2, 6]


# --- filters on their own ---


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            keys.N_COUNTS: [50, 0, 9, 50, 50, 50, 50, 50],
            keys.N_GENES: [20, 0, 9, 4, 20, 20, 20, 20],
            "control_rate": [0.0, np.nan, 0.0, 0.0, 0.06, 0.05, 0.0, 0.0],
            keys.CELL_AREA_UM2: [50.0, 50.0, 50.0, 50.0, 50.0, 3.9, 501.0, 50.0],
            "n_window_px": [9, 9, 9, 9, 9, 9, 9, 0],
            "is_outside": [False] * 8,
        }
    )


LIMITS = {"min_counts": 10, "min_genes": 5, "max_control_rate": 0.05, "min_area_um2": 4.0, "max_area_um2": 500.0}


def test_first_reason_by_hand(table):
    reasons = first_reason(hits(table, **LIMITS)).tolist()
    by_hand = ["", "no_counts", "few_counts", "few_genes", "many_controls", "small_area", "large_area", "no_mask"]
    assert reasons == by_hand


@pytest.mark.parametrize(
    ("limit", "row"),
    [("min_counts", 2), ("min_genes", 3), ("max_control_rate", 4), ("min_area_um2", 5), ("max_area_um2", 6)],
)
def test_each_filter_off_keeps_its_cell(table, limit, row):
    assert first_reason(hits(table, **LIMITS))[row] != ""
    assert first_reason(hits(table, **(LIMITS | {limit: None})))[row] == ""


def test_a_cell_outside_is_removed(table):
    table.loc[0, "is_outside"] = True
    assert first_reason(hits(table, **LIMITS))[0] == "outside"


def test_control_rate_by_hand():
    found = control_rate(np.array([1, 0, 0]), np.array([3, 5, 0]))
    assert found[:2].tolist() == [0.25, 0.0]
    assert np.isnan(found[2])


# --- the row on its own ---


def test_quantiles_by_hand():
    assert quantiles(pd.Series([np.nan, 1.0, 2.0, 3.0]))["p50"] == 2.0
    assert quantiles(pd.Series([np.nan])) is None


def test_cells_per_niche_by_hand():
    cells = pd.DataFrame(
        {
            keys.KEEP: [True, True, True, False],
            keys.REASON: ["", "", "", "no_counts"],
            keys.X_UM: [10.0, 20.0, 300.0, 900.0],  # niche columns 0, 0, 1, -
            keys.Y_UM: [10.0, 10.0, 10.0, 10.0],
            **dict.fromkeys((keys.N_COUNTS, keys.N_GENES, keys.N_CONTROLS, "is_clipped", "touches_edge"), 1),
            **dict.fromkeys((keys.CELL_AREA_UM2, keys.NUCLEUS_AREA_UM2, "nuclear_fraction"), 0.5),
        }
    )
    row = summarise(cells, 1.0, (1000, 2000))
    assert (row["n_niches"], row["n_tissues"]) == (2, 1)
    assert row["cells_per_niche"]["p50"] == 1.5
    assert row["control_rate"] == 0.5


def test_stains_by_hand():
    cells = pd.DataFrame({keys.KEEP: [True, True, False], "mean_a": [1.0, 3.0, 9.0], "focus_a": [0.2, 0.4, 9.0]})
    histogram = np.zeros((1, 256), np.int64)
    histogram[0, [0, 98, 100]] = [96, 1, 3]
    found = summarise_stains(cells, ["a"], histogram, saturated_from=250)["a"]
    assert found == {
        "mean_in_cells": 2.0,
        "focus": pytest.approx(0.3),
        "saturated": 0.0,
        "highest": 100,
        "near_highest": 0.04,
    }


# --- blocks ---


def test_blocks_cover_the_slide_once():
    covered = np.zeros((70, 45), int)
    for block in walk_blocks((70, 45), 32):
        covered[block.slices] += 1
    assert (covered == 1).all()
    assert count_blocks((70, 45), 32) == 6


def test_boxes_find_their_blocks():
    top, left = np.array([0, 30, 10, 5]), np.array([0, 30, 60, 0])
    height, width = np.array([4, 40, 2, 0]), np.array([4, 4, 10, 3])
    found = rows_per_block(top, left, height, width, 32)
    assert {place: rows.tolist() for place, rows in found.items()} == {
        (0, 0): [0, 1],
        (0, 1): [1, 2],
        (0, 2): [2],
        (1, 0): [1],
        (1, 1): [1],
        (2, 0): [1],
        (2, 1): [1],
    }
