"""Which cells come together and when: the plan of an epoch, a pure function of counts and a generator.

Cells are drawn in *groups* that stay whole: niches (eq. 5 needs all cells of a niche) or tissues. Blocks (tissues)
of all slides are shuffled, consecutive blocks form a window, the groups of a window are shuffled, and the resulting
line of groups is cut into batches. So the groups of a batch come from many tissues and slides, yet everything that
is read over some time lies in the blocks of one window: reads stay local, decoded image chunks are used again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EpochPlan:
    """The groups of an epoch in the order of their use, and where that line is cut into batches."""

    groups: NDArray[np.int64]  # (groups,)
    starts: NDArray[np.int64]  # (batches + 1,)
    n_cells: NDArray[np.int64]  # (batches,)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def n_full(self, cells_per_batch: int) -> int:
        """Return the number of batches without what is left over at the end: the last, if more would fit in."""
        return len(self) - int(self.n_cells[-1] < cells_per_batch)

    def batch(self, number: int) -> NDArray[np.int64]:
        """Return the groups of batch ``number`` in ascending order, which is the order of storage."""
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number}: the epoch has batches 0 to {len(self) - 1}")
        return np.sort(self.groups[self.starts[number] : self.starts[number + 1]])


def plan_epoch(
    group_cells: NDArray[np.int64],
    group_block: NDArray[np.int64],
    cells_per_batch: int,
    window_blocks: int,
    generator: np.random.Generator | None,
) -> EpochPlan:
    """Return the plan of one epoch, in which every group appears once.

    Parameters
    ----------
    group_cells
        (groups,) cells in each group, at least one.
    group_block
        (groups,) the block each group lies in.
    cells_per_batch
        A batch holds at most this many cells, or one group that alone is larger.
    window_blocks
        How many blocks are shuffled together; more mixes better and reads less locally.
    generator
        None keeps the order of storage.
    """
    order = np.arange(len(group_cells)) if generator is None else _shuffle(group_block, window_blocks, generator)
    in_order = group_cells[order]
    starts = cut_batches(in_order, cells_per_batch)
    return EpochPlan(order, starts, np.add.reduceat(in_order, starts[:-1]))


def _shuffle(group_block: NDArray[np.int64], window_blocks: int, generator: np.random.Generator) -> NDArray[np.int64]:
    blocks, block = np.unique(group_block, return_inverse=True)
    window = generator.permutation(len(blocks)) // window_blocks
    return np.lexsort((generator.random(len(group_block)), window[block]))


def cut_batches(cells_in_order: NDArray[np.int64], cells_per_batch: int) -> NDArray[np.int64]:
    """Return where a line of groups is cut, (batches + 1,): each batch takes groups until the next does not fit."""
    total = np.cumsum(cells_in_order)
    starts = [0]
    while starts[-1] < len(total):
        before = total[starts[-1] - 1] if starts[-1] else 0
        fitting = int(np.searchsorted(total, before + cells_per_batch, side="right"))
        starts.append(max(fitting, starts[-1] + 1))
    return np.asarray(starts, np.int64)


def batches_of_rank(n_batches: int, rank: int, world_size: int, drop_last: bool) -> NDArray[np.int64]:
    """Return the numbers of the batches that process ``rank`` of ``world_size`` reads.

    Batches are dealt in turn, so all ranks walk through the same window. With ``drop_last`` every rank gets equally
    many, as gradient averaging needs.
    """
    if drop_last:
        n_batches -= n_batches % world_size
    return np.arange(rank, n_batches, world_size)
