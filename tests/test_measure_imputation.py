"""Hidden genes predicted from visible ones and from embeddings."""

import numpy as np
import pytest
from scipy import sparse

from spatia.measure.imputation import (
    hidden_genes,
    imputation_scores,
    impute_by_chosen_neighbours,
    impute_by_neighbours,
    impute_by_ridge,
    log_counts,
    log_normalised,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def two_types(n=60, n_genes=12, seed=0):
    """Counts of two cell types that differ in all genes, and which type each cell is."""
    generator = rng(seed)
    kind = generator.integers(2, size=n)
    rate = np.where(rng(99).random((2, n_genes)) < 0.5, 1.0, 12.0)
    rate[1] = 13 - rate[0]
    return generator.poisson(rate[kind]), kind


# --- hidden genes ---


@pytest.mark.parametrize(("n_genes", "share", "n_hidden"), [(10, 0.3, 3), (377, 0.2, 75), (5, 0.5, 2)])
def test_a_share_of_genes_is_hidden(n_genes, share, n_hidden):
    is_hidden = hidden_genes(n_genes, share, rng())
    assert is_hidden.shape == (n_genes,)
    assert is_hidden.sum() == n_hidden


def test_the_generator_picks_hidden_genes():
    picks = [hidden_genes(50, 0.2, rng(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(picks[0], picks[1])
    assert not np.array_equal(picks[0], picks[2])


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_hiding_none_or_all(share):
    with pytest.raises(ValueError, match="expected some but not all of 10 genes hidden"):
        hidden_genes(10, share, rng())


# --- scaling ---


def test_log_counts_by_hand():
    counts = np.array([[0, 1], [3, 0]])
    assert log_counts(counts) == pytest.approx(np.log([[1, 2], [4, 1]]))
    assert np.array_equal(log_counts(sparse.csr_matrix(counts)), log_counts(counts))


def test_normalised_cells_have_the_same_total():
    counts = np.array([[1, 3], [10, 30], [0, 0]])
    found = np.expm1(log_normalised(counts, 8.0))
    assert found == pytest.approx(np.array([[2.0, 6], [2, 6], [0, 0]]))


# --- neighbours ---


def test_neighbours_by_hand():
    # genes 0 and 1 are visible and tell two kinds of cells apart; gene 2 is hidden
    train = np.array([[9, 1, 4], [90, 10, 6], [1, 9, 0], [2, 18, 0], [3, 27, 9]])
    test = np.array([[18, 2, 777], [5, 45, 777]])
    is_hidden = np.array([False, False, True])
    two = impute_by_neighbours(train[:4], test, is_hidden, n_neighbors=2)
    assert two == pytest.approx(np.array([[np.log([5, 7]).mean()], [0]]))
    three = impute_by_neighbours(train[[0, 1, 1, 2, 3, 4]], test, is_hidden, n_neighbors=3)
    assert three == pytest.approx(np.array([[np.log([5, 7, 7]).mean()], [np.log(10) / 3]]))


def test_hidden_genes_of_test_cells_are_not_looked_at():
    (train, _), (test, _) = two_types(), two_types(20, seed=1)
    is_hidden = hidden_genes(12, 0.3, rng())
    found = impute_by_neighbours(train, test, is_hidden)
    test[:, is_hidden] = 0
    assert np.array_equal(impute_by_neighbours(train, test, is_hidden), found)


def test_a_train_cell_is_its_own_neighbour():
    train, _ = two_types(40)
    is_hidden = hidden_genes(12, 0.3, rng())
    found = impute_by_neighbours(train, 3 * train, is_hidden, n_neighbors=1)
    assert found == pytest.approx(log_counts(train[:, is_hidden]))


def test_depth_of_a_cell_does_not_change_its_neighbours():
    (train, _), (test, _) = two_types(), two_types(20, seed=1)
    is_hidden = hidden_genes(12, 0.3, rng())
    found = impute_by_neighbours(train, test, is_hidden)
    assert impute_by_neighbours(train, 10 * test, is_hidden) == pytest.approx(found)


def test_sparse_counts_give_the_same():
    (train, _), (test, _) = two_types(), two_types(20, seed=1)
    is_hidden = hidden_genes(12, 0.3, rng())
    dense = impute_by_neighbours(train, test, is_hidden)
    assert dense.shape == (20, 4)
    found = impute_by_neighbours(sparse.csr_matrix(train), sparse.csr_matrix(test), is_hidden)
    assert found == pytest.approx(dense)


def test_options_of_neighbours():
    (train, _), (test, _) = two_types(), two_types(20, seed=1)
    is_hidden = hidden_genes(12, 0.3, rng())
    usual = impute_by_neighbours(train, test, is_hidden)
    assert not np.allclose(impute_by_neighbours(train, test, is_hidden, n_neighbors=3), usual)
    assert not np.allclose(impute_by_neighbours(train, test, is_hidden, n_components=1), usual)
    everyone = impute_by_neighbours(train, test, is_hidden, n_neighbors=60)
    assert everyone == pytest.approx(np.tile(log_counts(train[:, is_hidden]).mean(axis=0), (20, 1)))


def test_types_are_imputed_and_shuffled_genes_are_not():
    (train, _), (test, _) = two_types(200), two_types(200, seed=1)
    is_hidden = hidden_genes(12, 0.3, rng())
    good = imputation_scores(test, impute_by_neighbours(train, test, is_hidden), is_hidden)
    assert good.mean > 0.8
    chance = []
    for seed in range(20):  # each shuffle favours one type or the other a little
        train[:, is_hidden] = rng(seed).permutation(train[:, is_hidden])
        chance.append(imputation_scores(test, impute_by_neighbours(train, test, is_hidden), is_hidden).mean)
    assert abs(np.mean(chance)) < 0.2


def test_number_of_neighbours_and_scaling_are_chosen_on_train_cells():
    (train, _), (test, _) = two_types(200), two_types(50, seed=1)
    is_hidden = hidden_genes(12, 0.3, rng())
    found = impute_by_chosen_neighbours(train, test, is_hidden, rng(), n_neighbors=[1, 40])
    assert found == pytest.approx(impute_by_neighbours(train, test, is_hidden, 40, scaled=False))  # one is noisy
    # all cells alike but for their depth, which scaling hides
    depth = rng(2).choice([1, 4, 16], size=250)
    counts = rng(3).poisson(3.0 * depth[:, None], size=(250, 12))
    found = impute_by_chosen_neighbours(counts[:200], counts[200:], is_hidden, rng(), n_neighbors=[15])
    assert found == pytest.approx(impute_by_neighbours(counts[:200], counts[200:], is_hidden, 15, scaled=False))
    assert imputation_scores(counts[200:], found, is_hidden).mean > 0.8
    # depth of its own for every cell: cells are alike whatever their depth
    loud, loud_test = train[:, ~is_hidden] * rng(4).integers(1, 90, (200, 1)), test[:, ~is_hidden]
    train[:, ~is_hidden] = loud
    test[:, ~is_hidden] = loud_test * rng(5).integers(1, 90, (50, 1))
    found = impute_by_chosen_neighbours(train, test, is_hidden, rng(), n_neighbors=[15])
    assert found == pytest.approx(impute_by_neighbours(train, test, is_hidden, 15))


def test_numbers_of_neighbours_that_a_fold_cannot_give_are_left_out():
    train, _ = two_types(40)
    is_hidden = hidden_genes(12, 0.3, rng())
    found = impute_by_chosen_neighbours(train, train, is_hidden, rng(), n_neighbors=[20, 31])
    assert any(np.allclose(found, impute_by_neighbours(train, train, is_hidden, 20, scaled=s)) for s in (True, False))
    with pytest.raises(ValueError, match="expected at most 30, the train cells of a fold"):
        impute_by_chosen_neighbours(train, train, is_hidden, rng(), n_neighbors=[31])


# --- embeddings ---


def test_ridge_imputes_from_embeddings():
    (train, kind), (test, test_kind) = two_types(200), two_types(150, seed=1)
    is_hidden = hidden_genes(12, 0.3, rng())
    z, z_test = (np.eye(2)[k] + 0.1 * rng(7).normal(size=(len(k), 2)) for k in (kind, test_kind))
    found = impute_by_ridge(z, train, z_test, is_hidden, rng())
    assert found.shape == (150, 4)
    assert imputation_scores(test, found, is_hidden).mean > 0.8
    noise = impute_by_ridge(rng(1).normal(size=z.shape), train, rng(2).normal(size=z_test.shape), is_hidden, rng())
    assert abs(imputation_scores(test, noise, is_hidden).mean) < 0.2


def test_groups_and_generator_reach_the_probe():
    train, kind = two_types(60)
    is_hidden = hidden_genes(12, 0.3, rng())
    z = 0.5 * np.eye(2)[kind] @ rng(3).normal(size=(2, 10)) + rng(4).normal(size=(60, 10))

    def first_value(seed, groups=None):
        return impute_by_ridge(z, train, z[:5], is_hidden, rng(seed), groups)[0, 0]

    assert first_value(0) == first_value(0)
    assert len({first_value(seed) for seed in range(8)}) > 1
    assert len({first_value(0, np.arange(60) // n) for n in (1, 2, 4, 6, 10, 30)}) > 1


def test_scores_are_those_of_hidden_genes():
    counts = np.array([[1, 5, 2], [2, 0, 2], [4, 1, 2]])
    is_hidden = np.array([True, False, True])
    scores = imputation_scores(counts, np.log1p(counts[:, [0, 2]].astype(float)), is_hidden)
    assert scores.mean == pytest.approx(1)
    assert scores.n_dropped == 1


def test_impossible_imputation():
    counts = np.ones((4, 3), int)
    with pytest.raises(ValueError, match=r"expected a mask of 3 genes, found shape \(2,\)"):
        impute_by_neighbours(counts, counts, np.array([True, False]))
    with pytest.raises(ValueError, match="expected 1 to 4, the train cells, found 50"):
        impute_by_neighbours(counts, counts, np.array([True, False, False]))
