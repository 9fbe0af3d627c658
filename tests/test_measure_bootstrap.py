"""Intervals: the fast ways against resampling by hand, what they cover, and paired differences."""

import numpy as np
import pytest

from spatia.measure.bootstrap import (
    Interval,
    bootstrap,
    bootstrap_difference,
    draw_weights,
    resampled,
    resampled_accuracy,
    resampled_balanced_accuracy,
    resampled_macro_f1,
    resampled_pearson,
    resampled_spearman,
)
from spatia.measure.scores import accuracy, balanced_accuracy, macro_f1, pearson_per_gene, spearman_per_gene

CLASS_SCORES = [
    (resampled_accuracy, accuracy),
    (resampled_balanced_accuracy, balanced_accuracy),
]
ALL_CLASS_SCORES = [*CLASS_SCORES, (resampled_macro_f1, macro_f1)]


def some_classes(n=200, hit_rate=0.6, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.choice(["a", "b", "c"], size=n, p=[0.5, 0.3, 0.2])
    return truth, np.where(generator.random(n) < hit_rate, truth, generator.choice(["a", "b", "c"], size=n))


def some_genes(n=80, n_genes=4, noise=1.0, seed=0):
    generator = np.random.default_rng(seed)
    truth = np.log1p(generator.poisson(2.0, size=(n, n_genes)))
    return truth, truth + generator.normal(scale=noise, size=truth.shape)


def rng(seed=0):
    return np.random.default_rng(seed)


# --- weights ---


def test_weights_count_draws():
    weights = draw_weights(7, 500, rng())
    assert weights.shape == (500, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)
    assert weights.var() == pytest.approx(1 - 1 / 7, abs=0.1)


@pytest.mark.parametrize(("fast", "plain"), ALL_CLASS_SCORES)
def test_a_weight_counts_a_cell_as_often(fast, plain):
    truth, guess = np.array(["a", "a", "b", "c"]), np.array(["a", "b", "b", "c"])
    weights = np.array([[1, 1, 1, 1], [2, 1, 0, 1], [0, 3, 1, 0]])
    slow = [plain(np.repeat(truth, w), np.repeat(guess, w)) for w in weights]
    assert fast(truth, guess)(weights.astype(float)) == pytest.approx(slow)


def test_weights_of_genes_count_cells_as_often():
    truth, guess = some_genes(6, 3)
    weights = np.array([[1, 1, 1, 1, 1, 1], [3, 0, 1, 0, 2, 0], [0, 2, 2, 1, 0, 1]])
    rows = [np.repeat(np.arange(6), w) for w in weights]
    slow = [pearson_per_gene(truth[r], guess[r]).mean for r in rows]
    assert resampled_pearson(truth, guess)(weights.astype(float)) == pytest.approx(slow)


def test_genes_that_stop_varying_in_a_resample_do_not_count_there():
    truth = np.array([[0.0, 1], [0, 2], [1, 4]])
    guess = np.array([[0.0, 2], [0, 1], [5, 7]])
    weights = np.array([[2.0, 1, 0], [3.0, 0, 0]])
    values = resampled_pearson(truth, guess)(weights)
    assert values[0] == pytest.approx(pearson_per_gene(truth[[0, 0, 1]], guess[[0, 0, 1]]).mean)
    assert np.isnan(values[1])


def test_a_constant_prediction_counts_as_0_in_resamples():
    truth, guess = some_genes(20, 2)
    guess[:, 1] = 0.3
    alone = resampled_pearson(truth[:, :1], guess[:, :1])(np.ones((1, 20)))
    assert resampled_pearson(truth, guess)(np.ones((1, 20))) == pytest.approx(alone / 2)


# --- intervals ---


@pytest.mark.parametrize(("fast", "plain"), ALL_CLASS_SCORES)
def test_fast_intervals_of_classes_are_those_of_resampling_by_hand(fast, plain):
    truth, guess = some_classes()
    quick, slow = (bootstrap(truth, guess, score, rng(), n_resamples=100) for score in (fast, resampled(plain)))
    assert (quick.value, quick.low, quick.high) == pytest.approx((slow.value, slow.low, slow.high))
    assert quick.value == pytest.approx(plain(truth, guess))


def test_fast_intervals_of_genes_are_those_of_resampling_by_hand():
    truth, guess = some_genes()
    slow = resampled(lambda t, p: pearson_per_gene(t, p).mean)
    quick, slow = (bootstrap(truth, guess, score, rng(), n_resamples=100) for score in (resampled_pearson, slow))
    assert (quick.value, quick.low, quick.high) == pytest.approx((slow.value, slow.low, slow.high))


def test_rank_correlation_keeps_the_ranks_of_all_cells():
    truth, guess = some_genes(300)
    by_hand = resampled(lambda t, p: spearman_per_gene(t, p).mean)
    quick, slow = (bootstrap(truth, guess, score, rng(), n_resamples=100) for score in (resampled_spearman, by_hand))
    assert quick.value == pytest.approx(spearman_per_gene(truth, guess).mean)
    assert (quick.low, quick.high) == pytest.approx((slow.low, slow.high), abs=0.01)


def test_width_of_a_share_is_the_binomial_one():
    truth, guess = some_classes(1000)
    found = bootstrap(truth, guess, resampled_accuracy, rng(), n_resamples=2000)
    half = 1.96 * np.sqrt(found.value * (1 - found.value) / 1000)
    assert found.high - found.value == pytest.approx(half, rel=0.15)
    assert found.value - found.low == pytest.approx(half, rel=0.15)


def test_intervals_cover_what_they_should():
    shares = []
    for seed in range(200):
        is_right = np.random.default_rng(seed).random(150) < 0.4
        found = bootstrap(np.ones(150, int), is_right.astype(int), resampled_accuracy, rng(seed), n_resamples=200)
        shares.append(found.low <= 0.4 <= found.high)
    assert np.mean(shares) == pytest.approx(0.94, abs=0.05)


@pytest.mark.parametrize(("fast", "plain"), ALL_CLASS_SCORES)
def test_a_perfect_prediction_is_certain(fast, plain):
    truth, _ = some_classes()
    assert bootstrap(truth, truth, fast, rng(), n_resamples=50) == Interval(1.0, 1.0, 1.0)


def test_chance_is_inside_the_interval_of_shuffled_labels():
    truth, _ = some_classes(600)
    found = bootstrap(truth, rng(1).permutation(truth), resampled_balanced_accuracy, rng())
    assert found.low < 1 / 3 < found.high


def interval(**options):
    truth, guess = some_classes()
    usual = {"seed": 0} | options
    generator = rng(usual.pop("seed"))
    return bootstrap(truth, guess, resampled_balanced_accuracy, generator, **usual)


def test_options_of_an_interval():
    usual = interval()
    assert interval() == usual
    assert interval(seed=1) != usual
    assert interval(n_resamples=500) != usual
    assert interval(groups=np.arange(200) // 10) != usual
    narrow = interval(level=0.5)
    assert usual.low < narrow.low < narrow.value < narrow.high < usual.high
    assert {one.value for one in (usual, narrow, interval(seed=1), interval(groups=np.arange(200) // 10))} == {
        usual.value
    }


def test_cells_as_their_own_groups_are_cells():
    assert interval(groups=np.arange(200)) == interval()


def test_alike_neighbours_widen_the_interval_of_groups():
    truth, guess = some_classes(40)
    truth, guess = np.repeat(truth, 25), np.repeat(guess, 25)  # 40 things, each seen 25 times
    cells = bootstrap(truth, guess, resampled_accuracy, rng())
    groups = bootstrap(truth, guess, resampled_accuracy, rng(), groups=np.repeat(np.arange(40), 25))
    assert groups.value == cells.value
    assert groups.high - groups.low == pytest.approx(5 * (cells.high - cells.low), rel=0.2)


def test_chunks_do_not_change_the_result(monkeypatch):
    usual = interval(n_resamples=100)
    monkeypatch.setattr("spatia.measure.bootstrap.CHUNK_BYTES", 8 * 200 * 7)
    assert interval(n_resamples=100) == usual


def test_an_interval_reads_as_text():
    assert str(Interval(0.39, 0.3801, 0.4)) == "0.390 [0.380, 0.400]"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"level": 1.0}, "expected level in"),
        ({"n_resamples": 0}, "at least one resample"),
        ({"groups": np.zeros(3)}, "expected one per cell, 200, found 3"),
    ],
)
def test_impossible_intervals(option, message):
    with pytest.raises(ValueError, match=message):
        interval(**option)


# --- differences ---


@pytest.mark.parametrize("score", [score for score, _ in ALL_CLASS_SCORES])
def test_the_same_prediction_differs_by_exactly_0(score):
    truth, guess = some_classes()
    assert bootstrap_difference(truth, guess, guess, score, rng(), n_resamples=50) == Interval(0.0, 0.0, 0.0)


def test_the_same_prediction_of_genes_differs_by_exactly_0():
    truth, guess = some_genes()
    for score in (resampled_pearson, resampled_spearman):
        assert bootstrap_difference(truth, guess, guess, score, rng(), n_resamples=50) == Interval(0.0, 0.0, 0.0)


def test_a_difference_changes_its_sign_with_the_order():
    truth, good = some_classes(hit_rate=0.7)
    _, bad = some_classes(hit_rate=0.2)
    there = bootstrap_difference(truth, good, bad, resampled_balanced_accuracy, rng())
    back = bootstrap_difference(truth, bad, good, resampled_balanced_accuracy, rng())
    assert there.value == balanced_accuracy(truth, good) - balanced_accuracy(truth, bad)
    assert 0 < there.low < there.value < there.high
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_pairing_removes_what_both_share():
    truth, guess = some_genes(200, noise=2.0)
    other = guess + rng(5).normal(scale=0.1, size=guess.shape)
    alone = bootstrap(truth, guess, resampled_pearson, rng())
    paired = bootstrap_difference(truth, guess, other, resampled_pearson, rng())
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)


def test_differences_over_groups():
    truth, good = some_classes(hit_rate=0.7)
    _, bad = some_classes(hit_rate=0.2)
    cells, groups = (
        bootstrap_difference(truth, good, bad, resampled_accuracy, rng(), groups=groups)
        for groups in (None, np.arange(200) // 10)
    )
    assert cells.value == groups.value
    assert cells != groups
