"""A zarr (version 2) hierarchy in a zip file, written chunk by chunk with fixed timestamps.

zarr's own ZipStore stamps every entry with the time of day, so that the same slide would give other bytes every time.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any

import imagecodecs
import numpy as np

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip file can say
_LEVELS = {"lz4": 5, "zstd": 1}  # as in genuine cells.zarr.zip

ReadChunk = Callable[[tuple[slice, ...]], np.ndarray]


class ZarrZip:
    """Writes groups and arrays into one zip file; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    def __enter__(self) -> ZarrZip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def group(self, path: str, attributes: dict[str, Any] | None = None) -> None:
        """Write a group; the root's path is empty."""
        self._json(f"{path}/.zgroup".lstrip("/"), {"zarr_format": 2})
        if attributes is not None:
            self.attributes(path, attributes)

    def array(self, path: str, values: np.ndarray, attributes: dict[str, Any] | None = None) -> None:
        """Write a small array as one chunk."""
        chunks = tuple(max(1, size) for size in values.shape)
        self.chunked_array(path, values.shape, values.dtype, chunks, lambda window: values[window])
        if attributes is not None:
            self.attributes(path, attributes)

    def attributes(self, path: str, attributes: dict[str, Any]) -> None:
        """Write the attributes of an array or group."""
        self._json(f"{path}/.zattrs".lstrip("/"), attributes)

    def chunked_array(
        self,
        path: str,
        shape: tuple[int, ...],
        dtype: np.dtype,
        chunks: tuple[int, ...],
        read: ReadChunk,
        codec: str = "lz4",
    ) -> None:
        """Write an array of ``shape``, asking ``read`` for one chunk's window after the other."""
        dtype = np.dtype(dtype).newbyteorder("<")
        self._json(f"{path}/.zarray", _array_header(shape, dtype, chunks, codec))
        counts = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
        for index in product(*map(range, counts)):
            window = tuple(
                slice(i * chunk, min((i + 1) * chunk, size))
                for i, chunk, size in zip(index, chunks, shape, strict=True)
            )
            block = np.zeros(chunks, dtype)  # zarr 2 stores edge chunks whole
            values = read(window)
            block[tuple(slice(0, size) for size in values.shape)] = values
            self._write(f"{path}/{'.'.join(map(str, index))}", _compress(block, codec))

    def _json(self, name: str, content: dict[str, Any]) -> None:
        self._write(name, json.dumps(content, indent=4, sort_keys=True).encode())

    def _write(self, name: str, content: bytes) -> None:
        entry = zipfile.ZipInfo(name, _EPOCH)
        entry.external_attr = 0o644 << 16
        self._zip.writestr(entry, content)


def _array_header(shape: tuple[int, ...], dtype: np.dtype, chunks: tuple[int, ...], codec: str) -> dict[str, Any]:
    return {
        "chunks": list(chunks),
        "compressor": {"blocksize": 0, "clevel": _LEVELS[codec], "cname": codec, "id": "blosc", "shuffle": 1},
        "dtype": dtype.str,
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "filters": None,
        "order": "C",
        "shape": list(shape),
        "zarr_format": 2,
    }


def _compress(block: np.ndarray, codec: str) -> bytes:
    # one thread: with several, blosc orders its blocks by who finishes first
    encoded = imagecodecs.blosc_encode(
        block.tobytes(), level=_LEVELS[codec], compressor=codec, shuffle=1, typesize=block.itemsize, numthreads=1
    )
    return bytes(encoded)
