"""Control cells and targets of one slide and transition: points and positions -> who is matched with whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spatia.transitions.transport import Plan, assign_one_to_one, match_rows, solve

Distance = Literal["euclidean", "squared"]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """One side of a transition.

    Attributes
    ----------
    points
        ``(n, d)`` places in the joint PCA.
    position_um
        ``(n, 2)`` places on the slide.
    """

    points: Points
    position_um: Points

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class CostRule:
    """How unlike two cells are: ``D / median(D) + spatial_weight * min(d / spatial_scale_um, 1)`` (A14, A15).

    Attributes
    ----------
    distance
        ``euclidean`` as in eq. 8, or its square.
    spatial_weight, spatial_scale_um
        ``lambda`` and ``d0``.
    """

    distance: Distance = "euclidean"
    spatial_weight: float = 0.0
    spatial_scale_um: float = 1.0


@dataclass(frozen=True)
class TransportRule:
    """How the plan is computed, and how each control gets its target.

    Attributes
    ----------
    epsilon, tolerance, max_iterations
        See :func:`spatia.transitions.transport.solve`.
    assignment
        ``argmax`` of the row, or ``lsa``: one to one (A16).
    noise
        Share of the pairs that get another, random target.
    """

    epsilon: float = 0.05
    tolerance: float = 1e-4
    max_iterations: int = 2000
    assignment: Literal["argmax", "lsa"] = "argmax"
    noise: float = 0.0


@dataclass(frozen=True)
class Pairs:
    """The pairs of one transition on one slide.

    Attributes
    ----------
    target
        ``(n,)`` row of the target of every control.
    score
        ``(n,)`` share of the control's row of the plan that goes to it.
    confidence
        ``(n,)`` 1 - entropy of the row / log m: 1 = one target, 0 = any.
    distance_um
        ``(n,)`` between both cells on the slide.
    iterations, marginal_error
        Of the transport.
    """

    target: NDArray[np.int64]
    score: Points
    confidence: Points
    distance_um: Points
    iterations: int
    marginal_error: float


def expression_distance(controls: Points, targets: Points, distance: Distance) -> Points:
    """Return distances in PCA space, ``(n, m)``."""
    from scipy.spatial.distance import cdist

    return cdist(controls, targets, "sqeuclidean" if distance == "squared" else "euclidean")


def pair_cost(controls: Cells, targets: Cells, rule: CostRule) -> Points:
    """Return the cost of every pair, ``(n, m)``.

    Raises
    ------
    ValueError
        If the median distance is 0: half of the cells are the same.
    """
    from scipy.spatial.distance import cdist

    cost = expression_distance(controls.points, targets.points, rule.distance)
    median = float(np.median(cost))
    if not median > 0:
        raise ValueError("cost: expected cells that differ, found a median distance of 0 in PCA space")
    cost /= median
    if rule.spatial_weight:
        far = cdist(controls.position_um, targets.position_um) / rule.spatial_scale_um
        cost += rule.spatial_weight * np.minimum(far, 1)
    return cost


def find_pairs(
    controls: Cells, targets: Cells, rule: CostRule, transport: TransportRule, generator: np.random.Generator
) -> Pairs:
    """Return one target for each control (App. D.2).

    Parameters
    ----------
    controls, targets
        Both sides, of one slide and lineage.
    rule
        The cost.
    transport
        The plan, and how a target is taken from it.
    generator
        Of the noise.

    Raises
    ------
    ValueError, RuntimeError
        As :func:`pair_cost` and :func:`spatia.transitions.transport.solve`; with ``lsa``, also where there are more
        controls than targets.
    """
    cost = pair_cost(controls, targets, rule)
    plan = solve(cost, transport.epsilon, transport.tolerance, transport.max_iterations)
    matches = match_rows(cost, plan)
    target = matches.target if transport.assignment == "argmax" else assign_one_to_one(cost, plan)
    target = disturb(target, len(targets), transport.noise, generator)
    away = controls.position_um - targets.position_um[target]
    return Pairs(
        target=target,
        score=row_share(cost, plan, target),
        confidence=confidence_of(matches.entropy, len(targets)),
        distance_um=np.hypot(*away.T),
        iterations=plan.iterations,
        marginal_error=plan.marginal_error,
    )


def confidence_of(entropy: Points, n_targets: int) -> Points:
    """Return 1 - entropy / log m: 1 where a control has one target, 0 where any would do."""
    return np.clip(1 - entropy / np.log(max(n_targets, 2)), 0, 1)


def disturb(
    target: NDArray[np.int64], n_targets: int, share: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return the targets with a share of them replaced by another one at random (T5).

    Parameters
    ----------
    target
        ``(n,)`` rows of the targets.
    n_targets
        How many there are to choose from.
    share
        Of the pairs, rounded to whole ones.
    generator
        Chooses pairs and their new targets.
    """
    disturbed = target.copy()
    chosen = generator.permutation(len(target))[: round(share * len(target))]
    if n_targets > 1 and len(chosen):
        step = generator.integers(1, n_targets, len(chosen))  # never 0: always another target
        disturbed[chosen] = (target[chosen] + step) % n_targets
    return disturbed


def row_share(cost: Points, plan: Plan, target: NDArray[np.int64]) -> Points:
    """Return the share of each row of the plan that lies on its target, ``(n,)``."""
    row = np.arange(len(target))
    total = match_rows(cost, plan).row_sum
    exponent = plan.row_potential + plan.column_potential[target] - cost[row, target]
    return np.exp(exponent / plan.epsilon) / total


def target_reuse(target: NDArray[np.int64]) -> float:
    """Return how often a used target is used, on average: 1 = one to one."""
    return len(target) / max(len(np.unique(target)), 1)
