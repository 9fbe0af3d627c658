"""Entropic optimal transport (paper, eq. 9 with the sign of A14): a cost matrix -> potentials of the plan.

Minimises ``<P, C> - epsilon H(P)`` over plans with uniform marginals; ``P_ij = exp((f_i + g_j - C_ij) / epsilon)``.
Sinkhorn's iteration is done on scalings ``u, v`` of a stored kernel, two products per iteration instead of two sums of
exponentials; when a scaling leaves a safe range it is absorbed into the potentials and the kernel is computed anew.
So nothing under- or overflows, whatever the costs (as in the log domain), at the price of products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SAFE_LOG = 50.0  # scalings between exp(-50) and exp(50): what underflows in the kernel is below 1e-200 of any sum
BLOCK_BYTES = 1 << 20  # a block of rows that stays in the cache while both products read it


@dataclass(frozen=True)
class Plan:
    """Potentials of a transport plan.

    Attributes
    ----------
    row_potential, column_potential
        ``f`` ``(n,)`` and ``g`` ``(m,)``.
    epsilon
        Regularisation, in units of the cost.
    iterations
        Done.
    marginal_error
        L1 distance of the plan's column sums to theirs; the row sums are exact.
    """

    row_potential: Array
    column_potential: Array
    epsilon: float
    iterations: int
    marginal_error: float


@dataclass(frozen=True)
class Matches:
    """What the plan says about each control.

    Attributes
    ----------
    target
        ``(n,)`` column with the largest entry; the first of equals.
    score
        ``(n,)`` its share of the row, in (0, 1].
    entropy
        ``(n,)`` of the row, in nats: 0 = one target, log m = any.
    row_sum
        ``(n,)``.
    """

    target: NDArray[np.int64]
    score: Array
    entropy: Array
    row_sum: Array


def solve(cost: Array, epsilon: float = 0.05, tolerance: float = 1e-4, max_iterations: int = 2000) -> Plan:
    """Return the entropic transport plan between uniform marginals.

    Parameters
    ----------
    cost
        ``(n, m)``; divide it by its median so that ``epsilon`` has a meaning (A14).
    epsilon
        Regularisation.
    tolerance
        Largest L1 error of the marginals.
    max_iterations
        Limit.

    Raises
    ------
    ValueError
        If the cost is empty or not finite, or a parameter is not positive.
    RuntimeError
        If the error is still above the tolerance after ``max_iterations``.
    """
    cost = np.asarray(cost, np.float64)
    _check(cost, epsilon, tolerance)
    n, m = cost.shape
    row, column = _feasible_potentials(cost)
    row_mass, column_mass = np.full(n, 1 / n), np.full(m, 1 / m)
    kernel = _kernel(cost, row, column, epsilon)
    v = np.ones(m)
    for iteration in range(1, max_iterations + 1):
        u, sums = _sweep(kernel, v, row_mass)
        error = float(np.abs(v * sums - column_mass).sum())
        if error <= tolerance:
            return Plan(row + epsilon * np.log(u), column + epsilon * np.log(v), epsilon, iteration, error)
        v = column_mass / sums
        if _is_unsafe(u) or _is_unsafe(v):
            row, column = row + epsilon * np.log(u), column + epsilon * np.log(v)
            kernel, v = _kernel(cost, row, column, epsilon), np.ones(m)
    raise RuntimeError(
        f"transport: expected an L1 error of the marginals below {tolerance:g}, found {error:.3g} after "
        f"{max_iterations} iterations; raise max_iterations or epsilon"
    )


def plan_rows(cost: Array, plan: Plan) -> Iterator[tuple[slice, Array]]:
    """Yield the plan block by block of rows: where it lies, and ``(b, m)`` of it."""
    for rows in _blocks(*cost.shape):
        exponent = plan.row_potential[rows, None] + plan.column_potential - cost[rows]
        yield rows, np.exp(exponent / plan.epsilon)


def plan_matrix(cost: Array, plan: Plan) -> Array:
    """Return the whole plan, ``(n, m)``."""
    return np.concatenate([block for _, block in plan_rows(cost, plan)])


def match_rows(cost: Array, plan: Plan) -> Matches:
    """Return each row's best target, its share, the row's entropy and sum."""
    return join_matches([summarise(block) for _, block in plan_rows(cost, plan)])


def summarise(block: Array) -> Matches:
    """Return :class:`Matches` of rows of a plan, ``(b, m)``."""
    total = block.sum(axis=1)
    target = block.argmax(axis=1)
    share = block / total[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(share > 0, share * np.log(share), 0.0)
    return Matches(target, share[np.arange(len(block)), target], np.maximum(-terms.sum(axis=1), 0), total)


def join_matches(parts: list[Matches]) -> Matches:
    """Return the matches of all rows."""
    return Matches(*(np.concatenate([getattr(part, name) for part in parts]) for name in Matches.__annotations__))


def assign_one_to_one(cost: Array, plan: Plan) -> NDArray[np.int64]:
    """Return a target of its own for each control, ``(n,)``: the largest product of the plan's entries (A16).

    Raises
    ------
    ValueError
        If there are more controls than targets.
    """
    from scipy.optimize import linear_sum_assignment

    n, m = cost.shape
    if n > m:
        raise ValueError(f"lsa: expected at least as many targets as controls, found {m} for {n}; use argmax")
    log_plan = plan.row_potential[:, None] + plan.column_potential - cost
    return np.asarray(linear_sum_assignment(log_plan, maximize=True)[1], np.int64)


def _check(cost: Array, epsilon: float, tolerance: float) -> None:
    if cost.ndim != 2 or 0 in cost.shape:
        raise ValueError(f"transport: expected a cost matrix with rows and columns, found shape {cost.shape}")
    if not np.isfinite(cost).all():
        raise ValueError("transport: expected finite costs, found NaN or infinity")
    if not (epsilon > 0 and tolerance > 0):
        raise ValueError(f"transport: expected epsilon and tolerance above 0, found {epsilon} and {tolerance}")


def _feasible_potentials(cost: Array) -> tuple[Array, Array]:
    """Return potentials that leave a 0 in every row and column of the reduced cost, and nothing below 0.

    The kernel then has a 1 in every row and column, so that no first product underflows.
    """
    row = cost.min(axis=1)
    return row, (cost - row[:, None]).min(axis=0)


def _kernel(cost: Array, row: Array, column: Array, epsilon: float) -> Array:
    kernel = row[:, None] - cost
    kernel += column
    kernel /= epsilon
    return np.exp(kernel, out=kernel)


def _sweep(kernel: Array, v: Array, row_mass: Array) -> tuple[Array, Array]:
    """Return the row scaling for ``v`` and the column sums of ``diag(u) K``, reading the kernel once."""
    u, sums = np.empty(len(kernel)), np.zeros(kernel.shape[1])
    for rows in _blocks(*kernel.shape):
        block = kernel[rows]
        u[rows] = row_mass[rows] / (block @ v)
        sums += u[rows] @ block
    return u, sums


def _is_unsafe(scaling: Array) -> bool:
    return bool(np.abs(np.log(scaling)).max() > SAFE_LOG)


def _blocks(n: int, m: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // (8 * m))
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
