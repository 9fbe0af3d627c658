"""torch.compile, for the parts of a model whose tensors have a form that it can follow."""

from __future__ import annotations

import logging

from timm.layers import Mlp
from torch import nn

from spatia.model.packed import CrossAttention
from spatia.model.velocity import Generator

log = logging.getLogger("spatia.devices")


def compile_parts(model: nn.Module, backend: str = "inductor") -> list[nn.Module]:
    """Compile parts of ``model`` in place and return them.

    Of a generator that is the velocity network; of an embedding model everything that works token by token, but not
    attention, whose sequences have other lengths in every batch. Names and values of weights stay as they are. The
    first batches take minutes, and a C++ compiler is needed (on a GPU, Triton too), so it is for long runs.
    """
    is_of_one_size = isinstance(model, Generator)
    parts: list[nn.Module] = []
    if isinstance(model, Generator):
        parts.append(model.network)
    else:
        parts += [part for part in model.modules() if isinstance(part, Mlp)]
        parts += [part.mlp for part in model.modules() if isinstance(part, CrossAttention)]
    for part in parts:
        part.compile(backend=backend, dynamic=None if is_of_one_size else True)
    log.info("compiling %d parts of the model: the first batches take longer", len(parts))
    return parts
