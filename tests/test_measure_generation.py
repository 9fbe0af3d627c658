"""Scores of generators whose right scores are known."""

import numpy as np
import pytest

from spatia.measure.cell_sets import CellSet, choose_features, fill_gaps, find_worst, make_scale, mean_cell
from spatia.measure.generation import (
    CONTROL,
    MEAN_TARGET,
    REAL_HALVES,
    Score,
    Settings,
    average_scores,
    score_transition,
    why_not,
)

SETTINGS = Settings(
    n_resamples=40, subset_size=20, n_subsets=10, max_cells=60, min_cells=10, most_spreads=10.0, encoder="toy"
)
N_FEATURES = 12


def cells(n, shift, seed, scale=1.0):
    """Return cells whose features are shifted by ``shift`` times 0, 1/11 .. 1, signs in turn."""
    rng = np.random.default_rng(seed)
    moves = np.linspace(0, 1, N_FEATURES) * (-1) ** np.arange(N_FEATURES) * shift
    features = scale * rng.normal(size=(n, N_FEATURES)) + moves
    return CellSet(features, features[:, :5] / 3, np.ones(n, bool))


def spoiled(some, rows):
    features = some.features.copy()
    features[rows] = np.nan
    is_segmented = some.is_segmented.copy()
    is_segmented[rows] = False
    return CellSet(features, some.embedding, is_segmented)


def score(methods, settings=SETTINGS, controls=None, targets=None, seed=0):
    controls = cells(80, 0, 0) if controls is None else controls
    targets = cells(160, 3, 1) if targets is None else targets
    found = score_transition(
        controls, targets, methods, lambda rows: np.zeros(5), settings, np.random.default_rng(seed)
    )
    return {(s.method, s.metric): s for s in found}


def test_a_perfect_generator_scores_like_real_cells():
    found = score({"good": cells(80, 3, 2)})
    for metric in ("wass_corr", "shift_pearson", "shift_slope"):
        assert found["good", metric].value == pytest.approx(1, abs=0.08)
    for metric in ("ks_d", "w1_target", "kid_toy", "fid_toy"):
        near, far = found["good", metric].value, found[CONTROL, metric].value
        assert near < far / 2
        assert near == pytest.approx(found[REAL_HALVES, metric].value, abs=far / 4)
    assert found["good", "ks_complement"].value == 1 - found["good", "ks_d"].value


def test_the_wrong_way_fools_the_distances_but_not_the_signed_shifts():
    found = score({"wrong": cells(80, -3, 2)})
    assert found["wrong", "wass_corr"].value > 0.9
    assert found["wrong", "shift_pearson"].value < -0.95
    assert found["wrong", "shift_slope"].value == pytest.approx(-1, abs=0.1)
    assert found["wrong", "w1_target"].value > found[CONTROL, "w1_target"].value


def test_half_the_way_has_half_the_slope():
    assert score({"half": cells(80, 1.5, 2)})["half", "shift_slope"].value == pytest.approx(0.5, abs=0.08)


def test_the_control_as_output_moves_nowhere():
    found = score({})
    assert found[CONTROL, "shift_slope"].value == 0
    assert found[CONTROL, "shift_pearson"].value == 0
    assert abs(found[CONTROL, "wass_corr"].value) < 1e-9
    found = score({}, controls=spoiled(cells(80, 0, 0), [3]))  # also where one could not be measured
    assert (found[CONTROL, "shift_pearson"].value, found[CONTROL, "shift_slope"].value) == (0, 0)
    assert found[CONTROL, "failed_share"].value == pytest.approx(1 / 60)  # of the 60 that were drawn


def test_the_mean_target_is_right_on_average_and_wrong_as_a_distribution():
    found = score({})
    assert found[MEAN_TARGET, "shift_slope"].value == pytest.approx(1, abs=0.1)
    assert found[MEAN_TARGET, "ks_d"].value > found[REAL_HALVES, "ks_d"].value + 0.3


def test_failed_cells_cost():
    good = cells(80, 3, 2)
    some, many = spoiled(good, slice(0, 8)), spoiled(good, slice(0, 40))
    found = score({"good": good, "some": some, "many": many})
    assert found["good", "failed_share"].value == 0
    assert 0 < found["some", "failed_share"].value < found["many", "failed_share"].value < 0.7
    for metric in ("ks_d", "w1_target"):
        assert found["good", metric].value < found["some", metric].value < found["many", metric].value


def test_failing_never_helps_a_bad_method():
    bad = cells(80, -3, 2)
    found = score({"bad": bad, "failing": spoiled(bad, slice(0, 80))})
    assert found["failing", "ks_d"].value > 0.5
    assert found["failing", "failed_share"].value == 1


def test_all_methods_meet_the_same_number_of_cells():
    found = score({"good": cells(80, 3, 2)})
    assert {s.n for s in found.values()} == {60}  # max_cells
    assert {s.n for s in score({}, targets=cells(51, 3, 1)).values()} == {25}


def test_intervals_hold_the_value_and_stay_in_range():
    for found in score({"good": cells(80, 3, 2)}).values():
        low, high = found.interval(0.95)
        assert low <= found.value <= high
    low, high = Score("m", "ks_d", 0.99, np.array([0.8, 1.0]), 9, "").interval(0.95)
    assert (low, high) == (pytest.approx(0.895), 1.0)
    narrow, wide = (Score("m", "fid_toy", 5.0, np.arange(9.0), 9, "").interval(level) for level in (0.5, 0.9))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_the_same_seed_gives_the_same_scores():
    one, two, other = (score({"good": cells(80, 3, 2)}, seed=seed) for seed in (0, 0, 1))
    assert all(one[key].value == two[key].value for key in one)
    assert any(one[key].value != other[key].value for key in one)


@pytest.mark.parametrize(
    "change", [{"subset_size": 5}, {"n_subsets": 3}, {"max_cells": 30}, {"n_resamples": 20}, {"most_spreads": 1.0}]
)
def test_every_setting_changes_the_result(change):
    plain = score({"good": cells(80, 3, 2)})
    other = score({"good": cells(80, 3, 2)}, Settings(**{**vars(SETTINGS), **change}))
    assert any(
        plain[key].value != other[key].value or plain[key].interval(0.9) != other[key].interval(0.9) for key in plain
    )


def test_too_few_cells_are_refused_with_numbers():
    assert why_not(10, 20, SETTINGS) == ""
    assert "9 generated controls" in why_not(9, 20, SETTINGS)
    with pytest.raises(ValueError, match=r"19 real targets: expected at least 10 and 20 \(two halves\)"):
        score({}, targets=cells(19, 3, 1))


def test_features_that_do_not_count_are_left_out_and_counted():
    controls, targets = cells(40, 0, 0), cells(40, 3, 1)
    controls.features[:, 0] = 7.0  # constant
    targets.features[:9, 1] = np.nan  # 9 of 80 cells have none
    targets.features[0, 2] = np.nan  # one gap is filled
    assert choose_features(controls, targets).tolist() == [False, False] + [True] * 10
    found = score({}, controls=controls, targets=targets)
    assert found[CONTROL, "ks_d"].note == "10 features, 2 dropped"


def test_the_generator_has_no_say_in_the_features():
    flat = cells(80, 3, 2)
    flat.features[:, 5] = np.nan
    found = score({"good": cells(80, 3, 2), "flat": flat})
    assert found["flat", "ks_d"].note == found["good", "ks_d"].note == "12 features, 0 dropped"
    assert found["flat", "ks_d"].value > found["good", "ks_d"].value


def test_the_worst_value_is_the_far_end_of_the_real_range():
    controls, targets = np.linspace(0, 1, 101)[:, None], np.linspace(2, 3, 101)[:, None]
    assert find_worst(controls, targets)[0] == pytest.approx(0.02, abs=0.02)
    assert find_worst(targets, controls)[0] == pytest.approx(2.98, abs=0.02)


def test_gaps_take_the_median_and_far_values_are_brought_in():
    assert fill_gaps(np.array([[1.0], [3.0], [np.nan], [8.0]])).ravel().tolist() == [1, 3, 3, 8]
    controls = CellSet(np.array([[0.0], [2.0]]), np.zeros((2, 1)), np.ones(2, bool))
    scale = make_scale(controls, controls, 4.0)
    far = CellSet(np.array([[101.0], [np.nan], [1.0]]), np.zeros((3, 1)), np.array([True, False, True]))
    assert scale.output(far).ravel()[[0, 2]].tolist() == [4.0, 0.0]
    assert abs(scale.output(far)[1, 0]) == 1


def test_the_mean_cell_repeats_one_row():
    found = mean_cell(cells(20, 0, 0), np.arange(5.0), 7)
    assert found.features.shape == (7, N_FEATURES)
    assert np.ptp(found.features, axis=0).max() == 0
    assert found.embedding[3].tolist() == [0, 1, 2, 3, 4]


def test_means_over_transitions():
    one = [Score("m", "ks_d", 0.2, np.array([0.1, 0.3]), 50, "x")]
    two = [Score("m", "ks_d", 0.4, np.array([0.5, 0.5]), 35, "y")]
    found = average_scores([one, two])
    assert len(found) == 1
    assert found[0].value == pytest.approx(0.3)
    assert found[0].resamples.tolist() == pytest.approx([0.3, 0.4])
    assert found[0].n == 35
    assert "2 transitions" in found[0].note
    assert average_scores([]) == []


def test_cell_sets_check_their_lengths():
    with pytest.raises(ValueError, match="as many features as embeddings"):
        CellSet(np.zeros((3, 2)), np.zeros((2, 2)), np.ones(3, bool))
