"""Which batches a process asks its dataset for: epochs, ranks, and resuming."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from spatia.errors import SpatiaError
from spatia.learn.batches import CellBatch
from spatia.learn.dataset import BatchKey, CellDataset
from spatia.learn.sampling import batches_of_rank


class BatchOrder(Sampler[BatchKey]):
    """The batches one process reads in an epoch; the only place that knows how far training has come.

    Parameters
    ----------
    dataset
        Whose batches.
    rank, world_size
        Process ``rank`` of ``world_size``; together they read every batch once.
    drop_last
        Leave out a last batch that is not full, and the batches that not every rank would get.
    epoch, step
        Where to start; ``step`` counts this process's batches.
    """

    def __init__(
        self,
        dataset: CellDataset,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        epoch: int = 0,
        step: int = 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to {world_size - 1}, found {rank}")
        self.dataset, self.rank, self.world_size, self.drop_last = dataset, rank, world_size, drop_last
        self.epoch, self.step = epoch, step

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Go to batch ``step`` of ``epoch``; call it before each epoch, or all epochs come in the same order."""
        self.epoch, self.step = epoch, step

    def state_after(self, batch: CellBatch) -> dict[str, int | str]:
        """Return what to store so that training goes on behind ``batch``, however far workers have read ahead."""
        step = batch.number // self.world_size + 1
        return {"epoch": batch.epoch, "step": step, "order": self._fingerprint()}

    def load_state(self, state: dict[str, int | str]) -> None:
        """Go to where :meth:`state_after` was called.

        Raises
        ------
        SpatiaError
            If cells, parameters or the number of processes are not the same as then.
        """
        if state["order"] != self._fingerprint():
            raise SpatiaError(
                "resume: expected the cells, batching parameters and number of processes of the interrupted run, "
                "found others; start at an epoch instead"
            )
        self.set_epoch(int(state["epoch"]), int(state["step"]))

    def _fingerprint(self) -> str:
        return f"{self.dataset.fingerprint()}-{self.world_size}-{int(self.drop_last)}"

    def _numbers(self) -> NDArray[np.int64]:
        plan = self.dataset.plan(self.epoch)
        n_batches = plan.n_full(self.dataset.params.cells_per_batch) if self.drop_last else len(plan)
        return batches_of_rank(n_batches, self.rank, self.world_size, self.drop_last)[self.step :]

    def __len__(self) -> int:
        return len(self._numbers())

    def __iter__(self) -> Iterator[BatchKey]:
        for number in self._numbers().tolist():
            yield self.epoch, number
