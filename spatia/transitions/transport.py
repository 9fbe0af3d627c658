"""Entropic optimal transport (paper, eq. 9 with the sign of A14): a cost -> the plan's potentials, or the plan.

Minimises ``<P, C> - epsilon H(P)`` over plans with uniform marginals; ``P_ij = exp((f_i + g_j - C_ij) / epsilon)``.
Sinkhorn's iteration is done on scalings ``u, v`` of a kernel, two products per iteration instead of two sums of
exponentials; when a scaling leaves a safe range it is absorbed into the potential ``g`` and the kernel is computed
anew. Where costs differ by far more than ``epsilon`` (outliers), larger values of epsilon are solved first, roughly:
else the potentials would creep there by about epsilon per iteration. So it neither under- nor overflows, as in the log
domain, at the price of products.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_limits

from spatia.transitions.costs import Array, Cost
from spatia.transitions.kernels import Kernel, StoredKernel, StreamedKernel, raise_lost_columns, share_rows

Memory = Literal["float64", "float32", "streamed"]
DTYPES: dict[str, type[np.floating]] = {"float64": np.float64, "float32": np.float32}
SPREAD = 60.0  # exponents that differ by more than this are reached through larger values of epsilon
ROUGH = 0.02  # L1 error to which those are solved
ROUGH_ITERATIONS = 50
ROUNDING = 1.5  # a float32 kernel is solved to tolerance / this, so that its rounding is not what fails the check


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
        Done, rough ones included.
    marginal_error
        L1 distance of the plan's column sums to theirs; the row sums are exact.
    """

    row_potential: Array
    column_potential: Array
    epsilon: float
    iterations: int
    marginal_error: float


@dataclass(frozen=True)
class Limits:
    """When Sinkhorn's iteration ends.

    Attributes
    ----------
    epsilon
        Regularisation.
    tolerance
        Largest L1 error of the marginals.
    max_iterations
        Reaching it is an error.

    Raises
    ------
    ValueError
        If one is not positive.
    """

    epsilon: float = 0.05
    tolerance: float = 1e-4
    max_iterations: int = 2000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"transport: expected {name} above 0, found {value}")


@dataclass
class _State:
    """Where the iteration is: plan = diag(u) K diag(v), K from the potential ``column``."""

    column: Array
    v: Array
    u: Array
    top: Array
    iterations: int = 0
    error: float = np.inf


def solve(cost: Cost, limits: Limits = Limits(), memory: Memory = "float64", threads: int = 1) -> Plan:
    """Return the entropic transport plan between uniform marginals, as potentials.

    Parameters
    ----------
    cost
        ``(n, m)``; in units of its median, so that ``epsilon`` has a meaning (A14).
    limits
        Regularisation, tolerance, limit.
    memory
        Of the kernel: 8 or 4 bytes per pair, or ``streamed``: none, it is computed at every iteration.
    threads
        The result does not depend on it.

    Raises
    ------
    RuntimeError
        If the error is still above the tolerance after ``max_iterations``.
    """
    with workers(threads) as pool:
        kernel = _open_kernel(cost, memory, pool)
        state = _iterate(kernel, cost, limits, ROUNDING if memory == "float32" else 1.0)
    return _plan(state, limits.epsilon)


def transport_matrix(cost: Cost, limits: Limits = Limits(), threads: int = 1) -> tuple[Array, Plan]:
    """Return the plan itself, ``(n, m)`` float64, and its potentials.

    Raises
    ------
    RuntimeError
        As :func:`solve`.
    """
    with workers(threads) as pool:
        kernel = StoredKernel(cost, _uniform(cost.shape[0]), np.float64, pool)
        state = _iterate(kernel, cost, limits, 1.0)
        matrix = kernel.matrix

        def scale(parts: list[slice]) -> None:
            for rows in parts:
                matrix[rows] *= state.u[rows, None]
                matrix[rows] *= state.v

        share_rows(pool, cost.shape, scale)
    return np.asarray(matrix, np.float64), _plan(state, limits.epsilon)


@contextmanager
def workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads for parts of the rows; BLAS's own would wait for each other at every small product."""
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(max(threads, 1)) as pool:
        yield pool


def _open_kernel(cost: Cost, memory: Memory, pool: ThreadPoolExecutor) -> Kernel:
    mass = _uniform(cost.shape[0])
    if memory == "streamed":
        return StreamedKernel(cost, mass, pool)
    return StoredKernel(cost, mass, DTYPES[memory], pool)


def _uniform(n: int) -> Array:
    return np.full(n, 1 / n)


def _plan(state: _State, epsilon: float) -> Plan:
    row = epsilon * (np.log(state.u) - state.top)
    column = state.column + epsilon * np.log(state.v)
    return Plan(row, column, epsilon, state.iterations, state.error)


def _iterate(kernel: Kernel, cost: Cost, limits: Limits, stricter: float) -> _State:
    """Return where the iteration has converged, after rougher problems where the costs ask for them."""
    n, m = cost.shape
    state = _State(np.zeros(m), np.ones(m), np.ones(n), np.zeros(n))
    spread = _absorb(kernel, state, limits.epsilon)
    for epsilon in _rough_epsilons(limits.epsilon, spread):
        _absorb(kernel, state, epsilon)
        most = min(state.iterations + ROUGH_ITERATIONS, limits.max_iterations)
        _run(kernel, state, Limits(epsilon, max(ROUGH, limits.tolerance), most))
        _take_in(state, epsilon)
    if spread > SPREAD:
        _absorb(kernel, state, limits.epsilon)
    _run(kernel, state, Limits(limits.epsilon, limits.tolerance / stricter, limits.max_iterations))
    if not state.error <= limits.tolerance:
        raise RuntimeError(
            f"transport: expected an L1 error of the marginals of at most {limits.tolerance:g}, found "
            f"{state.error:.3g} after {state.iterations} iterations; raise max_iterations or epsilon"
        )
    return state


def _rough_epsilons(epsilon: float, spread: float) -> list[float]:
    """Return larger values of epsilon, halved from where no exponent is beyond ``SPREAD``."""
    n_levels = int(np.ceil(np.log2(max(spread / SPREAD, 1))))
    return [epsilon * 2.0**level for level in range(n_levels, 0, -1)]


def _absorb(kernel: Kernel, state: _State, epsilon: float) -> float:
    """Compute the kernel from ``state.column``; return by how much the exponents of a row differ at most."""
    state.top, best, spread = kernel.build(state.column, epsilon)
    limit = kernel.safe_log / 2
    if best.min() < -limit:
        state.column = raise_lost_columns(state.column, best, epsilon, limit)
        state.top, _, _ = kernel.build(state.column, epsilon)
    return spread


def _take_in(state: _State, epsilon: float) -> None:
    state.column, state.v = state.column + epsilon * np.log(state.v), np.ones(len(state.v))


def _run(kernel: Kernel, state: _State, limits: Limits) -> None:
    """Iterate until the error is small enough or the iterations are used up.

    Raises
    ------
    RuntimeError
        If the error is no number.
    """
    mass = _uniform(len(state.v))
    while state.iterations < limits.max_iterations:
        state.u, sums = kernel.sweep(state.v)
        state.iterations += 1
        state.error = float(np.abs(state.v * sums - mass).sum())
        if not np.isfinite(state.error):
            raise RuntimeError(f"transport: found an error of {state.error} after {state.iterations} iterations")
        if state.error <= limits.tolerance:
            return
        state.v = mass / sums
        if np.abs(np.log(state.v)).max() > kernel.safe_log:
            _take_in(state, limits.epsilon)
            state.top, _, _ = kernel.build(state.column, limits.epsilon)
