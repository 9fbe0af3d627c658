"""Labels of a file -> cell type, lineage and state of every cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

NAMED = ("cell_type", "lineage", "state")
_SYNONYMS = {"type": "cell_type"}  # the simulator's truth


def name_cells(labels: pd.DataFrame, names: Mapping[Any, Any]) -> pd.DataFrame:
    """Return ``cell_type``, ``lineage`` and ``state`` of the rows of ``labels``, "" where unknown.

    Columns of those names are taken as they are. With ``names``, the first column that holds labels of ``names`` is
    translated, and what it says beats the columns.

    Parameters
    ----------
    labels
        One column per annotation, as text.
    names
        Label -> any of ``cell_type``, ``lineage``, ``state``.

    Raises
    ------
    ValueError
        If the table has neither such columns nor a column with labels of ``names``, or ``names`` has other keys.
    """
    names = parse_names(names)
    labels = labels.rename(columns=_SYNONYMS)
    translated = _translated_column(labels, names)
    if translated is None and not set(NAMED) & set(labels):
        raise ValueError(
            f"expected a column {', '.join(NAMED)}, or names for the labels of a column; found the columns "
            f"{', '.join(map(str, labels.columns))} and {len(names)} names"
        )
    named = {}
    for column in NAMED:
        named[column] = labels[column].fillna("").astype(str) if column in labels else pd.Series("", labels.index)
        if translated is not None:
            said = translated.map({label: entry.get(column, "") for label, entry in names.items()}).fillna("")
            named[column] = said.where(said != "", named[column])
    return pd.DataFrame(named, index=labels.index)


def parse_names(names: Mapping[Any, Any]) -> dict[str, dict[str, str]]:
    """Return label -> names as text, as labels are: YAML reads ``7`` as a number, and a name left empty as null.

    Raises
    ------
    ValueError
        If an entry is not a mapping with keys ``cell_type``, ``lineage``, ``state``.
    """
    for label, entry in names.items():
        if not isinstance(entry, Mapping) or set(entry) - set(NAMED):
            raise ValueError(f"names: {label}: expected {{{': .., '.join(NAMED)}: ..}}, found {entry!r}")
    return {
        str(label): {column: str(name) for column, name in entry.items() if name is not None}
        for label, entry in names.items()
    }


def _translated_column(labels: pd.DataFrame, names: Mapping[str, dict[str, str]]) -> pd.Series | None:
    for column in labels:
        text = labels[column].astype("string")
        if text.isin(list(names)).any():
            return text
    return None
