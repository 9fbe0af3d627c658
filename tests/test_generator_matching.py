"""Which target of its transition a control learns from."""

import itertools

import numpy as np
import pytest
import torch

from spatia.learn import generator_matching
from spatia.learn.generator_matching import blocks, rematch
from spatia.transitions.canvas import to_canvas, turn
from spatia.transitions.looks import looks_of, n_looks_of

ONE_PLACE = np.zeros((99, 2))


def discs(radii):
    """Return canvases of one even stain: discs."""
    y, x = np.indices((24, 24))
    shares = np.stack([(y - 9) ** 2 + (x - 12) ** 2 < r**2 for r in radii])
    return to_canvas((shares * 100).astype(np.uint8)[:, None], 255 * shares.astype(np.uint8))


def test_small_controls_get_small_targets_and_no_target_is_lost():
    generator = np.random.default_rng(0)
    radii = np.concatenate([generator.uniform(2, 8, 30), generator.uniform(4, 10, 30)])
    canvas = discs(radii)
    start, end = np.arange(30), np.r_[30 + generator.permutation(20), 30 + np.arange(10)]  # ten targets occur twice
    found = rematch(looks_of(canvas), ONE_PLACE, start, end, np.zeros(30, np.int64))
    assert sorted(found) == sorted(end)
    assert np.corrcoef(radii[start], radii[end])[0, 1] < 0.5
    assert np.corrcoef(radii[start], radii[found])[0, 1] > 0.9
    assert np.array_equal(found, rematch(looks_of(canvas), ONE_PLACE, start, end, np.zeros(30, np.int64)))


def test_targets_stay_within_their_transition():
    canvas = discs(np.random.default_rng(1).uniform(2, 9, 40))
    transition = np.repeat([0, 1], 10)
    end = 20 + np.random.default_rng(2).permutation(20)
    found = rematch(looks_of(canvas), ONE_PLACE, np.arange(20), end, transition)
    for number in (0, 1):
        assert sorted(found[transition == number]) == sorted(end[transition == number])


def test_many_pairs_are_matched_in_parts_that_together_are_all(monkeypatch):
    monkeypatch.setattr(generator_matching, "MOST", 4)
    transition = np.repeat([3, 7], [10, 3])
    place = np.random.default_rng(0).uniform(0, 1, (13, 2)) * [1, 50]
    parts = list(blocks(transition, place))
    assert sorted(map(len, parts)) == [2, 2, 3, 3, 3]
    assert sorted(np.concatenate(parts)) == list(range(13))
    assert all(len(set(transition[part])) == 1 for part in parts)
    areas = sorted(place[part, 1].tolist() for part in parts if transition[part[0]] == 3)
    assert all(max(left) < min(right) for left, right in itertools.pairwise(areas))


def test_what_the_place_tells_about_the_target_stays_true():
    # targets are large in the east and small in the west, controls are of all sizes everywhere
    generator = np.random.default_rng(3)
    is_east = np.arange(60) % 2 == 1
    radii = np.concatenate([generator.uniform(3, 9, 60), np.where(is_east, 8, 5) + generator.uniform(-1.5, 1.5, 60)])
    place = np.stack([generator.uniform(0, 100, 120), np.r_[is_east, is_east] * 400.0], axis=1)
    canvas, number = discs(radii), np.zeros(60, np.int64)
    start, end = np.arange(60), 60 + np.arange(60)
    by_image_alone = rematch(looks_of(canvas), ONE_PLACE.repeat(2, 0), start, end, number)
    found = rematch(looks_of(canvas), place, start, end, number)
    assert (is_east[by_image_alone - 60] == is_east).mean() < 0.7
    assert (is_east[found - 60] == is_east).mean() > 0.8
    west = start[~is_east]
    assert np.corrcoef(radii[west], radii[found[west]])[0, 1] > 0.7 > np.corrcoef(radii[west], radii[end[west]])[0, 1]


def an_ellipse(long, short, y0=24, x0=24):
    """Return the mask (48, 48) of an ellipse that lies from left to right."""
    y, x = np.indices((48, 48))
    return ((y - y0) / short) ** 2 + ((x - x0) / long) ** 2 < 1


def test_looks_are_size_elongation_brightness_and_texture_of_cell_and_nucleus():
    cell, nucleus = an_ellipse(20, 10), an_ellipse(6, 3, x0=32)
    stain, dapi = (
        np.where(cell, 64, 0),
        np.where(nucleus, np.where(np.indices((48, 48)).sum(0) % 2, 225, 169), cell * 16),
    )
    frames = np.stack([stain, dapi])[None].astype(np.uint8)
    canvas = to_canvas(frames, 255 * cell[None].astype(np.uint8), 1, nucleus[None])
    looks = looks_of(canvas, 1)
    assert looks.shape == (1, n_looks_of(2, 1))
    size, elongation, level, dapi_level, spread, dapi_spread, *own = looks[0].tolist()
    assert np.exp(size) == pytest.approx(np.pi * 200, rel=0.02)
    assert np.exp(elongation) == pytest.approx(2, rel=0.03)
    assert (level + 1) / 2 == pytest.approx((64 / 255) ** 0.5, abs=1e-3)
    assert spread == pytest.approx(0, abs=1e-3)
    assert (dapi_level + 1) / 2 == pytest.approx((16 / 255) ** 0.5, abs=1e-3)  # around the nucleus
    assert dapi_spread == pytest.approx(0, abs=1e-3)
    own_size, own_elongation, off, within, grain = own
    assert np.exp(own_size) == pytest.approx(nucleus.sum(), rel=0.01)
    assert np.exp(own_elongation) == pytest.approx(2, rel=0.1)
    assert off == pytest.approx(8 / cell.sum() ** 0.5, rel=0.05)
    assert (within + 1) / 2 == pytest.approx(14 / 255**0.5, rel=0.01)
    assert grain == pytest.approx(2 / 255**0.5, rel=0.02)


def test_looks_are_the_same_whichever_way_a_cell_lies():
    canvas = to_canvas(np.full((1, 2, 48, 48), 90, np.uint8), 255 * an_ellipse(15, 7, y0=20)[None].astype(np.uint8))
    torch.testing.assert_close(looks_of(turn(canvas, 1, True)), looks_of(canvas), atol=1e-4, rtol=1e-4)


def test_tiles_of_one_niche_are_not_matched_with_each_other():
    canvas = discs([3, 5, 7, 3, 5, 7])  # three niches, each seen from two of its cells
    start, end, tile = np.arange(3), np.array([4, 5, 3]), np.array([0, 1, 2, 0, 1, 2])
    number = np.zeros(3, np.int64)
    assert rematch(looks_of(canvas), ONE_PLACE, start, end, number).tolist() == [3, 4, 5]
    apart = rematch(looks_of(canvas), ONE_PLACE, start, end, number, tile)
    assert sorted(apart) == [3, 4, 5]
    assert not (tile[start] == tile[apart]).any()


def test_controls_learn_from_targets_near_by_where_most_targets_lie_elsewhere():
    # nine of ten targets lie in the east and are large, the controls are everywhere: a plan must send most of the
    # western controls east
    generator = np.random.default_rng(4)
    control_is_east, target_is_east = np.arange(100) % 2 == 1, np.arange(100) % 10 > 0
    radii = np.concatenate(
        [generator.uniform(3, 9, 100), np.where(target_is_east, 8, 5) + generator.uniform(-1, 1, 100)]
    )
    east = np.r_[control_is_east, target_is_east]
    place = np.stack([generator.uniform(0, 100, 200), east * 400.0 + generator.uniform(0, 100, 200)], axis=1)
    canvas, number = discs(radii), np.zeros(100, np.int64)
    start, end = np.arange(100), 100 + np.arange(100)
    as_often = rematch(looks_of(canvas), place, start, end, number)
    found = rematch(looks_of(canvas), place, start, end, number, is_local=np.ones(100, bool))
    west = ~control_is_east
    assert target_is_east[as_often - 100][west].mean() == pytest.approx(0.8)
    assert target_is_east[found - 100][west].mean() < 0.1
    assert not target_is_east[found - 100][control_is_east].mean() < 0.9
    # drawn by place alone: western controls of all sizes learn from western targets as they are
    western = radii[100:][~target_is_east]
    assert radii[found[west]].mean() == pytest.approx(western.mean(), abs=0.3)
    assert np.corrcoef(radii[start[west]], radii[found[west]])[0, 1] > 0.5
    assert np.array_equal(found, rematch(looks_of(canvas), place, start, end, number, is_local=np.ones(100, bool)))


def test_only_transitions_that_are_local_draw_their_targets_anew():
    canvas = discs(np.random.default_rng(1).uniform(2, 9, 40))
    place = np.random.default_rng(2).uniform(0, 100, (40, 2))
    transition, end = np.repeat([0, 1], 10), 20 + np.random.default_rng(3).permutation(20)
    found = rematch(looks_of(canvas), place, np.arange(20), end, transition, is_local=transition == 1)
    assert sorted(found[:10]) == sorted(end[:10])
    assert set(found[10:]) < set(end[10:])
