"""Morphology profiles: by hand on small cells, what they may not depend on, what they have to tell apart."""

import numpy as np
import pytest

from spatia.cells.profiles import cell_profiles, profile_names, profile_size


@pytest.fixture
def disc():
    """A disc of radius 10 in a frame of 32 x 40, and two stains: a bright centre, and the same with a grainy centre."""
    y, x = np.mgrid[:32, :40]
    radius = np.hypot(y - 15, x - 18)
    mask = radius <= 10
    grain = np.random.default_rng(0).integers(150, 250, mask.shape)
    centre = radius <= 5
    return np.stack([np.where(centre, 200, 40), np.where(centre, grain, 40)]).astype(np.uint8) * mask, mask


def named(frame, mask, stains=("a", "b")):
    return dict(zip(profile_names(stains), cell_profiles(frame[None], mask[None])[0], strict=True))


def test_names_match_numbers():
    assert len(profile_names(("a", "b", "c"))) == profile_size(3) == 26


def test_a_uniform_square_by_hand():
    mask = np.zeros((12, 14), bool)
    mask[2:8, 3:9] = True
    frame = np.where(mask, 51, 0).astype(np.uint8)[None]  # 51 / 255 = 0.2
    found = named(frame, mask, ("a",))
    assert found["log_area"] == pytest.approx(np.log(36))
    assert found["log_elongation"] == pytest.approx(0, abs=1e-6)
    assert found["log_mean_a"] == pytest.approx(np.log(0.201), abs=1e-5)
    assert found["log_cv_a"] == pytest.approx(np.log(1e-3), abs=1e-3)
    assert found["log_fine_a"] == pytest.approx(np.log(1e-3), abs=1e-3)


def test_elongation_of_a_bar_by_hand():
    mask = np.zeros((12, 30), bool)
    mask[4:6, 2:26] = True
    found = named(np.zeros((1, 12, 30), np.uint8), mask, ("a",))
    assert found["log_elongation"] == pytest.approx(
        0.5 * np.log((2 * (24**2 - 1) / 12 + 0.1) / (2 * 0.25 + 0.1)), abs=1e-4
    )


def test_the_bright_part_is_found(disc):
    found = named(*disc)
    share = (np.hypot(*np.mgrid[-15:17, -18:22]) <= 5).sum() / disc[1].sum()
    assert 1 / (1 + np.exp(-found["logit_bright_share_a"])) == pytest.approx(share, abs=0.05)
    assert found["log_bright_mean_a"] == pytest.approx(np.log(200 / 255), abs=0.01)
    assert found["log_bright_mean_a"] > found["log_mean_a"]


def test_energies_follow_the_scale_of_the_texture():
    rng = np.random.default_rng(1)
    mask = np.ones((48, 48), bool)
    fine = rng.integers(80, 180, (48, 48))
    coarse = np.kron(rng.integers(80, 180, (6, 6)), np.ones((8, 8), int))
    one, two = (named(frame[None].astype(np.uint8), mask, ("a",)) for frame in (fine, coarse))
    assert one["log_fine_a"] > two["log_fine_a"] + 1
    assert one["log_fine_a"] == pytest.approx(one["log_coarse_a"], abs=0.3)
    assert two["log_coarse_a"] > two["log_fine_a"] + 1


def test_contrast_does_not_depend_on_the_gain(disc):
    frame, mask = disc
    bright, dim = named(frame, mask), named((frame // 2).astype(np.uint8), mask)
    assert bright["log_mean_b"] - dim["log_mean_b"] == pytest.approx(np.log(2), abs=0.03)
    for name in ("log_bright_cv_b", "log_fine_b", "log_coarse_b", "logit_bright_share_a"):
        assert bright[name] == pytest.approx(dim[name], abs=0.1), name


@pytest.mark.parametrize("turn", [lambda a: a[..., ::-1], lambda a: a[..., ::-1, :], lambda a: a.swapaxes(-1, -2)])
def test_turning_a_cell_changes_nothing(disc, turn):
    frame, mask = disc
    turned = cell_profiles(np.ascontiguousarray(turn(frame))[None], np.ascontiguousarray(turn(mask))[None])
    np.testing.assert_allclose(turned, cell_profiles(frame[None], mask[None]), atol=1e-4)


def test_pixels_outside_the_cell_do_not_count(disc):
    frame, mask = disc
    noisy = np.where(mask, frame, 255).astype(np.uint8)
    np.testing.assert_array_equal(cell_profiles(noisy[None], mask[None]), cell_profiles(frame[None], mask[None]))


def test_empty_and_tiny_cells_have_finite_profiles(disc):
    frame, _ = disc
    tiny = np.zeros((32, 40), bool)
    tiny[3, 4] = True
    assert np.isfinite(cell_profiles(np.stack([frame, frame]), np.stack([np.zeros((32, 40), bool), tiny]))).all()
