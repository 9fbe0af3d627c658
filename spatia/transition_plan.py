"""``config/transitions.yaml``: which change of state is studied, as names of cell types, states and niche classes.

A transition leads from one set of cells of a slide to another of the same lineage (paper, App. D.1). A set is said by
any of ``state``, ``cell_type`` and ``niche``: what is named must hold, what is not named may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from spatia.errors import SpatiaError

CELL_TYPE, LINEAGE, STATE = "cell_type", "lineage", "state"
NICHE_PREFIX = "niche_"  # of the column of a niche axis in states.parquet
_KEYS = {"from", "to", "lineage", "task"}
_STATE_KEYS = {STATE, CELL_TYPE, "niche"}


@dataclass(frozen=True)
class CellState:
    """A set of cells.

    Attributes
    ----------
    states, cell_types
        Names of which a cell must have one; empty = any.
    niches
        Axis -> class of the cell's surroundings.
    """

    states: tuple[str, ...] = ()
    cell_types: tuple[str, ...] = ()
    niches: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the set is called in tables, such as ``T cell in immune hot``."""
        who = "/".join(self.states or self.cell_types) or "any cell"
        where = ", ".join(f"{axis} {niche}" for axis, niche in self.niches.items())
        return f"{who} in {where}" if where else who

    def select(self, cells: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which rows of ``states.parquet`` belong to the set, ``(n,)``.

        Raises
        ------
        SpatiaError
            If the table lacks the column of a niche axis.
        """
        chosen = np.ones(len(cells), bool)
        for column, names in ((STATE, self.states), (CELL_TYPE, self.cell_types)):
            if names:
                chosen &= cells[column].isin(names).to_numpy()
        for axis, niche in self.niches.items():
            chosen &= (_niche_column(cells, axis) == niche).to_numpy()
        return chosen


@dataclass(frozen=True)
class Transition:
    """A change of state within one lineage.

    Attributes
    ----------
    tag
        Its name in every table.
    task
        The axis it belongs to, such as ``tumour_progression``.
    lineage
        Of the cells on both sides.
    start, end
        Control and target cells.
    """

    tag: str
    task: str
    lineage: str
    start: CellState
    end: CellState

    @property
    def is_between_niches(self) -> bool:
        """Whether control and target differ in the class of their surroundings."""
        axes = {*self.start.niches, *self.end.niches}
        return any(self.start.niches.get(axis) != self.end.niches.get(axis) for axis in axes)

    def controls(self, cells: pd.DataFrame) -> NDArray[np.bool_]:
        """Return the control cells among the rows of ``states.parquet``, ``(n,)``; a target already is none."""
        is_start = self.start.select(cells) & (cells[LINEAGE] == self.lineage).to_numpy()
        return is_start & ~self.targets(cells)

    def targets(self, cells: pd.DataFrame) -> NDArray[np.bool_]:
        """Return the target cells among the rows of ``states.parquet``, ``(n,)``."""
        return self.end.select(cells) & (cells[LINEAGE] == self.lineage).to_numpy()


def niche_names(cells: pd.DataFrame) -> np.ndarray:
    """Return the classes of all axes as one text per cell, such as ``immune hot, tumour far``."""
    axes = [name for name in cells if str(name).startswith(NICHE_PREFIX)]
    names = [
        np.where(cells[name] != "", f"{str(name).removeprefix(NICHE_PREFIX)} " + cells[name].astype(str), "")
        for name in axes
    ]
    rows = zip(*names, strict=True) if axes else ((),) * len(cells)
    return np.array([", ".join(filter(None, row)) for row in rows], object)


def load_transitions(path: Path | str) -> list[Transition]:
    """Return the transitions of a YAML file in its order.

    Raises
    ------
    SpatiaError
        If the file is no mapping of names to transitions, or one of them is not complete.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpatiaError(f"{path}: expected a file of transitions, found none; correct 'transitions'") from None
    except yaml.YAMLError as problem:
        raise SpatiaError(f"{path}: expected YAML, found something else ({problem})") from None
    if not isinstance(content, dict) or not content:
        raise SpatiaError(f"{path}: expected 'name: {{from: ..., to: ..., lineage: ...}}', found {content!r}")
    return [transition_from_dict(str(tag), entry, str(path)) for tag, entry in content.items()]


def transition_from_dict(tag: str, entry: Any, where: str = "transition") -> Transition:
    """Return the transition that an entry of the file, or of ``generator.json``, describes.

    Raises
    ------
    SpatiaError
        If a key is unknown or missing, or both sides are the same.
    """
    where = f"{where}: {tag}"
    found = _mapping(entry, where, _KEYS)
    for key in ("from", "to", LINEAGE):
        if not found.get(key):
            raise SpatiaError(f"{where}: expected a value for {key!r}, found none; keys are {', '.join(sorted(_KEYS))}")
    start, end = (_state(found[key], f"{where}: {key}") for key in ("from", "to"))
    if start == end:
        raise SpatiaError(f"{where}: expected two different states, found the same in from and to")
    return Transition(tag, str(found.get("task", "")), str(found[LINEAGE]), start, end)


def transition_to_dict(transition: Transition) -> dict[str, Any]:
    """Return the entry that :func:`transition_from_dict` reads."""
    sides = {"from": transition.start, "to": transition.end}
    entry: dict[str, Any] = {key: _state_to_dict(state) for key, state in sides.items()}
    return {**entry, LINEAGE: transition.lineage, "task": transition.task}


def _state_to_dict(state: CellState) -> dict[str, Any]:
    parts = {STATE: list(state.states), CELL_TYPE: list(state.cell_types), "niche": dict(state.niches)}
    return {key: value for key, value in parts.items() if value}


def _state(entry: Any, where: str) -> CellState:
    found = _mapping(entry, where, _STATE_KEYS)
    if not any(found.values()):
        raise SpatiaError(f"{where}: expected at least one of {', '.join(sorted(_STATE_KEYS))}, found none")
    niche = found.get("niche") or {}
    if not isinstance(niche, dict):
        raise SpatiaError(f"{where}: expected niche as {{axis: class}}, found {niche!r}")
    return CellState(
        states=_names(found.get(STATE)),
        cell_types=_names(found.get(CELL_TYPE)),
        niches={str(axis): str(name) for axis, name in niche.items()},
    )


def _names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(str(name) for name in value) if isinstance(value, list) else (str(value),)


def _mapping(entry: Any, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise SpatiaError(f"{where}: expected a mapping with {', '.join(sorted(known))}, found {entry!r}")
    unknown = sorted(set(map(str, entry)) - known)
    if unknown:
        raise SpatiaError(f"{where}: unknown key {unknown[0]!r}; the known keys are {', '.join(sorted(known))}")
    return entry


def _niche_column(cells: pd.DataFrame, axis: str) -> pd.Series:
    column = f"{NICHE_PREFIX}{axis}"
    if column not in cells:
        axes = [name.removeprefix(NICHE_PREFIX) for name in map(str, cells) if name.startswith(NICHE_PREFIX)]
        raise SpatiaError(
            f"transitions: unknown niche axis {axis!r}; config/stages/states.yaml defines {', '.join(axes) or 'none'}"
        )
    return cells[column]
