"""Pairs, bases and signatures as pure functions; the planted change of expression on simulated counts."""

from __future__ import annotations

import numpy as np
import pytest
from planted_signatures import expected_difference, expected_log1p
from scipy import sparse
from scipy.spatial.distance import cdist

from spatia.transitions.basis import align_genes, fit_basis, log_normalise, median_total, project, project_panel
from spatia.transitions.costs import Cells, CostRule
from spatia.transitions.pairing import (
    TransportRule,
    confidence_of,
    disturb,
    find_pairs,
    insist_on_marginals,
    target_reuse,
)
from spatia.transitions.signatures import difference_sum, signature
from spatia.transitions.transport import Limits, Plan
from spatia.xenium.simulate.counts import draw_counts, draw_depth
from spatia.xenium.simulate.panel import make_features
from spatia.xenium.simulate.programs import (
    GENE_CLASSES,
    donor_shift,
    expected_log_folds,
    fractions,
    make_expression,
)
from spatia.xenium.simulate.states import STATE_NAMES, TRANSITIONS


# --- basis ---
def test_log_normalised_by_hand():
    counts = sparse.csr_matrix(np.array([[1, 3], [0, 2], [0, 0]]))
    found = log_normalise(counts, 8.0).toarray()
    np.testing.assert_allclose(found, np.log1p([[2, 6], [0, 8], [0, 0]]))
    assert median_total(counts) == 3.0
    with pytest.raises(ValueError, match="cells with counts"):
        median_total(sparse.csr_matrix((3, 2)))


def counts_of(n=80, genes=25, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.gamma(1.0, 2.0, (n, 1)) * rng.gamma(1.0, 1.0, (1, genes))
    return sparse.csr_matrix(rng.poisson(level + 0.3)), np.array([f"G{k}" for k in range(genes)])


def test_basis_is_the_pca_of_the_centred_matrix():
    counts, genes = counts_of()
    basis = fit_basis(counts, genes, 5, 20.0)
    expression = log_normalise(counts, 20.0).toarray()
    left, size, _ = np.linalg.svd(expression - expression.mean(axis=0), full_matrices=False)
    points = project(basis, log_normalise(counts, 20.0))
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :5] * size[:5]), atol=1e-8)
    np.testing.assert_allclose(basis.explained, size[:5] ** 2 / (size**2).sum())
    again = fit_basis(counts, genes, 5, 20.0)
    np.testing.assert_array_equal(basis.components, again.components)


def test_target_sum_changes_the_basis_and_its_default_is_the_median():
    counts, genes = counts_of()
    assert fit_basis(counts, genes, 3, None).target_sum == median_total(counts)
    assert not np.allclose(fit_basis(counts, genes, 3, 1e4).explained, fit_basis(counts, genes, 3, 10.0).explained)
    assert len(fit_basis(counts, genes, 500, None).components) == 24
    with pytest.raises(ValueError, match="at least 3 cells"):
        fit_basis(counts[:2], genes, 3, None)


def test_counts_of_one_name_are_summed():
    counts = sparse.csr_matrix(np.array([[1, 2, 4, 8], [0, 1, 0, 3]]))
    found, has_gene = align_genes(counts, np.array(["b", "a", "c", "b"]), np.array(["a", "b", "d"]))
    np.testing.assert_array_equal(found.toarray(), [[2, 9, 0], [1, 3, 0]])
    assert has_gene.tolist() == [True, True, False]


def test_a_gene_that_a_panel_lacks_moves_no_cell():
    counts, genes = counts_of()
    basis = fit_basis(counts, genes, 4, None)
    shuffled = np.random.default_rng(1).permutation(25)
    _, points, has_gene = project_panel(basis, counts[:, shuffled], genes[shuffled])
    np.testing.assert_allclose(points, project(basis, log_normalise(counts, basis.target_sum)), atol=1e-10)
    assert has_gene.all()
    _, has_gene = align_genes(counts[:, 1:], genes[1:], genes)
    assert has_gene.tolist() == [False] + [True] * 24
    expression, points, _ = project_panel(basis, counts[:, 1:], genes[1:])
    filled = expression.toarray()
    filled[:, 0] = basis.mean[0]
    np.testing.assert_allclose(points, (filled - basis.mean) @ basis.components.T, atol=1e-10)


# --- pairs ---
def sides(n=70, m=55, seed=0):
    rng = np.random.default_rng(seed)
    make = lambda size, shift: Cells(rng.normal(size=(size, 8)) + shift, rng.uniform(0, 800, (size, 2)))  # noqa: E731
    return make(n, 0.0), make(m, 0.5)


def test_pairs_carry_share_entropy_and_distance_of_the_plan():
    controls, targets = sides()
    found = find_pairs(controls, targets, CostRule(), TransportRule(Limits(0.05, 1e-9, 5000)), np.random.default_rng(0))
    cost = cdist(controls.points, targets.points)
    import ot

    plan = ot.sinkhorn(
        np.full(70, 1 / 70), np.full(55, 1 / 55), cost / np.median(cost), 0.05, "sinkhorn_log", 5000, 1e-12
    )
    share = plan / plan.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(found.target, plan.argmax(axis=1))
    np.testing.assert_allclose(found.score, share.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.confidence, 1 + (share * np.log(share)).sum(axis=1) / np.log(55), rtol=1e-6)
    away = controls.position_um - targets.position_um[found.target]
    np.testing.assert_allclose(found.distance_um, np.sqrt((away**2).sum(axis=1)))


def test_distant_cells_are_avoided_where_the_slide_counts():
    controls, targets = sides()
    medians = [
        np.median(find_pairs(controls, targets, CostRule("euclidean", weight, 400), TransportRule(),
                             np.random.default_rng(0)).distance_um)
        for weight in (0.0, 2.0)
    ]  # fmt: skip
    assert medians[1] < 0.5 * medians[0]


@pytest.mark.parametrize(("share", "changed"), [(0.0, 0), (0.1, 20), (0.2, 40), (1.0, 200)])
def test_noise_always_gives_another_target(share, changed):
    target = np.random.default_rng(0).integers(0, 30, 200)
    found = disturb(target, 30, share, np.random.default_rng(1))
    assert (found != target).sum() == changed
    assert found.min() >= 0
    assert found.max() < 30
    np.testing.assert_array_equal(found, disturb(target, 30, share, np.random.default_rng(1)))


def test_confidence_and_reuse_by_hand():
    np.testing.assert_allclose(confidence_of(np.array([0.0, np.log(8), np.log(4)]), 16), [1, 0.25, 0.5])
    assert target_reuse(np.array([1, 1, 2, 5])) == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("n", "m", "memory"),
    [(10, 10, "float64"), (11, 4, "float32"), (4, 11, "float32"), (11, 10, "streamed")],
)
def test_how_the_kernel_is_kept_depends_on_the_sizes(n, m, memory):
    assert TransportRule(dense_cells=10, kernel_bytes=4 * 11 * 9).memory(n, m) == memory


def test_a_plan_off_its_marginals_is_an_error():
    plan = Plan(np.zeros(1), np.zeros(1), 0.05, 7, 1e-5)
    with pytest.raises(RuntimeError, match=r"found 0\.0003 in the plan after 7 iterations"):
        insist_on_marginals(3e-4, plan, Limits())


# --- signatures ---
def test_signature_by_hand():
    expression = sparse.csr_matrix(np.array([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]]))
    first = difference_sum(expression, np.array([0, 1]), np.array([2, 2]))  # (4, 5) + (5, 3)
    np.testing.assert_allclose(first, [9, 8])
    second = difference_sum(expression, np.array([0]), np.array([1]))  # (-1, 2)
    np.testing.assert_allclose(signature([first, second], [2, 1]), [8 / 3, 10 / 3])
    with pytest.raises(ValueError, match="at least one pair"):
        signature([np.zeros(2)], [0])


def test_expected_log1p_by_hand():
    # depth 1: the count is 1 with chance p; depth 2: 1 with 2 p (1 - p), 2 with p^2
    found = expected_log1p(np.array([0.25]), np.array([1, 2]), 4.0)
    one, two = 0.25 * np.log1p(4), 0.375 * np.log1p(2) + 0.0625 * np.log1p(4)
    np.testing.assert_allclose(found, [(one + two) / 2])


@pytest.fixture(scope="module")
def planted():
    """Counts of simulated cells, 2,700 of each state, as the simulator draws them; and what was planted."""
    rng = np.random.default_rng(0)
    expression = make_expression()
    shift = donor_shift(len(expression.genes), rng, 1.0)
    states = np.repeat(sorted({state for t in TRANSITIONS for state in (t.control, t.target)}), 2700)
    strength = np.clip(np.exp(0.22 * rng.standard_normal(len(states))), 0.5, 1.6)
    part = fractions(expression, states, strength, rng.choice(GENE_CLASSES, len(states)), shift)
    area = np.exp(rng.normal(np.log(45), 0.5, len(states)))
    depth = draw_depth(area, states, rng.standard_normal(len(states)), 24, rng)
    counts = sparse.csr_matrix(draw_counts(part, depth, make_features("3.0"), rng)[:, : len(expression.genes)])
    is_kept = np.asarray(counts.sum(axis=1)).ravel() >= 10  # as qc does
    ones, baseline = np.ones(len(STATE_NAMES)), np.full(len(STATE_NAMES), GENE_CLASSES[0])
    profile = fractions(expression, np.array(STATE_NAMES), ones, baseline, shift)
    return counts[is_kept], states[is_kept], expected_log_folds(expression, shift), profile


@pytest.mark.parametrize("transition", TRANSITIONS, ids=lambda transition: transition.name)
def test_signature_of_2000_pairs_is_the_planted_difference(planted, transition):
    counts, states, log_folds, profile = planted
    basis = fit_basis(counts, log_folds.index.to_numpy(str), 50, None)
    expression, points, _ = project_panel(basis, counts, basis.genes)
    position = np.random.default_rng(1).uniform(0, 2000, (len(states), 2))
    control, target = (np.flatnonzero(states == state) for state in (transition.control, transition.target))
    both = [Cells(points[rows], position[rows]) for rows in (control, target)]
    pairs = find_pairs(*both, CostRule("euclidean", 0.2, 217.6), TransportRule(), np.random.default_rng(0))
    found = signature([difference_sum(expression, control, target[pairs.target])], [len(control)])
    depths = np.quantile(np.asarray(counts[np.concatenate([control, target])].sum(axis=1)), np.linspace(0.01, 0.99, 40))
    row = STATE_NAMES.index(transition.control)
    expected = expected_difference(profile[row], log_folds[transition.name].to_numpy(), depths, basis.target_sum)
    assert len(control) >= 2000
    assert np.corrcoef(found, expected)[0, 1] >= 0.97
    assert 0.85 < np.polyfit(expected, found, 1)[0] < 1.05
