"""Entropic transport: hand-made answers, limits, POT as the slow reference, awkward inputs."""

from __future__ import annotations

import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

from spatia.transitions.costs import BlockedCost, Cells, CostRule, DenseCost, dense
from spatia.transitions.kernels import StoredKernel, raise_lost_columns
from spatia.transitions.matching import assign_one_to_one, match_rows, share_of
from spatia.transitions.transport import Limits, solve, transport_matrix

TIGHT = Limits(0.05, 1e-10, 20_000)


def clouds(n: int, m: int, seed: int, d: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Return two clouds with variances as in a PCA of expression, one moved along the first axis."""
    rng = np.random.default_rng(seed)
    spread = 3 * np.arange(1, d + 1) ** -0.5
    x, y = rng.normal(size=(n, d)) * spread, rng.normal(size=(m, d)) * spread
    y[:, 0] += 3
    return x, y


def make_cost(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cost = cdist(x, y)
    return cost / np.median(cost)


def plain():
    return clouds(500, 500, 0)


def fewer_controls():
    return clouds(400, 500, 1)


def fewer_targets():
    return clouds(500, 430, 1)


def duplicates():
    x, y = clouds(500, 500, 2)
    x[100:300], y[50:120], y[200:220] = x[0], y[3], x[0]
    return x, y


def outliers_among_controls():
    x, y = clouds(500, 480, 3)
    x[:5] += 40
    return x, y


def outliers_among_targets():
    x, y = clouds(500, 480, 3)
    y[:5] += 60
    y[7] -= 200
    return x, y


def two_clusters_of_unequal_mass():
    x, y = clouds(500, 500, 5)
    x[:250] += 30
    y[:200] += 30
    return x, y


@pytest.mark.parametrize(
    "make",
    [
        plain,
        fewer_controls,
        fewer_targets,
        duplicates,
        outliers_among_controls,
        outliers_among_targets,
        two_clusters_of_unequal_mass,
    ],
)
def test_plan_and_every_untied_argmax_are_those_of_pot(make):
    cost = make_cost(*make())
    n, m = cost.shape
    expected = ot.sinkhorn(
        np.full(n, 1 / n), np.full(m, 1 / m), cost, 0.05, method="sinkhorn_log", stopThr=1e-11, numItermax=5000
    )
    found, plan = transport_matrix(DenseCost(cost), TIGHT)
    assert plan.marginal_error <= 1e-10
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    first, second = np.sort(expected, axis=1)[:, :-3:-1].T
    is_untied = first - second > 1e-9 * first
    matches = match_rows(DenseCost(cost), plan)
    np.testing.assert_array_equal(matches.target[is_untied], expected.argmax(axis=1)[is_untied])
    loose, _ = transport_matrix(DenseCost(cost))  # as shipped: tolerance 1e-4
    np.testing.assert_allclose(loose, expected, rtol=0, atol=1e-6)


def test_far_outliers_on_both_sides_converge_where_the_plain_iteration_underflows():
    x, y = clouds(300, 280, 4)
    x[:5] += 100
    y[:5] -= 150
    y[9] += 1000
    cost = make_cost(x, y)
    found, plan = transport_matrix(DenseCost(cost))
    assert plan.iterations < 1000
    assert np.abs(found.sum(axis=0) - 1 / 280).sum() + np.abs(found.sum(axis=1) - 1 / 300).sum() <= 1.01e-4
    with pytest.warns(UserWarning, match=r"[Nn]umerical errors"):
        ot.sinkhorn(np.full(300, 1 / 300), np.full(280, 1 / 280), cost, 0.05, method="sinkhorn")


def test_mass_that_has_to_cross_a_gulf_needs_larger_epsilons_first():
    x, y = clouds(300, 300, 6)
    x[:60] += 300
    y[:30] += 300
    cost = make_cost(x, y)
    assert np.ptp(cost) / 0.05 > 500
    plan = solve(DenseCost(cost))
    assert plan.iterations < 500
    assert match_rows(DenseCost(cost), plan).marginal_error <= 1.01e-4


def test_two_by_two_by_hand():
    # a symmetric 2 x 2 problem has the plan k / (2 (1 + k)) off the diagonal with k = exp(-1 / epsilon)
    found, _ = transport_matrix(DenseCost(np.array([[0.0, 1.0], [1.0, 0.0]])), Limits(0.5, 1e-12, 100))
    off = np.exp(-2) / (2 * (1 + np.exp(-2)))
    np.testing.assert_allclose(found, [[0.5 - off, off], [off, 0.5 - off]], atol=1e-12)


def test_equal_clouds_are_matched_with_themselves_and_little_epsilon_is_certain():
    x, _ = clouds(60, 1, 7)
    cost = DenseCost(make_cost(x, x))
    matches = match_rows(cost, solve(cost, Limits(0.01, 1e-6, 5000)))
    np.testing.assert_array_equal(matches.target, np.arange(60))
    assert matches.entropy.max() < 1e-3
    vague = match_rows(cost, solve(cost, Limits(100.0, 1e-6, 100)))
    np.testing.assert_allclose(vague.entropy, np.log(60), rtol=1e-3)


def test_matches_by_rows_are_those_of_the_whole_matrix():
    cost = DenseCost(make_cost(*clouds(70, 90, 8)))
    matrix, plan = transport_matrix(cost, TIGHT)
    matches = match_rows(cost, plan)
    share = matrix / matrix.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(matches.score, share.max(axis=1), rtol=1e-9)
    np.testing.assert_allclose(matches.entropy, -(share * np.log(share)).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(matches.row_sum, matrix.sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(matches.column_sum, matrix.sum(axis=0), rtol=1e-9)
    chosen = np.arange(70)
    np.testing.assert_allclose(share_of(cost, plan, matches, chosen), share[chosen, chosen], rtol=1e-9)


@pytest.mark.parametrize("memory", ["float32", "streamed"])
def test_float32_and_streamed_kernels_give_the_same_plan(memory):
    x, y = clouds(700, 650, 9)
    y[:3] += 80  # float32 alone has a range of 87
    cost = DenseCost(make_cost(x, y))
    plan, other = solve(cost), solve(cost, memory=memory)
    matches, theirs = match_rows(cost, plan), match_rows(cost, other)
    assert theirs.marginal_error <= 1.01e-4
    assert (matches.target == theirs.target).mean() > 0.995
    np.testing.assert_allclose(theirs.entropy, matches.entropy, atol=2e-3)


@pytest.mark.parametrize("memory", ["float64", "streamed"])
def test_threads_change_no_digit(memory):
    cost = DenseCost(make_cost(*clouds(800, 900, 10)))
    one, three = (solve(cost, memory=memory, threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one.column_potential, three.column_potential)
    matches = [match_rows(cost, one, threads) for threads in (1, 3)]
    for name in ("target", "entropy", "column_sum"):
        np.testing.assert_array_equal(*(getattr(match, name) for match in matches))


def test_not_converged_is_an_error_that_names_iterations_and_error():
    cost = DenseCost(make_cost(*plain()))
    with pytest.raises(RuntimeError, match=r"at most 0\.0001, found \S+ after 3 iterations; raise max_iterations"):
        solve(cost, Limits(max_iterations=3))


def test_epsilon_changes_the_plan():
    cost = DenseCost(make_cost(*clouds(50, 60, 11)))
    sharp, vague = (match_rows(cost, solve(cost, Limits(epsilon=epsilon))) for epsilon in (0.02, 0.2))
    assert sharp.entropy.mean() < vague.entropy.mean() - 1


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((0, 3)), "with rows and columns"),
        (np.zeros(3), "with rows and columns"),
        (np.array([[0.0, np.nan]]), "finite numbers"),
        (np.array([[0.0, np.inf]]), "finite numbers"),
    ],
)
def test_bad_costs_are_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        DenseCost(matrix)


@pytest.mark.parametrize("name", ["epsilon", "tolerance", "max_iterations"])
def test_bad_limits_are_refused(name):
    with pytest.raises(ValueError, match=f"expected {name} above 0"):
        Limits(**{name: 0})


# --- the cost ---
def sides(n=40, m=50, seed=12):
    x, y = clouds(n, m, seed, d=6)
    rng = np.random.default_rng(seed)
    return Cells(x, rng.uniform(0, 500, (n, 2))), Cells(y, rng.uniform(0, 500, (m, 2)))


@pytest.mark.parametrize("distance", ["euclidean", "squared"])
def test_cost_is_distance_over_median_plus_distance_on_the_slide(distance):
    controls, targets = sides()
    found = dense(BlockedCost(controls, targets, CostRule(distance, 0.3, 200.0))).matrix
    near = cdist(controls.points, targets.points, "sqeuclidean" if distance == "squared" else "euclidean")
    far = cdist(controls.position_um, targets.position_um)
    np.testing.assert_allclose(found, near / np.median(near) + 0.3 * np.minimum(far / 200, 1), rtol=1e-9)


def test_without_weight_the_place_on_the_slide_does_not_count():
    controls, targets = sides()
    moved = Cells(targets.points, targets.position_um + 1000)
    both = [dense(BlockedCost(controls, side, CostRule())).matrix for side in (targets, moved)]
    np.testing.assert_array_equal(*both)


def test_median_of_large_clouds_comes_from_a_sample():
    x, y = clouds(3000, 2500, 13, d=5)
    cost = BlockedCost(Cells(x, x[:, :2]), Cells(y, y[:, :2]), CostRule())
    assert cost.median == pytest.approx(np.median(cdist(x, y)), rel=0.02)


def test_equal_cells_have_no_scale():
    same = Cells(np.ones((5, 3)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="median distance of 0"):
        BlockedCost(same, same, CostRule())


def test_places_must_be_finite():
    controls, targets = sides()
    broken = Cells(np.full_like(controls.points, np.nan), controls.position_um)
    with pytest.raises(ValueError, match="finite places"):
        BlockedCost(broken, targets, CostRule())


# --- parts ---
def test_kernel_rows_are_scaled_and_lost_columns_raised():
    from concurrent.futures import ThreadPoolExecutor

    cost = DenseCost(np.array([[0.0, 1.0, 100.0], [1.0, 0.0, 101.0]]))
    with ThreadPoolExecutor(1) as pool:
        kernel = StoredKernel(cost, np.full(2, 0.5), np.float64, pool)
        top, best, spread = kernel.build(np.zeros(3), 0.1)
        np.testing.assert_allclose(top, 0)
        np.testing.assert_allclose(best, [0, 0, -1000])
        assert spread == pytest.approx(1010)
        raised = raise_lost_columns(np.zeros(3), best, 0.1, 25)
        np.testing.assert_allclose(raised, [0, 0, 97.5])
        kernel.build(raised, 0.1)
        u, sums = kernel.sweep(np.ones(3))
    np.testing.assert_allclose(u, 0.5 / kernel.matrix.sum(axis=1))
    np.testing.assert_allclose(sums, u @ kernel.matrix)


# --- one to one ---
def test_one_to_one_has_no_target_twice_and_the_largest_product():
    cost = DenseCost(make_cost(*clouds(6, 7, 14)))
    matrix, plan = transport_matrix(cost, TIGHT)
    found = assign_one_to_one(cost, plan)
    assert len(set(found.tolist())) == 6
    from itertools import permutations

    best = max(permutations(range(7), 6), key=lambda chosen: np.log(matrix[np.arange(6), list(chosen)]).sum())
    assert found.tolist() == list(best)


def test_one_to_one_needs_enough_targets_and_a_small_matrix():
    cost = DenseCost(make_cost(*clouds(7, 6, 15)))
    with pytest.raises(ValueError, match="at least as many targets as controls, found 6 for 7"):
        assign_one_to_one(cost, solve(cost))
    wide = BlockedCost(*sides(9000, 9000), CostRule())
    with pytest.raises(ValueError, match="at most 64,000,000 pairs"):
        assign_one_to_one(wide, None)  # type: ignore[arg-type]
