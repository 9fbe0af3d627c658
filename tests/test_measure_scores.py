"""Scores with answers known by hand, their limits, and how they agree with scikit-learn and scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from spatia.measure.scores import (
    accuracy,
    adjusted_rand_index,
    balanced_accuracy,
    confusion,
    macro_f1,
    macro_precision,
    normalised_gain,
    normalised_mutual_information,
    pearson_per_gene,
    spearman_per_gene,
)

TRUTH = ["a", "a", "a", "a", "b", "b"]
GUESS = ["a", "a", "a", "b", "b", "a"]


# --- classes ---


def test_confusion_has_true_classes_in_rows():
    assert confusion(TRUTH, GUESS).tolist() == [[3, 1], [1, 1]]
    assert confusion([0, 0, 0], [0, 2, 2]).tolist() == [[1, 2], [0, 0]]


def test_scores_of_classes_by_hand():
    assert accuracy(TRUTH, GUESS) == pytest.approx(4 / 6)
    assert balanced_accuracy(TRUTH, GUESS) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert macro_precision(TRUTH, GUESS) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert macro_f1(["a", "a", "b"], ["a", "b", "b"]) == pytest.approx(2 / 3)


def test_a_class_that_is_only_predicted_costs_f1_but_no_recall():
    assert balanced_accuracy(["a", "a", "b"], ["a", "a", "b"]) == 1
    assert balanced_accuracy(["a", "a", "b"], ["a", "c", "b"]) == pytest.approx(0.75)
    assert macro_f1(["a", "a", "b"], ["a", "c", "b"]) == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_classes_agree_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    truth = generator.integers(4, size=60)
    guess = np.where(generator.random(60) < 0.5, truth, generator.integers(6, size=60))
    assert accuracy(truth, guess) == pytest.approx(metrics.accuracy_score(truth, guess))
    recall = metrics.recall_score(truth, guess, average="macro", labels=np.unique(truth))
    assert balanced_accuracy(truth, guess) == pytest.approx(recall)
    assert macro_f1(truth, guess) == pytest.approx(metrics.f1_score(truth, guess, average="macro"))
    precision = metrics.precision_score(truth, guess, average="macro", zero_division=0)
    assert macro_precision(truth, guess) == pytest.approx(precision)


@pytest.mark.parametrize("score", [accuracy, balanced_accuracy, macro_f1, macro_precision])
def test_limits_of_class_scores(score):
    generator = np.random.default_rng(0)
    truth = generator.choice(["a", "b", "c"], size=3000, p=[0.6, 0.3, 0.1])
    assert score(truth, truth) == 1
    assert score(["a", "b"], ["b", "a"]) == 0
    order = generator.permutation(3000)
    guess = np.where(generator.random(3000) < 0.5, truth, "a")
    assert score(truth[order], guess[order]) == score(truth, guess)


def test_shuffled_labels_stay_at_chance():
    generator = np.random.default_rng(0)
    truth = generator.choice(["a", "b", "c"], size=6000, p=[0.6, 0.3, 0.1])
    assert balanced_accuracy(truth, generator.permutation(truth)) == pytest.approx(1 / 3, abs=0.03)
    assert balanced_accuracy(truth, np.full(6000, "a")) == pytest.approx(1 / 3)


def test_labels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"expected truth and prediction of the same cells, found shapes \(2,\), \(3,"):
        accuracy(["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="same cells"):
        accuracy([], [])
    with pytest.raises(ValueError, match="both as names or both as numbers"):
        accuracy(["1", "2"], [1, 2])


# --- genes ---


def test_correlations_by_hand():
    truth = np.array([[1.0, 0, 1], [2, 0, 2], [3, 1, 3], [4, 1, 10]])
    guess = np.array([[2.0, 1, 1], [4, 1, 2], [6, 0, 3], [8, 0, 4]])
    pearson, spearman = pearson_per_gene(truth, guess), spearman_per_gene(truth, guess)
    assert pearson.per_gene[:2] == pytest.approx([1, -1])
    assert pearson.per_gene[2] == pytest.approx(14 / np.sqrt(5 * 50))
    assert spearman.per_gene == pytest.approx([1, -1, 1])
    assert spearman.mean == pytest.approx(1 / 3)


def test_genes_constant_in_the_truth_are_dropped_and_counted():
    truth = np.array([[1.0, 7, 0], [2, 7, 1], [3, 7, 0]])
    scores = pearson_per_gene(truth, np.array([[1.0, 1, 0], [2, 5, 1], [3, 2, 0]]))
    assert scores.n_dropped == 1
    assert np.isnan(scores.per_gene).tolist() == [False, True, False]
    assert scores.mean == pytest.approx(1)


def test_a_constant_prediction_scores_0_and_counts():
    truth = np.array([[1.0, 1], [2, 2], [3, 3]])
    scores = pearson_per_gene(truth, np.array([[1.0, 0.1], [2, 0.1], [3, 0.1]]))
    assert scores.per_gene.tolist() == [pytest.approx(1), 0]
    assert (scores.mean, scores.n_dropped) == (pytest.approx(0.5), 0)


def test_rounding_is_no_variation():
    truth = np.array([[0.0], [1], [2], [3]])
    guess = np.full((4, 1), 0.1) + np.array([[0], [1], [-1], [0]]) * 1e-16
    assert pearson_per_gene(truth, guess).mean == 0


def test_correlations_agree_with_scipy_and_ignore_scale_and_order():
    generator = np.random.default_rng(0)
    truth = generator.poisson(1.0, size=(50, 3)).astype(float)
    guess = truth + generator.normal(size=(50, 3))
    order = generator.permutation(50)
    for ours, theirs in ((pearson_per_gene, stats.pearsonr), (spearman_per_gene, stats.spearmanr)):
        expected = [theirs(truth[:, g], guess[:, g])[0] for g in range(3)]
        assert ours(truth, guess).per_gene == pytest.approx(expected)
        assert ours(truth[order], 3 * guess[order] + 5).per_gene == pytest.approx(expected)
    assert pearson_per_gene(truth, np.exp(guess)).mean != pytest.approx(pearson_per_gene(truth, guess).mean)
    assert spearman_per_gene(truth, np.exp(guess)).mean == pytest.approx(spearman_per_gene(truth, guess).mean)


def test_a_perfect_prediction_of_genes_scores_1():
    values = np.random.default_rng(0).poisson(2.0, size=(40, 5))
    assert pearson_per_gene(values, values).mean == pytest.approx(1)
    assert spearman_per_gene(values, values).mean == pytest.approx(1)


def test_genes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"one shape \(n, genes\), found \(3, 2\), \(2, 3\)"):
        pearson_per_gene(np.zeros((3, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="expected finite values"):
        pearson_per_gene(np.eye(2), np.array([[1, np.nan], [0, 1]]))
    with pytest.raises(ValueError, match="expected one that varies in the truth, found 2 constant ones"):
        pearson_per_gene(np.zeros((3, 2)), np.ones((3, 2)))


# --- partitions and gain ---


def test_agreement_of_partitions():
    assert adjusted_rand_index([0, 0, 1, 1], ["x", "x", "y", "y"]) == 1
    assert normalised_mutual_information([0, 0, 1, 1], [5, 5, 3, 3]) == pytest.approx(1)
    assert adjusted_rand_index([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)
    assert normalised_mutual_information([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(0)
    # 0 0 1 | 1: one pair together in both of 6; expected 2 * 3 / 6 = 1, largest (2 + 3) / 2
    assert adjusted_rand_index([0, 0, 1, 1], [0, 0, 0, 1]) == pytest.approx((1 - 1) / (2.5 - 1))


def test_gain_over_chance():
    assert normalised_gain(0.4, 0.1, 0.7) == pytest.approx(0.5)
    assert normalised_gain(0.1, 0.1, 0.7) == 0
    assert normalised_gain(0.7, 0.1, 0.7) == 1
    assert normalised_gain(0.05, 0.1, 0.7) < 0
    with pytest.raises(ValueError, match=r"expected an oracle above chance, found 0\.1 and 0\.1"):
        normalised_gain(0.4, 0.1, 0.1)
