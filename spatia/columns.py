"""Columns of parquet files as numpy arrays, without pandas.

pyarrow loads pandas as soon as an array is converted; for stages that start once per slide and hold a million rows
that is most of the start-up and half of the memory. So the buffers are taken as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spatia.errors import SpatiaError

# arrow's own pool keeps what it once had, tens of megabytes for tables that are read once; only read at its import
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 16_384  # rows that are encoded at a time

_ARROW_TYPES = {np.dtype(name): getattr(pa, name)() for name in ("int32", "int64", "float32", "float64")}
_NUMPY_TYPES = {arrow: dtype for dtype, arrow in _ARROW_TYPES.items()}


def read_columns(path: Path, names: Sequence[str]) -> dict[str, NDArray]:
    """Return columns of numbers or booleans of the parquet file ``path``.

    Raises
    ------
    SpatiaError
        If there is no such file, or it lacks a column.
    """
    return {name: _to_numpy(_read_column(path, name)) for name in names}


def read_text(path: Path, name: str) -> pa.Array:
    """Return a column of text: an arrow array takes a tenth of the memory of Python's strings."""
    return _read_column(path, name)


def take(values: pa.Array, rows: NDArray[np.integer]) -> pa.Array:
    """Return ``values[rows]``."""
    return values.take(_to_arrow(rows.astype(np.int64)))


def write_columns(path: Path, columns: Mapping[str, NDArray | pa.Array]) -> None:
    """Write columns (numpy arrays of numbers or booleans, arrow arrays) as a parquet file, in their order."""
    arrays = [_to_arrow(column) if isinstance(column, np.ndarray) else column for column in columns.values()]
    pq.write_table(pa.Table.from_arrays(arrays, list(columns)), path, row_group_size=ROW_GROUP, use_dictionary=False)


def _read_column(path: Path, name: str) -> pa.Array:
    if not path.is_file():
        raise SpatiaError(f"{path}: expected a parquet table, found none")
    try:
        with pq.ParquetFile(path) as file:
            if name not in file.schema_arrow.names:
                raise SpatiaError(
                    f"{path}: expected a column {name}, found {', '.join(file.schema_arrow.names)}; "
                    "run the stage that wrote it again"
                )
            column = file.read([name], use_threads=False)[name]
    except (pa.ArrowInvalid, OSError) as problem:
        raise SpatiaError(f"{path}: expected a parquet table, found something else ({problem})") from None
    if column.null_count:
        raise SpatiaError(f"{path}: expected a value for every cell in {name}, found {column.null_count} without")
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _to_numpy(column: pa.Array) -> NDArray:
    buffer, start, stop = column.buffers()[1], column.offset, column.offset + len(column)
    if buffer is None:
        return np.zeros(0, np.int64)
    if pa.types.is_boolean(column.type):
        bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
        return bits[start:stop].astype(bool)
    return np.frombuffer(buffer, _NUMPY_TYPES[column.type])[start:stop]


def _to_arrow(values: NDArray) -> pa.Array:
    if values.dtype == bool:
        bits = np.packbits(values, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])
    contiguous = np.ascontiguousarray(values)
    return pa.Array.from_buffers(_ARROW_TYPES[values.dtype], len(values), [None, pa.py_buffer(contiguous)])
