"""Many tensors as one block of shared memory: how a batch travels from a loader's worker.

Sent one by one, each tensor costs a file descriptor and a round trip, which for batches of a few hundred cells is
more work than reading them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes; a view as another type must start at a multiple of its size

Place = tuple[int, torch.dtype, tuple[int, ...]]  # first byte, type, shape


def pack_tensors(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Place]]:
    """Return a block (bytes,) in shared memory with copies of the tensors, and where each lies in it."""
    places: list[Place] = []
    n_bytes = 0
    for tensor in tensors:
        places.append((n_bytes, tensor.dtype, tuple(tensor.shape)))
        n_bytes += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    # as torch's own collation does: filled in place, so nothing is copied once more when it is sent
    storage = torch.UntypedStorage._new_shared(max(n_bytes, 1))
    block = torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[call-overload]
    for tensor, copy in zip(tensors, unpack_tensors(block, places), strict=True):
        copy.copy_(tensor)
    return block, places


def unpack_tensors(block: Tensor, places: Sequence[Place]) -> list[Tensor]:
    """Return the tensors in a block, as views of it."""
    return [_view(block, *place) for place in places]


def _view(block: Tensor, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    n_bytes = dtype.itemsize
    for size in shape:
        n_bytes *= size
    return block[start : start + n_bytes].view(dtype).view(shape)
