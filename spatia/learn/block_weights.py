"""Transformer blocks of a checkpoint, renamed for ``timm.models.vision_transformer.Block``."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from spatia.errors import SpatiaError
from spatia.learn.weights import StoredWeights

QKV = "attn.qkv"


def count_blocks(stored: StoredWeights, prefix: str) -> int:
    """Return how many blocks ``prefix0.``, ``prefix1.``, ... the checkpoint has."""
    numbers = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in stored.tensors)
    return max((int(number[1]) + 1 for number in numbers if number), default=0)


def blocks_of(
    stored: StoredWeights, prefix: str, names: Mapping[str, tuple[str, ...]], depth: int | None = None
) -> list[dict[str, Tensor]]:
    """Return the first ``depth`` blocks (None: all), each a state dict for timm's Block with ``qkv_bias=True``.

    Parameters
    ----------
    stored
        The checkpoint.
    prefix
        What its block number follows, such as ``blocks.``.
    names
        For each module of timm's Block, the checkpoint's module; several are concatenated (query, key, value).
    depth
        How many blocks to take, from the input on.

    Raises
    ------
    SpatiaError
        The checkpoint has fewer blocks, lacks a tensor, or a projection has not three equal parts.
    """
    n_blocks = count_blocks(stored, prefix)
    depth = n_blocks if depth is None else depth
    if not 1 <= depth <= n_blocks:
        raise SpatiaError(f"{stored.origin}: expected a depth of 1 to {n_blocks}, its blocks, found {depth}; lower it")
    return [_block(stored, f"{prefix}{number}.", names) for number in range(depth)]


def _block(stored: StoredWeights, prefix: str, names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    block = {}
    for ours, theirs in names.items():
        weights = [stored.take(f"{prefix}{name}.weight") for name in theirs]
        block[f"{ours}.weight"] = torch.cat(weights)
        if ours == QKV and all(f"{prefix}{name}.bias" not in stored.tensors for name in theirs):
            block[f"{ours}.bias"] = torch.zeros(len(block[f"{ours}.weight"]))  # trained without: zero is the same
        else:
            block[f"{ours}.bias"] = torch.cat([stored.take(f"{prefix}{name}.bias") for name in theirs])
    _check_qkv(stored, prefix, block[f"{QKV}.weight"])
    return block


def _check_qkv(stored: StoredWeights, prefix: str, weight: Tensor) -> None:
    rows, width = weight.shape
    if rows != 3 * width:
        raise SpatiaError(
            f"{stored.origin}: expected query, key and value of {width} rows each in {prefix[:-1]}, found {rows} rows "
            "together (keys shared between heads?); take a checkpoint without"
        )


def check_heads(stored: StoredWeights, heads: int, width: int) -> int:
    """Return ``heads``; a :class:`SpatiaError` if they do not divide ``width``."""
    if heads < 1 or width % heads:
        raise SpatiaError(f"{stored.origin}: expected a number of heads that divides the width {width}, found {heads}")
    return heads


def check_width(stored: StoredWeights, found: int, wanted: int | None, part: str) -> None:
    """Raise a :class:`SpatiaError` if the network wants another width than the checkpoint has; None takes any."""
    if wanted is not None and found != wanted:
        raise SpatiaError(
            f"{stored.origin}: expected {part} of width {wanted}, as the network is set, found {found}; set the "
            "network's width to it, or take another checkpoint"
        )


def unknown_layout(stored: StoredWeights, known: str) -> SpatiaError:
    """Return the error for a checkpoint of no known layout; ``known`` describes what is."""
    return SpatiaError(
        f"{stored.origin}: expected {known}, found tensors {', '.join(list(stored.tensors)[:5])}; "
        "take a checkpoint of a known layout"
    )
