"""How far features of real and generated cells lie from the controls', from the tables that features and pair wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from spatia import keys
from spatia.errors import SpatiaError
from spatia.generated import judged_pairs
from spatia.io import read_table
from spatia.measure.cell_sets import CellSet, make_scale
from spatia.measure.shifts import correlate, fit_slope, mean_shift

REAL, METHOD = "real", "spatia"  # values of `kind` in features.parquet


@dataclass(frozen=True)
class Shifts:
    """Mean shifts of features along one transition, in standard deviations of the real controls.

    Attributes
    ----------
    columns : (f,) rows of the dictionary of features
    real, generated : (f,) mean of matched targets, and of generated cells, minus the mean of the controls
    n_controls, n_targets : cells that the means are of
    """

    tag: str
    columns: np.ndarray
    real: np.ndarray
    generated: np.ndarray
    n_controls: int
    n_targets: int

    @property
    def pearson(self) -> float:
        """Correlation of real and generated shifts over the features."""
        return float(correlate(self.real, self.generated))

    @property
    def slope(self) -> float:
        """Slope through 0 of generated on real shifts."""
        return float(fit_slope(self.real, self.generated))


@dataclass(frozen=True)
class MeasuredCells:
    """Features of real and generated cells, and which real cells were matched.

    Attributes
    ----------
    features : as in ``features.parquet``
    columns : the dictionary, ``columns.tsv``, without angles
    targets : transition -> ids of matched target cells that were measured, each once
    """

    features: pd.DataFrame
    columns: pd.DataFrame
    targets: dict[str, list[str]]


def read_measured(features: Path, pairs: Path) -> MeasuredCells:
    """Read what ``spatia features`` wrote, and who was matched.

    Raises
    ------
    SpatiaError
        If the table lacks a column of its dictionary.
    """
    table = read_table(features / "features.parquet")
    columns = read_table(features / "columns.tsv")
    columns = columns[~columns["is_angle"].astype(bool)].reset_index(drop=True)
    missing = set(columns["name"]) - set(table.columns)
    if missing:
        raise SpatiaError(f"{features}: expected the column {min(missing)!r}, found none; run 'spatia features' again")
    measured = set(table.loc[table["kind"] == REAL, keys.CELL_ID].astype(str))
    matched = judged_pairs(pairs).drop_duplicates(["transition_tag", "x_tgt_id"])
    targets = {
        str(tag): [cell_id for cell_id in own["x_tgt_id"].astype(str) if cell_id in measured]
        for tag, own in matched.groupby("transition_tag", sort=False)
    }
    return MeasuredCells(table, columns, targets)


def find_shifts(measured: MeasuredCells, tag: str, min_cells: int, most_spreads: float) -> Shifts | None:
    """Return the shifts along one transition, by the means that ``spatia score`` compares.

    Parameters
    ----------
    min_cells : None is returned where ``spatia score`` would not score: fewer controls, or half of the targets
    most_spreads : features further than so many spreads from the controls' mean count as this far
    """
    table = measured.features
    own = table[(table["kind"] == METHOD) & (table["transition_tag"] == tag)]
    real = (
        table[table["kind"] == REAL].assign(**{keys.CELL_ID: table[keys.CELL_ID].astype(str)}).set_index(keys.CELL_ID)
    )
    control_rows = real.reindex(own[keys.CELL_ID].astype(str)).dropna(subset=["kind"])
    controls = _cell_set(control_rows, measured.columns["name"].tolist())
    targets = _cell_set(real.loc[measured.targets.get(tag, [])], measured.columns["name"].tolist()).segmented
    generated = _cell_set(own, measured.columns["name"].tolist())
    if min(int(controls.is_segmented.sum()), len(targets) // 2) < min_cells:
        return None
    scale = make_scale(controls, targets, most_spreads)
    start = scale.real(controls)
    once = np.ones((1, len(controls)))
    true = mean_shift(scale.real(targets), start, np.ones((1, len(targets))), once)[0]
    made = mean_shift(scale.output(generated), start, np.ones((1, len(generated))), once)[0]
    return Shifts(tag, np.flatnonzero(scale.is_kept), true, made, len(controls), len(targets))


def _cell_set(rows: pd.DataFrame, names: Sequence[str]) -> CellSet:
    values = rows[list(names)].to_numpy(np.float64)
    return CellSet(values, np.zeros((len(rows), 0)), rows["is_segmented"].astype(bool).to_numpy())
