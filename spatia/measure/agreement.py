"""Two tables of the same features of the same cells -> how far each column differs."""

from __future__ import annotations

import numpy as np
import pandas as pd

SMALLEST = 1e-6  # a column whose values are all below this is compared with this
HALF_TURN = {"degree": 180.0, "radian": 2 * np.pi}  # an axis has no direction; a phase has


def compare_columns(ours: pd.DataFrame, theirs: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """Return one row per column of ``columns`` that both tables have.

    Parameters
    ----------
    ours, theirs
        Row by row the same cells.
    columns
        The dictionary: ``name``, ``source``, ``module``, ``object``, ``stain``, ``unit``.

    Returns
    -------
    The dictionary's columns and ``n`` (cells that have a number in both), ``n_only_ours``, ``n_only_theirs``,
    ``largest`` (difference), ``relative`` (that, over the largest value of the column) and ``n_apart`` (cells that
    differ by more than 1e-6 of it). Angles are compared around the circle.
    """
    shared = columns[columns["name"].isin(ours.columns) & columns["name"].isin(theirs.columns)]
    found = [
        _compare(ours[name].to_numpy(float), theirs[name].to_numpy(float), HALF_TURN.get(unit))
        for name, unit in zip(shared["name"], shared["unit"], strict=True)
    ]
    kept = shared[["name", "source", "module", "object", "stain"]].reset_index(drop=True)
    return pd.concat([kept, pd.DataFrame(found)], axis=1)


def _compare(ours: np.ndarray, theirs: np.ndarray, turn: float | None) -> dict[str, float]:
    has_ours, has_theirs = np.isfinite(ours), np.isfinite(theirs)
    both = has_ours & has_theirs
    apart = np.abs(ours[both] - theirs[both])
    if turn is not None:
        apart = np.minimum(apart, np.abs(turn - apart))
    scale = max(float(np.abs(theirs[both]).max(initial=0)), SMALLEST)
    return {
        "n": int(both.sum()),
        "n_only_ours": int((has_ours & ~has_theirs).sum()),
        "n_only_theirs": int((has_theirs & ~has_ours).sum()),
        "largest": float(apart.max(initial=0)),
        "relative": float(apart.max(initial=0) / scale),
        "n_apart": int((apart > 1e-6 * scale).sum()),
    }
