"""Fixtures for all tests, and where the real slides are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first; skip tests marked `real` where there are no real slides."""
    items.sort(key=lambda item: "slow" not in item.keywords)
    if os.environ.get("SPATIA_REAL_DATA"):
        return
    for item in items:
        if "real" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="SPATIA_REAL_DATA is not set"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder with the real slides."""
    return Path(os.environ["SPATIA_REAL_DATA"])


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT
