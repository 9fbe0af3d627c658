"""The user's own labels of cells: a csv or parquet with a ``cell_id`` (or 10x ``Barcode``) column."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from spatia import keys
from spatia.errors import SpatiaError

ID_COLUMNS = (keys.CELL_ID, "Barcode", "barcode")
log = logging.getLogger("spatia.labels")


def read_labels(path: Path, cell_ids: pd.Index) -> pd.DataFrame:
    """Return the labels in ``path`` as text, index ``cell_id``, one column per annotation.

    Labels of cells that are not in ``cell_ids`` (a slide of which a part is used) are left out and counted.

    Raises
    ------
    SpatiaError
        If the file is no such csv, names a cell twice, or none of its cells is on the slide.
    """
    table = _read_text(path)
    column = next((name for name in ID_COLUMNS if name in table), None)
    if column is None or len(table.columns) < 2:
        found = ", ".join(map(str, table.columns))
        raise SpatiaError(f"{path}: expected a column cell_id (or Barcode) and at least one of labels, found {found}")
    labels = table.set_index(column)
    labels.index.name = keys.CELL_ID
    if labels.index.has_duplicates:
        twice = labels.index[labels.index.duplicated()][0]
        raise SpatiaError(f"{path}: expected every cell once, found {twice!r} twice; keep one line for it")
    known = labels.index.isin(cell_ids)
    if not known.any():
        example = labels.index[0] if len(labels) else "no line"
        raise SpatiaError(
            f"{path}: expected labels of this slide's cells (such as {cell_ids[0]!r}), found {example!r};"
            " give the file that belongs to this bundle"
        )
    if not known.all():
        log.info("%s: left out %d cells that are not on this slide", path, int((~known).sum()))
    return labels.loc[known].replace("", pd.NA)


def storable_name(name: str) -> str:
    """Return ``name`` as a column that every format can hold.

    HDF5 takes the slash of ``ATP1A1/CD45/E-Cadherin`` for a folder, and spatialdata allows letters, digits and
    ``_ . -`` only.
    """
    return "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in name)


def label_column(name: str) -> str:
    """Return the column, and the Explorer file, that holds the user's annotation ``name``."""
    return f"label_{storable_name(name)}"


def _read_text(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path).astype("string").fillna("").astype(object)
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpatiaError(f"{path}: expected a csv of labels, found none; correct 'labels' in the sheet") from None
    except (ValueError, UnicodeDecodeError) as problem:
        raise SpatiaError(f"{path}: expected a csv or parquet of labels, found something else ({problem})") from None
