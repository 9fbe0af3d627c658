"""Where a model runs and in which precision: decided once, at the edge."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from spatia.errors import SpatiaError
from spatia.machine import available_cpus

log = logging.getLogger("spatia.devices")

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Machine:
    """A device and the type that matrix products have there."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the model is called."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def choose_machine(device: str, precision: str, allow_cpu: bool, local_rank: int = 0, threads: int = 0) -> Machine:
    """Return where to run.

    Raises
    ------
    SpatiaError
        If a GPU is asked for and there is none, unless ``allow_cpu``.
    """
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu and not allow_cpu:
        raise SpatiaError(
            "device: cuda asked for a GPU, found none; run on a node with a GPU, or set allow_cpu: true or device: auto"
        )
    if device == "cuda" and not has_gpu:
        log.warning("device: cuda asked for a GPU, found none; running on the CPU, as allow_cpu permits")
    on_gpu = has_gpu and device != "cpu"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
        precision, torch.bfloat16 if on_gpu else torch.float32
    )
    torch.set_num_threads(threads or available_cpus())
    return Machine(torch.device("cuda", local_rank) if on_gpu else torch.device("cpu"), dtype)


def move(tree: Tree, device: torch.device) -> Tree:
    """Return a dataclass, and the dataclasses in it, with every tensor on ``device``."""
    if device.type == "cpu":
        return tree
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(tree):  # type: ignore[arg-type]
        value = getattr(tree, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = value.to(device, non_blocking=True)
        elif dataclasses.is_dataclass(value):
            changed[field.name] = move(value, device)
    return dataclasses.replace(tree, **changed)  # type: ignore[type-var]
