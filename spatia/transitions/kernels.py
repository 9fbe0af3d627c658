"""The kernel of Sinkhorn's iteration: stored or streamed, rows scaled so that nothing under- or overflows.

``K_ij = exp((g_j - C_ij) / epsilon - t_i)`` with ``t_i`` such that every row's largest entry is 1: ``g`` is the column
potential that is absorbed so far. One iteration reads the kernel once: each block of rows gives its row scaling, and
with it its part of the column sums, while it is in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from spatia.transitions.costs import Array, Cost, row_blocks

T = TypeVar("T")
N_PARTS = 8  # blocks are summed part by part in this many parts, so that the number of threads changes no digit


class Kernel(Protocol):
    """What Sinkhorn's iteration needs."""

    safe_log: float

    def build(self, column: Array, epsilon: float) -> tuple[Array, Array, float]:
        """Absorb a column potential.

        Returns ``t`` ``(n,)``, the log of each column's largest entry ``(m,)``, and minus that of the smallest entry.
        """
        ...

    def sweep(self, v: Array) -> tuple[Array, Array]:
        """Return the row scaling ``u`` ``(n,)`` for ``v`` and the column sums ``(m,)`` of ``diag(u) K``."""
        ...


class StoredKernel:
    """A kernel in memory.

    Parameters
    ----------
    cost
        ``(n, m)``.
    row_mass
        ``(n,)``.
    dtype
        float64, or float32: half of the memory and of the time, 7 digits.
    pool
        Threads that share the rows.
    """

    def __init__(self, cost: Cost, row_mass: Array, dtype: type[np.floating], pool: ThreadPoolExecutor) -> None:
        self.cost, self.pool = cost, pool
        self.row_mass: NDArray[np.floating] = row_mass.astype(dtype)
        self.matrix: NDArray[np.floating] = np.empty(cost.shape, dtype)
        # exp(-safe) to exp(safe): what then underflows in the kernel is nothing beside the row's largest entry
        self.safe_log = 50.0 if dtype is np.float64 else 15.0

    def build(self, column: Array, epsilon: float) -> tuple[Array, Array, float]:
        """Compute the kernel anew."""

        def store(rows: slice, exponent: Array) -> None:
            np.exp(exponent.astype(self.matrix.dtype, copy=False), out=self.matrix[rows])

        return scan_exponents(self.cost, column, epsilon, self.pool, store)

    def sweep(self, v: Array) -> tuple[Array, Array]:
        """Read the kernel once."""
        weight = v.astype(self.matrix.dtype)

        def one_part(parts: list[slice]) -> Array:
            sums = np.zeros(len(v))
            for rows in parts:
                block = self.matrix[rows]
                scaling = self.row_mass[rows] / (block @ weight)
                sums += scaling @ block
                u[rows] = scaling
            return sums

        u = np.empty(len(self.matrix))
        return u, np.sum(share_rows(self.pool, self.cost.shape, one_part), axis=0)


class StreamedKernel:
    """A kernel that is computed whenever it is read: memory for a few rows only.

    Parameters
    ----------
    cost, row_mass, pool
        As for :class:`StoredKernel`.
    """

    safe_log = 50.0

    def __init__(self, cost: Cost, row_mass: Array, pool: ThreadPoolExecutor) -> None:
        self.cost, self.row_mass, self.pool = cost, row_mass, pool
        self.column, self.epsilon, self.top = np.zeros(cost.shape[1]), 1.0, np.zeros(cost.shape[0])

    def build(self, column: Array, epsilon: float) -> tuple[Array, Array, float]:
        """Find the scale of every row."""
        top, best, spread = scan_exponents(self.cost, column, epsilon, self.pool, lambda rows, exponent: None)
        self.column, self.epsilon, self.top = column, epsilon, top
        return top, best, spread

    def sweep(self, v: Array) -> tuple[Array, Array]:
        """Compute the kernel once, block by block."""

        def one_part(parts: list[slice]) -> Array:
            sums = np.zeros(len(v))
            for rows in parts:
                exponent = self.column - self.cost.rows(rows)
                exponent /= self.epsilon
                exponent -= self.top[rows, None]
                block = np.exp(exponent, out=exponent)
                u[rows] = self.row_mass[rows] / (block @ v)
                sums += u[rows] @ block
            return sums

        u = np.empty(self.cost.shape[0])
        return u, np.sum(share_rows(self.pool, self.cost.shape, one_part), axis=0)


def scan_exponents(
    cost: Cost, column: Array, epsilon: float, pool: ThreadPoolExecutor, use: Callable[[slice, Array], None]
) -> tuple[Array, Array, float]:
    """Hand the logarithm of the kernel to ``use``, block by block; return what :meth:`Kernel.build` returns."""

    def one_part(parts: list[slice]) -> tuple[Array, float]:
        best, least = np.full(len(column), -np.inf), 0.0
        for rows in parts:
            exponent = cost.rows(rows)
            np.subtract(column, exponent, out=exponent)
            exponent /= epsilon
            exponent.max(axis=1, out=top[rows])
            exponent -= top[rows, None]
            np.maximum(best, exponent.max(axis=0), out=best)
            least = min(least, float(exponent.min()))
            use(rows, exponent)
        return best, least

    top = np.empty(cost.shape[0])
    found = share_rows(pool, cost.shape, one_part)
    return top, np.max([best for best, _ in found], axis=0), -min(least for _, least in found)


def share_rows(pool: ThreadPoolExecutor, shape: tuple[int, int], work: Callable[[list[slice]], T]) -> list[T]:
    """Return what ``work`` gives for each part of the blocks of rows, done by several threads."""
    blocks = list(row_blocks(*shape))
    bounds = np.linspace(0, len(blocks), min(N_PARTS, len(blocks)) + 1).astype(int)
    parts = [blocks[start:stop] for start, stop in pairwise(bounds)]
    return list(pool.map(work, parts))


def raise_lost_columns(column: Array, best: NDArray[np.float64], epsilon: float, limit: float) -> Array:
    """Return the potential with columns raised that the kernel would lose: their largest entry becomes ``e^-limit``.

    Far outliers among the targets have such columns. Raised so far only, none becomes the largest entry of a row.
    """
    return column + epsilon * np.maximum(-best - limit, 0)
