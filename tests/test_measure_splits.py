"""Train and test masks: donors, regions that share an edge, and blocks of one slide."""

import numpy as np
import pytest

from spatia.measure.splits import Split, distance_to_edge, split_by_blocks, split_by_donor, split_by_region


def grid_of_cells(n_x, n_y, step):
    """Cells at the centres of a grid of squares of ``step`` px."""
    x, y = np.meshgrid(np.arange(n_x), np.arange(n_y))
    return (np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * step


# --- donors ---


def test_donors_are_disjoint():
    split = split_by_donor(["p1", "p2", "p1", "p3", "p2"], test_donors=["p2"])
    assert split.train.tolist() == [True, False, True, True, False]
    assert split.test.tolist() == [False, True, False, False, True]
    assert split.n_left_out == 0


def test_donors_that_are_not_named_are_left_out():
    split = split_by_donor(["p1", "p2", "p1", "p3", "p2"], test_donors=["p2"], train_donors=["p3"])
    assert split.train.tolist() == [False, False, False, True, False]
    assert split.n_left_out == 2


@pytest.mark.parametrize(
    ("test_donors", "train_donors", "message"),
    [
        (["p9"], None, "expected names among p1, p2; found p9"),
        (["p1"], ["p1", "p2"], "found 2 cells on both"),
        (["p1", "p2"], None, "found no train cell among 3"),
        ([], ["p1"], "found no test cell among 3"),
    ],
)
def test_impossible_donors(test_donors, train_donors, message):
    with pytest.raises(ValueError, match=message):
        split_by_donor(["p1", "p2", "p1"], test_donors, train_donors)


def test_one_name_is_not_a_collection_of_letters():
    with pytest.raises(TypeError, match=r"write \['p1'\]"):
        split_by_donor(["p1", "p2"], "p1")


# --- regions ---


@pytest.mark.parametrize(("side", "expected"), [("left", 10), ("right", 30), ("top", 25), ("bottom", 75)])
def test_distance_to_each_edge(side, expected):
    assert distance_to_edge(np.array([[10.0, 25.0]]), side, (100, 40)).tolist() == [expected]


def test_unknown_edge():
    with pytest.raises(ValueError, match="expected one of left, right, top, bottom, found 'north'"):
        distance_to_edge(np.zeros((1, 2)), "north", (100, 40))


def split_two_regions(buffer_px, train=("a",), test=("b",)):
    region = ["a", "a", "a", "b", "b", "c"]
    return split_by_region(region, train, test, np.array([50.0, 20.0, 5.0, 20.0, 19.9, np.inf]), buffer_px)


def test_cells_near_the_shared_edge_are_left_out_on_both_sides():
    split = split_two_regions(20)
    assert split.train.tolist() == [True, True, False, False, False, False]
    assert split.test.tolist() == [False, False, False, True, False, False]
    assert split.n_left_out == 3


def test_without_a_buffer_only_other_regions_are_left_out():
    split = split_two_regions(0)
    assert split.train.tolist() == [True, True, True, False, False, False]
    assert split.test.tolist() == [False, False, False, True, True, False]
    assert split.n_left_out == 1


def test_a_region_that_shares_no_edge_loses_no_cell():
    split = split_by_region(["a", "c"], ["a"], ["c"], np.array([2000.0, np.inf]), 1000)
    assert split.n_left_out == 0


@pytest.mark.parametrize(
    ("buffer_px", "train", "test", "message"),
    [
        (60, ["a"], ["c"], "found no train cell"),
        (30, ["a"], ["b"], "found no test cell"),
        (0, ["a", "b"], ["b"], "found 2 cells on both"),
        (0, ["a"], ["d"], "expected names among a, b, c; found d"),
    ],
)
def test_impossible_regions(buffer_px, train, test, message):
    with pytest.raises(ValueError, match=message):
        split_two_regions(buffer_px, train, test)


def test_distances_of_other_cells():
    with pytest.raises(ValueError, match=r"expected one per cell, shape \(2,\), found \(3,\)"):
        split_by_region(["a", "b"], ["a"], ["b"], np.zeros(3), 0)


# --- blocks ---


def test_a_line_of_blocks():
    position = np.array([[5.0, 1], [15, 1], [25, 1], [35, 1], [45, 1]])
    split = split_by_blocks(position, 0.2, np.random.default_rng(3), block_px=10, buffer_px=10)
    place = int(np.flatnonzero(split.test)[0])
    assert split.test.sum() == 1
    # centres lie 5 px from their block's edge: the next block is within 10 px, the one after is not
    assert split.train.tolist() == [abs(one - place) > 1 for one in range(5)]
    assert split.n_left_out == 5 - 1 - int(split.train.sum())


@pytest.mark.parametrize("seed", range(20))
def test_blocks_are_whole_compact_and_apart(seed):
    position = grid_of_cells(30, 20, 100)  # blocks of 5 x 5 cells, 6 x 4 of them
    split = split_by_blocks(position, 0.2, np.random.default_rng(seed), block_px=500, buffer_px=500)
    block = np.floor(position / 500) @ [1, 100]
    assert not np.isin(block[~split.test], block[split.test]).any()
    assert split.test.sum() == 5 * 25  # the first number of whole blocks that reaches 120 of 600
    test, train = np.floor(position[split.test] / 500), np.floor(position[split.train] / 500)
    assert np.ptp(test, axis=0).max() <= 4
    blocks_between = np.abs(test[:, None] - train[None]).max(axis=2).min()
    assert blocks_between == 2  # exactly one block lies between


class FirstSquare:
    """In place of a generator: draws the first of the squares, sorted by column."""

    def integers(self, n):
        return 0


def test_a_cell_at_the_buffers_end_trains():
    position = np.array([[5.0, 5.0], [19.9, 5.0], [20.0, 5.0], [30.0, 5.0], [5.0, 20.0]])
    split = split_by_blocks(position, 0.1, FirstSquare(), block_px=10, buffer_px=10)
    assert split.test.tolist() == [True, False, False, False, False]
    assert split.train.tolist() == [False, False, True, True, True]


def masks(**options):
    position = grid_of_cells(30, 20, 100)
    usual = {"test_share": 0.2, "seed": 0, "block_px": 500, "buffer_px": 500} | options
    generator = np.random.default_rng(usual.pop("seed"))
    split = split_by_blocks(position, usual.pop("test_share"), generator, **usual)
    return np.stack([split.train, split.test])


@pytest.mark.parametrize("option", [{"test_share": 0.4}, {"seed": 1}, {"block_px": 250}, {"buffer_px": 0}])
def test_every_option_changes_the_blocks(option):
    assert np.array_equal(masks(), masks())
    assert not np.array_equal(masks(**option), masks())


def test_without_a_buffer_every_cell_is_used():
    assert masks(buffer_px=0).sum() == 600


def test_impossible_blocks():
    position = grid_of_cells(3, 2, 100)
    with pytest.raises(ValueError, match="found no train cell among 6; use a smaller buffer"):
        split_by_blocks(position, 0.2, np.random.default_rng(0), block_px=100, buffer_px=1000)
    with pytest.raises(ValueError, match="test_share: expected a share between 0 and 1, found 1.0"):
        split_by_blocks(position, 1.0, np.random.default_rng(0))


def test_a_split_counts_what_it_leaves_out():
    assert Split(np.array([True, False, False]), np.array([False, False, True])).n_left_out == 1
