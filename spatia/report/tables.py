"""Tables of the page: what stands in them, apart from how they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One field of a table; ``small`` stands below it in small letters."""

    text: str
    small: str = ""
    is_number: bool = False


@dataclass(frozen=True)
class Row:
    """One line; a heading has one cell that spans the table, a quiet one is something to compare with."""

    cells: Sequence[Cell]
    is_heading: bool = False
    is_quiet: bool = False


@dataclass(frozen=True)
class Table:
    """A table with what is said about it.

    Attributes
    ----------
    title, caption : above it
    header : (text, is_number) per column
    """

    title: str
    caption: str
    header: Sequence[tuple[str, bool]]
    rows: Sequence[Row]


def text_cells(*values: object) -> list[Cell]:
    """Return cells of text."""
    return [Cell(str(value)) for value in values]


def number_cell(text: str, small: str = "") -> Cell:
    """Return a cell aligned as a number."""
    return Cell(text, small, is_number=True)
