"""Reading and writing files whole: a reader sees a complete file or none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatia.errors import SpatiaError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from scipy import sparse


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` only if the block succeeds.

    The temporary name lies in the same folder, so that the rename is atomic, and is the same
    on every run, so that what a killed run left is overwritten by the next.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_dir(path: Path | str) -> Iterator[Path]:
    """Yield a fresh temporary folder that replaces ``path`` only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_json(path: Path | str) -> dict[str, Any]:
    """Return the JSON object in ``path``; a file that is none is a :class:`SpatiaError`."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpatiaError(_missing(path, "a JSON file")) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise SpatiaError(f"{path}: expected JSON, found something else ({problem}); restore the file") from None
    if not isinstance(content, dict):
        raise SpatiaError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON with keys in their given order."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def checksum(path: Path | str) -> str:
    """Return ``blake2b:`` and the digest (128 bit) of a file's content."""
    with open(path, "rb") as handle:
        return "blake2b:" + hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_table(path: Path | str) -> pd.DataFrame:
    """Return the parquet or tsv table in ``path``; a missing file is a :class:`SpatiaError`."""
    import pandas as pd

    path = _existing(path, "a table")
    return pd.read_csv(path, sep="\t") if path.suffix == ".tsv" else pd.read_parquet(path)


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Write ``table`` as parquet or, by its ending, as tsv."""
    with whole_file(path) as partial:
        if Path(path).suffix == ".tsv":
            table.to_csv(partial, sep="\t", index=False)
        else:
            table.to_parquet(partial)


def read_sparse(path: Path | str) -> sparse.csr_matrix:
    """Return the CSR matrix that :func:`write_sparse` wrote; a missing file is a :class:`SpatiaError`."""
    from scipy import sparse

    return sparse.load_npz(_existing(path, "a sparse matrix")).tocsr()


def write_sparse(path: Path | str, matrix: sparse.csr_matrix) -> None:
    """Write a CSR matrix, uncompressed: it is read far more often than it is written."""
    from scipy import sparse

    with whole_file(path) as partial, open(partial, "wb") as handle:
        sparse.save_npz(handle, matrix, compressed=False)


def write_arrays(path: Path | str, **arrays: np.ndarray) -> None:
    """Write named arrays into one npz file."""
    import numpy as np

    with whole_file(path) as partial, open(partial, "wb") as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]


def _existing(path: Path | str, what: str) -> Path:
    if not Path(path).exists():
        raise SpatiaError(_missing(path, what))
    return Path(path)


def _missing(path: Path | str, what: str) -> str:
    return f"{path}: expected {what}, found no such file; correct the path, or run the stage that writes it"
