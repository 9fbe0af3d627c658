"""A plan -> who goes to whom: the best target of each row, how sure it is, or one target for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatia.transitions.costs import Array, Cost, Rows, row_blocks
from spatia.transitions.kernels import share_rows
from spatia.transitions.transport import Plan, workers

LSA_PAIRS = 8000 * 8000  # linear_sum_assignment needs the whole matrix, and time with its cube


@dataclass(frozen=True)
class Matches:
    """What a plan says about each control.

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
    column_sum
        ``(m,)``.
    """

    target: NDArray[np.int64]
    score: Array
    entropy: Array
    row_sum: Array
    column_sum: Array

    @property
    def marginal_error(self) -> float:
        """L1 distance of both marginals to uniform ones, in float64 whatever the kernel was."""
        n, m = len(self.row_sum), len(self.column_sum)
        return float(np.abs(self.row_sum - 1 / n).sum() + np.abs(self.column_sum - 1 / m).sum())


def match_rows(cost: Cost, plan: Plan, threads: int = 1) -> Matches:
    """Return each row's best target, its share, the row's entropy, and the plan's marginals, block by block."""
    n, m = cost.shape
    target = np.empty(n, np.int64)
    score, entropy, row_sum = np.empty(n), np.empty(n), np.empty(n)

    def one_part(parts: list[slice]) -> Array:
        column_sum = np.zeros(m)
        for rows in parts:
            exponent = log_plan(cost, plan, rows)
            target[rows] = exponent.argmax(axis=1)
            top = exponent[np.arange(len(exponent)), target[rows]]
            exponent -= top[:, None]
            block = np.exp(exponent)
            total = block.sum(axis=1)
            # -sum p log p with p = exp(x) / total
            entropy[rows] = np.log(total) - np.einsum("ij,ij->i", block, exponent) / total
            score[rows] = 1 / total
            row_sum[rows] = total * np.exp(top)
            column_sum += np.exp(top) @ block
        return column_sum

    with workers(threads) as pool:
        column_sum = np.sum(share_rows(pool, cost.shape, one_part), axis=0)
    return Matches(target, score, np.maximum(entropy, 0), row_sum, column_sum)


def log_plan(cost: Cost, plan: Plan, rows: Rows) -> Array:
    """Return the logarithm of some rows of the plan, ``(b, m)``."""
    exponent = cost.rows(rows)
    np.subtract(plan.column_potential, exponent, out=exponent)
    exponent += plan.row_potential[rows, None]
    exponent /= plan.epsilon
    return exponent


def share_of(cost: Cost, plan: Plan, matches: Matches, target: NDArray[np.int64]) -> Array:
    """Return the share of each row of the plan that lies on a given target, ``(n,)``."""
    share = matches.score.copy()
    others = np.flatnonzero(target != matches.target)
    for part in row_blocks(len(others), cost.shape[1]):
        rows = others[part]
        log_share = log_plan(cost, plan, rows)[np.arange(len(rows)), target[rows]]
        share[rows] = np.exp(log_share) / matches.row_sum[rows]
    return share


def assign_one_to_one(cost: Cost, plan: Plan) -> NDArray[np.int64]:
    """Return a target of its own for each control, ``(n,)``: the largest product of the plan's entries (A16).

    Raises
    ------
    ValueError
        If there are more controls than targets, or too many pairs for a whole matrix.
    """
    from scipy.optimize import linear_sum_assignment

    n, m = cost.shape
    if n > m:
        raise ValueError(f"lsa: expected at least as many targets as controls, found {m} for {n}; use argmax")
    if n * m > LSA_PAIRS:
        raise ValueError(f"lsa: expected at most {LSA_PAIRS:,} pairs, found {n:,} x {m:,}; use argmax")
    matrix = np.concatenate([log_plan(cost, plan, rows) for rows in row_blocks(n, m)])
    return np.asarray(linear_sum_assignment(matrix, maximize=True)[1], np.int64)
