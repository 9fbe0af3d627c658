"""Several processes that train one model: gradients are averaged, everything else is done alike by all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from spatia.errors import SpatiaError

BUCKET_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Group:
    """This process among all."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0


def join_group(device: str) -> Group:
    """Join the processes that torchrun started; alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group()
    on_gpu = torch.cuda.is_available() and device != "cpu"
    group = Group(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    if on_gpu:
        if group.local_rank >= torch.cuda.device_count():
            raise SpatiaError(
                f"processes: expected at most one per GPU, found {torch.cuda.device_count()} GPUs for process "
                f"{group.local_rank + 1} of this node; lower `processes`, or set `device: cpu`"
            )
        torch.cuda.set_device(group.local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    return group


def wait_for_all(group: Group) -> None:
    """Return when every process has come here."""
    if group.size > 1:
        dist.barrier()


def leave_group(group: Group) -> None:
    """Wait for the others and part."""
    wait_for_all(group)
    if group.size > 1:
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter], group: Group) -> None:
    """Replace every gradient by its mean over the processes; a parameter without one counts as 0.

    Gradients travel in a few large pieces instead of through DistributedDataParallel: the levels of the model are
    called one by one and not all of them in every batch, which its bookkeeping does not allow.
    """
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if group.size == 1:
        return
    for bucket in _buckets(parameters):
        flat = torch.cat([parameter.grad.flatten() for parameter in bucket if parameter.grad is not None])
        dist.all_reduce(flat)
        flat /= group.size
        for parameter, mean in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            parameter.grad = mean.view_as(parameter)


def sum_over(group: Group, values: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``values`` over the processes."""
    if group.size > 1:
        dist.all_reduce(values)
    return values


def _buckets(parameters: list[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    n = 0
    for parameter in parameters:
        bucket.append(parameter)
        n += parameter.numel()
        if n >= BUCKET_ELEMENTS:
            yield bucket
            bucket, n = [], 0
    if bucket:
        yield bucket
