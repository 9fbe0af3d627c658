"""Drawing what can be drawn: groups of figures or tables whose files are there, a line for those that are damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from spatia.errors import SpatiaError

T = TypeVar("T")
UNREADABLE = (SpatiaError, OSError, ValueError, KeyError, RuntimeError)


def draw_groups(groups: Iterable[tuple[str, Sequence[Path], Callable[[], Sequence[T]]]]) -> tuple[list[T], list[str]]:
    """Return what the groups drew, and one line for every group whose files could not be read.

    Parameters
    ----------
    groups : what it is, the files without which there is nothing to say, a function that draws
    """
    drawn: list[T] = []
    problems: list[str] = []
    for what, needed, draw in groups:
        if not all(path.exists() for path in needed):
            continue
        try:
            drawn += draw()
        except UNREADABLE as problem:
            problems.append(f"{what} could not be drawn: {' '.join(str(problem).split()) or type(problem).__name__}")
    return drawn, problems
