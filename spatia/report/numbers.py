"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

import pandas as pd


def format_number(value: Any, digits: int = 3) -> str:
    """Return a number for people: 6,830, 0.148, — where there is none."""
    if value is None or pd.isna(value):
        return "—"
    if float(value) == int(value) or abs(value) >= 1000:
        return f"{round(value):,}"
    return f"{value:.{digits}g}"


def format_percent(value: Any) -> str:
    """Return a share as a percentage with two digits that mean something."""
    if value is None or pd.isna(value):
        return "—"
    return f"{100 * value:.0f} %" if value >= 0.995 else f"{100 * value:.2g} %"
