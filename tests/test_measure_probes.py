"""Linear and neighbour probes: what they find, what they must not use, and every option."""

import numpy as np
import pytest

from spatia.measure.probes import fit_class_probe, inner_folds, knn_classes, probe_classes
from spatia.measure.scores import balanced_accuracy, pearson_per_gene
from spatia.measure.value_probes import fit_value_probe, probe_values


def rng(seed=0):
    return np.random.default_rng(seed)


def some_cells(n=240, n_features=6, noise=1.0, seed=0):
    """Features and labels of three classes of unequal size."""
    generator = rng(seed)
    labels = generator.choice(["t cell", "acinar", "duct"], size=n, p=[0.6, 0.3, 0.1])
    centre = {"t cell": 0, "acinar": 1, "duct": 2}
    z = noise * generator.normal(size=(n, n_features))
    z[np.arange(n), [centre[label] for label in labels]] += 3
    return z, labels


# --- folds ---


def test_folds_are_even():
    folds = inner_folds(11, None, rng(), 4)
    assert sorted(np.bincount(folds)) == [2, 3, 3, 3]


def test_groups_are_never_torn_apart():
    groups = np.repeat(["a", "b", "c", "d", "e"], [10, 4, 4, 3, 9])
    folds = inner_folds(30, groups, rng(), 3)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in "abcde")
    assert len(np.unique(folds)) == 3


@pytest.mark.parametrize("seed", range(5))
def test_small_groups_even_out_large_ones(seed):
    folds = inner_folds(24, [*[0] * 12, *range(1, 13)], rng(seed), 2)
    assert np.bincount(folds).tolist() == [12, 12]


def test_fewer_groups_than_folds():
    assert sorted(np.bincount(inner_folds(5, [7, 7, 7, 9, 9], rng(), 4))) == [2, 3]


def test_the_generator_deals_folds():
    assert np.array_equal(inner_folds(20, None, rng(1)), inner_folds(20, None, rng(1)))
    assert not np.array_equal(inner_folds(20, None, rng(1)), inner_folds(20, None, rng(2)))


@pytest.mark.parametrize(
    ("groups", "n_folds", "message"),
    [
        ([1, 1, 1], 2, "expected at least two to choose a penalty, found 1 in 3 cells"),
        ([1, 2], 2, "expected one per train cell, 3, found 2"),
        (None, 1, "n_folds: expected at least 2, found 1"),
    ],
)
def test_impossible_folds(groups, n_folds, message):
    with pytest.raises(ValueError, match=message):
        inner_folds(3, groups, rng(), n_folds)


# --- classes ---


def test_two_clear_classes():
    found = probe_classes(np.array([[0.0], [1], [10], [11]]), [5, 5, 8, 8], np.array([[-3.0], [2], [9], [30]]), rng())
    assert found.tolist() == [5, 5, 8, 8]


def test_classes_are_found_in_other_cells():
    (z, labels), (z_test, truth) = some_cells(), some_cells(200, seed=1)
    assert balanced_accuracy(truth, probe_classes(z, labels, z_test, rng())) > 0.9


def test_shuffled_labels_teach_nothing():
    (z, labels), (z_test, truth) = some_cells(400), some_cells(400, seed=1)
    scores = []
    for seed in range(20):  # cells of one class look alike, so each shuffle hits or misses most of a class
        guess = probe_classes(z, rng(seed).permutation(labels), z_test, rng(), strengths=[0.1])
        scores.append(balanced_accuracy(truth, guess))
    assert np.mean(scores) == pytest.approx(1 / 3, abs=0.1)


def test_scale_and_shift_of_features_do_not_matter():
    (z, labels), (z_test, _) = some_cells(noise=2.0), some_cells(90, noise=2.0, seed=1)
    scale, shift = np.array([1e-3, 1, 10, 1e3, 5, 2]), np.arange(6) * 100
    plain = probe_classes(z, labels, z_test, rng())
    assert np.array_equal(plain, probe_classes(z * scale + shift, labels, z_test * scale + shift, rng()))


def test_a_constant_feature_does_no_harm():
    (z, labels), (z_test, truth) = some_cells(), some_cells(90, seed=1)
    z[:, 5] = z_test[:, 5] = 7
    assert balanced_accuracy(truth, probe_classes(z, labels, z_test, rng())) > 0.9


def test_rare_classes_weigh_as_much_as_common_ones():
    generator = rng()
    labels = np.repeat([0, 1], [950, 50])
    z = generator.normal(size=(1000, 1)) + labels[:, None]
    guess = probe_classes(z, labels, z, generator)
    assert (guess == 1).mean() == pytest.approx(0.33, abs=0.08)  # a plain fit would find almost none


def test_test_cells_do_not_change_each_others_class():
    (z, labels), (z_test, _) = some_cells(noise=2.0), some_cells(90, noise=2.0, seed=1)
    together = probe_classes(z, labels, z_test, rng())
    assert np.array_equal(probe_classes(z, labels, z_test[:7], rng()), together[:7])


def test_noise_asks_for_a_stronger_penalty():
    generator = rng(3)
    z = generator.normal(size=(300, 40))
    noisy = (z[:, 0] + 2 * generator.normal(size=300) > 0).astype(int)
    clear = (z @ generator.normal(size=40) > 0).astype(int)
    assert fit_class_probe(z, noisy, rng()).strength > fit_class_probe(z, clear, rng()).strength


def test_of_equal_penalties_the_strongest_is_taken():
    z = np.array([[0.0], [1], [2], [50], [51], [52]])
    assert fit_class_probe(z, [0, 0, 0, 1, 1, 1], rng(), strengths=[1e-3, 1e-1, 1e-2], n_folds=3).strength == 0.1


def test_options_of_the_class_probe():
    z, labels = some_cells(120, noise=3.0)
    z_test, _ = some_cells(50, noise=3.0, seed=1)

    def scores(**options):
        probe = fit_class_probe(z, labels, options.pop("generator", rng()), **options)
        return probe.model.predict_proba(probe.standardise(z_test))

    def strength(**options):
        return fit_class_probe(z, labels, options.pop("generator", rng()), **options).strength

    assert np.array_equal(scores(), scores())
    assert not np.allclose(scores(strengths=[1e-4]), scores(strengths=[1.0]))
    assert fit_class_probe(z, labels, rng(), strengths=[0.3]).strength == 0.3
    fine = np.geomspace(1e-3, 10, 8)
    assert len({strength(strengths=fine, generator=rng(seed)) for seed in range(12)}) > 1
    assert len({strength(strengths=fine, n_folds=n) for n in range(2, 12)}) > 1
    assert len({strength(strengths=fine, groups=np.arange(120) // n) for n in range(2, 40, 3)}) > 1


def test_a_fold_may_hold_a_whole_class():
    z = np.array([[0.0], [1], [2], [10], [11], [12]])
    assert probe_classes(z, [0, 0, 0, 1, 1, 1], z, rng(), groups=[0, 0, 0, 1, 1, 1]).tolist() == [0, 0, 0, 1, 1, 1]


def test_impossible_classes():
    with pytest.raises(ValueError, match=r"expected at least two classes, found \['a'\]"):
        probe_classes(np.zeros((3, 2)), ["a", "a", "a"], np.zeros((1, 2)), rng())
    with pytest.raises(ValueError, match=r"expected \(cells, features\) for 2 answers, found shape \(3, 2\)"):
        probe_classes(np.zeros((3, 2)), ["a", "b"], np.zeros((1, 2)), rng())


# --- neighbours ---


def test_the_commonest_of_the_nearest():
    z = np.array([[0.0], [1], [2], [10], [11]])
    labels = ["a", "b", "b", "c", "c"]
    assert knn_classes(z, labels, np.array([[0.1], [12.0]]), 1).tolist() == ["a", "c"]
    assert knn_classes(z, labels, np.array([[0.1], [12.0]]), 3).tolist() == ["b", "c"]


def test_neighbours_are_near_in_standardised_features():
    z = np.array([[0.0, 0], [0, 1000], [1, 450], [1, 600]])
    assert knn_classes(z, ["a", "a", "b", "b"], np.array([[0.1, 400.0]]), 1).tolist() == ["a"]


@pytest.mark.parametrize("n_neighbors", [0, 4])
def test_impossible_neighbours(n_neighbors):
    with pytest.raises(ValueError, match=f"expected 1 to 3, the train cells, found {n_neighbors}"):
        knn_classes(np.zeros((3, 2)), ["a", "b", "b"], np.zeros((1, 2)), n_neighbors)


# --- values ---


def some_values(n=150, n_features=5, n_targets=3, noise=0.5, seed=0):
    generator = rng(seed)
    z = generator.normal(size=(n, n_features))
    return z, z @ rng(9).normal(size=(n_features, n_targets)) + noise * generator.normal(size=(n, n_targets)) + 4


def test_a_line_by_hand():
    z, y = np.array([[0.0], [1], [2], [3]]), np.array([[1.0, 5], [3, 5], [5, 5], [7, 5]])
    found = probe_values(z, y, np.array([[10.0], [-1]]), rng(), strengths=[1e-12])
    assert found == pytest.approx(np.array([[21.0, 5], [-1, 5]]))


def test_ridge_by_hand():
    # standardised z = -1, 1; y centred = -2, 2; weight = 2 / (1 + strength)
    found = probe_values(np.array([[0.0], [4]]), np.array([[1.0], [5]]), np.array([[4.0]]), rng(), strengths=[0.25])
    assert found == pytest.approx(np.array([[3 + 2 / 1.25]]))


def test_ridge_solves_its_equations():
    z, y = some_values()
    probe = fit_value_probe(z, y, rng())
    x, strength = (z - z.mean(axis=0)) / z.std(axis=0), probe.strength[0]
    expected = np.linalg.solve(x.T @ x / len(x) + strength * np.eye(5), x.T @ (y - y.mean(axis=0)) / len(x))
    assert probe.weight == pytest.approx(expected)
    assert probe.predict(z) == pytest.approx(x @ expected + y.mean(axis=0))


def test_more_features_than_cells():
    z, y = some_values(30, 80)
    z_test, y_test = some_values(60, 80, seed=1)
    assert pearson_per_gene(y_test, probe_values(z, y, z_test, rng())).mean > 0.2


def test_values_ignore_scale_of_features_and_follow_scale_of_targets():
    (z, y), (z_test, _) = some_values(), some_values(7, seed=1)
    plain = probe_values(z, y, z_test, rng())
    assert probe_values(3 * z - 8, y, 3 * z_test - 8, rng()) == pytest.approx(plain)
    assert probe_values(z, 10 * y + 1, z_test, rng()) == pytest.approx(10 * plain + 1)


def test_shuffled_values_teach_nothing():
    (z, y), (z_test, truth) = some_values(600), some_values(600, seed=1)
    assert abs(pearson_per_gene(truth, probe_values(z, rng(2).permutation(y), z_test, rng())).mean) < 0.25
    assert pearson_per_gene(truth, probe_values(z, y, z_test, rng())).mean > 0.9


def test_options_of_the_value_probe():
    z, y = some_values(60, 40, noise=3.0)
    y[:, 0] = z[:, 0]  # one clear target among noisy ones
    fine = np.geomspace(1e-5, 10, 60)

    def strength(**options):
        return fit_value_probe(z, y, options.pop("generator", rng()), strengths=fine, **options).strength

    assert len(set(strength())) == 1
    each = strength(per_target=True)
    assert each[0] < each[1:].min()
    assert len({strength(generator=rng(seed))[0] for seed in range(12)}) > 1
    assert len({strength(n_folds=n)[0] for n in (2, 3, 5, 8)}) > 1
    assert len({strength(groups=np.arange(60) // n)[0] for n in (1, 4, 12)}) > 1
    assert fit_value_probe(z, y, rng(), strengths=[0.5]).strength.tolist() == [0.5, 0.5, 0.5]


def test_the_level_of_targets_does_not_change_the_penalty():
    z, y = some_values(60, 40, noise=3.0)
    fine = np.geomspace(1e-5, 10, 60)
    plain, raised = (fit_value_probe(z, one, rng(), strengths=fine, per_target=True) for one in (y, y + 1000))
    assert raised.strength.tolist() == plain.strength.tolist()
    assert raised.offset == pytest.approx(plain.offset + 1000)


def test_each_targets_weight_has_its_own_strength():
    z, y = some_values(60, 40, noise=3.0)
    y[:, 0] = z[:, 0]
    each = fit_value_probe(z, y, rng(), per_target=True)
    alone = [fit_value_probe(z, y[:, [g]], rng(), strengths=[each.strength[g]]).weight[:, 0] for g in range(3)]
    assert each.weight == pytest.approx(np.stack(alone, axis=1))


def test_constant_targets_do_no_harm():
    z, y = some_values()
    y[:, 1] = 3
    found = probe_values(z, y, z, rng())
    assert found[:, 1] == pytest.approx(np.full(len(z), 3))
    assert pearson_per_gene(y[:, [0, 2]], found[:, [0, 2]]).mean > 0.9


def test_impossible_values():
    with pytest.raises(ValueError, match="for 4 answers, found shape"):
        probe_values(np.zeros((3, 2)), np.zeros((4, 1)), np.zeros((1, 2)), rng())
    with pytest.raises(ValueError, match=r"expected \(cells, targets\), found shape \(3,\)"):
        probe_values(np.zeros((3, 2)), np.zeros(3), np.zeros((1, 2)), rng())
