"""Progress bars: on a terminal they move, elsewhere they are silent."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterable[T]:
    """Iterate over ``items`` behind a bar labelled ``what``."""
    return tqdm(items, desc=what, total=total, unit=unit, disable=not sys.stderr.isatty(), leave=False)
