"""What every resumable training needs: schedule, optimiser, state on disk."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spatia.io import whole_file

STATE_FILE = "state.pt"


def schedule(step: int, n_steps: int, learning_rate: float, warmup_steps: int) -> float:
    """Return the rate of step ``step`` of ``n_steps``: linear warm-up, then a cosine that ends at 0."""
    warmup = min(warmup_steps, n_steps // 5)
    if step < warmup:
        return learning_rate * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, n_steps - warmup)
    return learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def make_adamw(
    parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float, betas: tuple[float, float],
    device: torch.device,
) -> torch.optim.Optimizer:  # fmt: skip
    """Return AdamW that decays matrices only."""
    settings = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(settings, lr=learning_rate, betas=betas, fused=device.type == "cuda")


class StateFile:
    """The state of a running training.

    Parameters
    ----------
    work
        Its folder; None stores none.
    fingerprint
        Text that must not change between an interrupted training and its continuation.
    save_every_s
        How often it is stored unless forced.
    """

    def __init__(self, work: Path | None, fingerprint: str, save_every_s: float) -> None:
        self.work, self.fingerprint, self.save_every_s = work, fingerprint, save_every_s
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time to store it."""
        return self.work is not None and time.monotonic() - self._saved_at >= self.save_every_s

    def save(self, state: dict[str, Any]) -> None:
        """Store tensors, numbers and text whole."""
        if self.work is None:
            return
        with whole_file(self.work / STATE_FILE) as partial:
            torch.save({"fingerprint": self.fingerprint, **state}, partial)
        self._saved_at = time.monotonic()

    def load(self, log: logging.Logger) -> dict[str, Any] | None:
        """Return the stored state, or None; another training's is left alone and overwritten later."""
        if self.work is None or not (self.work / STATE_FILE).exists():
            return None
        state: dict[str, Any] = torch.load(self.work / STATE_FILE, map_location="cpu", weights_only=True)
        if state["fingerprint"] != self.fingerprint:
            log.info("%s: the state of a training with other settings or cells; starting anew", self.work)
            return None
        return state
