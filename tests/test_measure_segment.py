"""One segmenter for real and generated images."""

import os

import numpy as np
import pytest
from toy_generated import STAINS, disc, draw_cell

from spatia.cells.crops import open_crops
from spatia.cells.frames import shrink, shrink_weights
from spatia.measure.segment import fill_largest, find_nucleus, segment, trim_rim


def found_in(image, dapi=0, threshold=0.025, rim_share=0.45, min_cell_px=5):
    return segment(image.astype(np.float32), dapi, threshold, rim_share, min_cell_px)


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


def test_a_bright_square_is_the_cell_and_its_brighter_part_the_nucleus():
    image = np.zeros((2, 12, 12))
    image[:, 2:10, 2:9] = 0.2
    image[0, 4:7, 4:6] = 0.9
    found = found_in(image)
    assert found.is_segmented
    assert np.array_equal(np.argwhere(found.cell).min(axis=0), [2, 2])
    assert found.cell.sum() == 8 * 7
    assert found.nucleus.sum() == 3 * 2


def test_the_threshold_is_of_the_mean_over_stains():
    image = np.zeros((2, 9, 9))
    image[1, 2:7, 2:7] = 0.06  # mean 0.03
    assert found_in(image, threshold=0.025).is_segmented
    assert found_in(image, threshold=0.035).reason == "empty"


def test_holes_are_filled_and_crumbs_left_out():
    image = np.zeros((1, 16, 16))
    image[0, 2:11, 2:11] = 0.5
    image[0, 5, 5] = 0
    image[0, 14, 14] = 0.5
    found = found_in(image, dapi=None, rim_share=0)
    assert found.cell.sum() == 81
    assert not found.nucleus.any()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((1, 16, 16)), "empty"),
        (np.pad(np.ones((1, 2, 2)), ((0, 0), (7, 7), (7, 7))), "small"),
        (np.ones((1, 16, 16)), "fills_frame"),
        (np.full((1, 16, 16), np.nan), "not_finite"),
        (np.kron(np.eye(4), np.pad(np.ones((3, 3)), ((0, 1), (0, 1))))[None], "fragmented"),
    ],
)
def test_failures_say_why(image, reason):
    found = found_in(image)
    assert found.reason == reason
    assert not found.is_segmented
    assert not found.cell.any()


def test_the_smallest_cell_is_an_option():
    image = np.pad(np.ones((1, 3, 3)), ((0, 0), (6, 6), (6, 6)))
    assert found_in(image, min_cell_px=9).is_segmented
    assert found_in(image, min_cell_px=10).reason == "small"


def test_rim_pixels_count_from_their_share_of_the_inside():
    level = np.zeros((9, 9), np.float32)
    level[2:7, 2:7] = 1.0
    level[2, 2:7], level[6, 2:7] = 0.4, 0.6  # the upper row holds 40 % of the cell, the lower 60 %
    cell = level > 0.1
    assert trim_rim(cell, level, 0.5).sum() == 20
    assert trim_rim(cell, level, 0.3).sum() == 25
    assert trim_rim(cell, level, 0.0).sum() == 25


def test_the_largest_piece_of_diagonal_neighbours():
    mask = np.zeros((6, 6), bool)
    mask[[0, 1, 2], [0, 1, 2]] = True
    mask[4:6, 4] = True
    assert fill_largest(mask).sum() == 3


def test_a_flat_stain_has_no_nucleus():
    cell = disc(3, 9)
    assert not find_nucleus(np.full((9, 9), 0.3, np.float32), cell).any()


@pytest.mark.parametrize("side", [32, 64])
def test_invented_cells_are_found(side):
    rng = np.random.default_rng(0)
    weights = shrink_weights(64, side)
    shares = []
    for _ in range(20):
        image, mask = draw_cell(rng, 0.3, 15)
        found = found_in(shrink(image, weights) / 255)
        shares.append(overlap(found.cell, weights @ mask @ weights.T >= 0.5))
    assert np.median(shares) > 0.95
    assert min(shares) > 0.9
    assert len(STAINS) == 2


@pytest.mark.real
@pytest.mark.parametrize("side", [48, 128])
def test_real_cells_are_found(root, real_data, side):
    folder = root / "runs/real/results/crop/pancreas_b/crops"
    if not folder.exists():
        pytest.skip("make real has not been run")
    crops = open_crops(os.fspath(folder))
    weights = shrink_weights(crops.window_px, side)
    shares = []
    for row in np.random.default_rng(0).choice(len(crops), 60, replace=False):
        found = found_in(shrink(crops.frame(row), weights) / 255, min_cell_px=1)
        shares.append(overlap(found.cell, weights @ crops.mask(row) @ weights.T >= 0.5))
    assert np.median(shares) > 0.95
