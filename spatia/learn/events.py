"""Losses of a training: as TensorBoard events while it runs, as the history when it is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

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


def history_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the history: what each row is, its losses, their total; without rows, an empty table."""
    import pandas as pd

    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*NOT_LOSSES, "total"])
    fixed = [name for name in NOT_LOSSES if name in table]
    losses = [name for name in table.columns if name not in (*fixed, "total")]
    return table[[*fixed, *losses, "total"]]
