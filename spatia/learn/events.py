"""Losses of a running training as TensorBoard events."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOT_LOSSES = ("phase", "epoch", "step", "learning_rate", "split")


def tensorboard_writer(folder: Path | None) -> Callable[[dict[str, Any]], None] | None:
    """Return a function that writes a row of the history as TensorBoard scalars."""
    if folder is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    writer = SummaryWriter(str(folder))

    def write(row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name not in NOT_LOSSES:
                writer.add_scalar(f"{row['phase']}/{name}/{row['split']}", value, row["step"])
        writer.flush()

    return write
