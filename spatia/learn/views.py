"""Views of a dataset's batches, made where the batches are read: in loader workers, if there are any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from spatia.learn.dataset import BatchKey, CellDataset
from spatia.learn.order import BatchOrder
from spatia.learn.settings import MaskParams
from spatia.learn.view import BatchView, view_batch
from spatia.model.image import Normaliser
from spatia.model.shape import ModelShape


def seed_of(*numbers: int) -> int:
    """Return one seed that depends on all numbers."""
    # numpy pads with zeros, so the length has to count
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class ViewDataset(Dataset[BatchView]):
    """Batch ``number`` of epoch ``epoch`` as a view; its randomness comes from ``seed`` and those two alone."""

    batches: CellDataset
    normalise: Normaliser
    shape: ModelShape
    mask: MaskParams
    seed: tuple[int, ...]

    def __getitem__(self, key: BatchKey) -> BatchView:
        """Return the view of batch ``key``."""
        generator = torch.Generator().manual_seed(seed_of(*self.seed, *key))
        return view_batch(self.batches[key], self.normalise, self.shape, self.mask, generator)


def load_views(views: ViewDataset, order: BatchOrder, workers: int = 0) -> Iterator[tuple[BatchKey, BatchView]]:
    """Yield the views of ``order`` with their keys."""
    keys = list(order)
    loader = DataLoader(views, sampler=keys, batch_size=None, num_workers=workers)  # type: ignore[arg-type]
    yield from zip(keys, loader, strict=True)
