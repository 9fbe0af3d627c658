"""Control cells and targets of one slide and transition: points and positions -> who is matched with whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spatia.transitions.costs import Array, BlockedCost, Cells, Cost, CostRule, dense
from spatia.transitions.matching import assign_one_to_one, match_rows, share_of
from spatia.transitions.transport import Limits, Memory, Plan, solve


@dataclass(frozen=True)
class TransportRule:
    """How the plan is computed, and how each control gets its target.

    Attributes
    ----------
    limits
        See :class:`spatia.transitions.transport.Limits`.
    dense_cells
        Up to so many cells on the longer side everything is stored in float64.
    kernel_bytes
        Beyond that, a float32 kernel up to this size; beyond that, none is stored.
    assignment
        ``argmax`` of the row, or ``lsa``: one to one (A16).
    noise
        Share of the pairs that get another, random target.
    threads
        The result does not depend on it.
    """

    limits: Limits = Limits()  # noqa: RUF009
    dense_cells: int = 8000
    kernel_bytes: int = 2_000_000_000
    assignment: Literal["argmax", "lsa"] = "argmax"
    noise: float = 0.0
    threads: int = 1

    def memory(self, n: int, m: int) -> Memory:
        """Return how the kernel of ``n`` controls and ``m`` targets is kept."""
        if max(n, m) <= self.dense_cells:
            return "float64"
        return "float32" if 4 * n * m <= self.kernel_bytes else "streamed"


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
    score: Array
    confidence: Array
    distance_um: Array
    iterations: int
    marginal_error: float


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
    ValueError
        As :class:`spatia.transitions.costs.BlockedCost`; with ``lsa``, also where there are more controls than targets.
    RuntimeError
        As :func:`spatia.transitions.transport.solve`, or if the plan's own marginals are off.
    """
    memory = transport.memory(len(controls), len(targets))
    blocked = BlockedCost(controls, targets, rule)
    cost: Cost = dense(blocked) if memory == "float64" else blocked
    plan = solve(cost, transport.limits, memory, transport.threads)
    matches = match_rows(cost, plan, transport.threads)
    insist_on_marginals(matches.marginal_error, plan, transport.limits)
    target = matches.target if transport.assignment == "argmax" else assign_one_to_one(cost, plan)
    target = disturb(target, len(targets), transport.noise, generator)
    away = controls.position_um - targets.position_um[target]
    return Pairs(
        target=target,
        score=share_of(cost, plan, matches, target),
        confidence=confidence_of(matches.entropy, len(targets)),
        distance_um=np.hypot(*away.T),
        iterations=plan.iterations,
        marginal_error=matches.marginal_error,
    )


def insist_on_marginals(error: float, plan: Plan, limits: Limits) -> None:
    """Raise RuntimeError if the plan that was computed at last, in float64, is none within the tolerance."""
    if not error <= limits.tolerance * (1 + 1e-6):
        raise RuntimeError(
            f"transport: expected an L1 error of the marginals of at most {limits.tolerance:g}, found {error:.3g} in "
            f"the plan after {plan.iterations} iterations; raise tolerance or epsilon"
        )


def confidence_of(entropy: Array, n_targets: int) -> Array:
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


def target_reuse(target: NDArray[np.int64]) -> float:
    """Return how often a used target is used, on average: 1 = one to one."""
    return len(target) / max(len(np.unique(target)), 1)
