"""The sheet of slides, as the workflow reads it: text cells, comments with #."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from spatia import keys
from spatia.errors import SpatiaError


def read_sheet(path: Path | str) -> list[dict[str, str]]:
    """Return the rows of ``slides.tsv`` in order, every value as text, absent ones empty."""
    try:
        sheet = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, comment="#", encoding="utf-8")
    except FileNotFoundError:
        raise SpatiaError(f"{path}: expected the sheet of slides, found none; pass --slides FILE") from None
    except (ValueError, UnicodeDecodeError) as problem:
        raise SpatiaError(
            f"{path}: expected a tab-separated table of slides, found something else ({problem})"
        ) from None
    if keys.SLIDE not in sheet or sheet.empty:
        found = ", ".join(sheet.columns) if len(sheet.columns) else "nothing"
        raise SpatiaError(f"{path}: expected rows with a column '{keys.SLIDE}', found {len(sheet)} rows of {found}")
    return [{str(key): str(value) for key, value in row.items()} for row in sheet.to_dict("records")]
