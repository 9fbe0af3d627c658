"""KS, Wasserstein, KID and FID with answers by hand, and against torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, wasserstein_distance
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from spatia.measure.distances import compare_features, standardise, varies
from spatia.measure.image_distances import frechet_distance, kernel_distance, make_kernel, squared_mmd
from spatia.measure.shifts import correlate, cosine, fit_slope, mean_shift


def test_two_deltas_lie_as_far_apart_as_their_values():
    found = compare_features([[1.0, 5.0]], [[4.0, 5.0], [4.0, 5.0]])
    assert found.w1.tolist() == [[3.0, 0.0]]
    assert found.ks.tolist() == [[1.0, 0.0]]


def test_a_shift_by_one_of_four_steps():
    # 0 1 2 3 against 1 2 3 4: a quarter of the mass beyond either end
    found = compare_features([[0], [1], [2], [3]], [[1], [2], [3], [4]])
    assert found.ks[0, 0] == pytest.approx(0.25)
    assert found.w1[0, 0] == pytest.approx(1.0)


def test_unequal_sizes_agree_with_scipy():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(17, 3)), rng.normal(0.5, 2, size=(29, 3)).round(1)
    found = compare_features(one, other)
    for k in range(3):
        assert found.ks[0, k] == pytest.approx(ks_2samp(one[:, k], other[:, k]).statistic)
        assert found.w1[0, k] == pytest.approx(wasserstein_distance(one[:, k], other[:, k]))


def test_weights_are_repeated_cells():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(6, 2)), rng.normal(size=(9, 2))
    u, v = rng.multinomial(6, np.full(6, 1 / 6), 4), rng.multinomial(9, np.full(9, 1 / 9), 4)
    found = compare_features(one, other, u, v)
    for r in range(4):
        slow = compare_features(np.repeat(one, u[r], axis=0), np.repeat(other, v[r], axis=0))
        assert found.ks[r] == pytest.approx(slow.ks[0])
        assert found.w1[r] == pytest.approx(slow.w1[0])


@pytest.mark.parametrize(
    ("one", "other", "weights", "message"),
    [
        (np.zeros((0, 2)), np.zeros((3, 2)), None, "at least one cell"),
        (np.zeros((3, 2)), np.zeros((3, 1)), None, "the same ones in both"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), None, "finite"),
        (np.zeros((3, 2)), np.zeros((4, 2)), np.ones((2, 4)), r"expected \(resamples, 3\)"),
        (np.zeros((3, 2)), np.zeros((4, 2)), np.ones((2, 3)), "as many resamples"),
    ],
)
def test_bad_sets_are_refused(one, other, weights, message):
    with pytest.raises(ValueError, match=message):
        compare_features(one, other, weights)


def test_spreads_of_the_controls():
    assert standardise([[3.0], [5.0]], [[1.0], [5.0]]).tolist() == [[0.0], [1.0]]
    assert varies([[1.0, 2.0, 1e9], [1.0, 3.0, 1e9 + 1e-3]]).tolist() == [False, True, False]


# --- kernel and Frechet distance ---------------------------------------------------------------------------------


class Same(nn.Module):
    """Gives features back: torchmetrics' network for features that are there already."""

    num_features = 6

    def forward(self, features):
        return features


def features(n, mean, seed):
    return np.random.default_rng(seed).normal(mean, 1, (n, 6))


def test_the_kernel_by_hand():
    kernel = make_kernel([[1.0, 1.0]], [[0.0, 2.0], [1.0, 0.0]])
    assert kernel.between.tolist() == [[8.0, 1.5**3]]  # (2 / 2 + 1)^3, (1 / 2 + 1)^3


def test_two_pairs_by_hand():
    # 1-d, {0, 1} and {2, 3}: k(0, 1) = 1, k(2, 3) = 343, between: 1, 1, 27, 64
    found = squared_mmd(make_kernel([[0.0], [1.0]], [[2.0], [3.0]]), [[1, 1]], [[1, 1]])
    assert found[0] == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)


def test_identical_sets_have_no_distance_and_far_ones_have():
    one = features(40, 0, 0)
    found = kernel_distance(make_kernel(one, one), 40, 5, np.random.default_rng(0))
    assert found < 0  # unbiased: pairs of one cell with itself count between the sets only
    assert abs(kernel_distance(make_kernel(one, features(40, 0, 1)), 40, 5, np.random.default_rng(0))) < 1
    assert kernel_distance(make_kernel(one, features(40, 2, 1)), 40, 5, np.random.default_rng(0)) > 10
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_kid_is_torchmetrics_on_whole_sets():
    one, other = features(30, 0, 0), features(30, 0.5, 1)
    metric = KernelInceptionDistance(feature=Same(), subsets=2, subset_size=30)
    metric.update(torch.from_numpy(one), real=True)
    metric.update(torch.from_numpy(other), real=False)
    ours = kernel_distance(make_kernel(one, other), 30, 2, np.random.default_rng(0))
    assert ours == pytest.approx(float(metric.compute()[0]), rel=1e-5)


def test_subsets_change_kid_and_are_checked():
    kernel = make_kernel(features(30, 0, 0), features(20, 0.5, 1))
    small, large = (kernel_distance(kernel, size, 50, np.random.default_rng(0)) for size in (5, 20))
    assert small != large
    assert small == pytest.approx(large, abs=1.5)
    one, two = (kernel_distance(kernel, 5, n, np.random.default_rng(0)) for n in (1, 200))
    assert one != two
    with pytest.raises(ValueError, match="expected 2 to 20"):
        kernel_distance(kernel, 21, 5, np.random.default_rng(0))


def test_a_cell_drawn_twice_is_no_pair_with_itself():
    kernel = make_kernel(features(4, 0, 0), features(5, 0, 1))
    weights = np.array([[2, 1, 1, 0]])
    inside, within = 0.0, kernel.first
    pairs = [(i, j) for i in (0, 0, 1, 2) for j in (0, 0, 1, 2) if i != j]
    inside = np.mean([within[i, j] for i, j in pairs])
    other = np.mean([kernel.second[i, j] for i in range(5) for j in range(5) if i != j])
    between = np.mean([kernel.between[i] for i in (0, 0, 1, 2)])
    assert squared_mmd(kernel, weights, np.ones((1, 5)))[0] == pytest.approx(inside + other - 2 * between)


@pytest.mark.parametrize("n", [5, 50])  # fewer and more cells than features
def test_fid_is_torchmetrics(n):
    one, other = features(n, 0, 0), features(n + 3, 1, 1)
    metric = FrechetInceptionDistance(feature=Same()).set_dtype(torch.float64)
    metric.update(torch.from_numpy(one), real=True)
    metric.update(torch.from_numpy(other), real=False)
    assert frechet_distance(one, other) == pytest.approx(float(metric.compute()), rel=1e-4)


def test_fid_of_shifted_and_stretched_lines_by_hand():
    # variances 2 and 8: (m1 - m2)^2 + (sqrt 2 - sqrt 8)^2
    assert frechet_distance([[0.0], [2.0]], [[1.0], [5.0]]) == pytest.approx(4 + 2)


# --- shifts ------------------------------------------------------------------------------------------------------


def test_correlation_and_slope_by_hand():
    assert correlate([1.0, 2, 3], [2.0, 4, 6]) == pytest.approx(1)
    assert correlate([1.0, 2, 3], [1.0, 1, 1]) == 0
    assert fit_slope([1.0, -2.0], [2.0, -4.0]) == pytest.approx(2)
    assert fit_slope([1.0, -2.0], [-1.0, 2.0]) == pytest.approx(-1)
    assert fit_slope([0.0, 0.0], [1.0, 2.0]) == 0


def test_the_slope_does_not_depend_on_a_features_sign():
    true, generated = np.array([1.0, 2.0, 0.5]), np.array([0.8, 2.5, 0.1])
    sign = np.array([1, -1, -1])
    assert fit_slope(true, generated) == pytest.approx(fit_slope(sign * true, sign * generated))


def test_shift_of_weighted_means():
    shift = mean_shift([[1.0], [3.0]], [[0.0], [1.0], [2.0]], [[1, 1], [2, 0]], [[1, 1, 1], [0, 0, 3]])
    assert shift.tolist() == [[1.0], [-1.0]]


def test_cosine_of_cells():
    true = np.array([[1.0, 0], [1, 0], [1, 0], [0, 0]])
    generated = np.array([[2.0, 0], [-1, 0], [0, 0], [1, 1]])
    assert cosine(generated, true).tolist() == [1, -1, 0, 0]
